// The direct convolution on the matrix unit: pixels are rows, filters columns.
//
// A block of channels of x is written down once in parts, pixel by pixel, so that the unit loads
// the 16 pixels of a tap from where they lie, whatever the tap; only where they are not equally
// spaced, at the ends of rows, are they copied together first. Included behind amx_unit.h.

template <int kParts>
class AmxForward {
 public:
  explicit AmxForward(const ForwardJob<float>& job) : job_(job), taps_(job.plan.taps) {
    // Deep blocks pass over y seldom; their pixels should fit in cache with the weights, and in the
    // memory that is allowed.
    const Index map = pixel_bytes(1) * job.source_pixels;
    chunks_ = ceil_div(job.source_channels, kChunk);
    while (chunks_ > 1 && (chunks_ > 4 || chunks_ * map > smaller(job.memory, kBandBytes)))
      --chunks_;
    const Index one = taps_ * chunks_ * kGroupChunk;
    const Index groups = ceil_div(job.target_channels, kTileLanes);
    const Index blocks = ceil_div(groups, larger(1, job.memory / one));
    groups_ = ceil_div(groups, blocks);
    band_pixels_ = largest_band();
  }

  Index shared_bytes() const {
    return band_pixels_ * pixel_bytes(chunks_) + groups_ * taps_ * chunks_ * kGroupChunk;
  }
  Index member_bytes() const { return taps_ * kTileLanes * pixel_bytes(chunks_); }
  Index count() const { return multiply_adds(job_); }

  void run(Member& member) {
    AmxThread thread;
    pixels_ = member.shared;
    weights_ = pixels_ + band_pixels_ * pixel_bytes(chunks_);
    for (group_ = 0; group_ < job_.groups; ++group_) {
      // At least once: without channels the result is the bias.
      for (c0_ = 0; c0_ == 0 || c0_ < job_.source_channels; c0_ += chunks_ * kChunk) {
        cn_ = smaller(chunks_ * kChunk, job_.source_channels - c0_);
        for (band_ = Band{}; next_band();) {
          split_pixels(member, thread);
          for (k0_ = 0; k0_ < job_.target_channels; k0_ += groups_ * kTileLanes) {
            kn_ = smaller(groups_ * kTileLanes, job_.target_channels - k0_);
            pack_weights(member, thread);
            if (member.declined()) return;
            member.each(band_.tile_end - band_.tile_begin, [&](Index t) {
              multiply_tile(job_.plan.tiles[band_.tile_begin + t], thread, member.own);
            });
          }
        }
      }
    }
  }

 private:
  static constexpr Index kGroupChunk = kParts * 2 * kTileBytes;  // packed: 32 filters, 32 channels
  static constexpr Index kBandBytes = 2 << 20;
  static constexpr Index kSplitPixels = 256;

  // Tiles whose sources lie in the pixels [low, high), counted through all images.
  struct Band {
    Index tile_begin = 0, tile_end = 0, low = 0, high = 0;
  };

  // ---- sizes

  static Index pixel_bytes(Index chunks) { return kParts * chunks * kRowBytes; }

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

