// Operands as the direct kernels want them: channels last, each pixel's (or filter's) channels of a
// group padded to a multiple of 16 bytes, in the type that is multiplied. One pass over the data
// buys that every later read, nine of each pixel and more, is an aligned 16-byte copy, and that
// rounding is done once and not in the inner loop.
#pragma once

#include "../common/float16.h"
#include "../common/kernel.cuh"
#include "multiply.cuh"
#include "options.h"

namespace deeplab {

constexpr int kPackSide = 32;      // pixels and channels of a block's square
constexpr int kPackThreads = 256;  // a multiple of kPackSide

// Sizes and steps, in elements, of the maps of `images` pictures.
struct PackMap {
  Index images, pixels, groups;
  Index channels, padded;  // of a group; padded as written
  Index image_step, channel_step, pixel_step;

  HOST_DEVICE Index width() const { return groups * padded; }
  HOST_DEVICE Index pixel_squares() const { return ceil_div(pixels, kPackSide); }
  HOST_DEVICE Index squares() const {
    return images * pixel_squares() * ceil_div(width(), kPackSide);
  }
};

HOST_DEVICE PackMap pack_map_of(Index images, Index pixels, Index channels, Index groups,
                                Index padded, bool channels_last) {
  return {images,
          pixels,
          groups,
          channels / groups,
          padded,
          channels * pixels,
          channels_last ? 1 : pixels,
          channels_last ? channels : 1};
}

// x (images, channels, pixels) in any layout -> packed (images, pixels, groups, padded). One block
// owns squares of 32 pixels by 32 channels, which turn over in shared memory: it reads along
// whichever of the two lies together, and writes along channels.
template <typename Way, typename T>
__global__ void pack_map_kernel(PackMap map, const T* x, typename Way::Operand* packed) {
  using Operand = typename Way::Operand;
  constexpr int kLine = kPackSide + 1;  // one column apart is one bank apart
  SHARED_ARRAY(Operand, square, kPackSide * kLine);
  const int lane = static_cast<int>(threadIdx.x) % kPackSide;
  const int line = static_cast<int>(threadIdx.x) / kPackSide;
  for (Index work = blockIdx.x; work < map.squares(); work += gridDim.x) {
    const Index pixel_square = work % map.pixel_squares();
    const Index rest = work / map.pixel_squares();
    const Index image = rest % map.images;
    const Index first_pixel = pixel_square * kPackSide;
    const Index first_column = rest / map.images * kPackSide;
    const bool along_channels = map.channel_step == 1;
    for (int i = line; i < kPackSide; i += kPackThreads / kPackSide) {
      const int p = along_channels ? i : lane;
      const int c = along_channels ? lane : i;
      const Index pixel = first_pixel + p;
      const Index column = first_column + c;
      const Index channel = column % map.padded;
      Operand value{};
      if (pixel < map.pixels && column < map.width() && channel < map.channels) {
        const Index from = column / map.padded * map.channels + channel;
        value = Way::operand(
            to_real(x[image * map.image_step + from * map.channel_step + pixel * map.pixel_step]));
      }
      square[p * kLine + c] = value;
    }
    __syncthreads();
    for (int p = line; p < kPackSide; p += kPackThreads / kPackSide) {
      const Index pixel = first_pixel + p;
      const Index column = first_column + lane;
      if (pixel < map.pixels && column < map.width()) {
        packed[(image * map.pixels + pixel) * map.width() + column] = square[p * kLine + lane];
      }
    }
    __syncthreads();
  }
}

// Sizes of a packed filter bank [group][tap][row][column], and where weight (K, C, R, S) has it.
// Forward, rows are a group's filters and columns its channels; for the gradient with respect to x
// the other way round.
struct PackWeight {
  Index groups, rows, columns, padded;
  Index kernel_h, kernel_w;
  Index group_step, row_step, column_step;  // in weight, in elements
  Index tap_row_step, tap_column_step;

  HOST_DEVICE Index taps() const { return kernel_h * kernel_w; }
  HOST_DEVICE Index items() const { return groups * rows * padded; }
};

HOST_DEVICE PackWeight pack_weight_of(const ConvGeometry& g, const WeightStrides& strides,
                                      Index padded, bool transposed) {
  const Index filters = g.group_out(), channels = g.group_in();
  return {g.groups,
          transposed ? channels : filters,
          transposed ? filters : channels,
          padded,
          g.kernel_h,
          g.kernel_w,
          filters * strides.out,
          transposed ? strides.in : strides.out,
          transposed ? strides.out : strides.in,
          strides.row,
          strides.column};
}

// One thread owns all taps of one row and column: weight keeps them side by side.
template <typename Way, typename T>
__global__ void pack_weight_kernel(PackWeight bank, const T* weight,
                                   typename Way::Operand* packed) {
  GRID_STRIDE_LOOP(i, bank.items()) {
    const Index column = i % bank.padded;
    const Index row = i / bank.padded % bank.rows;
    const Index group = i / bank.padded / bank.rows;
    const T* const from =
        weight + group * bank.group_step + row * bank.row_step + column * bank.column_step;
    const Index tap_step = bank.rows * bank.padded;
    typename Way::Operand* to =
        packed + group * bank.taps() * tap_step + row * bank.padded + column;
    for (Index r = 0; r < bank.kernel_h; ++r) {
      for (Index s = 0; s < bank.kernel_w; ++s, to += tap_step) {
        const bool exists = column < bank.columns;
        *to = exists ? Way::operand(to_real(from[r * bank.tap_row_step + s * bank.tap_column_step]))
                     : typename Way::Operand{};
      }
    }
  }
}

}  // namespace deeplab
