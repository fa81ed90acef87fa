// im2col and col2im with holes: the form in which Caffe computes the atrous convolution, as a
// matrix product over columns. Images are contiguous (N, C, H, W).
#pragma once

#include "../common/float16.h"
#include "../common/kernel.cuh"
#include "geometry.h"

namespace deeplab {

// Threads of a block. _cupy/atrous_conv2d.py launches with the same number.
constexpr int kIm2colThreads = 256;

// columns (N, C * R * S, H' * W'). One thread owns the output pixels i, i + grid, ... of all
// channels and writes their taps, side by side with its neighbours'.
template <typename T>
__global__ __launch_bounds__(kIm2colThreads) void im2col_kernel(ConvGeometry g, const T* x,
                                                                T* columns) {
  const Index pixels = g.out_pixels();
  GRID_STRIDE_LOOP(i, g.batch * g.in_channels * pixels) {
    const Index channel = i / pixels;  // of all images
    const Index pixel = i % pixels;
    const T* const map = x + channel * g.in_pixels();
    T* to = columns + channel * g.taps() * pixels + pixel;
    for (Index r = 0; r < g.kernel_h; ++r) {
      const Index h = g.in_row(pixel / g.out_width, r);
      for (Index s = 0; s < g.kernel_w; ++s, to += pixels) {
        const Index w = g.in_column(pixel % g.out_width, s);
        const bool inside = h >= 0 && h < g.height && w >= 0 && w < g.width;
        *to = inside ? map[h * g.width + w] : T{};
      }
    }
  }
}

// One thread owns the pixels i, i + grid, ... of x. It gathers what im2col read from that pixel, in
// the order of the taps: no atomics, and the same sum in every run and grid.
template <typename T>
__global__ __launch_bounds__(kIm2colThreads) void col2im_kernel(ConvGeometry g, const T* columns,
                                                                T* x) {
  GRID_STRIDE_LOOP(i, g.batch * g.in_channels * g.in_pixels()) {
    const Index w = i % g.width;
    const Index h = i / g.width % g.height;
    const T* const rows = columns + i / g.in_pixels() * g.taps() * g.out_pixels();
    typename SumOf<T>::Type sum = 0;
    for (Index r = 0; r < g.kernel_h; ++r) {
      const Index down = h + g.pad_h - r * g.rate_h;  // stride_h times the row that read h by tap r
      if (down < 0 || down % g.stride_h != 0 || down / g.stride_h >= g.out_height) continue;
      for (Index s = 0; s < g.kernel_w; ++s) {
        const Index right = w + g.pad_w - s * g.rate_w;
        if (right < 0 || right % g.stride_w != 0 || right / g.stride_w >= g.out_width) continue;
        const Index pixel = down / g.stride_h * g.out_width + right / g.stride_w;
        sum += to_real(rows[(r * g.kernel_w + s) * g.out_pixels() + pixel]);
      }
    }
    x[i] = from_real<T>(sum);
  }
}

}  // namespace deeplab
