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

// Transformed filters are [group][filter][panel of 32][channel][32]. A set of them, see
// winograd_plan.h, has so many.
unsigned winograd_filter_set(const ConvGeometry& g, bool fast);
Index winograd_filter_count(unsigned filter_set);
template <typename T>
void winograd_filters(const ConvGeometry& g, unsigned filter_set, const WinogradWeight<T>& weight,
                      T* filters, Parallel parallel);

// filters: transformed before, for filter_set, which has all of this geometry's; or null. fast: see
// plan_winograd.
template <typename T>
void winograd_forward(const ConvGeometry& g, const T* x, const WinogradWeight<T>& weight,
                      const T* filters, unsigned filter_set, const T* bias, T* y,
                      const ConvOptions& options, bool fast, Parallel parallel);

}  // namespace deeplab
