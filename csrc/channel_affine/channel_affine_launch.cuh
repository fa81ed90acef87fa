// Launchers: grid and block of each kernel, for nvcc and for the host harness alike.
#pragma once

#include "../common/cuda_launch.cuh"
#include "channel_affine_kernels.cuh"

namespace deeplab {

template <typename T>
void launch_channel_affine(const ChannelAffineGeometry& g, const T* x, const T* scale,
                           const T* shift, T* y, Index max_blocks, cudaStream_t stream) {
  const unsigned blocks = grid_size(g.count(), kChannelAffineThreads, max_blocks);
  launch(channel_affine_kernel<T>, blocks, kChannelAffineThreads, stream, g, x, scale, shift, y);
}

template <typename T>
void launch_channel_affine_reduce(const ChannelAffineGeometry& g, const T* grad_y, const T* x,
                                  T* grad_scale, T* grad_shift, Index max_blocks,
                                  cudaStream_t stream) {
  const unsigned blocks = grid_size(g.channels, 1, max_blocks);
  launch(channel_affine_reduce_kernel<T>, blocks, kChannelAffineThreads, stream, g, grad_y, x,
         grad_scale, grad_shift);
}

}  // namespace deeplab
