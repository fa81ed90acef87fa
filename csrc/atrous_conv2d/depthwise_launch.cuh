// Launchers of the convolution of single channels, for nvcc and for the host harness.
#pragma once

#include <stdexcept>

#include "../common/cuda_launch.cuh"
#include "depthwise_kernels.cuh"

namespace deeplab {

// Rows of grad_y that a block adds up, in pixels, and blocks that there are at most for a channel.
constexpr Index kDepthwiseGradPixels = 8192;
constexpr Index kDepthwiseMostPieces = 64;

template <typename T, typename... Args>
void launch_depthwise_part(const DepthwisePlan& plan, Index max_blocks, cudaStream_t stream,
                           Args... args) {
  // Kernels find the place of an element in 32 bits; offsets have 64.
  if (plan.per_image() > 0x7fffffffLL) {
    throw std::runtime_error("atrous_depthwise: images on CUDA must have less than 2^31 elements");
  }
  const unsigned blocks = grid_size(plan.images * plan.per_image(), kDepthwiseThreads, max_blocks);
  const bool shares = plan.rows.source_step * plan.chain.value == plan.rows.spacing;
  if (shares && plan.rows.taps == 3) {
    launch(depthwise_kernel<T, 3>, blocks, kDepthwiseThreads, stream, plan, args...);
  } else if (shares && plan.rows.taps == 5) {
    launch(depthwise_kernel<T, 5>, blocks, kDepthwiseThreads, stream, plan, args...);
  } else {
    launch(depthwise_kernel<T, 0>, blocks, kDepthwiseThreads, stream, plan, args...);
  }
}

template <typename T>
void launch_depthwise(const ConvGeometry& g, const T* x, const T* weight, const T* bias, T* y,
                      const DepthwiseOptions& options, cudaStream_t stream) {
  DepthwisePlan plan = depthwise_plan(forward_rows(g), forward_columns(g), g.batch, g.in_channels,
                                      g.kernel_h, g.kernel_w, options.channels_last);
  plan.relu_before = options.relu_before;
  plan.activation = static_cast<Index>(options.activation);
  launch_depthwise_part<T>(plan, options.max_blocks, stream, x, weight, bias, y);
}

template <typename T>
void launch_depthwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight, T* grad_x,
                                 const DepthwiseOptions& options, cudaStream_t stream) {
  for (Index r = 0; r < g.stride_h && r < g.height; ++r) {
    for (Index s = 0; s < g.stride_w && s < g.width; ++s) {
      const TapAxis rows =
          grad_input_taps(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h, r);
      const TapAxis columns =
          grad_input_taps(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w, s);
      const DepthwisePlan plan = depthwise_plan(rows, columns, g.batch, g.in_channels, g.kernel_h,
                                                g.kernel_w, options.channels_last);
      launch_depthwise_part<T>(plan, options.max_blocks, stream, grad_y, weight,
                               static_cast<const T*>(nullptr), grad_x);
    }
  }
}

// Allocate: as in atrous_conv2d_launch.cuh. Contiguous maps.
template <typename T, typename Allocate>
void launch_depthwise_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x,
                                  T* grad_weight, const DepthwiseOptions& options,
                                  const Allocate& allocate, cudaStream_t stream) {
  using Sum = typename SumOf<T>::Type;
  const DepthwisePlan plan = depthwise_plan(forward_rows(g), forward_columns(g), g.batch,
                                            g.in_channels, g.kernel_h, g.kernel_w, false);
  const Index wanted = ceil_div(g.batch * g.out_pixels(), kDepthwiseGradPixels);
  const Index pieces = wanted < kDepthwiseMostPieces ? wanted : kDepthwiseMostPieces;
  const Index weights = plan.channels * plan.taps;
  const Index items = plan.channels * ceil_div(plan.taps, kDepthwiseGradTaps) * pieces;
  auto* const partial =
      static_cast<Sum*>(allocate(weights * pieces * static_cast<Index>(sizeof(Sum))));
  launch(depthwise_grad_weight_kernel<T>, grid_size(items, 1, options.max_blocks),
         kDepthwiseGradThreads, stream, plan, pieces, grad_y, x, partial);
  launch(depthwise_grad_weight_sum_kernel<T>,
         grid_size(weights, kDepthwiseThreads, options.max_blocks), kDepthwiseThreads, stream,
         weights, pieces, static_cast<const Sum*>(partial), grad_weight);
}

}  // namespace deeplab
