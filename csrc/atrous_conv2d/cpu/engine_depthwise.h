// The convolution of single channels and its gradients. Included by each
// kernels_*.cpp behind engine.h, inside the same unnamed namespace.
//
// It moves more than it computes: each source is read once, from the rows of one map or block of
// channels at a time, whose taps then find them in the first-level cache.

#include "depthwise_rows.h"
// In this order.
#include "depthwise_planar.h"
// In this order.
#include "depthwise_channels_last.h"
// In this order.
#include "depthwise_grad_weight.h"

// With the widest vectors that have no more lanes than there are channels, of 4 or more.
template <typename T, int kBytes, bool kRelu>
void channels_last_forward(const DepthwiseJob<T>& job) {
  constexpr Index kSize = sizeof(T);
  if (job.channels * kSize >= kBytes) {
    run_in_team<ChannelsLastDepthwise<T, kBytes, kRelu, 4>>(job);
  } else if (job.channels * kSize >= 16) {
    run_in_team<ChannelsLastDepthwise<T, 16, kRelu, 1>>(job);
  } else {
    run_in_team<ChannelsLastDepthwise<T, kSize, kRelu, 1>>(job);
  }
}

template <typename T, int kBytes>
void depthwise_forward(const DepthwiseJob<T>& job) {
  if (job.channels_last && job.relu_before) {
    channels_last_forward<T, kBytes, true>(job);
  } else if (job.channels_last) {
    channels_last_forward<T, kBytes, false>(job);
  } else {
    run_in_team<PlanarDepthwise<T, kBytes>>(job);
  }
}

template <typename T, int kBytes>
void depthwise_grad_weight(const DepthwiseGradWeightJob<T>& job) {
  if (job.channels_last) {
    run_in_team<DepthwiseGradWeight<T, ChannelsLastGradWeight<T, kBytes>>>(job);
  } else {
    run_in_team<DepthwiseGradWeight<T, PlanarGradWeight<T, kBytes>>>(job);
  }
}

template <int kBytes>
constexpr DepthwiseKernels depthwise_kernels() {
  return {depthwise_forward<float, kBytes>, depthwise_forward<double, kBytes>,
          depthwise_grad_weight<float, kBytes>, depthwise_grad_weight<double, kBytes>};
}
