// y[n,c,...] = x[n,c,...] * scale[c] + shift[c], and the reduction of its backward pass. What Caffe
// computes as Scale, and as BatchNorm once its statistics are fixed.
#pragma once

#include "../common/kernel.cuh"
#include "geometry.h"

namespace deeplab {

// Threads of a block, a power of two. _cupy.py launches with the same number.
constexpr int kChannelAffineThreads = 256;

// One thread owns the elements i, i + grid, i + 2 grid, ... of y. shift may be null.
// Serves the gradient with respect to x too: grad_x = grad_y * scale.
template <typename T>
__global__ void channel_affine_kernel(ChannelAffineGeometry g, const T* x, const T* scale,
                                      const T* shift, T* y) {
  GRID_STRIDE_LOOP(i, g.count()) {
    const Index c = g.channel_of(i);
    const T scaled = x[i] * scale[c];
    y[i] = shift ? scaled + shift[c] : scaled;
  }
}

// One block owns the channels b, b + grid, ...: grad_scale[c] = sum of grad_y * x and
// grad_shift[c] = sum of grad_y, over batch and space. Either output may be null. The order of
// additions depends on the block's size alone, so the sums are the same in every run and grid.
template <typename T>
__global__ void channel_affine_reduce_kernel(ChannelAffineGeometry g, const T* grad_y, const T* x,
                                             T* grad_scale, T* grad_shift) {
  SHARED_ARRAY(T, scale_sums, kChannelAffineThreads);
  SHARED_ARRAY(T, shift_sums, kChannelAffineThreads);
  const int thread = static_cast<int>(threadIdx.x);
  for (Index c = blockIdx.x; c < g.channels; c += gridDim.x) {
    T scale_sum = 0;
    T shift_sum = 0;
    for (Index n = 0; n < g.batch; ++n) {
      const Index row = g.row(n, c);
      for (Index s = thread; s < g.spatial; s += blockDim.x) {
        const T gradient = grad_y[row + s];
        shift_sum += gradient;
        if (grad_scale) {
          scale_sum += gradient * x[row + s];
        }
      }
    }
    scale_sums[thread] = scale_sum;
    shift_sums[thread] = shift_sum;
    __syncthreads();
    for (int half = static_cast<int>(blockDim.x) / 2; half > 0; half /= 2) {
      if (thread < half) {
        scale_sums[thread] += scale_sums[thread + half];
        shift_sums[thread] += shift_sums[thread + half];
      }
      __syncthreads();
    }
    // Only thread 0 touches element 0 until it writes it again: the next channel needs no barrier.
    if (thread == 0) {
      if (grad_scale) {
        grad_scale[c] = scale_sums[0];
      }
      if (grad_shift) {
        grad_shift[c] = shift_sums[0];
      }
    }
  }
}

}  // namespace deeplab
