// The convolution of single channels where the channels of a pixel lie together: vectors are
// channels. Included by engine_depthwise.h, inside its unnamed namespace.

// Channels that are worked on together, in two vectors: their rows of sources stay in the cache.
template <typename T, int kBytes>
struct ChannelBlock {
  using W = Wide<T, kBytes / sizeof(T)>;
  static constexpr Index kLanes = kBytes / sizeof(T);
  static constexpr int kVectors = 2;
  static constexpr Index kChannels = kVectors * kLanes;

  // Copies pixels that lie `step` elements apart, of so many channels, to where they lie together.
  // next: pixels that will be copied later on, or null.
  static void copy(const T* from, Index step, Index pixels, Index channels, bool relu_before,
                   const T* next, T* to) {
    for (Index i = 0; i < pixels; ++i, from += step, to += kChannels) {
      if (channels == kChannels) {
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) {
          const auto value = W::load(from + v * kLanes);
          W::store(to + v * kLanes, relu_before ? relu(value) : value);
        }
      } else {
        Index c = 0;
        for (; c < channels; ++c) to[c] = relu_before ? relu(from[c]) : from[c];
        for (; c < kChannels; ++c) to[c] = 0;
      }
      if (next) {
        constexpr Index kLine = 64 / sizeof(T);
        for (Index c = 0; c < kChannels; c += kLine) __builtin_prefetch(next + i * step + c, 0, 2);
      }
    }
  }
};

template <typename T, int kBytes>
class ChannelsLastDepthwise {
  using Block = ChannelBlock<T, kBytes>;
  using W = typename Block::W;
  using Vector = typename W::Vector;
  static constexpr Index kLanes = Block::kLanes, kChannels = Block::kChannels;
  static constexpr int kVectors = Block::kVectors;
  static constexpr Index kMostPixels = kBytes == 64 ? 8 : 4;

 public:
  explicit ChannelsLastDepthwise(const DepthwiseJob<T>& job)
      : job_(job), blocks_(ceil_div(job.channels, kChannels)) {
    for (const TapAxis& axis : job.rows) {
      slots_ = larger(slots_, Chain(axis).slots);
      most_rows_ = larger(most_rows_, axis.taps);
    }
    for (const TapAxis& axis : job.columns) {
      column_taps_ += axis.taps;
      most_tiles_ += axis.count;
    }
    bands_ = larger(
        1, smaller(ceil_div(kLeastItems, job.batch * blocks_), ceil_div(job.rows.targets(), 16)));
  }

  Index shared_bytes() const { return 0; }
  Index member_bytes() const {
    return (slots_ * row_size() + job_.taps * kChannels + kMostPixels * kChannels) * sizeof(T) +
           most_rows_ * sizeof(RowTap) + column_taps_ * sizeof(ColumnTap) +
           most_tiles_ * sizeof(ColumnTile);
  }
  Index count() const {
    return job_.batch * job_.channels * job_.rows.targets() * job_.columns.targets() * job_.taps;
  }

  void run(Member& member) {
    lay_out(member.own);
    member.each_unfinished(job_.batch * blocks_ * bands_, [&](Index i) {
      const Index band = i % bands_, block = i / bands_ % blocks_, image = i / bands_ / blocks_;
      band_of_rows(image, block * kChannels, band);
    });
  }

 private:
  static constexpr Index kLeastItems = 16;

  // Where target 0 of its part reads, in a row in memory, and which column of the filter
  // multiplies.
  struct ColumnTap {
    Index at, filter_column;
    Index first, last;  // targets that read inside the map
  };

  // Targets a, a + 1, ... of a part that all have the column taps [taps, end_of_taps).
  struct ColumnTile {
    Index part, a, pixels;
    Index taps, end_of_taps;
  };

  Index row_size() const { return job_.columns.sources() * kChannels; }

  void lay_out(unsigned char* memory) {
    ring_ = reinterpret_cast<T*>(memory);
    weights_ = ring_ + slots_ * row_size();
    scratch_ = weights_ + job_.taps * kChannels;
    row_taps_ = reinterpret_cast<RowTap*>(scratch_ + kMostPixels * kChannels);
    column_tap_ = reinterpret_cast<ColumnTap*>(row_taps_ + most_rows_);
    tiles_ = reinterpret_cast<ColumnTile*>(column_tap_ + column_taps_);
    Index tap = 0;
    for (Index part = 0; part < job_.columns.count; ++part) {
      const TapAxis& axis = job_.columns.parts[part];
      const Index first_tap = tap;
      for (Index k = 0; k < axis.taps; ++k, ++tap) {
        ColumnTap& column = column_tap_[tap];
        column = {axis.source(0, k) * kChannels, axis.filter_tap(k), 0, 0};
        inside(axis, k, &column.first, &column.last);
      }
      cut_into_tiles(part, first_tap, tap);
    }
  }

  // Tiles within which no tap enters or leaves the map. Taps come in the order of what they read:
  // the later one, the earlier it enters and leaves.
  void cut_into_tiles(Index part, Index first_tap, Index end_of_taps) {
    const Index count = job_.columns.parts[part].count;
    for (Index a = 0; a < count;) {
      Index taps = first_tap, end = end_of_taps, stop = count;
      while (taps < end && column_tap_[taps].first > a) {
        stop = smaller(stop, column_tap_[taps++].first);
      }
      while (taps < end && column_tap_[end - 1].last <= a) --end;
      for (Index t = taps; t < end; ++t) stop = smaller(stop, column_tap_[t].last);
      const Index pixels = smaller(stop - a, kMostPixels);
      tiles_[tile_count_++] = {part, a, pixels, taps, end};
      a += pixels;
    }
  }

