// What the convolution with 1x1 filters (pointwise) is asked to compute; for the files of
// particular processors, as jobs.h.
#pragma once

#include "jobs.h"

namespace deeplab {

// target[p, k] = act(sum over c of source[p, c] * weight[k, c] + bias[k]), channels last, of at
// least one pixel and channel; also the gradient with respect to the input, by the roles of the
// weight's two steps.
template <typename T>
struct PointwiseJob {
  Index target_channels, source_channels;
  Index images, height, width;                    // of the target
  Index source_image, source_row, source_column;  // steps in elements, from one pixel to the next
  Index weight_target, weight_source;             // likewise, from one channel to the next
  const T* source;
  const T* weight;
  const T* bias;  // or null
  T* target;
  bool relu;
  Parallel parallel;
};

struct PointwiseKernels {
  void (*forward_float)(const PointwiseJob<float>&);
  void (*forward_double)(const PointwiseJob<double>&);
};

}  // namespace deeplab
