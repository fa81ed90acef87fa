// How the direct kernel walks an atrous convolution: which pixels a tile holds, in what order, and
// which taps a tile needs. Host and device: the host chooses, the kernel looks up.
//
// A tap whose offset leads outside the map multiplies padding. The rows of y fall into few segments
// that see the same taps, and so do the columns; their products are regions, nine for a 3 x 3
// filter. Pixels are numbered region by region over all images, so that nearly every tile lies in
// one region and runs that region's taps alone. The regions are numbered in a snake, so that a tile
// across a border sees two neighbours. On 41 x 41 pixels at rate 12, 65 % of the work is useful; in
// tiles of 128 pixels this does 67 % of it for four pictures and 75 % for one, numbering by rows
// 86 % and 89 %.
#pragma once

#include "../common/host_device.h"
#include "geometry.h"

namespace deeplab {

// Of maps, padding, stride and the filter's reach, in pixels: rows and columns then fit 32 bits.
constexpr Index kMaxExtent = (1 << 28) - 1;

constexpr int kMaxSegments = 8;
constexpr int kMaxRegions = kMaxSegments * kMaxSegments;
constexpr int kRowBytes = 128;  // of one pixel or filter in a tile: its share of an iteration
constexpr int kRowChunks = 8;   // the same in copies of 16 bytes

HOST_DEVICE Index least(Index a, Index b) { return a < b ? a : b; }
HOST_DEVICE Index most(Index a, Index b) { return a > b ? a : b; }

// Taps first .. last - 1; none if last <= first.
struct TapRange {
  Index first, last;

  HOST_DEVICE Index count() const { return most(last - first, 0); }
  HOST_DEVICE bool operator==(const TapRange& other) const {
    return count() == 0 ? other.count() == 0 : first == other.first && last == other.last;
  }
  HOST_DEVICE TapRange joined(const TapRange& other) const {
    if (count() == 0) return other;
    if (other.count() == 0) return *this;
    return {least(first, other.first), most(last, other.last)};
  }
};

// One axis of a convolution. Position i reads the map at i * stride + origin + r * step for tap r,
// and is written at i * out_stride + out_origin. Tap r is the filter's tap r * tap_stride +
// tap_origin. step < 0 and out_stride > 1 occur in the gradient with respect to x.
struct Axis {
  Index in;
  Index count;
  Index taps;
  Index stride, origin, step;
  Index out_stride, out_origin;
  Index tap_stride, tap_origin;
  Index segments;
  Index start[kMaxSegments + 1];
  TapRange range[kMaxSegments];

  // The taps of position i that read inside the map.
  HOST_DEVICE TapRange taps_of(Index i) const {
    const Index base = i * stride + origin;
    const Index pace = step < 0 ? -step : step;
    // Distance, in the direction of the taps, to the first pixel inside and to the end.
    const Index enter = step < 0 ? base - (in - 1) : -base;
    const Index leave = step < 0 ? base + 1 : in - base;
    const TapRange range{enter <= 0 ? 0 : ceil_div(enter, pace),
                         leave <= 0 ? 0 : least(taps, ceil_div(leave, pace))};
    return range.last > range.first ? range : TapRange{0, 0};
  }

  HOST_DEVICE Index length(Index segment) const { return start[segment + 1] - start[segment]; }

  // Cuts the positions where their taps change; too many cuts (many taps) and there are none.
  HOST_DEVICE void cut() {
    segments = 0;
    start[0] = 0;
    TapRange all{0, 0};
    bool fits = true;
    for (Index i = 0; i < count; ++i) {
      const TapRange here = taps_of(i);
      all = all.joined(here);
      if (i > 0 && fits && here == range[segments - 1]) continue;
      fits = fits && segments < kMaxSegments;
      if (!fits) continue;
      start[segments] = i;
      range[segments++] = here;
    }
    if (!fits) {
      segments = 1;
      range[0] = all;
    }
    start[segments] = count;
  }
};

struct Pixel {
  Index image, i, j;  // i, j: positions on the two axes
};

struct DirectPlan {
  Axis rows, columns;
  Index batch, groups;
  Index filters;  // of a group
  Index chunks;   // 16-byte pieces of a group's channels, at one pixel
  // Steps in elements, of x [pixel][group][channel] and w [group][tap][filter][channel].
  Index x_pixel, x_group, x_tap_row, x_tap_column;
  Index w_filter, w_group, w_tap_row, w_tap_column, w_origin;  // w_origin: of tap (0, 0)
  Index y_image, y_filter, y_row, y_column;
  Index relu;
  Index tile_pixels, tile_filters;
  Index slots;  // blocks that run at a time
  // Work of a tile is done in pieces of piece_length iterations, at most `pieces` of them. With
  // more than one, partial sums are written out and added in order by another kernel.
  Index pieces, piece_length;
  Index region_end[kMaxRegions];  // the first pixel behind each, so that to look one up is short

