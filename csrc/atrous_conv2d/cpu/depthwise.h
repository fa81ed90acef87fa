// The convolution of single channels on the CPU: cuts the axes, chooses the instruction set, runs.
#pragma once

#include "depthwise_job.h"

namespace deeplab {

// weight: (channels, taps), contiguous; bias: (channels), or null.
template <typename T>
void depthwise_forward(const ConvGeometry& g, const T* x, const T* weight, const T* bias, T* y,
                       const DepthwiseOptions& options, Parallel parallel);

template <typename T>
void depthwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight, T* grad_x,
                          const DepthwiseOptions& options, Parallel parallel);

template <typename T>
void depthwise_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                           const DepthwiseOptions& options, Parallel parallel);

}  // namespace deeplab
