// The convolution with 1x1 filters (pointwise) on the CPU, where channels are last.
#pragma once

#include "pointwise_job.h"

namespace deeplab {

// Whether the convolution, and its gradient with respect to the input, is one matrix product.
bool is_pointwise(const ConvGeometry& g, bool channels_last);

// bias: (K), or null.
template <typename T>
void pointwise_forward(const ConvGeometry& g, const T* x, const T* weight, WeightStrides strides,
                       const T* bias, bool relu, T* y, Parallel parallel);

// For stride 1.
template <typename T>
void pointwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                          WeightStrides strides, T* grad_x, Parallel parallel);

}  // namespace deeplab
