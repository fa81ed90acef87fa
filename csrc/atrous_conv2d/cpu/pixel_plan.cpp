#include "pixel_plan.h"

#include <algorithm>

namespace deeplab {
namespace {

// Enough that empty lanes between groups of images do not count.
constexpr Index kPixelsTogether = 1024;

// Positions first, first + step, ... of one axis of the target that have the same taps.
// source[r]: the position that tap r reads for the first of them, or kTapOutside.
struct Range {
  Index first;
  Index count;
  std::vector<Index> source;
};

struct Axis {
  Index target_step = 1;
  Index source_step = 1;
  std::vector<Range> ranges;
};

// source_of(d, r): the position that tap r reads for target position d, or kTapOutside.
template <typename SourceOf>
Axis cut(Index size, Index taps, Index target_step, Index source_step, const SourceOf& source_of) {
  Axis axis{target_step, source_step, {}};
  for (Index phase = 0; phase < std::min(target_step, size); ++phase) {
    bool open = false;
    for (Index d = phase; d < size; d += target_step) {
      std::vector<Index> source(taps);
      for (Index r = 0; r < taps; ++r) source[r] = source_of(d, r);
      const auto same_taps = [&](const Range& range) {
        return std::equal(source.begin(), source.end(), range.source.begin(), [](Index a, Index b) {
          return (a == kTapOutside) == (b == kTapOutside);
        });
      };
      if (open && same_taps(axis.ranges.back())) {
        ++axis.ranges.back().count;
      } else {
        axis.ranges.push_back({d, 1, std::move(source)});
        open = true;
      }
    }
  }
  return axis;
}

class Planner {
 public:
  Planner(const Axis& rows, const Axis& columns, Index source_width, Index target_width,
          Index images, int product_rows)
      : rows_(rows),
        columns_(columns),
        source_width_(source_width),
        target_width_(target_width),
        images_(images),
        product_rows_(product_rows) {
    plan_.source_step = columns.source_step;
    plan_.target_step = columns.target_step;
  }

  PixelPlan run() {
    plan_.taps = rows_.ranges.empty() || columns_.ranges.empty()
                     ? 0
                     : rows_.ranges[0].source.size() * columns_.ranges[0].source.size();
    for (const Range& rows : rows_.ranges) {
      for (const Range& columns : columns_.ranges) add_offsets(rows, columns);
    }
    // Small images share their tiles.
    const Index pixels = std::max<Index>(1, target_pixels());
    const Index together = ceil_div(kPixelsTogether, pixels);
    for (Index first = 0; first < images_; first += together) {
      const Index last = std::min(images_, first + together);
      // What is whole first: it is read and written in one go. Then what is left of every row.
      product_rows_ > 0 ? close_tile() : align();
      add_images(first, last, /*whole=*/true);
      add_images(first, last, /*whole=*/false);
    }
    close_tile();
    return std::move(plan_);
  }

 private:
  void add_offsets(const Range& rows, const Range& columns) {
    for (const Index row : rows.source) {
      for (const Index column : columns.source) {
        const bool outside = row == kTapOutside || column == kTapOutside;
        plan_.region_offset.push_back(outside ? kTapOutside : row * source_width_ + column);
      }
    }
  }

  Index target_pixels() const {
    Index height = 0, width = 0;
    for (const Range& rows : rows_.ranges) height += rows.count;
    for (const Range& columns : columns_.ranges) width += columns.count;
    return height * width;
  }

  void add_images(Index first, Index last, bool whole) {
    for (Index image = first; image < last; ++image) {
      Index region = 0;
      for (const Range& rows : rows_.ranges) {
        for (const Range& columns : columns_.ranges) {
          add_pixels(image, region++, rows, columns, whole);
        }
      }
    }
  }

  void add_pixels(Index image, Index region, const Range& rows, const Range& columns, bool whole) {
    Run run{};
    for (Index i = 0; i < rows.count; ++i) {
      const Index target_row = rows.first + i * rows_.target_step;
      const Run next = {image, i * rows_.source_step * source_width_,
                        target_row * target_width_ + columns.first, columns.count, region};
      // The end of a row may continue in the next one, as it always does at one tap.
      if (run.count > 0 && next.source == run.source + run.count * plan_.source_step &&
          next.target == run.target + run.count * plan_.target_step) {
        run.count += next.count;
      } else {
        add_run(run, whole);
        run = next;
      }
    }
    add_run(run, whole);
  }

