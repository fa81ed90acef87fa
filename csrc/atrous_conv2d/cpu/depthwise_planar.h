// The convolution of single channels in contiguous maps: vectors are pixels of a row. Included by
// engine_depthwise.h, inside its unnamed namespace.

// A row of sources in memory, between zeros, so that no tap has to ask where the map ends. Columns
// that a stride keeps apart lie apart: phase p holds columns p, p + step, ..., and vectors of
// targets read vectors of sources.
template <typename T, int kBytes>
class PlanarRow {
  using W = Wide<T, kBytes / sizeof(T)>;

 public:
  static constexpr Index kLanes = kBytes / sizeof(T);

  explicit PlanarRow(const AxisParts& columns)
      : sources_(columns.sources()), step_(columns.parts[0].source_step) {
    const Index length = ceil_div(sources_, step_);
    Index right = length;
    for (const TapAxis& axis : columns) {
      for (Index k = 0; k < axis.taps; ++k) {
        if (!reads(axis, k)) continue;
        const Index first = floor_div(axis.source(0, k));
        left_ = larger(left_, -first);
        right = larger(right, first + larger(axis.count, kLanes));
      }
    }
    left_ = round_up(left_, kLanes);  // so that what is copied lies in whole vectors
    pitch_ = round_up(left_ + right, kLanes);
  }

  Index size() const { return step_ * pitch_; }

  // Whether any target reads inside the map through this tap.
  bool reads(const TapAxis& axis, Index k) const {
    Index first, last;
    inside(axis, k, &first, &last);
    return first < last;
  }

  // Where target 0 of an axis reads through a tap.
  Index at(const TapAxis& axis, Index k) const {
    const Index source = axis.source(0, k), first = floor_div(source);
    return (source - first * step_) * pitch_ + left_ + first;
  }

  // Into memory that has been filled with zeros once. from: null for a row of zeros.
  void copy(const T* from, bool relu_before, T* to) const {
    if (!from) {
      for (Index i = 0; i < size(); i += kLanes) W::store(to + i, typename W::Vector{});
    } else if (relu_before) {
      copy_as<true>(from, to);
    } else {
      copy_as<false>(from, to);
    }
  }

 private:
  Index floor_div(Index a) const { return a >= 0 ? a / step_ : -ceil_div(-a, step_); }

  template <bool kRelu>
  void copy_as(const T* from, T* to) const {
    to += left_;
    if (step_ == 1) {
      Index i = 0;
      for (; i + kLanes <= sources_; i += kLanes) {
        const auto v = W::load(from + i);
        W::store(to + i, kRelu ? relu(v) : v);
      }
      for (; i < sources_; ++i) to[i] = kRelu ? relu(from[i]) : from[i];
      return;
    }
    if (step_ == 2) {
      T* const odd = to + pitch_;
      Index i = 0;
      for (; 2 * i + 2 * kLanes <= sources_; i += kLanes) {
        auto a = W::load(from + 2 * i), b = W::load(from + 2 * i + kLanes);
        if (kRelu) a = relu(a), b = relu(b);
        W::store(to + i, __builtin_shuffle(a, b, every_other(0)));
        W::store(odd + i, __builtin_shuffle(a, b, every_other(1)));
      }
      for (i *= 2; i < sources_; ++i) {
        (i % 2 ? odd : to)[i / 2] = kRelu ? relu(from[i]) : from[i];
      }
      return;
    }
    for (Index phase = 0; phase < step_; ++phase, to += pitch_) {
      for (Index i = phase, j = 0; i < sources_; i += step_, ++j) {
        to[j] = kRelu ? relu(from[i]) : from[i];
      }
    }
  }

  static auto every_other(int first) {
    using Vector = typename W::Vector;
    decltype(Vector{} == Vector{}) lanes;
    for (int l = 0; l < kLanes; ++l) lanes[l] = 2 * l + first;
    return lanes;
  }

  Index sources_, step_;
  Index left_ = 0, pitch_ = 0;
};

template <typename T, int kBytes>
class PlanarDepthwise {
  using W = Wide<T, kBytes / sizeof(T)>;
  using Vector = typename W::Vector;
  static constexpr Index kLanes = kBytes / sizeof(T);
  // Of a tile, whose sums stay in registers.
  static constexpr Index kMostRows = 4, kMostVectors = kBytes == 64 ? 4 : 3;
  // Source rows at a time: they stay in a first-level cache of 32 KB beside x and y.
  static constexpr Index kBandBytes = 16384;
  static constexpr Index kLine = 64 / sizeof(T);  // of the cache

