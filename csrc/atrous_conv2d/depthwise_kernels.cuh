// The convolution of single channels and its gradients. What limits it is the memory: neighbouring
// threads read neighbouring elements, and a thread keeps what it has read for all its results.
#pragma once

#include "../common/divisor.h"
#include "../common/float16.h"
#include "../common/kernel.cuh"
#include "depthwise_axis.h"
#include "options.h"

namespace deeplab {

// Threads of a block. cupy_backend/atrous_depthwise.py launches with the same numbers.
constexpr int kDepthwiseThreads = 256;
constexpr int kDepthwiseGradThreads = 128;
// Taps whose sums a thread forms at a time: all those of a 3x3 filter.
constexpr int kDepthwiseGradTaps = 9;
// Rows of targets of one thread, each `chain` after the other, so that they share rows of sources.
constexpr int kDepthwiseRows = 4;

// One part of the targets, and where they and the sources lie: steps in elements.
struct DepthwisePlan {
  TapAxis rows, columns;
  Index channels, kernel_w, taps;
  Index source_image, source_channel, source_row, source_column;
  Index target_image, target_channel, target_row, target_column;
  Divisor chain;  // from one row of a thread's targets to the next
  Index groups;   // threads that it takes for all rows of a column
  Index images;
  // Of the elements of an image, fastest first: channels or columns.
  Divisor inner, middle;
  Index channels_last;
  Index relu_before, activation;

