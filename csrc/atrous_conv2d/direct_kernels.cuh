// The atrous convolution as an implicit matrix product: pixels times filters, summed over taps and
// channels, without a column buffer and without the taps that a tile of pixels does not need.
//
// Counted for the wide tile (128 pixels x 128 filters) and one iteration (128 bytes of k, that is
// 32 float or 64 16-bit channels): 32 KB are copied from L2 for 1.05 (2.1) MFLOP, 32 (64) FLOP a
// byte; 24 ldmatrix.x4 a warp feed 64 products, 192 with three TF32 each. Of shared memory's
// bandwidth float32 so takes about a fifth of the tensor cores' time. Three stages are 96 KB, which
// sm_86 has too.
#pragma once

#include "multiply.cuh"
#include "plan.h"

namespace deeplab {

// What tap (0, 0) of a pixel reads: where in x, in elements and possibly outside, and at which row
// and column. After the last iteration `offset` becomes the pixel's own in y, -1 where there is
// none.
struct PixelSource {
  Index offset;
  int h, w;
};

// A row or column from which no tap leads back to the map, and adding to which does not overflow.
constexpr int kFarOutside = -(1 << 30);
static_assert(4 * kMaxExtent < -static_cast<Index>(kFarOutside) * 2, "32 bits hold every row");

template <int kPixels_, int kFilters_, int kWarpsDown, int kWarpsAcross>
struct Tile {
  static constexpr int kPixels = kPixels_, kFilters = kFilters_;
  static constexpr int kWarps = kWarpsDown * kWarpsAcross;
  static constexpr int kThreads = 32 * kWarps;
  static constexpr int kAcross = kWarpsAcross;
  // Of a warp, in blocks of 16 pixels x 8 filters.
  static constexpr int kM = kPixels / kWarpsDown / 16, kN = kFilters / kWarpsAcross / 8;
  static_assert(kThreads >= kPixels, "each pixel of a tile has a thread that looks it up");
  static constexpr int kStages = 3;
  // Blocks that share a multiprocessor with 227 KB and 64 K registers, at float32.
  static constexpr int kTogether = kWarps == 8 ? 1 : 3;
  static constexpr int kStageBytes = (kPixels + kFilters) * kRowBytes;
  static constexpr int kSharedBytes =
      kStages * kStageBytes + kPixels * static_cast<int>(sizeof(PixelSource));
};

using WideTile = Tile<128, 128, 2, 4>;
using NarrowTile = Tile<128, 32, 4, 1>;  // for scores of 21 classes
using LowTile = Tile<32, 128, 1, 4>;     // for the gradient of such filters
using PlainTile = Tile<64, 64, 2, 2>;    // without tensor cores: double's sums are twice as wide,
                                         // and sm_75 has 64 KB of shared memory

template <typename Way, typename T>
HOST_DEVICE Setup setup_of() {
  return {sizeof(typename Way::Operand), T::kPixels, T::kFilters, kMultiprocessors * T::kTogether};
}

// The taps of a tile and where a thread stands in them: k runs over taps, and within one over
// chunks, so that few channels fill an iteration with several taps. In 32 bits: an iteration is 4
// KB of operands at least, so their number fits.
struct TapCursor {
  int last_r, first_s, last_s, chunks;
  int r, s, chunk;

  DEVICE_INLINE TapCursor(const DirectPlan::Box& box, Index chunks_, Index k)
      : last_r(static_cast<int>(box.r.last)),
        first_s(static_cast<int>(box.s.first)),
        last_s(static_cast<int>(box.s.last)),
        chunks(static_cast<int>(chunks_)) {
    const Index tap = chunks > 0 ? k / chunks : 0;
    const Index across = most(1, box.s.count());
    r = static_cast<int>(box.r.first + tap / across);
    s = static_cast<int>(box.s.first + tap % across);
    chunk = static_cast<int>(k - tap * chunks);
  }

  DEVICE_INLINE bool exists() const { return r < last_r; }

