// The direct convolution, over a Unit that multiplies: pixels are rows, filters columns.
//
// A block of channels of the source is written down once, pixel by pixel, in the form that the Unit
// wants, so that the pixels of a tap are read from where they lie, whatever the tap; only where
// they are not equally spaced, at the ends of rows, are they copied together first. Included behind
// engine.h, inside the same unnamed namespace. A Unit has
//   Element                    float or double
//   Thread                     made by each thread for the time it works; its suits() tells whether
//                              what it packed may be multiplied so
//   kDepth                     channels of a chunk
//   kMostChunks                of a block of channels
//   kPixelBytes, kPanelBytes   of one chunk: of a pixel, and of a panel of kTileLanes filters
//   kBandBytes                 of pixels that are packed at once
//   kRows                      see plan_forward: pixels of a tile, or 0
//   kMostGroups, kGroupRows    a tile's rows are multiplied in groups
//   kEvenSpacing               whether these rows may be any equal distance apart
//   pack_row(from, entries, thread, to)                      a pixel whose channels lie together
//   pack_planes(planes, step, count, thread, to, to_step)    planes [kDepth][step]
//   pack_panel(filters, thread, to)                          filters [kTileLanes][kDepth]
//   multiply(taps, count, chunks, entries, lanes, filters, add, thread, sums)
// Pixels are [pixel][chunk], panels [group of filters][tap][chunk], sums of one tile and kTileLanes
// filters [pixel][filter].

// The rows of a tile through one tap, group by group, and the tap's panel.
template <int kGroups>
struct TapRows {
  const unsigned char* at[kGroups];
  Index step[kGroups];  // bytes
  const unsigned char* panel;
};

constexpr int kMostTaps = 64;  // at a time

template <typename Unit>
class Forward {
  using T = typename Unit::Element;
  using Thread = typename Unit::Thread;
  using Taps = TapRows<Unit::kMostGroups>;
  static constexpr Index kDepth = Unit::kDepth;

 public:
  explicit Forward(const ForwardJob<T>& job) : job_(job), taps_(job.plan.taps) {
    // Deep blocks pass over y seldom; their pixels should fit in cache with the weights, and in the
    // memory that is allowed.
    const Index map = Unit::kPixelBytes * job.source_pixels;
    chunks_ = larger(1, smaller(ceil_div(job.source_channels, kDepth), Unit::kMostChunks));
    while (chunks_ > 1 && chunks_ * map > smaller(job.memory, Unit::kBandBytes)) --chunks_;
    const Index one = taps_ * chunks_ * Unit::kPanelBytes;
    const Index groups = ceil_div(job.target_channels, kTileLanes);
    const Index blocks = ceil_div(groups, larger(1, job.memory / larger(1, one)));
    groups_ = ceil_div(groups, blocks);
    all_groups_ = groups;
    for (band_ = Band{}; next_band();) {
      band_pixels_ = larger(band_pixels_, band_.high - band_.low);
      band_tiles_ = larger(band_tiles_, band_.tile_end - band_.tile_begin);
    }
    packs_bands_ = band_pixels_ * pixel_bytes() <= kMostBandBytes;
    if (!packs_bands_) band_pixels_ = 0;
  }

  Index shared_bytes() const {
    return band_pixels_ * pixel_bytes() + groups_ * taps_ * chunks_ * Unit::kPanelBytes +
           band_tiles_ * all_groups_ * kSums * static_cast<Index>(sizeof(T));
  }
  Index member_bytes() const { return taps_ * kMostPixels * pixel_bytes(); }
  Index count() const { return multiply_adds(job_); }