  HOST_DEVICE Index per_image() const { return channels * columns.count * groups; }
};

HOST_DEVICE DepthwisePlan depthwise_plan(const TapAxis& rows, const TapAxis& columns, Index images,
                                         Index channels, Index kernel_h, Index kernel_w,
                                         bool channels_last) {
  DepthwisePlan p{};
  p.rows = rows;
  p.columns = columns;
  p.images = images;
  p.channels = channels;
  p.kernel_w = kernel_w;
  p.taps = kernel_h * kernel_w;
  const Index chain = rows.spacing / common_divisor(rows.spacing, rows.source_step);
  p.chain = divisor_of(chain);
  // Whole blocks of kDepthwiseRows chains' steps, of which the last may be cut.
  p.groups = ceil_div(rows.count, chain * kDepthwiseRows) * chain;
  const Index sources = rows.sources * columns.sources, targets = rows.targets * columns.targets;
  p.source_image = channels * sources;
  p.target_image = channels * targets;
  p.source_channel = channels_last ? 1 : sources;
  p.target_channel = channels_last ? 1 : targets;
  p.source_column = p.target_column = channels_last ? channels : 1;
  p.source_row = columns.sources * p.source_column;
  p.target_row = columns.targets * p.target_column;
  p.channels_last = channels_last;
  p.inner = divisor_of(channels_last ? channels : columns.count);
  p.middle = divisor_of(channels_last ? columns.count : p.groups);
  return p;
}

// What follows the sum: Activation as a number.
template <typename V>
HOST_DEVICE V activated(V value, Index activation) {
  if (activation == static_cast<Index>(Activation::none)) return value;
  if (value < 0) value = 0;  // not a maximum: NaN stays NaN
  if (activation == static_cast<Index>(Activation::relu6) && value > 6) value = 6;
  return value;
}

// One thread owns kDepthwiseRows targets of one channel and column, which it finds by going over
// the rows of sources that any of them reads. kTaps: of the axis of rows, 0 for any number.
template <typename T, int kTaps>
__global__ __launch_bounds__(kDepthwiseThreads) void depthwise_kernel(DepthwisePlan p, const T* x,
                                                                      const T* weight,
                                                                      const T* bias, T* y) {
  using Sum = typename SumOf<T>::Type;
  GRID_STRIDE_LOOP(i, p.images * p.per_image()) {
    const Index image = i / p.per_image();
    const unsigned rest = static_cast<unsigned>(i - image * p.per_image());
    const unsigned outer = p.inner.quotient(rest), fastest = rest - outer * p.inner.value;
    const unsigned slowest = p.middle.quotient(outer), between = outer - slowest * p.middle.value;
    // (group, column, channel) channels-last, else (channel, group, column).
    const Index channel = p.channels_last ? fastest : slowest;
    const Index column = p.channels_last ? between : fastest;
    const Index group = p.channels_last ? slowest : between;
    const Index chain = p.chain.value;
    const Index block = p.chain.quotient(static_cast<unsigned>(group));
    const Index first = block * chain * kDepthwiseRows + group - block * chain;
    const T* const map = x + image * p.source_image + channel * p.source_channel;
    const T* const filter = weight + channel * p.taps;
    const Sum start = bias ? to_real(bias[channel]) : Sum{0};
    T* const to = y + image * p.target_image + channel * p.target_channel +
                  p.columns.target(column) * p.target_column;
    const auto read = [&](const T* at) {
      const Sum value = to_real(*at);
      return p.relu_before && value < 0 ? Sum{0} : value;
    };
    const auto write = [&](Index a, Sum sum) {
      to[p.rows.target(a) * p.target_row] = from_real<T>(activated(sum, p.activation));
    };
    if constexpr (kTaps > 0) {
      // Row m of the sources is tap m - q of target q.
      constexpr int kReads = kDepthwiseRows + kTaps - 1;
      Sum sums[kDepthwiseRows];
      UNROLL
      for (int q = 0; q < kDepthwiseRows; ++q) sums[q] = start;
      NO_UNROLL
      for (Index c = 0; c < p.columns.taps; ++c) {
        const Index at = p.columns.source(column, c);
        if (at < 0 || at >= p.columns.sources) continue;
        Sum factors[kTaps];
        UNROLL
        for (int k = 0; k < kTaps; ++k) {
          factors[k] = to_real(filter[p.rows.filter_tap(k) * p.kernel_w + p.columns.filter_tap(c)]);
        }
        const T* const from = map + at * p.source_column;
        UNROLL
        for (int m = 0; m < kReads; ++m) {
          const Index row = p.rows.source(first, m);
          if (row < 0 || row >= p.rows.sources) continue;
          const Sum value = read(from + row * p.source_row);
          UNROLL
          for (int q = 0; q < kDepthwiseRows; ++q) {
            if (m >= q && m - q < kTaps) sums[q] += factors[m - q] * value;
          }
        }
      }
      UNROLL
      for (int q = 0; q < kDepthwiseRows; ++q) {
        if (first + q * chain < p.rows.count) write(first + q * chain, sums[q]);
      }
    } else {
      const Index last = first + (kDepthwiseRows - 1) * chain;
      for (Index a = first; a <= last && a < p.rows.count; a += chain) {
        Sum sum = start;
        for (Index k = 0; k < p.rows.taps; ++k) {
          const Index row = p.rows.source(a, k);
          if (row < 0 || row >= p.rows.sources) continue;
          const T* const from = map + row * p.source_row;
          const T* const weights = filter + p.rows.filter_tap(k) * p.kernel_w;
          NO_UNROLL
          for (Index c = 0; c < p.columns.taps; ++c) {
            const Index at = p.columns.source(column, c);
            if (at < 0 || at >= p.columns.sources) continue;
            sum += to_real(weights[p.columns.filter_tap(c)]) * read(from + at * p.source_column);
          }
        }
        write(a, sum);
      }
    }
  }
}

// One block owns the items b, b + grid, ...: kDepthwiseGradTaps taps of a channel, over a piece of
// the rows of all images, which are contiguous maps. partial (channels, taps, pieces). The order of
// additions depends on the block's size and the number of pieces alone.
template <typename T>
__global__ __launch_bounds__(kDepthwiseGradThreads) void depthwise_grad_weight_kernel(
    DepthwisePlan p, Index pieces, const T* grad_y, const T* x, typename SumOf<T>::Type* partial) {
  using Sum = typename SumOf<T>::Type;
  constexpr int kTaps = kDepthwiseGradTaps, kWarps = kDepthwiseGradThreads / 32;
  SHARED_ARRAY(Sum, of_warps, kWarps * kTaps);
  const int thread = static_cast<int>(threadIdx.x);
  const Index lines = p.images * p.rows.count, rounds = ceil_div(p.taps, kTaps);
  for (Index item = blockIdx.x; item < p.channels * rounds * pieces; item += gridDim.x) {
    const Index piece = item % pieces, channel = item / pieces / rounds;
    const Index first_tap = item / pieces % rounds * kTaps;
    const Index begin = lines * piece / pieces, end = lines * (piece + 1) / pieces;
    int r[kTaps], s[kTaps];
    Sum sums[kTaps];
    UNROLL
    for (int t = 0; t < kTaps; ++t) {
      r[t] = static_cast<int>((first_tap + t) / p.kernel_w);
      s[t] = static_cast<int>((first_tap + t) % p.kernel_w);
      sums[t] = 0;
    }
    for (Index i = thread; i < (end - begin) * p.columns.count; i += kDepthwiseGradThreads) {
      const unsigned line = p.inner.quotient(static_cast<unsigned>(i));
      const Index column = i - line * p.columns.count;
      const Index image = (begin + line) / p.rows.count;
      const Index a = begin + line - image * p.rows.count;
      const Sum g = to_real(
          grad_y[image * p.target_image + channel * p.target_channel + a * p.target_row + column]);
      const T* const map = x + image * p.source_image + channel * p.source_channel;
      UNROLL
      for (int t = 0; t < kTaps; ++t) {
        const Index row = p.rows.source(a, r[t]), at = p.columns.source(column, s[t]);
        if (row < 0 || row >= p.rows.sources || at < 0 || at >= p.columns.sources) continue;
        sums[t] += g * to_real(map[row * p.source_row + at]);
      }
    }
    UNROLL
    for (int t = 0; t < kTaps; ++t) {
      for (int lanes = 16; lanes > 0; lanes /= 2) {
        sums[t] += __shfl_down_sync(0xffffffffu, sums[t], lanes);
      }
      if (thread % 32 == 0) of_warps[thread / 32 * kTaps + t] = sums[t];
    }
    __syncthreads();
    if (thread < kTaps && first_tap + thread < p.taps) {
      Sum sum = 0;
      for (int warp = 0; warp < kWarps; ++warp) sum += of_warps[warp * kTaps + thread];
      partial[(channel * p.taps + first_tap + thread) * pieces + piece] = sum;
    }
    __syncthreads();
  }
}

// One thread owns the weights i, i + grid, ...: it adds their pieces in order.
template <typename T>
__global__ __launch_bounds__(kDepthwiseThreads) void depthwise_grad_weight_sum_kernel(
    Index weights, Index pieces, const typename SumOf<T>::Type* partial, T* grad_weight) {
  GRID_STRIDE_LOOP(i, weights) {
    typename SumOf<T>::Type sum = 0;
    for (Index piece = 0; piece < pieces; ++piece) sum += partial[i * pieces + piece];
    grad_weight[i] = from_real<T>(sum);
  }
}

}  // namespace deeplab