  HOST_DEVICE Index pixels() const { return batch * rows.count * columns.count; }
  HOST_DEVICE Index pixel_tiles() const { return ceil_div(pixels(), tile_pixels); }
  HOST_DEVICE Index filter_tiles() const { return ceil_div(filters, tile_filters); }
  HOST_DEVICE Index tiles() const { return pixel_tiles() * groups * filter_tiles(); }
  HOST_DEVICE Index tile_size() const { return tile_pixels * tile_filters; }
  HOST_DEVICE Index targets() const { return pixel_tiles() * (tile_pixels + 1); }

  // The k-th region of the snake: its segments of rows and of columns.
  HOST_DEVICE void region(int k, int& a, int& b) const {
    const int across = static_cast<int>(columns.segments);
    a = k / across;
    b = k % across;
    if (a % 2 == 1) b = across - 1 - b;
  }

  HOST_DEVICE void number_regions() {
    Index end = 0;
    for (int k = 0; k < static_cast<int>(rows.segments * columns.segments); ++k) {
      int a, b;
      region(k, a, b);
      end += batch * rows.length(a) * columns.length(b);
      region_end[k] = end;
    }
  }

  // The region of a pixel, which must be there.
  HOST_DEVICE int region_of(Index pixel) const {
    int k = 0;
    while (region_end[k] <= pixel) ++k;
    return k;
  }

  HOST_DEVICE Pixel locate(Index pixel) const {
    const int k = region_of(pixel);
    int a, b;
    region(k, a, b);
    const Index m = k > 0 ? pixel - region_end[k - 1] : pixel;
    const Index width = columns.length(b);
    const Index image_size = rows.length(a) * width;
    return {m / image_size, rows.start[a] + m % image_size / width, columns.start[b] + m % width};
  }

  // The taps of a tile: all that one of its pixels needs, as a rectangle.
  struct Box {
    TapRange r, s;
    HOST_DEVICE Index taps() const { return r.count() * s.count(); }
  };

  HOST_DEVICE Box box(Index tile) const {
    const Index begin = tile * tile_pixels;
    const Index end = least(begin + tile_pixels, pixels());
    Box result{{0, 0}, {0, 0}};
    int k = region_of(begin);
    for (bool more = true; more; ++k) {
      int a, b;
      region(k, a, b);
      if (rows.range[a].count() * columns.range[b].count() > 0) {
        result = {result.r.joined(rows.range[a]), result.s.joined(columns.range[b])};
      }
      more = region_end[k] < end;
    }
    return result;
  }