  void run(Member& member) {
    Thread thread;
    pixels_ = member.shared;
    panels_ = pixels_ + band_pixels_ * pixel_bytes();
    sums_ = reinterpret_cast<T*>(panels_ + groups_ * taps_ * chunks_ * Unit::kPanelBytes);
    for (group_ = 0; group_ < job_.groups; ++group_) {
      for (band_ = Band{}; next_band();) {
        // At least once: without channels the result is the bias.
        for (c0_ = 0; c0_ == 0 || c0_ < job_.source_channels; c0_ += chunks_ * kDepth) {
          cn_ = smaller(chunks_ * kDepth, job_.source_channels - c0_);
          if (packs_bands_) pack_pixels(member, thread);
          for (k0_ = 0; k0_ < job_.target_channels; k0_ += groups_ * kTileLanes) {
            kn_ = smaller(groups_ * kTileLanes, job_.target_channels - k0_);
            pack_weights(member, thread);
            if (member.declined()) return;
            member.each(band_.tile_end - band_.tile_begin,
                        [&](Index t) { multiply_tile(t, thread, member.own); });
          }
        }
      }
    }
  }

 private:
  // Tiles whose sources lie in the pixels [low, high), counted through all images.
  struct Band {
    Index tile_begin = 0, tile_end = 0, low = 0, high = 0;
  };

  // ---- sizes

  Index pixel_bytes() const { return chunks_ * Unit::kPixelBytes; }

  template <typename F>
  void each_source(const PixelTile& tile, const F& f) const {
    for (Index p = tile.pieces_begin; p < tile.pieces_end; ++p) {
      const Piece& piece = job_.plan.pieces[p];
      const Index image = piece.image * job_.source_pixels;
      for (Index t = tile.taps_begin; t < tile.taps_end; ++t) {
        const Index offset = job_.plan.region_offset[piece.region * taps_ + job_.plan.tile_taps[t]];
        if (offset == kTapOutside) continue;
        const Index first = image + piece.source + offset + piece.lane * job_.plan.source_step;
        f(first, first + (piece.count - 1) * job_.plan.source_step + 1);
      }
    }
  }

  // From the end of this band to as many tiles as keep the packed pixels in cache; but a band that
  // a single tile makes large may become twice that, or pixels would be packed again and again.
  bool next_band() {
    const PlanView& plan = job_.plan;
    band_.tile_begin = band_.tile_end;
    if (band_.tile_begin == plan.tile_count) return false;
    const Index usual = Unit::kBandBytes / larger(1, pixel_bytes());
    Index most = 0;
    band_.low = band_.high = 0;
    for (; band_.tile_end < plan.tile_count; ++band_.tile_end) {
      Index low = band_.low, high = band_.high;
      each_source(plan.tiles[band_.tile_end], [&](Index first, Index last) {
        low = high > 0 ? smaller(low, first) : first;
        high = larger(high, last);
      });
      if (most == 0) most = larger(usual, 2 * (high - low));
      if (high - low > most) break;
      band_.low = low;
      band_.high = high;
    }
    return true;
  }

  // ---- pixels

  // Weights are packed next, from other memory into other memory: nobody has to wait between.
  void pack_pixels(Member& member, Thread& thread) {
    const Index blocks = ceil_div(band_.high - band_.low, kPackedTogether);
    const Index chunks = ceil_div(cn_, kDepth);
    member.each_unfinished(blocks * chunks, [&](Index i) {
      const Index first = band_.low + i / chunks * kPackedTogether;
      const Index count = smaller(kPackedTogether, band_.high - first);
      if (job_.channels_last) {
        pack_rows(first, count, i % chunks, thread);
      } else {
        pack_planes(first, count, i % chunks, thread);
      }
      if (!thread.suits()) member.decline();
    });
  }

  unsigned char* pixel_row(Index pixel, Index chunk) const {
    return pixels_ + (pixel - band_.low) * pixel_bytes() + chunk * Unit::kPixelBytes;
  }

  const T* source(Index pixel, Index channel) const {
    const Index image = pixel / job_.source_pixels, position = pixel % job_.source_pixels;
    return job_.source + image * job_.sources.image + position * job_.sources.pixel +
           (group_ * job_.source_channels + c0_ + channel) * job_.sources.channel;
  }

