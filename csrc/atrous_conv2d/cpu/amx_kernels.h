// The direct convolution on the matrix unit: what Forward asks of a Unit, and GradWeight of a
// Kernel. Included behind amx_unit.h, forward.h and engine_grad_weight.h, inside their unnamed
// namespace.

template <int kParts>
struct AmxUnit {
  using Element = float;
  using Thread = AmxThread;
  static constexpr Index kDepth = 32;
  static constexpr Index kMostChunks = 4;
  static constexpr Index kPixelBytes = kParts * kRowBytes;
  static constexpr Index kPanelBytes = kParts * 2 * kTileBytes;
  static constexpr Index kBandBytes = 2 << 20;
  static constexpr int kRows = 0;
  static constexpr int kMostGroups = 2, kGroupRows = kTileRows;
  static constexpr bool kEvenSpacing = true;

  static void pack_row(const float* from, Index entries, AmxThread& thread, unsigned char* to) {
    __m512i a = _mm512_maskz_loadu_epi32(first_lanes(entries), from);
    __m512i b = _mm512_maskz_loadu_epi32(first_lanes(entries - 16), from + 16);
    thread.saw_left(_mm512_max_epu32(magnitude(a), magnitude(b)));
    for (int part = 0; part < kParts; ++part, to += kRowBytes) {
      const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
      _mm512_store_si512(to, Parts<kParts>::row(x, y));
    }
  }

  static void pack_planes(const float* planes, Index step, Index count, AmxThread& thread,
                          unsigned char* to, Index to_step) {
    for (Index at = 0; at < count; at += kTileRows) {
      pack_block(planes + at, step, first_lanes(count - at), thread, to + at * to_step, to_step);
    }
  }

  static void pack_panel(const float* filters, AmxThread& thread, unsigned char* to) {
    pack_columns<kParts>(filters, thread, to);
    pack_columns<kParts>(filters + kTileRows * kDepth, thread, to + kTileBytes);
  }

  static void multiply(const TapRows<kMostGroups>* taps, int count, Index chunks, Index, int lanes,
                       int filters, bool add, AmxThread& thread, float* sums) {
    thread.configure(lanes);
    with_tiles(lanes, filters, [&](auto left, auto right) {
      if (add) {
        load_sums<left.value, right.value>(sums);
      } else {
        zero_sums();
      }
      for (int i = 0; i < count; ++i) {
        const TapRows<kMostGroups>& tap = taps[i];
        for (Index chunk = 0; chunk < chunks; ++chunk) {
          const Index at = chunk * kPixelBytes;
          const LeftRows rows[2] = {{tap.at[0] + at, tap.step[0]},
                                    {left.value == 2 ? tap.at[1] + at : nullptr, tap.step[1]}};
          accumulate_chunk<kParts, left.value, right.value>(rows, kRowBytes,
                                                            tap.panel + chunk * kPanelBytes);
        }
      }
      store_sums<left.value, right.value>(sums);
    });
  }

 private:
  // 16 pixels of 32 planes.
  static void pack_block(const float* planes, Index step, __mmask16 mask, AmxThread& thread,
                         unsigned char* to, Index to_step) {
    alignas(64) unsigned pairs[kParts][16][16];
    for (int pair = 0; pair < 16; ++pair, planes += 2 * step) {
      __m512i a = _mm512_maskz_load_epi32(mask, planes);
      __m512i b = _mm512_maskz_load_epi32(mask, planes + step);
      thread.saw_left(_mm512_max_epu32(magnitude(a), magnitude(b)));
      for (int part = 0; part < kParts; ++part) {
        const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
        _mm512_store_si512(pairs[part][pair], Parts<kParts>::pair(x, y));
      }
    }
    for (int part = 0; part < kParts; ++part, to += kRowBytes) {
      for (int i = 0; i < kTileRows; i += 4) {
        __m512i rows[4];
        transpose_columns(pairs[part][0] + i, rows);
        for (int r = 0; r < 4; ++r) {
          if (mask >> (i + r) & 1) {
            _mm512_store_si512(to + (i + r) * to_step, rows[r]);
          }
        }
      }
    }
  }
};

template <int kParts>
struct AmxKernel {
  using Element = float;
  using Thread = AmxThread;
  static constexpr int kRows = 2 * kTileRows;
  static constexpr Index kLeftBytes = kParts * 2 * kTileBytes;  // for each part two tiles
  static constexpr Index kRightBytes = kLeftBytes;

  static void pack_left(const float* staging, int rows, Thread& thread, unsigned char* panel) {
    for (int r = 0; r < rows; ++r, staging += kTileLanes) {
      __m512i a = _mm512_load_si512(staging), b = _mm512_load_si512(staging + 16);
      thread.saw_left(_mm512_max_epu32(magnitude(a), magnitude(b)));
      unsigned char* to = panel + r * kRowBytes;
      for (int part = 0; part < kParts; ++part, to += 2 * kTileBytes) {
        const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
        _mm512_store_si512(to, Parts<kParts>::row(x, y));
      }
    }
  }

  static void pack_right(const float* staging, Thread& thread, unsigned char* panel) {
    for (int pair = 0; pair < kTileLanes / 2; ++pair, staging += 2 * kTileLanes) {
      for (int half = 0; half < 2; ++half) {
        const float* from = staging + half * 16;
        __m512i a = _mm512_load_si512(from), b = _mm512_load_si512(from + kTileLanes);
        thread.saw_right(_mm512_max_epu32(magnitude(a), magnitude(b)));
        unsigned char* to = panel + half * kTileBytes + pair * kRowBytes;
        for (int part = 0; part < kParts; ++part, to += 2 * kTileBytes) {
          const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
          _mm512_store_si512(to, Parts<kParts>::pair(x, y));
        }
      }
    }
  }

  static void multiply(const Run* runs, int count, int rows, int columns, Thread& thread,
                       float* tile) {
    thread.configure(rows);
    with_tiles(rows, columns, [&](auto left, auto right) {
      zero_sums();
      for (int i = 0; i < count; ++i) {
        const unsigned char* const at = runs[i].left;
        const LeftRows rows_at[2] = {{at, kRowBytes}, {at + kTileBytes, kRowBytes}};
        accumulate_chunk<kParts, left.value, right.value>(rows_at, 2 * kTileBytes, runs[i].right);
      }
      store_sums<left.value, right.value>(tile);
    });
  }
};