  HOST_DEVICE Index iterations(const Box& box) const {
    return ceil_div(box.taps() * chunks, kRowChunks);
  }
  HOST_DEVICE Index units() const { return pixel_tiles(); }
  HOST_DEVICE Index per_unit() const { return groups * filter_tiles(); }
  HOST_DEVICE Index iterations(Index pixel_tile) const { return iterations(box(pixel_tile)); }
  HOST_DEVICE Index pieces_of(Index iterations) const {
    return most(1, ceil_div(iterations, piece_length));
  }
};

// Of the GPU that plans are made for, an H200. A constant, because the cut into pieces decides the
// order of additions, and results are to be the same on every card.
constexpr Index kMultiprocessors = 132;

constexpr Index kMaxPieces = 32;
constexpr Index kUncut = Index{1} << 60;  // a piece longer than any work

// So many for each block that runs at a time need no further cut. Bounds the memory for partial
// sums too.
constexpr Index kManyPieces = 8;

// What a piece costs beside its iterations, in iterations: filling the pipeline, writing its
// partial sums and reading them again.
constexpr Index kPieceCost = 8;

// Cuts the work of each tile into pieces of piece_length iterations. With few tiles, or tiles of
// unequal work, the GPU waits for the longest: blocks take pieces as they become free, so the time
// is about total / slots + half of the longest, and never below the longest. A plan has `units` of
// work with per_unit() tiles each and the iterations of one tile of a unit.
template <typename Plan>
HOST_DEVICE void cut_into_pieces(Plan& plan) {
  plan.pieces = 1;
  plan.piece_length = kUncut;
  if (plan.units() * plan.per_unit() >= kManyPieces * plan.slots) return;
  Index longest = 1;
  for (Index unit = 0; unit < plan.units(); ++unit) {
    longest = most(longest, plan.iterations(unit));
  }
  Index best = 0;
  for (Index pieces = 1; pieces <= kMaxPieces; ++pieces) {
    const Index length = ceil_div(longest, pieces);
    const Index overhead = pieces > 1 ? kPieceCost : 0;
    Index total = 0, count = 0;
    for (Index unit = 0; unit < plan.units(); ++unit) {
      const Index iterations = plan.iterations(unit);
      total += plan.per_unit() * iterations;
      count += plan.per_unit() * most(1, ceil_div(iterations, length));
    }
    if (pieces > 1 && count > kManyPieces * plan.slots) return;
    const Index tail = length + overhead;
    const Index share = ceil_div(total + count * overhead, plan.slots);
    const Index time = count <= plan.slots ? tail : most(tail, share + tail / 2);
    if (pieces == 1 || time < best) {
      best = time;
      plan.pieces = pieces;
      plan.piece_length = length;
    }
  }
}

HOST_DEVICE Index round_up(Index value, Index multiple) {
  return ceil_div(value, multiple) * multiple;
}

// What a kernel's template arguments say to its plan.
struct Setup {
  Index element_bytes;  // of the operands as they are multiplied
  Index tile_rows, tile_columns;
  Index slots;  // blocks that run at a time
};

// Everything but the axes, which must be there already: in channels of the operand that is read,
// out channels of the result, whose map is out_height x out_width.
HOST_DEVICE void describe_operands(DirectPlan& plan, const ConvGeometry& g, const Setup& setup,
                                   bool channels_last, Index in, Index out, Index out_height,
                                   Index out_width) {
  const Index per_chunk = 16 / setup.element_bytes;
  const Index group_in = in / g.groups;
  const Index padded = round_up(group_in, per_chunk);
  plan.batch = g.batch;
  plan.groups = g.groups;
  plan.filters = out / g.groups;
  plan.chunks = padded / per_chunk;
  plan.x_group = padded;
  plan.x_pixel = padded * g.groups;
  plan.x_tap_row = plan.rows.step * plan.columns.in * plan.x_pixel;
  plan.x_tap_column = plan.columns.step * plan.x_pixel;
  const Index w_tap = plan.filters * padded;
  plan.w_filter = padded;
  plan.w_group = g.taps() * w_tap;
  plan.w_tap_row = plan.rows.tap_stride * g.kernel_w * w_tap;
  plan.w_tap_column = plan.columns.tap_stride * w_tap;
  plan.w_origin = (plan.rows.tap_origin * g.kernel_w + plan.columns.tap_origin) * w_tap;
  plan.y_image = out * out_height * out_width;
  plan.y_filter = channels_last ? 1 : out_height * out_width;
  plan.y_column = channels_last ? out : 1;
  plan.y_row = out_width * plan.y_column;
  plan.relu = 0;
  plan.tile_pixels = setup.tile_rows;
  plan.tile_filters = setup.tile_columns;
  plan.slots = setup.slots;
  plan.number_regions();
}

HOST_DEVICE Axis forward_axis(Index in, Index out, Index taps, Index stride, Index pad,
                              Index rate) {
  Axis axis{};
  axis.in = in;
  axis.count = out;
  axis.taps = taps;
  axis.stride = stride;
  axis.origin = -pad;
  axis.step = rate;
  axis.out_stride = 1;
  axis.tap_stride = 1;
  axis.cut();
  return axis;
}

HOST_DEVICE DirectPlan forward_plan(const ConvGeometry& g, const Setup& setup, bool channels_last,
                                    bool relu) {
  DirectPlan plan{};
  plan.rows = forward_axis(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h);
  plan.columns = forward_axis(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w);
  describe_operands(plan, g, setup, channels_last, g.in_channels, g.out_channels, g.out_height,
                    g.out_width);
  plan.relu = relu;
  cut_into_pieces(plan);
  return plan;
}

// The gradient with respect to x gathers: pixel h of x collects row (h + pad - r * rate) / stride
// of grad_y, for those r where that is a whole number. All h of one remainder modulo the stride
// have the same such r, r = first, first + every, ..., so each remainder is a convolution of its
// own, of stride 1, that writes every stride-th pixel.
HOST_DEVICE Axis backward_axis(Index in, Index out, Index taps, Index stride, Index pad, Index rate,
                               Index remainder) {
  Index every = 1;
  while (every * rate % stride != 0) ++every;
  Index first = 0;
  while (first < every && (remainder + pad - first * rate) % stride != 0) ++first;
  Axis axis{};
  axis.in = out;
  axis.count = remainder < in ? ceil_div(in - remainder, stride) : 0;
  axis.taps = first < every && first < taps ? ceil_div(taps - first, every) : 0;
  axis.stride = 1;
  axis.origin = axis.taps > 0 ? (remainder + pad - first * rate) / stride : 0;
  axis.step = -(every * rate / stride);
  axis.out_stride = stride;
  axis.out_origin = remainder;
  axis.tap_stride = every;
  axis.tap_origin = first;
  axis.cut();
  return axis;
}

HOST_DEVICE DirectPlan grad_input_plan(const ConvGeometry& g, const Setup& setup,
                                       bool channels_last, Index row_remainder,
                                       Index column_remainder) {
  DirectPlan plan{};
  plan.rows = backward_axis(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h,
                            row_remainder);
  plan.columns = backward_axis(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w,
                               column_remainder);
  describe_operands(plan, g, setup, channels_last, g.out_channels, g.in_channels, g.height,
                    g.width);
  cut_into_pieces(plan);
  return plan;
}

}  // namespace deeplab
