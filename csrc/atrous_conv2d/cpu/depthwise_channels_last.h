// The convolution of single channels where the channels of a pixel lie together: vectors are
// channels. Included by engine_depthwise.h, inside its unnamed namespace.

// Sources are read where they lie, and tiles of targets are cut so that all of one tile have the
// same taps. kRelu: max(source, 0) in place of source. kRows: of a tile, whose sums stay in
// registers.
template <typename T, int kBytes, bool kRelu, int kRows>
class ChannelsLastDepthwise {
  static constexpr Index kLanes = kBytes / sizeof(T);
  // Of a tile. All its pixels, of x and y, are streams that go on from channel to channel: with
  // more than 32 the processor no longer foresees them, and four rows of two pixels have as many.
  static constexpr int kPixels = 2;
  using W = Wide<T, kLanes>;
  using Vector = typename W::Vector;

 public:
  // Of at least kLanes channels.
  explicit ChannelsLastDepthwise(const DepthwiseJob<T>& job)
      : job_(job),
        blocks_(ceil_div(job.channels, kLanes)),
        row_step_(job.columns.sources() * job.channels) {
    for (const TapAxis& axis : job.columns) {
      column_taps_ += axis.taps;
      most_tiles_ += axis.count;
    }
    for (const TapAxis& axis : job.rows) {
      each_tile_of_rows(axis, [&](const RowTile&) { ++units_; });
    }
    // All channels of a pixel are worked on in turn, unless there are too few rows to share out.
    pieces_ = smaller(units_, ceil_div(kLeastItems, job.batch));
    groups_ = smaller(blocks_, ceil_div(kLeastItems, job.batch * pieces_));
    const TapAxis &rows = job.rows.parts[0], &columns = job.columns.parts[0];
    const Index span = (columns.taps - 1) * columns.spacing + kPixels * columns.source_step;
    tile_by_tile_ = span * (rows.taps + kRows - 1) * kVisit <= kFirstLevel;
  }

  Index shared_bytes() const { return blocks_ * block_size() * sizeof(T); }
  Index member_bytes() const {
    return column_taps_ * sizeof(ColumnTap) + most_tiles_ * sizeof(ColumnTile);
  }
  Index count() const {
    return job_.batch * job_.channels * job_.rows.targets() * job_.columns.targets() * job_.taps;
  }

  void run(Member& member) {
    filters_ = reinterpret_cast<T*>(member.shared);
    member.each(blocks_, [&](Index block) { pack_filters(block); });
    lay_out(member.own);
    member.each_unfinished(job_.batch * groups_ * pieces_, [&](Index i) {
      piece(i / pieces_ / groups_, i / pieces_ % groups_, i % pieces_);
    });
  }

 private:
  static constexpr Index kLeastItems = 16;
  // Bytes of a pixel that are worked on before the next tile's, if these shares of all pixels that
  // later tiles read again stay in the first-level cache; otherwise all channels are.
  static constexpr Index kVisit = 512, kFirstLevel = 32 << 10;
  // Then it is channels so far behind those at work whose memory is asked for.
  static constexpr Index kAhead = 256 / sizeof(T);

  // Where target 0 of its part reads, and where the filter's column lies that multiplies; both in
  // elements.
  struct ColumnTap {
    Index source, factor;
    Index first, last;  // targets that read inside the map
  };

  // Targets a, a + 1, ... of a part that all have the column taps [taps, end_of_taps).
  struct ColumnTile {
    const TapAxis* part;
    Index a, pixels;
    Index taps, end_of_taps;
  };

  // Targets a, a + chain step, ... that all have the row taps [first, end).
  struct RowTile {
    const TapAxis& axis;
    const Chain& chain;
    Index a, rows;
    Index first, end;
  };

  // What a tile of rows and columns reads and writes: channel 0 of its first pixel, at source and
  // target, and the steps from a row that a tap reads to the next, between rows of targets, and
  // between pixels. The memory so far ahead of them is asked for, of more rows and pixels than the
  // processor foresees by itself. Of the blocks of channels from first_block on.
  struct Place {
    const T* source;
    T* target;
    Index source_row, target_row, source_pixel, target_pixel;
    Index ahead_of_source, ahead_of_target;
    Index first_block, last_block;
  };

