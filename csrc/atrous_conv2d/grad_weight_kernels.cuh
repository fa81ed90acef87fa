// The gradient with respect to the filters: for each tap a matrix product, filters times channels,
// summed over the rectangle of pixels where the tap lies inside the map, and over nothing else.
// Operands are packed as for the direct kernel; here pixels run along k, so tiles are multiplied by
// columns.
#pragma once

#include "multiply.cuh"
#include "plan.h"

namespace deeplab {

// Bytes of k in an iteration: pixels times bytes of an element.
constexpr int kGradDepthBytes = 64;

struct GradWeightPlan {
  ConvGeometry g;
  Index x_padded, y_padded;  // channels (filters) of a group, as packed
  Index tile_filters, tile_channels;
  Index depth;  // pixels of an iteration
  Index slots;  // blocks that run at a time
  Index pieces, piece_length;

  // Positions first .. first + count - 1 on an axis, for one tap.
  struct Span {
    Index first, count;
  };
  // Where 0 <= i * stride + base < in.
  HOST_DEVICE static Span span(Index out, Index in, Index stride, Index base) {
    const Index first = base >= 0 ? 0 : ceil_div(-base, stride);
    const Index last = base >= in ? 0 : least(out, ceil_div(in - base, stride));
    return {first, most(last - first, 0)};
  }
  HOST_DEVICE Span rows(Index tap) const {
    return span(g.out_height, g.height, g.stride_h, g.in_row(0, tap / g.kernel_w));
  }
  HOST_DEVICE Span columns(Index tap) const {
    return span(g.out_width, g.width, g.stride_w, g.in_column(0, tap % g.kernel_w));
  }

  HOST_DEVICE Index filter_tiles() const { return ceil_div(g.group_out(), tile_filters); }
  HOST_DEVICE Index channel_tiles() const { return ceil_div(g.group_in(), tile_channels); }
  HOST_DEVICE Index units() const { return g.taps(); }
  HOST_DEVICE Index per_unit() const { return g.groups * filter_tiles() * channel_tiles(); }
  HOST_DEVICE Index tiles() const { return units() * per_unit(); }
  HOST_DEVICE Index iterations(Index tap) const {
    return ceil_div(g.batch * rows(tap).count * columns(tap).count, depth);
  }
  HOST_DEVICE Index pieces_of(Index iterations) const { return ceil_div(iterations, piece_length); }
  HOST_DEVICE Index weights() const { return g.out_channels * g.group_in(); }  // of one tap
};

HOST_DEVICE GradWeightPlan grad_weight_plan(const ConvGeometry& g, const Setup& setup) {
  const Index per_chunk = 16 / setup.element_bytes;
  GradWeightPlan plan{};
  plan.g = g;
  plan.x_padded = round_up(g.group_in(), per_chunk);
  plan.y_padded = round_up(g.group_out(), per_chunk);
  plan.tile_filters = setup.tile_rows;
  plan.tile_channels = setup.tile_columns;
  plan.depth = kGradDepthBytes / setup.element_bytes;
  plan.slots = setup.slots;
  cut_into_pieces(plan);
  return plan;
}

// A pixel of a tap's rectangle, counted from its corner.
struct PixelCursor {
  int image, i, j;