  DEVICE_INLINE void advance() {
    chunk += kRowChunks;
    while (chunk >= chunks) {
      chunk -= chunks;
      if (++s == last_s) {
        s = first_s;
        ++r;
      }
    }
  }
};

template <typename Operand>
struct DirectOperands {
  const Operand* x;  // of the tile's group
  const Operand* w;  // of its group and first filter
  int filters;       // of the tile that exist
};

// Copies what one iteration multiplies: for each pixel and filter of the tile, kRowChunks chunks.
// One thread owns a column of chunks, so one position in the taps.
template <typename T, typename Operand>
DEVICE_INLINE void copy_stage(const DirectPlan& plan, const DirectOperands<Operand>& from,
                              const PixelSource* sources, const TapCursor& at,
                              unsigned char* stage) {
  constexpr int kPerChunk = kChunkBytes / static_cast<int>(sizeof(Operand));
  constexpr int kStep = T::kThreads / kRowChunks;
  static_assert(T::kPixels % kStep == 0 && T::kFilters % kStep == 0, "all threads copy alike");
  const int column = static_cast<int>(threadIdx.x) % kRowChunks;
  const int first = static_cast<int>(threadIdx.x) / kRowChunks;
  const bool tap_exists = at.exists();
  const int down = static_cast<int>(plan.rows.step) * at.r;
  const int right = static_cast<int>(plan.columns.step) * at.s;
  const auto height = static_cast<unsigned>(plan.rows.in);
  const auto width = static_cast<unsigned>(plan.columns.in);
  const Operand* const x =
      from.x + plan.x_tap_row * at.r + plan.x_tap_column * at.s + at.chunk * kPerChunk;
  UNROLL
  for (int i = 0; i < T::kPixels / kStep; ++i) {
    const int row = first + i * kStep;
    const PixelSource source = sources[row];
    // As unsigned, what lies before the map lies far behind it.
    const bool inside = tap_exists && static_cast<unsigned>(source.h + down) < height &&
                        static_cast<unsigned>(source.w + right) < width;
    copy_chunk(stage + swizzled(row, column), x + source.offset, inside);
  }
  const Operand* const w = from.w + plan.w_tap_row * at.r + plan.w_tap_column * at.s +
                           at.chunk * kPerChunk + first * plan.w_filter;
  unsigned char* const filters = stage + T::kPixels * kRowBytes;
  UNROLL
  for (int i = 0; i < T::kFilters / kStep; ++i) {
    const int row = first + i * kStep;
    const bool exists = tap_exists && row < from.filters;
    copy_chunk(filters + swizzled(row, column), w + i * kStep * plan.w_filter, exists);
  }
}

// One block owns the pieces b, b + grid, ... of tiles. A warp of it owns kM x kN blocks of 16
// pixels by 8 filters, multiply.cuh says how.
template <typename Way, typename T, typename Out>
__global__ __launch_bounds__(T::kThreads) void direct_kernel(
    const __grid_constant__ DirectPlan plan, const typename Way::Operand* x,
    const typename Way::Operand* w, const Out* bias, Out* y, typename Way::Sum* partial,
    Index* targets) {
  RETURN_WITHOUT_TENSOR_CORES(Way)
  using Sum = typename Way::Sum;
  DYNAMIC_SHARED(unsigned char, stages);
  auto* const sources = reinterpret_cast<PixelSource*>(stages + T::kStages * T::kStageBytes);
  const int thread = static_cast<int>(threadIdx.x);
  const int warp = thread / 32, g = thread % 32 / 4, t = thread % 4;
  const int warp_row = warp / T::kAcross * T::kM * 16, warp_column = warp % T::kAcross * T::kN * 8;
  const Index tiles = plan.tiles();
  for (Index work = blockIdx.x; work < tiles * plan.pieces; work += gridDim.x) {
    // Neighbouring blocks share their pixels and differ in filters.
    const Index tile = work % tiles;
    const Index first_filter = tile % plan.filter_tiles() * T::kFilters;
    const Index group = tile / plan.filter_tiles() % plan.groups;
    const Index pixel_tile = tile / plan.filter_tiles() / plan.groups;
    const DirectPlan::Box box = plan.box(pixel_tile);
    const Index iterations = plan.iterations(box);
    const Index piece = work / tiles;
    if (piece >= plan.pieces_of(iterations)) continue;
    const Index begin = piece * plan.piece_length;
    const int count = static_cast<int>(least(plan.piece_length, iterations - begin));

    Index y_offset = -1;
    __syncthreads();  // the tile before has been written out
    if (thread < T::kPixels) {
      const Index m = pixel_tile * T::kPixels + thread;
      PixelSource source{0, kFarOutside, kFarOutside};
      if (m < plan.pixels()) {
        const Pixel pixel = plan.locate(m);
        const Index h = pixel.i * plan.rows.stride + plan.rows.origin;
        const Index w = pixel.j * plan.columns.stride + plan.columns.origin;
        const Index row = pixel.image * plan.rows.in + h;
        source = {(row * plan.columns.in + w) * plan.x_pixel, static_cast<int>(h),
                  static_cast<int>(w)};
        y_offset = pixel.image * plan.y_image +
                   (pixel.i * plan.rows.out_stride + plan.rows.out_origin) * plan.y_row +
                   (pixel.j * plan.columns.out_stride + plan.columns.out_origin) * plan.y_column;
      }
      sources[thread] = source;
    }
    __syncthreads();

    const DirectOperands<typename Way::Operand> from{
        x + group * plan.x_group,
        w + plan.w_origin + group * plan.w_group + first_filter * plan.w_filter,
        static_cast<int>(least(plan.filters - first_filter, T::kFilters))};
    TapCursor cursor(box, plan.chunks, begin * kRowChunks + thread % kRowChunks);
    int copied = 0;
    const auto copy_next = [&] {
      if (copied < count) {
        copy_stage<T>(plan, from, sources, cursor, stages + copied % T::kStages * T::kStageBytes);
        cursor.advance();
        ++copied;
      }
      copy_commit();  // an empty group too, so that the count of groups is that of iterations
    };
    for (int i = 0; i < T::kStages - 1; ++i) copy_next();
    Sum sums[T::kM][T::kN][4] = {};
    for (int i = 0; i < count; ++i) {
      copy_wait<T::kStages - 2>();
      __syncthreads();  // stage i is there for all, and stage i - 1 has been multiplied by all
      copy_next();
      const unsigned char* const stage = stages + i % T::kStages * T::kStageBytes;
      Way::add_rows(sums, stage + warp_row * kRowBytes,
                    stage + (T::kPixels + warp_column) * kRowBytes);
    }

    if (plan.pieces > 1) {
      if (piece == 0 && group == 0 && first_filter == 0) {
        Index* const to = targets + pixel_tile * (T::kPixels + 1);
        if (thread < T::kPixels) to[thread] = y_offset;
        if (thread == 0) to[T::kPixels] = plan.pieces_of(iterations);
      }
      Sum* const to = partial + (tile * plan.pieces + piece) * plan.tile_size();
      // In the order in which y lies, so that the other kernel reads and writes along lines.
      const int pixel_step = plan.y_filter == 1 ? T::kFilters : 1;
      const int filter_step = plan.y_filter == 1 ? 1 : T::kPixels;
      UNROLL
      for (int m = 0; m < T::kM; ++m) {
        UNROLL
        for (int n = 0; n < T::kN; ++n) {
          UNROLL
          for (int i = 0; i < 4; ++i) {
            const int row = warp_row + 16 * m + i / 2 * 8 + g;
            const int column = warp_column + 8 * n + 2 * t + i % 2;
            to[row * pixel_step + column * filter_step] = sums[m][n][i];
          }
        }
      }
      continue;
    }
    // The last iterations copy nothing, so all have read their sources a barrier ago.
    if (thread < T::kPixels) sources[thread].offset = y_offset;
    __syncthreads();
    Index offsets[T::kM][2];
    UNROLL
    for (int m = 0; m < T::kM; ++m) {
      UNROLL
      for (int half = 0; half < 2; ++half) {
        offsets[m][half] = sources[warp_row + 16 * m + half * 8 + g].offset;
      }
    }
    const bool relu = plan.relu != 0;
    UNROLL
    for (int n = 0; n < T::kN; ++n) {
      Out* to[2];  // where the columns are in y, null where there is none
      Sum shift[2];
      UNROLL
      for (int i = 0; i < 2; ++i) {
        const Index column = first_filter + warp_column + 8 * n + 2 * t + i;
        const Index filter = group * plan.filters + column;
        const bool exists = column < plan.filters;
        to[i] = exists ? y + filter * plan.y_filter : nullptr;
        shift[i] = exists && bias ? to_real(bias[filter]) : 0;
      }
      UNROLL
      for (int m = 0; m < T::kM; ++m) {
        UNROLL
        for (int half = 0; half < 2; ++half) {
          UNROLL
          for (int i = 0; i < 2; ++i) {
            const Sum sum = sums[m][n][2 * half + i] + shift[i];
            // Written so that NaN stays NaN.
            const Out value = from_real<Out>(relu && sum < 0 ? Sum{0} : sum);
            if (to[i] && offsets[m][half] >= 0) to[i][offsets[m][half]] = value;
          }
        }
      }
    }
  }
}

// Adds the pieces of each tile in order, then bias and ReLU. One thread owns an element of a tile.
// `targets` (pixel tiles, kPixels + 1), from the kernel before: where each pixel lies in y, -1 for
// none, and how many pieces its tile has. Few tiles are ever cut, so 32 bits count their elements.
constexpr int kDirectSumThreads = 256;

template <typename Way, typename T, typename Out>
__global__ __launch_bounds__(kDirectSumThreads) void direct_sum_kernel(
    const __grid_constant__ DirectPlan plan, const typename Way::Sum* partial, const Index* targets,
    const Out* bias, Out* y) {
  using Sum = typename Way::Sum;
  constexpr int kElements = T::kPixels * T::kFilters;
  const int filter_tiles = static_cast<int>(plan.filter_tiles());
  const int groups = static_cast<int>(plan.groups);
  const bool along_filters = plan.y_filter == 1;
  GRID_STRIDE_LOOP(i, plan.tiles() * kElements) {
    const int tile = static_cast<int>(i / kElements), element = static_cast<int>(i % kElements);
    const int row = along_filters ? element / T::kFilters : element % T::kPixels;
    const int column = along_filters ? element % T::kFilters : element / T::kPixels;
    const Index in_group = tile % filter_tiles * T::kFilters + column;
    const Index* const target = targets + tile / filter_tiles / groups * (T::kPixels + 1);
    if (target[row] < 0 || in_group >= plan.filters) continue;
    const Index filter = tile / filter_tiles % groups * plan.filters + in_group;
    const Sum* from = partial + tile * plan.pieces * kElements + element;
    Sum sum = 0;
    for (Index piece = 0; piece < target[T::kPixels]; ++piece, from += kElements) sum += *from;
    if (bias) sum += to_real(bias[filter]);
    y[target[row] + filter * plan.y_filter] = from_real<Out>(plan.relu && sum < 0 ? Sum{0} : sum);
  }
}

}  // namespace deeplab
