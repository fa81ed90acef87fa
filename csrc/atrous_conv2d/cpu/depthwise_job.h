// What the convolution of single channels is asked to compute; for the files of particular
// processors, as jobs.h.
#pragma once

#include "../depthwise_axis.h"
#include "jobs.h"

namespace deeplab {

// The parts of an axis, each with taps of its own: one in the forward pass.
struct AxisParts {
  const TapAxis* parts;
  Index count;

  const TapAxis* begin() const { return parts; }
  const TapAxis* end() const { return parts + count; }
  Index sources() const { return parts[0].sources; }
  Index targets() const { return parts[0].targets; }
};

// target[n, c, p] = act(sum over t of weight[c, t] * source[n, c, p through tap t] + bias[c]), with
// max(source, 0) in place of source where relu_before says so. Also the gradient with respect to
// the input, by the parts' taps.
template <typename T>
struct DepthwiseJob {
  AxisParts rows, columns;
  Index batch, channels;
  Index taps, kernel_w;  // of a filter, and of its rows
  bool channels_last;
  const T* source;
  const T* weight;  // (channels, taps)
  const T* bias;    // or null
  T* target;
  bool relu_before;
  Activation activation;
  Parallel parallel;
};

// grad_weight[c, t] = sum over n, p of grad_y[n, c, p] * x[n, c, p through tap t].
template <typename T>
struct DepthwiseGradWeightJob {
  TapAxis rows, columns;  // of the forward pass
  Index batch, channels;
  Index taps, kernel_w;
  bool channels_last;
  const T* grad_y;
  const T* x;
  T* grad_weight;  // (channels, taps)
  Parallel parallel;
};

// The convolution of single channels on one instruction set.
struct DepthwiseKernels {
  void (*forward_float)(const DepthwiseJob<float>&);
  void (*forward_double)(const DepthwiseJob<double>&);
  void (*grad_weight_float)(const DepthwiseGradWeightJob<float>&);
  void (*grad_weight_double)(const DepthwiseGradWeightJob<double>&);
};

}  // namespace deeplab