 public:
  explicit PlanarDepthwise(const DepthwiseJob<T>& job) : job_(job), row_(job.columns) {
    for (const TapAxis& axis : job.columns) {
      column_taps_ += axis.taps;
      most_tiles_ += ceil_div(axis.count, kLanes);
      longest_ = larger(longest_, axis.count);
    }
    const Index row_bytes = row_.size() * static_cast<Index>(sizeof(T));
    for (const TapAxis& axis : job.rows) {
      const Chain chain(axis);
      const Index fit = (kBandBytes / row_bytes - axis.taps) / chain.advance;
      const Index band = round_up(larger(fit, 1), kMostRows);
      const Index longest = ceil_div(axis.count, chain.step);
      band_ = larger(band_, smaller(band, longest));
      most_rows_ = larger(most_rows_, (band_ - 1) * chain.advance + axis.taps);
    }
    for (const TapAxis& axis : job.rows) units_ += count_units(axis);
    // Fewer maps than threads could share: each is cut.
    const Index maps = job.batch * job.channels;
    pieces_ = smaller(units_, ceil_div(kLeastItems, maps));
  }

  Index shared_bytes() const { return 0; }
  Index member_bytes() const {
    return (most_rows_ * row_.size() + kMostRows * scratch_size()) * sizeof(T) +
           column_taps_ * sizeof(ColumnTap) + most_tiles_ * sizeof(Tile);
  }
  Index count() const {
    return job_.batch * job_.channels * job_.rows.targets() * job_.columns.targets() * job_.taps;
  }

  void run(Member& member) {
    lay_out(member.own);
    member.each_unfinished(job_.batch * job_.channels * pieces_,
                           [&](Index i) { piece(i / pieces_, i % pieces_); });
  }

 private:
  static constexpr Index kLeastItems = 16;

  // Where target 0 of its part reads, in a row in memory, and which column of the filter
  // multiplies.
  struct ColumnTap {
    Index at, filter_column;
  };

  // So many vectors of targets that end with target end - 1 of a part; the last may lie over pixels
  // of the one before it. They have the column taps [taps, end_of_taps).
  struct Tile {
    Index vectors, first, end;
    Index taps, end_of_taps;
  };

  // Some rows of targets of one chain, and the sources that they read: source row i lies at
  // rows_ + i * row_.size(), and row q of the targets reads rows q * advance + k.
  struct Band {
    const TapAxis& axis;
    const Chain& chain;
    Index start;  // the first target
    Index rows;
  };

  // Row taps that at least one row of a tile has: [first, end).
  struct RowTaps {
    Index first, end;
  };

  // Targets of a row that are no whole vector, or that are to lie apart.
  Index scratch_size() const { return round_up(longest_, kLanes); }

  static bool in_place(const TapAxis& axis) {
    return axis.target_step == 1 && axis.count >= kLanes;
  }

  Index count_units(const TapAxis& axis) const {
    const Chain chain(axis);
    Index units = 0;
    for (Index s = 0; s < smaller(chain.step, axis.count); ++s) {
      units += ceil_div(ceil_div(axis.count - s, chain.step), band_);
    }
    return units;
  }

  void lay_out(unsigned char* memory) {
    rows_ = reinterpret_cast<T*>(memory);
    scratch_ = rows_ + most_rows_ * row_.size();
    column_tap_ = reinterpret_cast<ColumnTap*>(scratch_ + kMostRows * scratch_size());
    tiles_ = reinterpret_cast<Tile*>(column_tap_ + column_taps_);
    for (Index i = 0; i < most_rows_ * row_.size(); ++i) rows_[i] = 0;
    Index first_tap = 0;
    for (const TapAxis& axis : job_.columns) {
      cut_into_tiles(axis, first_tap);
      first_tap += axis.taps;
    }
  }

  void cut_into_tiles(const TapAxis& axis, Index first_tap) {
    for (Index k = 0; k < axis.taps; ++k) {
      column_tap_[first_tap + k] = {row_.reads(axis, k) ? row_.at(axis, k) : 0, axis.filter_tap(k)};
    }
    const Index size = larger(axis.count, kLanes);
    for (Index vectors = ceil_div(size, kLanes), first = 0; vectors > 0;) {
      const Index now = ceil_div(vectors, ceil_div(vectors, kMostVectors));
      const Index end = smaller(first + now * kLanes, size);
      Tile& tile = tiles_[tile_count_++];
      tile = {now, first, end, first_tap, first_tap + axis.taps};
      // Of taps in the order of what they read, the first to enter the map are the last.
      const auto idle = [&](Index tap) {
        Index enters, leaves;
        inside(axis, tap - first_tap, &enters, &leaves);
        return enters >= leaves || enters >= end || leaves <= smaller(first, end - kLanes);
      };
      while (tile.taps < tile.end_of_taps && idle(tile.taps)) ++tile.taps;
      while (tile.taps < tile.end_of_taps && idle(tile.end_of_taps - 1)) --tile.end_of_taps;
      vectors -= now;
      first = end;
    }
  }