  // From the end of this band to as many tiles as keep the split pixels in cache; but a band that a
  // single tile makes large may become twice that, or pixels would be split again and again.
  bool next_band() {
    const PlanView& plan = job_.plan;
    band_.tile_begin = band_.tile_end;
    if (band_.tile_begin == plan.tile_count) return false;
    const Index usual = kBandBytes / pixel_bytes(chunks_);
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

  Index largest_band() {
    Index pixels = 1;
    for (band_ = Band{}; next_band();) pixels = larger(pixels, band_.high - band_.low);
    return pixels;
  }

  // ---- pixels: [pixel][part][chunk] rows of 32 channels

  // Weights are packed next, from other memory into other memory: nobody has to wait between.
  void split_pixels(Member& member, AmxThread& thread) {
    const Index blocks = ceil_div(band_.high - band_.low, kSplitPixels);
    member.each_unfinished(blocks * chunks_, [&](Index i) {
      const Index first = band_.low + i / chunks_ * kSplitPixels;
      const Index count = smaller(kSplitPixels, band_.high - first);
      if (job_.channels_last) {
        split_rows(first, count, i % chunks_, thread);
      } else {
        split_planes(first, count, i % chunks_, thread);
      }
      if (!thread.suits()) member.decline();
    });
  }

  unsigned char* pixel_row(Index pixel, Index chunk) const {
    return pixels_ + (pixel - band_.low) * pixel_bytes(chunks_) + chunk * kRowBytes;
  }

  const float* source(Index pixel, Index channel) const {
    const Index image = pixel / job_.source_pixels, position = pixel % job_.source_pixels;
    return job_.source + image * job_.sources.image + position * job_.sources.pixel +
           (group_ * job_.source_channels + c0_ + channel) * job_.sources.channel;
  }

  void split_rows(Index first, Index count, Index chunk, AmxThread& thread) const {
    const Index entries = cn_ - chunk * kChunk;
    const __mmask16 low = first_lanes(entries), high = first_lanes(entries - 16);
    for (Index pixel = first; pixel < first + count; ++pixel) {
      const float* from = source(pixel, chunk * kChunk);
      __m512i a = _mm512_maskz_loadu_epi32(low, from);
      __m512i b = _mm512_maskz_loadu_epi32(high, from + 16);
      thread.saw_left(_mm512_max_epu32(magnitude(a), magnitude(b)));
      unsigned char* to = pixel_row(pixel, chunk);
      for (int part = 0; part < kParts; ++part, to += chunks_ * kRowBytes) {
        const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
        _mm512_store_si512(to, Parts<kParts>::row(x, y));
      }
    }
  }

  void split_planes(Index first, Index count, Index chunk, AmxThread& thread) const {
    // Long runs of each plane, which the processor fetches ahead, before short ones of all of them.
    alignas(64) float planes[kChunk * kSplitPixels];
    const Index entries = larger(0, smaller(kChunk, cn_ - chunk * kChunk));
    for (Index e = 0; e < entries; ++e) {
      for (Index done = 0; done < count;) {
        const Index pixel = first + done;
        const Index run = smaller(count - done, job_.source_pixels - pixel % job_.source_pixels);
        __builtin_memcpy(planes + e * kSplitPixels + done, source(pixel, chunk * kChunk + e),
                         run * sizeof(float));
        done += run;
      }
    }
    for (Index e = entries; e < kChunk; ++e) {
      __builtin_memset(planes + e * kSplitPixels, 0, count * sizeof(float));
    }
    for (Index at = 0; at < count; at += kTileRows) {
      split_block(planes + at, first_lanes(count - at), thread, pixel_row(first + at, chunk));
    }
  }

  // 16 pixels of 32 planes.
  void split_block(const float* planes, __mmask16 mask, AmxThread& thread,
                   unsigned char* to) const {
    alignas(64) unsigned pairs[kParts][16][16];
    for (int pair = 0; pair < 16; ++pair, planes += 2 * kSplitPixels) {
      __m512i a = _mm512_maskz_load_epi32(mask, planes);
      __m512i b = _mm512_maskz_load_epi32(mask, planes + kSplitPixels);
      thread.saw_left(_mm512_max_epu32(magnitude(a), magnitude(b)));
      for (int part = 0; part < kParts; ++part) {
        const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
        _mm512_store_si512(pairs[part][pair], Parts<kParts>::pair(x, y));
      }
    }
    for (int part = 0; part < kParts; ++part, to += chunks_ * kRowBytes) {
      for (int i = 0; i < kTileRows; i += 4) {
        __m512i rows[4];
        transpose_columns(pairs[part][0] + i, rows);
        for (int r = 0; r < 4; ++r) {
          if (mask >> (i + r) & 1) {
            _mm512_store_si512(to + (i + r) * pixel_bytes(chunks_), rows[r]);
          }
        }
      }
    }
  }

  // ---- weights: [group of 32 filters][tap][chunk] right tiles

  unsigned char* weight_tiles(Index g, Index tap, Index chunk) const {
    return weights_ + ((g * taps_ + tap) * chunks_ + chunk) * kGroupChunk;
  }

  void pack_weights(Member& member, AmxThread& thread) {
    const Index groups = ceil_div(kn_, kTileLanes);
    member.each(groups * chunks_, [&](Index i) {
      const Index g = i / chunks_, chunk = i % chunks_;
      const Index entries = smaller(kChunk, cn_ - chunk * kChunk);
      const WeightView& w = job_.weights;
      for (Index half = 0; half < 2; ++half) {
        const Index filter = k0_ + g * kTileLanes + half * kTileRows;
        const int columns =
            static_cast<int>(larger(0, smaller(kTileRows, job_.target_channels - filter)));
        const float* from = job_.weight + group_ * job_.weight_group_step +
                            filter * w.target_channel + (c0_ + chunk * kChunk) * w.source_channel;
        alignas(64) float staging[kTileRows * kChunk];
        for (Index tap = 0; tap < taps_; ++tap) {
          for (int c = 0; c < columns; ++c) {
            load_strided(from + c * w.target_channel + w.tap(tap), w.source_channel,
                         static_cast<int>(entries), staging + c * kChunk);
          }
          pack_columns<kParts>(staging, kChunk, columns, entries, thread,
                               weight_tiles(g, tap, chunk) + half * kTileBytes, 2 * kTileBytes);
        }
      }
      if (!thread.suits()) member.decline();
    });
  }

  // ---- products

  void multiply_tile(const PixelTile& tile, AmxThread& thread, unsigned char* copies) const {
    const Index* taps = job_.plan.tile_taps + tile.taps_begin;
    const Index tap_count = tile.taps_end - tile.taps_begin;
    const Index bytes = pixel_bytes(chunks_);
    const Lanes targets = Lanes::of_targets(job_.plan, tile, job_.targets);
    const bool first = c0_ == 0, last = c0_ + chunks_ * kChunk >= job_.source_channels;
    alignas(64) float result[kTileLanes * kTileLanes];
    for (Index begin = 0; begin == 0 || begin < tap_count; begin += kMostTaps) {
      const Index end = smaller(tap_count, begin + kMostTaps);
      LeftRows rows[2 * kMostTaps];
      for (Index i = begin; i < end; ++i) {
        gather(tile, taps[i], copies + i * kTileLanes * bytes, rows + 2 * (i - begin));
      }
      for (Index g = 0; g * kTileLanes < kn_; ++g) {
        const Index filter = k0_ + g * kTileLanes;
        const int filters = static_cast<int>(smaller(kTileLanes, k0_ + kn_ - filter));
        const bool add = !first || begin > 0;
        if (add) prefetch(targets, filter, filters);
        thread.configure(tile.lanes);
        with_tiles(tile.lanes, filters, [&](auto left, auto right) {
          zero_sums();
          for (Index i = begin; i < end; ++i) {
            for (Index chunk = 0; chunk < chunks_; ++chunk) {
              const LeftRows* at = rows + 2 * (i - begin);
              const LeftRows here[2] = {{at[0].at + chunk * kRowBytes, at[0].step},
                                        {at[1].at + chunk * kRowBytes, at[1].step}};
              accumulate_chunk<kParts, left.value, right.value>(here, chunks_ * kRowBytes,
                                                                weight_tiles(g, taps[i], chunk));
            }
          }
          store_sums<left.value, right.value>(result);
        });
        emit(targets, tile.lanes, filter, filters, result, add, last && end == tap_count);
      }
    }
  }

  // The tile's pixels through a tap: in place where they are equally spaced, else copied.
  void gather(const PixelTile& tile, Index tap, unsigned char* copy, LeftRows* rows) const {
    const Index bytes = pixel_bytes(chunks_);
    const MapStrides pixels = {job_.source_pixels, 0, 1};
    const Lanes lanes = Lanes::of_sources(job_.plan, tile, tap, pixels);
    for (int half = 0; half < 2; ++half) {
      const int first = lanes.begin[half], last = lanes.begin[half + 1];
      const int present = tile.lanes - half * kTileRows;
      const unsigned whole = first_lanes(present);
      if (last - first == 1 && lanes.mask[first] == whole) {
        const Index pixel = lanes.offset[first] + half * kTileRows * lanes.step;
        rows[half] = {pixel_row(pixel, 0), lanes.step * bytes};
        continue;
      }
      unsigned char* to = copy + half * kTileRows * bytes;
      rows[half] = {to, bytes};
      unsigned missing = whole;
      for (int i = first; i < last; ++i) {
        missing &= ~lanes.mask[i];
        for (unsigned mask = lanes.mask[i]; mask; mask &= mask - 1) {
          const int lane = __builtin_ctz(mask);
          const Index pixel = lanes.offset[i] + (half * kTileRows + lane) * lanes.step;
          copy_rows(pixel_row(pixel, 0), to + lane * bytes);
        }
      }
      for (; missing; missing &= missing - 1) {
        __builtin_memset(to + __builtin_ctz(missing) * bytes, 0, bytes);
      }
    }
  }

  void copy_rows(const unsigned char* from, unsigned char* to) const {
    for (Index i = 0; i < kParts * chunks_; ++i) {
      _mm512_store_si512(to + i * kRowBytes, _mm512_load_si512(from + i * kRowBytes));
    }
  }

  // ---- results

  float* target(Index filter) const {
    return job_.target + (group_ * job_.target_channels + filter) * job_.targets.channel;
  }

  // The sums to add to come from memory; they may come while the unit works.
  void prefetch(const Lanes& targets, Index filter, int filters) const {
    if (job_.channels_last) return;
    const float* y = target(filter);
    for (int v = 0; v < 2; ++v) {
      for (int i = targets.begin[v]; i < targets.begin[v + 1]; ++i) {
        const int lane = v * kPieceLanes + __builtin_ctz(targets.mask[i]);
        const float* at = y + targets.offset[i] + lane * targets.step;
        for (int k = 0; k < filters; ++k) __builtin_prefetch(at + k * job_.targets.channel, 1);
      }
    }
  }

  // result: [pixel][filter]
  void emit(const Lanes& targets, int lanes, Index filter, int filters, float* result, bool add,
            bool last) const {
    const float* bias =
        last && job_.bias ? job_.bias + group_ * job_.target_channels + filter : nullptr;
    const bool relu = last && job_.relu;
    if (job_.channels_last) {
      store_channels(targets, 0, lanes, filters, result, target(filter), add, bias, relu);
      return;
    }
    alignas(64) float planes[kTileLanes * kTileLanes];
    for (int i = 0; i < lanes; i += 16) {
      for (int j = 0; j < filters; j += 16) {
        __m512i block[16];
        for (int r = 0; r < 16; ++r) {
          block[r] = _mm512_load_si512(result + (i + r) * kTileLanes + j);
        }
        transpose16(block);
        for (int r = 0; r < 16; ++r) {
          _mm512_store_si512(planes + (j + r) * kTileLanes + i, block[r]);
        }
      }
    }
    store_lanes(targets, planes, filters, target(filter), job_.targets.channel, add, bias, relu);
  }

  static constexpr int kMostTaps = 64;

  const ForwardJob<float>& job_;
  const Index taps_;
  Index chunks_;  // of 32 channels, in a block
  Index groups_;  // of 32 filters, in a block
  Index band_pixels_;
  unsigned char* pixels_ = nullptr;
  unsigned char* weights_ = nullptr;
  Index group_ = 0, k0_ = 0, kn_ = 0, c0_ = 0, cn_ = 0;
  Band band_;
};