  DEVICE_INLINE void advance(int pixels, int height, int width) {
    j += pixels;
    while (j >= width) {
      j -= width;
      if (++i == height) {
        i = 0;
        ++image;
      }
    }
  }
};

template <typename T, typename Operand>
struct GradTile {
  static constexpr int kDepth = kGradDepthBytes / static_cast<int>(sizeof(Operand));
  static constexpr int kLineA = T::kPixels + kLinePad, kLineB = T::kFilters + kLinePad;
  static constexpr int kStage = kDepth * (kLineA + kLineB);  // elements
  static constexpr int kSharedBytes = T::kStages * kStage * static_cast<int>(sizeof(Operand));
};

// One map as a tile reads it: its group and first channel, and how many follow.
template <typename Operand>
struct GradOperand {
  const Operand* at;
  Index channels;  // padded, from the first one on
  Index width;     // of all groups, in elements from pixel to pixel
  Index image_pixels;
  Index corner, row_step, column_step;  // pixels: of position (0, 0) of the tap, and on from it
};

// Copies kDepth pixels' channels, a line each.
template <int kThreads, int kWidth, int kLine, int kDepth, typename Operand>
DEVICE_INLINE void copy_lines(const GradOperand<Operand>& from, const PixelCursor& at, int batch,
                              int height, int width, Operand* to) {
  constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(Operand));
  constexpr int kChunks = kWidth / kPerChunk;
  constexpr int kCopies = kChunks * kDepth;
  UNROLL
  for (int i = 0; i < (kCopies + kThreads - 1) / kThreads; ++i) {
    const int copy = static_cast<int>(threadIdx.x) + i * kThreads;
    if (kCopies % kThreads != 0 && copy >= kCopies) break;
    const int line = copy / kChunks;
    const int channel = copy % kChunks * kPerChunk;
    PixelCursor pixel = at;
    pixel.advance(line, height, width);
    const bool exists = pixel.image < batch && channel < from.channels;
    const Index offset = pixel.image * from.image_pixels + from.corner + pixel.i * from.row_step +
                         pixel.j * from.column_step;
    copy_chunk(to + line * kLine + channel, from.at + offset * from.width + channel, exists);
  }
}