  // A block's filters tap by tap, and its bias.
  Index block_size() const { return (job_.taps + 1) * kLanes; }
  // The last block lies over channels of the one before it.
  Index first_channel(Index block) const { return smaller(block * kLanes, job_.channels - kLanes); }

  void pack_filters(Index block) {
    T* to = filters_ + block * block_size();
    const T* const from = job_.weight + first_channel(block) * job_.taps;
    for (Index t = 0; t < job_.taps; ++t, to += kLanes) {
      for (Index c = 0; c < kLanes; ++c) to[c] = from[c * job_.taps + t];
    }
    for (Index c = 0; c < kLanes; ++c) to[c] = job_.bias ? job_.bias[first_channel(block) + c] : 0;
  }

  void lay_out(unsigned char* memory) {
    column_tap_ = reinterpret_cast<ColumnTap*>(memory);
    tiles_ = reinterpret_cast<ColumnTile*>(column_tap_ + column_taps_);
    Index tap = 0;
    for (const TapAxis& axis : job_.columns) {
      const Index first_tap = tap;
      for (Index k = 0; k < axis.taps; ++k, ++tap) {
        column_tap_[tap] = {axis.source(0, k) * job_.channels, axis.filter_tap(k) * kLanes, 0, 0};
        inside(axis, k, &column_tap_[tap].first, &column_tap_[tap].last);
      }
      cut_into_tiles(axis, first_tap, tap);
    }
  }

  // Taps come in the order of what they read: the later one, the earlier it enters the map and
  // leaves it.
  void cut_into_tiles(const TapAxis& axis, Index first_tap, Index end_of_taps) {
    for (Index a = 0; a < axis.count;) {
      Index taps = first_tap, end = end_of_taps, stop = axis.count;
      while (taps < end && column_tap_[taps].first > a) {
        stop = smaller(stop, column_tap_[taps++].first);
      }
      while (taps < end && column_tap_[end - 1].last <= a) --end;
      for (Index t = taps; t < end; ++t) stop = smaller(stop, column_tap_[t].last);
      const Index pixels = smaller(stop - a, kPixels);
      tiles_[tile_count_++] = {&axis, a, pixels, taps, end};
      a += pixels;
    }
  }

  // f(tile) for all targets of an axis, in the order of their chains.
  template <typename F>
  static void each_tile_of_rows(const TapAxis& axis, const F& f) {
    const Chain chain(axis);
    const auto taps_of = [&](Index a, Index* first, Index* end) {
      *first = 0;
      *end = axis.taps;
      while (*first < *end && axis.source(a, *first) < 0) ++*first;
      while (*first < *end && axis.source(a, *end - 1) >= axis.sources) --*end;
    };
    for (Index start = 0; start < smaller(chain.step, axis.count); ++start) {
      for (Index a = start; a < axis.count;) {
        RowTile tile{axis, chain, a, 1, 0, 0};
        taps_of(a, &tile.first, &tile.end);
        for (Index next = a + chain.step; tile.rows < kRows && next < axis.count; ++tile.rows) {
          Index first, end;
          taps_of(next, &first, &end);
          if (first != tile.first || end != tile.end) break;
          next += chain.step;
        }
        if (tile.rows == 3) tile.rows = 2;
        f(tile);
        a += tile.rows * chain.step;
      }
    }
  }