  // Equally spaced pixels of one region.
  struct Run {
    Index image, source, target, count, region;
  };

  void add_run(Run run, bool whole) {
    if (product_rows_ == 0) return add_lanes(run, whole);
    const Index tiles = ceil_div(run.count, product_rows_);
    const bool is_whole = tiles > 0 && run.count / tiles > product_rows_ / 2;
    if (whole != is_whole) return;
    if (!whole) return add_pieces(run);
    for (Index t = 0; t < tiles; ++t) {
      Run part = run;
      part.count = run.count * (t + 1) / tiles - run.count * t / tiles;
      part.source += run.count * t / tiles * plan_.source_step;
      part.target += run.count * t / tiles * plan_.target_step;
      add_pieces(part);
      close_tile();
    }
  }

  // Its whole vectors, or the rest.
  void add_lanes(Run run, bool whole) {
    const Index vectors = run.count / kPieceLanes * kPieceLanes;
    if (whole) {
      run.count = vectors;
    } else {
      run.source += vectors * plan_.source_step;
      run.target += vectors * plan_.target_step;
      run.count -= vectors;
    }
    add_pieces(run);
  }

  void add_pieces(Run run) {
    const int most = product_rows_ > 0 ? product_rows_ : kTileLanes;
    while (run.count > 0) {
      if (lanes_ == most) close_tile();
      const Index room = std::min(kPieceLanes - lanes_ % kPieceLanes, most - lanes_);
      const int taken = static_cast<int>(std::min(room, run.count));
      plan_.pieces.push_back({run.image, run.source - lanes_ * plan_.source_step,
                              run.target - lanes_ * plan_.target_step, lanes_, taken, run.region});
      lanes_ += taken;
      run.source += taken * plan_.source_step;
      run.target += taken * plan_.target_step;
      run.count -= taken;
    }
  }

  // Leaves lanes empty, so that the next one begins a vector.
  void align() { lanes_ = (lanes_ + kPieceLanes - 1) / kPieceLanes * kPieceLanes; }

  void close_tile() {
    if (lanes_ == 0) return;
    PixelTile tile{pieces_begin_, static_cast<Index>(plan_.pieces.size()),
                   static_cast<Index>(plan_.tile_taps.size()), 0, lanes_};
    for (Index t = 0; t < plan_.taps; ++t) {
      for (Index p = tile.pieces_begin; p < tile.pieces_end; ++p) {
        if (plan_.region_offset[plan_.pieces[p].region * plan_.taps + t] != kTapOutside) {
          plan_.tile_taps.push_back(t);
          break;
        }
      }
    }
    tile.taps_end = static_cast<Index>(plan_.tile_taps.size());
    plan_.tiles.push_back(tile);
    pieces_begin_ = tile.pieces_end;
    lanes_ = 0;
  }

  const Axis& rows_;
  const Axis& columns_;
  Index source_width_, target_width_, images_;
  int product_rows_;
  PixelPlan plan_;
  Index pieces_begin_ = 0;
  int lanes_ = 0;
};

Axis forward_axis(Index out, Index in, Index taps, Index stride, Index pad, Index rate) {
  return cut(out, taps, 1, stride, [=](Index d, Index r) {
    const Index s = d * stride - pad + r * rate;
    return s >= 0 && s < in ? s : kTapOutside;
  });
}

Axis backward_axis(Index out, Index in, Index taps, Index stride, Index pad, Index rate) {
  return cut(in, taps, stride, 1, [=](Index d, Index r) {
    const Index scaled = d + pad - r * rate;
    return scaled >= 0 && scaled % stride == 0 && scaled / stride < out ? scaled / stride
                                                                        : kTapOutside;
  });
}

}  // namespace

PixelPlan plan_forward(const ConvGeometry& g, int rows_together) {
  const Axis rows = forward_axis(g.out_height, g.height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h);
  const Axis columns =
      forward_axis(g.out_width, g.width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w);
  return Planner(rows, columns, g.width, g.out_width, g.batch, rows_together).run();
}

PixelPlan plan_grad_input(const ConvGeometry& g, int rows_together) {
  const Axis rows =
      backward_axis(g.out_height, g.height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h);
  const Axis columns =
      backward_axis(g.out_width, g.width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w);
  return Planner(rows, columns, g.out_width, g.width, g.batch, rows_together).run();
}

}  // namespace deeplab