// partial (pieces, R * S, K, C / groups). One block owns the pieces b, b + grid, ... of tiles; T's
// "pixels" are filters here, and its "filters" channels.
template <typename Way, typename T>
__global__ __launch_bounds__(T::kThreads) void grad_weight_kernel(
    const __grid_constant__ GradWeightPlan plan, const typename Way::Operand* grad_y,
    const typename Way::Operand* x, typename Way::Sum* partial) {
  RETURN_WITHOUT_TENSOR_CORES(Way)
  using Operand = typename Way::Operand;
  using Grad = GradTile<T, Operand>;
  DYNAMIC_SHARED(Operand, stages);
  const ConvGeometry& g = plan.g;
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32;
  const int warp_row = warp / T::kAcross * T::kM * 16, warp_column = warp % T::kAcross * T::kN * 8;
  for (Index work = blockIdx.x; work < plan.tiles() * plan.pieces; work += gridDim.x) {
    const Index first_channel = work % plan.channel_tiles() * T::kFilters;
    Index rest = work / plan.channel_tiles();
    const Index first_filter = rest % plan.filter_tiles() * T::kPixels;
    rest /= plan.filter_tiles();
    const Index group = rest % g.groups;
    rest /= g.groups;
    const Index tap = rest % g.taps();
    const Index piece = rest / g.taps();
    const Index iterations = plan.iterations(tap);
    const Index begin = piece * plan.piece_length;
    if (begin >= iterations) continue;
    const Index count = least(plan.piece_length, iterations - begin);

    const GradWeightPlan::Span rows = plan.rows(tap), columns = plan.columns(tap);
    const GradOperand<Operand> from_y{grad_y + group * plan.y_padded + first_filter,
                                      plan.y_padded - first_filter,
                                      g.groups * plan.y_padded,
                                      g.out_pixels(),
                                      rows.first * g.out_width + columns.first,
                                      g.out_width,
                                      1};
    const GradOperand<Operand> from_x{x + group * plan.x_padded + first_channel,
                                      plan.x_padded - first_channel,
                                      g.groups * plan.x_padded,
                                      g.in_pixels(),
                                      g.in_row(rows.first, tap / g.kernel_w) * g.width +
                                          g.in_column(columns.first, tap % g.kernel_w),
                                      g.stride_h * g.width,
                                      g.stride_w};
    const Index first = begin * plan.depth, row_pixels = rows.count * columns.count;
    const int height = static_cast<int>(rows.count), width = static_cast<int>(columns.count);
    const int batch = static_cast<int>(g.batch);
    PixelCursor cursor{static_cast<int>(first / row_pixels),
                       static_cast<int>(first % row_pixels / width),
                       static_cast<int>(first % width)};
    Index copied = 0;
    const auto copy_next = [&] {
      if (copied < count) {
        Operand* const stage = stages + copied % T::kStages * Grad::kStage;
        copy_lines<T::kThreads, T::kPixels, Grad::kLineA, Grad::kDepth>(from_y, cursor, batch,
                                                                        height, width, stage);
        copy_lines<T::kThreads, T::kFilters, Grad::kLineB, Grad::kDepth>(
            from_x, cursor, batch, height, width, stage + Grad::kDepth * Grad::kLineA);
        cursor.advance(Grad::kDepth, height, width);
        ++copied;
      }
      copy_commit();  // an empty group too, so that the count of groups is that of iterations
    };
    __syncthreads();  // the tile before has been multiplied
    for (int i = 0; i < T::kStages - 1; ++i) copy_next();
    typename Way::Sum sums[T::kM][T::kN][4] = {};
    for (Index i = 0; i < count; ++i) {
      copy_wait<T::kStages - 2>();
      __syncthreads();  // stage i is there for all, and stage i - 1 has been multiplied by all
      copy_next();
      const Operand* const stage = stages + i % T::kStages * Grad::kStage;
      Way::template add_columns<Grad::kLineA, Grad::kLineB, Grad::kDepth>(
          sums, stage + warp_row, stage + Grad::kDepth * Grad::kLineA + warp_column);
    }

    const Index row = first_filter + warp_row + thread % 32 / 4;
    const Index column = first_channel + warp_column + thread % 4 * 2;
    typename Way::Sum* const to =
        partial + (piece * g.taps() + tap) * plan.weights() + group * g.group_out() * g.group_in();
    UNROLL
    for (int m = 0; m < T::kM; ++m) {
      UNROLL
      for (int n = 0; n < T::kN; ++n) {
        UNROLL
        for (int i = 0; i < 4; ++i) {
          const Index filter = row + 16 * m + i / 2 * 8, channel = column + 8 * n + i % 2;
          if (filter < g.group_out() && channel < g.group_in()) {
            to[filter * g.group_in() + channel] = sums[m][n][i];
          }
        }
      }
    }
  }
}

// grad_weight (K, C / groups, R, S), each weight the sum of its pieces in order. One thread owns
// all taps of one filter and channel: they lie side by side.
constexpr int kGradSumThreads = 256;

template <typename Way, typename Out>
__global__ __launch_bounds__(kGradSumThreads) void grad_weight_sum_kernel(
    const __grid_constant__ GradWeightPlan plan, const typename Way::Sum* partial,
    Out* grad_weight) {
  SHARED_ARRAY(int, pieces, kGradSumThreads);  // of as many taps at a time
  const Index taps = plan.g.taps();
  for (Index first = 0; first < taps; first += kGradSumThreads) {
    const int count = static_cast<int>(least(taps - first, kGradSumThreads));
    const int thread = static_cast<int>(threadIdx.x);
    __syncthreads();
    if (thread < count) {
      pieces[thread] = static_cast<int>(plan.pieces_of(plan.iterations(first + thread)));
    }
    __syncthreads();
    GRID_STRIDE_LOOP(i, plan.weights()) {
      for (int tap = 0; tap < count; ++tap) {
        const typename Way::Sum* from = partial + (first + tap) * plan.weights() + i;
        typename Way::Sum sum = 0;
        for (int piece = 0; piece < pieces[tap]; ++piece, from += taps * plan.weights()) {
          sum += *from;
        }
        grad_weight[i * taps + first + tap] = from_real<Out>(sum);
      }
    }
  }
}

}  // namespace deeplab