  void piece(Index image, Index group, Index piece) {
    const Index begin = units_ * piece / pieces_, end = units_ * (piece + 1) / pieces_;
    const Index first_block = blocks_ * group / groups_;
    const Index last_block = blocks_ * (group + 1) / groups_;
    const Index width = job_.columns.targets() * job_.channels;
    const T* const source = job_.source + image * job_.rows.sources() * row_step_;
    T* const target = job_.target + image * job_.rows.targets() * width;
    Index unit = 0;
    for (const TapAxis& axis : job_.rows) {
      each_tile_of_rows(axis, [&](const RowTile& rows) {
        if (unit >= begin && unit < end) {
          Place place{};
          place.source = source + axis.source(rows.a, 0) * row_step_;
          place.target = target + axis.target(rows.a) * width;
          place.source_row = axis.spacing * row_step_;
          place.target_row = rows.chain.step * axis.target_step * width;
          const Index blocks = last_block - first_block;
          const Index visits =
              tile_by_tile_ ? larger(1, (blocks * kBytes + kVisit / 2) / kVisit) : 1;
          for (Index visit = 0; visit < visits; ++visit) {
            place.first_block = first_block + blocks * visit / visits;
            place.last_block = first_block + blocks * (visit + 1) / visits;
            along_the_rows(rows, place);
          }
        }
        ++unit;
      });
    }
  }

  // All tiles of columns, from a place whose source and target are those of column 0.
  void along_the_rows(const RowTile& rows, const Place& start) const {
    const auto source_of = [&](const ColumnTile& tile) {
      return tile.a * tile.part->source_step * job_.channels;
    };
    const auto target_of = [&](const ColumnTile& tile) {
      return tile.part->target(tile.a) * job_.channels;
    };
    for (Index i = 0; i < tile_count_; ++i) {
      const ColumnTile& tile = tiles_[i];
      const ColumnTile& next = tiles_[smaller(i + 1, tile_count_ - 1)];
      Place place = start;
      place.source += source_of(tile);
      place.target += target_of(tile);
      place.source_pixel = tile.part->source_step * job_.channels;
      place.target_pixel = tile.part->target_step * job_.channels;
      place.ahead_of_source = tile_by_tile_ ? source_of(next) - source_of(tile) : kAhead;
      place.ahead_of_target = tile_by_tile_ ? target_of(next) - target_of(tile) : kAhead;
      compute(rows, tile, place);
    }
  }

  void compute(const RowTile& rows, const ColumnTile& columns, const Place& place) const {
    if (columns.pixels == kPixels) {
      compute<kPixels>(rows, columns, place);
    } else {
      compute<1>(rows, columns, place);
    }
  }

  template <int kP>
  void compute(const RowTile& rows, const ColumnTile& columns, const Place& place) const {
    if (kRows == 1 || rows.rows == 1) return add_taps<1, kP>(rows, columns, place);
    if (rows.rows == 2) return add_taps<smaller(2, kRows), kP>(rows, columns, place);
    const bool all = rows.chain.advance == 1 && rows.first == 0 && rows.end == rows.axis.taps;
    if (all && rows.axis.taps == 3) return add_rows_of_taps<3, kP>(rows, columns, place);
    if (all && rows.axis.taps == 5) return add_rows_of_taps<5, kP>(rows, columns, place);
    add_taps<kRows, kP>(rows, columns, place);
  }

  static Vector read(const T* at) {
    const Vector v = W::load(at);
    return kRelu ? relu(v) : v;
  }

  // f(source, filters, target) of each block of channels.
  template <typename F>
  void each_block(const Place& place, const F& f) const {
    const T* filters = filters_ + place.first_block * block_size();
    for (Index block = place.first_block; block < place.last_block; ++block) {
      const Index channel = first_channel(block);
      f(place.source + channel, filters, place.target + channel);
      filters += block_size();
    }
  }