  void piece(Index map, Index piece) {
    const Index channel = map % job_.channels;
    source_ = job_.source + map * job_.rows.sources() * job_.columns.sources();
    target_ = job_.target + map * job_.rows.targets() * job_.columns.targets();
    weight_ = job_.weight + channel * job_.taps;
    bias_ = job_.bias ? job_.bias[channel] : 0;
    const Index begin = units_ * piece / pieces_, end = units_ * (piece + 1) / pieces_;
    Index unit = 0;
    for (const TapAxis& axis : job_.rows) {
      const Chain chain(axis);
      for (Index s = 0; s < smaller(chain.step, axis.count); ++s) {
        for (Index a = s; a < axis.count; a += band_ * chain.step, ++unit) {
          if (unit < begin || unit >= end) continue;
          const Index left = ceil_div(axis.count - a, chain.step);
          band_of_rows({axis, chain, a, smaller(left, band_)});
        }
      }
    }
  }

  void band_of_rows(const Band& band) {
    const Index sources = (band.rows - 1) * band.chain.advance + band.axis.taps;
    Index row = band.axis.source(band.start, 0);
    T* to = rows_;
    for (Index i = 0; i < sources; ++i, row += band.axis.spacing, to += row_.size()) {
      const bool inside = row >= 0 && row < band.axis.sources;
      row_.copy(inside ? source_ + row * job_.columns.sources() : nullptr, job_.relu_before, to);
    }
    for (Index q = 0; q < band.rows;) {
      const Index rows = band.rows - q >= 4 ? 4 : band.rows - q >= 2 ? 2 : 1;
      tile_of_rows(band, q, rows);
      q += rows;
    }
  }

  void tile_of_rows(const Band& band, Index q, Index rows) {
    const TapAxis& axis = band.axis;
    const Index first = band.start + q * band.chain.step;
    const Index last = first + (rows - 1) * band.chain.step;
    RowTaps taps{0, axis.taps};
    while (taps.first < taps.end && axis.source(last, taps.first) < 0) ++taps.first;
    while (taps.first < taps.end && axis.source(first, taps.end - 1) >= axis.sources) --taps.end;
    const Index width = job_.columns.targets();
    const T* const from = rows_ + q * band.chain.advance * row_.size();
    T* const to = target_ + axis.target(first) * width;
    const Index to_step = band.chain.step * axis.target_step * width;
    // While this is computed: the same rows of the next map, and the rows that are written next.
    const Index source_row = larger(axis.source(first, 0), 0) + job_.rows.sources();
    for (Index i = 0; i < rows * job_.columns.sources(); i += kLine) {
      __builtin_prefetch(source_ + source_row * job_.columns.sources() + i, 0, 2);
    }
    for (Index i = 0; i < rows * width; i += kLine) {
      __builtin_prefetch(to + rows * to_step + i, 1, 3);
    }
    const Tile* tile = tiles_;
    for (const TapAxis& columns : job_.columns) {
      const bool direct = in_place(columns);
      T* const out = direct ? to : scratch_;
      const Index out_step = direct ? to_step : scratch_size();
      const Index size = larger(columns.count, kLanes);
      do compute(*tile, rows, band, taps, from, out, out_step);
      while (tile++->end < size);
      for (Index i = 0; i < rows && !direct; ++i) {
        const T* const row = scratch_ + i * scratch_size();
        for (Index a = 0; a < columns.count; ++a) to[i * to_step + columns.target(a)] = row[a];
      }
    }
  }

  void compute(const Tile& tile, Index rows, const Band& band, RowTaps taps, const T* from, T* to,
               Index to_step) const {
    switch (tile.vectors) {
      case 1:
        return compute<1>(tile, rows, band, taps, from, to, to_step);
      case 2:
        return compute<2>(tile, rows, band, taps, from, to, to_step);
      case 3:
        return compute<3>(tile, rows, band, taps, from, to, to_step);
      default:
        return compute<kMostVectors>(tile, rows, band, taps, from, to, to_step);
    }
  }

