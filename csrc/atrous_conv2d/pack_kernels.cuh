// Operands as the direct kernels want them: channels last, each pixel's (or filter's) channels of a
// group padded to a multiple of 16 bytes, in the type that is multiplied. One pass over the data
// buys that every later read, nine of each pixel and more, is an aligned 16-byte copy, and that
// rounding is done once and not in the inner loop.
#pragma once

#include "../common/divisor.h"
#include "../common/float16.h"
#include "../common/kernel.cuh"
#include "multiply.cuh"
#include "options.h"

namespace deeplab {

constexpr int kPackSide = 32;      // pixels and channels of a block's square
constexpr int kPackThreads = 256;  // a multiple of kPackSide

// Sizes and steps, in elements, of the maps of `images` pictures, cut into squares of pixels and
// columns. There are fewer than 2^31 squares: more would be terabytes.
struct PackMap {
  Index pixels, columns;   // columns: groups * padded, as written
  Index channels;          // of a group, as read
  Divisor padded;          // by the channels of a group, as written
  Divisor images, across;  // across: by the squares along the pixels of a picture
  Index image_step, channel_step, pixel_step;

  HOST_DEVICE Index squares() const {
    return images.value * across.value * ceil_div(columns, kPackSide);
  }
};

// There must be pictures, pixels and channels.
HOST_DEVICE PackMap pack_map_of(Index images, Index pixels, Index channels, Index groups,
                                Index padded, bool channels_last) {
  return {pixels,
          groups * padded,
          channels / groups,
          divisor_of(padded),
          divisor_of(images),
          divisor_of(ceil_div(pixels, kPackSide)),
          channels * pixels,
          channels_last ? 1 : pixels,
          channels_last ? channels : 1};
}

// x (images, channels, pixels) in any layout -> packed (images, pixels, groups, padded). One block
// owns squares of 32 pixels by 32 columns, which turn over in shared memory: it reads along
// whichever of the two lies together, and writes along columns.
template <typename Way, typename T>
__global__ __launch_bounds__(kPackThreads) void pack_map_kernel(const __grid_constant__ PackMap map,
                                                                const T* x,
                                                                typename Way::Operand* packed) {
  using Operand = typename Way::Operand;
  constexpr int kLine = kPackSide + 1;  // one column apart is one bank apart
  constexpr int kLines = kPackThreads / kPackSide;
  SHARED_ARRAY(Operand, square, kPackSide * kLine);
  const int lane = static_cast<int>(threadIdx.x) % kPackSide;
  const int line = static_cast<int>(threadIdx.x) / kPackSide;
  const bool along_channels = map.channel_step == 1;
  const auto squares = static_cast<unsigned>(map.squares());
  const auto columns = static_cast<int>(map.columns), channels = static_cast<int>(map.channels);
  for (unsigned work = blockIdx.x; work < squares; work += gridDim.x) {
    const unsigned rest = map.across.quotient(work);
    const unsigned column_square = map.images.quotient(rest);
    const Index image = rest - column_square * static_cast<unsigned>(map.images.value);
    const Index first_pixel =
        Index{work - rest * static_cast<unsigned>(map.across.value)} * kPackSide;
    const int first_column = static_cast<int>(column_square) * kPackSide;
    const auto pixels = static_cast<int>(least(map.pixels - first_pixel, kPackSide));
    // The channel that a column holds, counted over all groups; -1: padding, or no column.
    const auto channel_of = [&](int column) {
      const int group = static_cast<int>(map.padded.quotient(column));
      const int channel = column - group * static_cast<int>(map.padded.value);
      return column < columns && channel < channels ? group * channels + channel : -1;
    };
    const T* const from = x + image * map.image_step + first_pixel * map.pixel_step;
    if (along_channels) {
      const int channel = channel_of(first_column + lane);
      const T* at = from + channel + line * map.pixel_step;
      UNROLL
      for (int p = 0; p < kPackSide; p += kLines, at += kLines * map.pixel_step) {
        const bool exists = channel >= 0 && p + line < pixels;
        square[(p + line) * kLine + lane] = exists ? Way::operand(to_real(*at)) : Operand{};
      }
    } else {
      const T* const at = from + lane;
      UNROLL
      for (int c = 0; c < kPackSide; c += kLines) {
        const int channel = channel_of(first_column + c + line);
        const bool exists = channel >= 0 && lane < pixels;
        square[lane * kLine + c + line] =
            exists ? Way::operand(to_real(at[channel * map.channel_step])) : Operand{};
      }
    }
    __syncthreads();
    const int column = first_column + lane;
    Operand* to = packed + (image * map.pixels + first_pixel + line) * map.columns + column;
    UNROLL
    for (int p = line; p < kPackSide + line; p += kLines, to += kLines * map.columns) {
      if (p < pixels && column < columns) *to = square[p * kLine + lane];
    }
    __syncthreads();
  }
}

// Sizes of a packed filter bank [group][tap][row][column], and where weight (K, C, R, S) has it.
// Forward, rows are a group's filters and columns its channels; for the gradient with respect to x
// the other way round.
struct PackWeight {
  Index groups, columns;
  Divisor padded, rows;  // padded: by the columns as written
  Index kernel_h, kernel_w;
  Index group_step, row_step, column_step;  // in weight, in elements
  Index tap_row_step, tap_column_step;

  HOST_DEVICE Index taps() const { return kernel_h * kernel_w; }
  HOST_DEVICE Index items() const { return groups * rows.value * padded.value; }
};

// There must be filters and channels.
HOST_DEVICE PackWeight pack_weight_of(const ConvGeometry& g, const WeightStrides& strides,
                                      Index padded, bool transposed) {
  const Index filters = g.group_out(), channels = g.group_in();
  return {g.groups,
          transposed ? filters : channels,
          divisor_of(padded),
          divisor_of(transposed ? channels : filters),
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
__global__ __launch_bounds__(kPackThreads) void pack_weight_kernel(
    const __grid_constant__ PackWeight bank, const T* weight, typename Way::Operand* packed) {
  using Operand = typename Way::Operand;
  const auto rows = static_cast<unsigned>(bank.rows.value);
  const auto padded = static_cast<unsigned>(bank.padded.value);
  const Index tap_step = Index{rows} * padded;
  const auto taps = static_cast<int>(bank.taps()), across = static_cast<int>(bank.kernel_w);
  const Index next_line = bank.tap_row_step - across * bank.tap_column_step;
  GRID_STRIDE_LOOP(item, bank.items()) {
    const unsigned line = bank.padded.quotient(static_cast<unsigned>(item));
    const unsigned column = static_cast<unsigned>(item) - line * padded;
    const unsigned group = bank.rows.quotient(line), row = line - group * rows;
    const bool exists = column < bank.columns;
    const T* from =
        weight + group * bank.group_step + row * bank.row_step + column * bank.column_step;
    Operand* to = packed + group * taps * tap_step + Index{row} * padded + column;
    int s = 0;
    for (int tap = 0; tap < taps; ++tap) {
      *to = exists ? Way::operand(to_real(*from)) : Operand{};
      to += tap_step;
      from += bank.tap_column_step;
      if (++s == across) {
        s = 0;
        from += next_line;
      }
    }
  }
}

}  // namespace deeplab