  void band_of_rows(Index image, Index channel, Index band) {
    const Index channels = smaller(kChannels, job_.channels - channel);
    pack_filters(channel, channels);
    const Index row_step = job_.columns.sources() * job_.channels;
    const T* const source = job_.source + image * job_.rows.sources() * row_step + channel;
    T* const target = job_.target +
                      image * job_.rows.targets() * job_.columns.targets() * job_.channels +
                      channel;
    for (const TapAxis& rows : job_.rows) {
      walk_chains(
          rows, rows.count * band / bands_, rows.count * (band + 1) / bands_, row_taps_,
          [&](Index row, Index slot) {
            const Index next = row + rows.spacing;
            Block::copy(source + row * row_step, job_.channels, job_.columns.sources(), channels,
                        job_.relu_before, next < rows.sources ? source + next * row_step : nullptr,
                        ring_ + slot * row_size());
          },
          [&](Index a, const RowTap* taps, Index count) {
            T* const row = target + rows.target(a) * job_.columns.targets() * job_.channels;
            for (Index i = 0; i < tile_count_; ++i) tile(tiles_[i], taps, count, channels, row);
          });
    }
  }

  // The filters of a block, tap by tap, and behind them its bias.
  void pack_filters(Index channel, Index channels) {
    for (Index t = 0; t < job_.taps; ++t) {
      for (Index c = 0; c < kChannels; ++c) {
        weights_[t * kChannels + c] = c < channels ? job_.weight[(channel + c) * job_.taps + t] : 0;
      }
    }
    for (Index c = 0; c < kChannels; ++c) {
      bias_[c] = job_.bias && c < channels ? job_.bias[channel + c] : 0;
    }
  }

  void tile(const ColumnTile& tile, const RowTap* rows, Index row_count, Index channels, T* row) {
    const TapAxis& axis = job_.columns.parts[tile.part];
    const Index step = axis.target_step * job_.channels;
    T* const to = row + axis.target(tile.a) * job_.channels;
    if (channels == kChannels) return compute(tile, rows, row_count, to, step);
    compute(tile, rows, row_count, scratch_, kChannels);
    for (Index p = 0; p < tile.pixels; ++p) {
      for (Index c = 0; c < channels; ++c) to[p * step + c] = scratch_[p * kChannels + c];
    }
  }

  void compute(const ColumnTile& tile, const RowTap* rows, Index row_count, T* to, Index step) {
    switch (tile.pixels) {
      case 1:
        return compute<1>(tile, rows, row_count, to, step);
      case 2:
        return compute<2>(tile, rows, row_count, to, step);
      case 3:
        return compute<3>(tile, rows, row_count, to, step);
      case 4:
        return compute<4>(tile, rows, row_count, to, step);
      case 5:
        return compute<5>(tile, rows, row_count, to, step);
      case 6:
        return compute<6>(tile, rows, row_count, to, step);
      case 7:
        return compute<7>(tile, rows, row_count, to, step);
      default:
        return compute<8>(tile, rows, row_count, to, step);
    }
  }

  template <int kPixels>
  void compute(const ColumnTile& tile, const RowTap* rows, Index row_count, T* to, Index step) {
    const Index source_step = job_.columns.parts[tile.part].source_step * kChannels;
    Vector sums[kPixels][kVectors];
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) sums[p][v] = W::load(bias_ + v * kLanes);
    }
    for (Index r = 0; r < row_count; ++r) {
      const T* const row = ring_ + rows[r].slot * row_size() + tile.a * source_step;
      const T* const weight = weights_ + rows[r].filter_row * job_.kernel_w * kChannels;
      for (Index c = tile.taps; c < tile.end_of_taps; ++c) {
        const T* const w = weight + column_tap_[c].filter_column * kChannels;
        const T* const from = row + column_tap_[c].at;
        Vector factor[kVectors];
#pragma GCC unroll 8
        for (int v = 0; v < kVectors; ++v) factor[v] = W::load(w + v * kLanes);
#pragma GCC unroll 8
        for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
          for (int v = 0; v < kVectors; ++v) {
            sums[p][v] += factor[v] * W::load(from + p * source_step + v * kLanes);
          }
        }
      }
    }
#pragma GCC unroll 8
    for (int p = 0; p < kPixels; ++p) {
#pragma GCC unroll 8
      for (int v = 0; v < kVectors; ++v) {
        W::store(to + p * step + v * kLanes, activated(sums[p][v], job_.activation));
      }
    }
  }

  DepthwiseJob<T> job_;
  Index blocks_, bands_ = 1, slots_ = 1, most_rows_ = 1, column_taps_ = 0, most_tiles_ = 0;
  Index tile_count_ = 0;
  T* ring_ = nullptr;
  T* weights_ = nullptr;
  T* scratch_ = nullptr;
  RowTap* row_taps_ = nullptr;
  ColumnTap* column_tap_ = nullptr;
  ColumnTile* tiles_ = nullptr;
  T bias_[kChannels];
};