  void pack_rows(Index first, Index count, Index chunk, Thread& thread) const {
    const Index entries = smaller(kDepth, cn_ - chunk * kDepth);
    for (Index pixel = first; pixel < first + count; ++pixel) {
      Unit::pack_row(source(pixel, chunk * kDepth), entries, thread, pixel_row(pixel, chunk));
    }
  }

  void pack_planes(Index first, Index count, Index chunk, Thread& thread) const {
    // Long runs of each plane, which the processor fetches ahead, before short ones of all of them.
    alignas(64) T planes[kDepth * kPackedTogether];
    const Index entries = smaller(kDepth, cn_ - chunk * kDepth);
    for (Index e = 0; e < entries; ++e) {
      for (Index done = 0; done < count;) {
        const Index pixel = first + done;
        const Index run = smaller(count - done, job_.source_pixels - pixel % job_.source_pixels);
        __builtin_memcpy(planes + e * kPackedTogether + done, source(pixel, chunk * kDepth + e),
                         run * sizeof(T));
        done += run;
      }
    }
    for (Index e = entries; e < kDepth; ++e) {
      __builtin_memset(planes + e * kPackedTogether, 0, count * sizeof(T));
    }
    Unit::pack_planes(planes, kPackedTogether, count, thread, pixel_row(first, chunk),
                      pixel_bytes());
  }

  // ---- weights

  unsigned char* panel(Index g, Index tap, Index chunk) const {
    return panels_ + ((g * taps_ + tap) * chunks_ + chunk) * Unit::kPanelBytes;
  }

  void pack_weights(Member& member, Thread& thread) {
    const Index groups = ceil_div(kn_, kTileLanes), chunks = ceil_div(cn_, kDepth);
    const WeightView& w = job_.weights;
    member.each(groups * chunks, [&](Index i) {
      const Index g = i / chunks, chunk = i % chunks, filter = k0_ + g * kTileLanes;
      const Index filters = smaller(kTileLanes, job_.target_channels - filter);
      const int entries = static_cast<int>(smaller(kDepth, cn_ - chunk * kDepth));
      const T* const from = job_.weight + group_ * job_.weight_group_step +
                            filter * w.target_channel + (c0_ + chunk * kDepth) * w.source_channel;
      alignas(64) T staging[kTileLanes * kDepth] = {};
      for (Index tap = 0; tap < taps_; ++tap) {
        for (Index k = 0; k < filters; ++k) {
          load_strided(from + k * w.target_channel + w.tap(tap), w.source_channel, entries,
                       staging + k * kDepth);
        }
        Unit::pack_panel(staging, thread, panel(g, tap, chunk));
      }
      if (!thread.suits()) member.decline();
    });
  }

  // ---- products

  void multiply_tile(Index t, Thread& thread, unsigned char* copies) const {
    const PixelTile& tile = job_.plan.tiles[band_.tile_begin + t];
    const Index* taps = job_.plan.tile_taps + tile.taps_begin;
    const Index tap_count = tile.taps_end - tile.taps_begin;
    const bool last = c0_ + chunks_ * kDepth >= job_.source_channels;
    const Lanes targets = Lanes::of_targets(job_.plan, tile, job_.targets);
    // Mostly one round; a kernel of very many taps takes several.
    for (Index begin = 0; begin == 0 || begin < tap_count; begin += kMostTaps) {
      const Index end = smaller(tap_count, begin + kMostTaps);
      Taps rows[kMostTaps];
      for (Index i = begin; i < end; ++i) {
        gather(tile, taps[i], copies + i * kMostPixels * pixel_bytes(), thread, rows + i - begin);
      }
      for (Index g = 0; g * kTileLanes < kn_; ++g) {
        const Index filter = k0_ + g * kTileLanes;
        const int filters = static_cast<int>(smaller(kTileLanes, k0_ + kn_ - filter));
        T* const sums = sums_ + (t * all_groups_ + filter / kTileLanes) * kSums;
        for (Index i = begin; i < end; ++i) rows[i - begin].panel = panel(g, taps[i], 0);
        Unit::multiply(rows, static_cast<int>(end - begin), ceil_div(cn_, kDepth), cn_, tile.lanes,
                       filters, c0_ > 0 || begin > 0, thread, sums);
        if (last && end == tap_count) emit(targets, tile.lanes, filter, filters, sums);
      }
    }
  }