  template <int kR, int kP>
  void add_taps(const RowTile& rows, const ColumnTile& columns, const Place& place) const {
    const Index row_step = rows.chain.advance * place.source_row, pixel_step = place.source_pixel;
    const ColumnTap* const end = column_tap_ + columns.end_of_taps;
    const Index fresh = columns.part->source_step;
    each_block(place, [&](const T* source, const T* filters, T* target) {
      Vector sums[kR][kP];
      start(sums, filters);
      for (Index k = rows.first; k < rows.end; ++k) {
        const T* const factors = filters + rows.axis.filter_tap(k) * job_.kernel_w * kLanes;
        const T* const row = source + k * place.source_row;
        for (const ColumnTap* tap = column_tap_ + columns.taps; tap < end; ++tap) {
          const Vector factor = W::load(factors + tap->factor);
          const T* from = row + tap->source;
#pragma GCC unroll 4
          for (int q = 0; q < kR; ++q, from += row_step) {
#pragma GCC unroll 4
            for (int p = 0; p < kP; ++p) sums[q][p] += factor * read(from + p * pixel_step);
          }
          if (end - tap <= fresh && tile_by_tile_) {  // those through other taps, the tiles share
            from = row + tap->source + place.ahead_of_source;
#pragma GCC unroll 4
            for (int q = 0; q < kR; ++q, from += row_step) {
              if (q + 1 < kR && k >= rows.chain.advance) continue;  // row q + 1 reads it, too
#pragma GCC unroll 4
              for (int p = 0; p < kP; ++p) __builtin_prefetch(from + p * pixel_step, 0, 3);
            }
          }
        }
      }
      store(sums, place, target);
    });
  }

  // Rows of targets that share rows of sources: each vector is loaded once for up to kTaps of them.
  template <int kTaps, int kP>
  void add_rows_of_taps(const RowTile& rows, const ColumnTile& columns, const Place& place) const {
    const Index row_step = place.source_row, pixel_step = place.source_pixel;
    const Index filter_row = rows.axis.tap_step * job_.kernel_w * kLanes;
    const Index first_row = rows.axis.tap * job_.kernel_w * kLanes;
    const ColumnTap* const first = column_tap_ + columns.taps;
    const ColumnTap* const end = column_tap_ + columns.end_of_taps;
    const Index fresh = columns.part->source_step;
    each_block(place, [&](const T* source, const T* filters, T* target) {
      Vector sums[kRows][kP];
      start(sums, filters);
      filters += first_row;
      for (const ColumnTap* tap = first; tap < end; ++tap) {
        const T* const column = filters + tap->factor;
        Vector factors[kTaps];
#pragma GCC unroll 5
        for (int k = 0; k < kTaps; ++k) factors[k] = W::load(column + k * filter_row);
        const T* from = source + tap->source;
#pragma GCC unroll 8
        for (int i = 0; i < kRows + kTaps - 1; ++i, from += row_step) {
#pragma GCC unroll 4
          for (int p = 0; p < kP; ++p) {
            const Vector x = read(from + p * pixel_step);
            if (end - tap <= fresh) {
              __builtin_prefetch(from + p * pixel_step + place.ahead_of_source, 0, 3);
            }
#pragma GCC unroll 4
            for (int q = 0; q < kRows; ++q) {
              if (i - q >= 0 && i - q < kTaps) sums[q][p] += factors[i - q] * x;
            }
          }
        }
      }
      store(sums, place, target);
    });
  }

  template <int kR, int kP>
  void start(Vector (&sums)[kR][kP], const T* filters) const {
    const Vector bias = W::load(filters + job_.taps * kLanes);
#pragma GCC unroll 4
    for (int q = 0; q < kR; ++q) {
#pragma GCC unroll 4
      for (int p = 0; p < kP; ++p) sums[q][p] = bias;
    }
  }

  template <int kR, int kP>
  void store(const Vector (&sums)[kR][kP], const Place& place, T* target) const {
#pragma GCC unroll 4
    for (int q = 0; q < kR; ++q, target += place.target_row) {
#pragma GCC unroll 4
      for (int p = 0; p < kP; ++p) {
        T* const to = target + p * place.target_pixel;
        W::store(to, activated(sums[q][p], job_.activation));
        __builtin_prefetch(to + place.ahead_of_target, 1, 3);
      }
    }
  }

  DepthwiseJob<T> job_;
  Index blocks_, row_step_;
  Index groups_ = 1, units_ = 0, pieces_ = 1;
  Index column_taps_ = 0, most_tiles_ = 0, tile_count_ = 0;
  bool tile_by_tile_ = false;
  T* filters_ = nullptr;
  ColumnTap* column_tap_ = nullptr;
  ColumnTile* tiles_ = nullptr;
};
