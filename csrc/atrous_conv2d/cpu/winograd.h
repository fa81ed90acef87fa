// The convolution by minimal filtering on the CPU: plans, chooses the instruction set, runs. 3x3
// filters of stride 1; a padding may be negative.
#pragma once

#include "jobs.h"

namespace deeplab {

// The filters of a convolution with this geometry: weight (out, in / groups, 3, 3), or, transposed,
// those (in, out / groups, 3, 3) of the convolution whose gradient with respect to the input this
// one is.
template <typename T>
struct WinogradWeight {
  const T* data;
  WeightStrides strides;
  bool transposed;
};

// Transformed filters, [group][filter][panel of 32][channel][32]: their shape, and themselves.
struct WinogradShape {
  Index groups, filters, panels, channels, lanes;
};
WinogradShape winograd_shape(const ConvGeometry& g);
template <typename T>
void winograd_filters(const ConvGeometry& g, const WinogradWeight<T>& weight, T* filters,
                      Parallel parallel);

// filters: transformed before, or null.
template <typename T>
void winograd_forward(const ConvGeometry& g, const T* x, const WinogradWeight<T>& weight,
                      const T* filters, const T* bias, T* y, const ConvOptions& options,
                      Parallel parallel);

}  // namespace deeplab