  // The tile's pixels through a tap: in place where they are equally spaced, else copied.
  void gather(const PixelTile& tile, Index tap, unsigned char* copy, Thread& thread,
              Taps* rows) const {
    const Index bytes = pixel_bytes();
    const MapStrides pixels = {job_.source_pixels, 0, 1};
    const Lanes lanes = Lanes::of_sources(job_.plan, tile, tap, pixels);
    for (int g = 0, first = 0; first < tile.lanes; ++g, first += Unit::kGroupRows) {
      const int size = static_cast<int>(smaller(Unit::kGroupRows, tile.lanes - first));
      Index pixel = 0;
      if (packs_bands_ && lanes.in_one_run(first, size, &pixel) &&
          (Unit::kEvenSpacing || lanes.step == 1)) {
        rows->at[g] = pixel_row(pixel, 0);
        rows->step[g] = lanes.step * bytes;
        continue;
      }
      unsigned char* const to = copy + first * bytes;
      rows->at[g] = to;
      rows->step[g] = bytes;
      __builtin_memset(to, 0, size * bytes);
      lanes.visit([&](int lane, Index source) {
        if (lane < first || lane >= first + size) return;
        unsigned char* const row = to + (lane - first) * bytes;
        if (packs_bands_) {
          __builtin_memcpy(row, pixel_row(source, 0), bytes);
        } else {
          pack_pixel(source, thread, row);
        }
      });
    }
  }

  // One pixel of a map whose strides are so wide that nothing between them is worth packing.
  void pack_pixel(Index pixel, Thread& thread, unsigned char* row) const {
    alignas(64) T channels[kDepth];
    for (Index chunk = 0; chunk * kDepth < cn_; ++chunk, row += Unit::kPixelBytes) {
      const Index entries = smaller(kDepth, cn_ - chunk * kDepth);
      const T* const from = source(pixel, chunk * kDepth);
      for (Index e = 0; e < entries; ++e) channels[e] = from[e * job_.sources.channel];
      Unit::pack_row(channels, entries, thread, row);
    }
  }

  // ---- results

  T* target(Index filter) const {
    return job_.target + (group_ * job_.target_channels + filter) * job_.targets.channel;
  }

  void emit(const Lanes& targets, int lanes, Index filter, int filters, const T* sums) const {
    const T* bias = job_.bias ? job_.bias + group_ * job_.target_channels + filter : nullptr;
    if (job_.channels_last) {
      store_channels(targets, filters, sums, target(filter), bias, job_.relu);
      return;
    }
    alignas(64) T planes[kTileLanes * kTileLanes];
    transpose_map<T, kVectorBytes / sizeof(T)>(sums, kTileLanes, lanes, filters, planes,
                                               kTileLanes);
    store_lanes(targets, planes, filters, target(filter), job_.targets.channel, bias, job_.relu);
  }

  static constexpr Index kMostPixels = Unit::kRows > 0 ? Unit::kRows : kTileLanes;  // of a tile
  static constexpr Index kSums = kMostPixels * kTileLanes;  // of a tile and a group of filters
  static constexpr Index kMostBandBytes = 256 << 20;
  static constexpr Index kPackedTogether = 256 * 32 / kDepth;  // pixels

  const ForwardJob<T>& job_;
  const Index taps_;
  Index chunks_;  // in a block
  Index groups_;  // of kTileLanes filters, in a block
  Index all_groups_;
  Index band_pixels_ = 1, band_tiles_ = 1;  // at most
  bool packs_bands_;
  unsigned char* pixels_ = nullptr;
  unsigned char* panels_ = nullptr;
  T* sums_ = nullptr;
  Index group_ = 0, k0_ = 0, kn_ = 0, c0_ = 0, cn_ = 0;
  Band band_;
};