  template <int kVectors>
  void compute(const Tile& tile, Index rows, const Band& band, RowTaps taps, const T* from, T* to,
               Index to_step) const {
    if (rows == 1) return add_taps<1, kVectors>(tile, band, taps, from, to, to_step);
    if (rows == 2) return add_taps<2, kVectors>(tile, band, taps, from, to, to_step);
    if (band.chain.advance == 1 && band.axis.taps == 3 && tile.end_of_taps - tile.taps == 3) {
      return add_3x3<kVectors>(tile, band, from, to, to_step);
    }
    add_taps<4, kVectors>(tile, band, taps, from, to, to_step);
  }

  // Where vector v of a tile of kVectors begins: the last one ends with the tile.
  template <int kVectors>
  static Index begin(const Tile& tile, int v) {
    return v == kVectors - 1 ? tile.end - kLanes : tile.first + v * kLanes;
  }

  template <int kRows, int kVectors>
  void store(const Tile& tile, const Vector (&sums)[kRows][kVectors], T* to, Index to_step) const {
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q, to += to_step) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) {
        W::store(to + begin<kVectors>(tile, v), activated(sums[q][v], job_.activation));
      }
    }
  }

  template <int kRows, int kVectors>
  void add_taps(const Tile& tile, const Band& band, RowTaps taps, const T* from, T* to,
                Index to_step) const {
    const Index row = row_.size(), row_step = band.chain.advance * row;
    Vector sums[kRows][kVectors];
#pragma GCC unroll 4
    for (int q = 0; q < kRows; ++q) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[q][v] = bias_ + Vector{};
    }
    for (Index k = taps.first; k < taps.end; ++k) {
      const T* const weight = weight_ + band.axis.filter_tap(k) * job_.kernel_w;
      for (Index c = tile.taps; c < tile.end_of_taps; ++c) {
        const T factor = weight[column_tap_[c].filter_column];
        const T* x = from + k * row + column_tap_[c].at;
#pragma GCC unroll 4
        for (int q = 0; q < kRows; ++q, x += row_step) {
#pragma GCC unroll 4
          for (int v = 0; v < kVectors; ++v) {
            sums[q][v] += factor * W::load(x + begin<kVectors>(tile, v));
          }
        }
      }
    }
    store<kRows, kVectors>(tile, sums, to, to_step);
  }

  // Four rows that read six, where each vector of sources is loaded once for up to three rows.
  template <int kVectors>
  void add_3x3(const Tile& tile, const Band& band, const T* from, T* to, Index to_step) const {
    const ColumnTap* const columns = column_tap_ + tile.taps;
    T weights[3][3];
    for (int r = 0; r < 3; ++r) {
      for (int c = 0; c < 3; ++c) {
        weights[r][c] = weight_[band.axis.filter_tap(r) * job_.kernel_w + columns[c].filter_column];
      }
    }
    Vector sums[4][kVectors];
#pragma GCC unroll 4
    for (int q = 0; q < 4; ++q) {
#pragma GCC unroll 4
      for (int v = 0; v < kVectors; ++v) sums[q][v] = bias_ + Vector{};
    }
#pragma GCC unroll 6
    for (int i = 0; i < 6; ++i, from += row_.size()) {
#pragma GCC unroll 3
      for (int c = 0; c < 3; ++c) {
#pragma GCC unroll 4
        for (int v = 0; v < kVectors; ++v) {
          const Vector x = W::load(from + columns[c].at + begin<kVectors>(tile, v));
#pragma GCC unroll 4
          for (int q = 0; q < 4; ++q) {
            if (i - q >= 0 && i - q < 3) sums[q][v] += weights[i - q][c] * x;
          }
        }
      }
    }
    store<4, kVectors>(tile, sums, to, to_step);
  }

  DepthwiseJob<T> job_;
  PlanarRow<T, kBytes> row_;
  Index column_taps_ = 0, most_tiles_ = 0, longest_ = 0;
  Index band_ = 1, most_rows_ = 1;  // targets and sources of a band
  Index units_ = 0, pieces_ = 1;    // bands of a map, and items that they are handed out in
  Index tile_count_ = 0;
  T* rows_ = nullptr;
  T* scratch_ = nullptr;
  ColumnTap* column_tap_ = nullptr;
  Tile* tiles_ = nullptr;
  // Of the map at work.
  const T* source_ = nullptr;
  T* target_ = nullptr;
  const T* weight_ = nullptr;
  T bias_ = 0;
};
