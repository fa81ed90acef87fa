// The pixels of a tile in memory: loading them through a tap, storing results to them. Included by
// engine.h, inside its unnamed namespace.

// Where the pixels of a tile lie for one tap: lane l of piece i at offset[i] + l * step.
struct Lanes {
  int begin[kTileLanes / kPieceLanes + 1];  // pieces of each vector of kPieceLanes lanes
  Index offset[kTileLanes];
  unsigned mask[kTileLanes];  // lanes within the vector
  Index step;

  static Lanes of_sources(const PlanView& plan, const PixelTile& tile, Index tap,
                          const MapStrides& map) {
    Lanes lanes;
    lanes.step = plan.source_step * map.pixel;
    lanes.fill(plan, tile, [&](const Piece& piece, Index* at) {
      const Index offset = plan.region_offset[piece.region * plan.taps + tap];
      if (offset == kTapOutside) return false;
      *at = piece.image * map.image + (piece.source + offset) * map.pixel;
      return true;
    });
    return lanes;
  }

  static Lanes of_targets(const PlanView& plan, const PixelTile& tile, const MapStrides& map) {
    Lanes lanes;
    lanes.step = plan.target_step * map.pixel;
    lanes.fill(plan, tile, [&](const Piece& piece, Index* at) {
      *at = piece.image * map.image + piece.target * map.pixel;
      return true;
    });
    return lanes;
  }

  // Whether all of these lanes lie at equal steps, the first of them at *at.
  bool in_one_run(int first_lane, int size, Index* at) const {
    const unsigned all = static_cast<unsigned>(((1ull << size) - 1) << first_lane);
    unsigned found = 0;
    for (int v = 0; v < kTileLanes / kPieceLanes; ++v) {
      for (int i = begin[v]; i < begin[v + 1]; ++i) {
        const unsigned lanes = mask[i] << v * kPieceLanes & all;
        if (lanes == 0) continue;
        const Index here = offset[i] + first_lane * step;
        if (found != 0 && here != *at) return false;
        *at = here;
        found |= lanes;
      }
    }
    return found == all;
  }

  // f(lane in the tile, offset)
  template <typename F>
  void visit(F&& f) const {
    for (int v = 0; v < kTileLanes / kPieceLanes; ++v) {
      for (int i = begin[v]; i < begin[v + 1]; ++i) {
        for (unsigned bits = mask[i]; bits; bits &= bits - 1) {
          const int lane = v * kPieceLanes + __builtin_ctz(bits);
          f(lane, offset[i] + lane * step);
        }
      }
    }
  }

 private:
  template <typename Where>
  void fill(const PlanView& plan, const PixelTile& tile, const Where& where) {
    int count = 0;
    int vector = 0;
    begin[0] = 0;
    for (Index p = tile.pieces_begin; p < tile.pieces_end; ++p) {
      const Piece& piece = plan.pieces[p];
      while (vector < piece.lane / kPieceLanes) begin[++vector] = count;
      if (!where(piece, &offset[count])) continue;
      mask[count++] = ((1u << piece.count) - 1) << piece.lane % kPieceLanes;
    }
    while (vector < kTileLanes / kPieceLanes) begin[++vector] = count;
  }
};

#if defined(DEEPLAB_LANES_AVX512)

constexpr Index kMostGatherStep = 1 << 26;  // gathers have 32-bit indices

inline __m512i lane_index(Index step) {
  const __m512i lane = _mm512_set_epi32(15, 14, 13, 12, 11, 10, 9, 8, 7, 6, 5, 4, 3, 2, 1, 0);
  return _mm512_mullo_epi32(_mm512_set1_epi32(static_cast<int>(step)), lane);
}

// rows x kTileLanes values: to[r][l] = from[r * row_step + where lane l lies], 0 in empty lanes.
inline void load_lanes(const Lanes& lanes, const float* from, Index row_step, int rows, float* to) {
  for (int v = 0; v < kTileLanes / kPieceLanes; ++v) {
    const int first = lanes.begin[v], last = lanes.begin[v + 1];
    float* out = to + v * kPieceLanes;
    // Lane 0 of the vector lies v * kPieceLanes steps behind lane 0 of the tile.
    const float* base = from + v * kPieceLanes * lanes.step;
    if (lanes.step != 1) {
      const __m512i index = lane_index(lanes.step);
      for (int r = 0; r < rows; ++r, base += row_step, out += kTileLanes) {
        __m512 x = _mm512_setzero_ps();
        for (int i = first; i < last; ++i) {
          x = _mm512_mask_i32gather_ps(x, static_cast<__mmask16>(lanes.mask[i]), index,
                                       base + lanes.offset[i], 4);
        }
        _mm512_store_ps(out, x);
      }
    } else if (last - first == 1) {
      const __mmask16 mask = static_cast<__mmask16>(lanes.mask[first]);
      base += lanes.offset[first];
      for (int r = 0; r < rows; ++r, base += row_step, out += kTileLanes) {
        _mm512_store_ps(out, _mm512_maskz_loadu_ps(mask, base));
      }
    } else {
      for (int r = 0; r < rows; ++r, base += row_step, out += kTileLanes) {
        __m512 x = _mm512_setzero_ps();
        for (int i = first; i < last; ++i) {
          x = _mm512_mask_loadu_ps(x, static_cast<__mmask16>(lanes.mask[i]),
                                   base + lanes.offset[i]);
        }
        _mm512_store_ps(out, x);
      }
    }
  }
}

// to[i] = from[i * step], i < count.
inline void load_strided(const float* from, Index step, int count, float* to) {
  if (step > kMostGatherStep) {
    for (int i = 0; i < count; ++i) to[i] = from[i * step];
    return;
  }
  const __m512i index = lane_index(step);
  for (int i = 0; i < count; i += 16, from += 16 * step) {
    const __mmask16 mask =
        static_cast<__mmask16>(count - i < 16 ? (1u << (count - i)) - 1 : 0xffffu);
    const __m512 x = _mm512_mask_i32gather_ps(_mm512_setzero_ps(), mask, index, from, 4);
    _mm512_mask_storeu_ps(to + i, mask, x);
  }
}

#endif

template <typename T>
void load_lanes(const Lanes& lanes, const T* from, Index row_step, int rows, T* to) {
  for (int r = 0; r < rows; ++r, from += row_step, to += kTileLanes) {
    for (int l = 0; l < kTileLanes; ++l) to[l] = 0;
    lanes.visit([&](int lane, Index offset) { to[lane] = from[offset]; });
  }
}

template <typename T>
void load_strided(const T* from, Index step, int count, T* to) {
  for (int i = 0; i < count; ++i) to[i] = from[i * step];
}

// to[k] = act(sums[k] + bias[k])
template <typename T>
void store_pixel(const T* sums, const T* bias, int channels, bool relu, T* to) {
  for (int k = 0; k < channels; ++k) {
    const T value = bias ? sums[k] + bias[k] : sums[k];
    to[k] = relu && value < 0 ? 0 : value;  // not a maximum: NaN stays NaN
  }
}

template <typename T>
void store_lanes(const Lanes& lanes, const T* result, int rows, T* y, Index row_step, const T* bias,
                 bool relu) {
  for (int r = 0; r < rows; ++r, y += row_step, result += kTileLanes) {
    lanes.visit([&](int lane, Index offset) {
      const T value = bias ? result[lane] + bias[r] : result[lane];
      y[offset] = relu && value < 0 ? 0 : value;  // not a maximum: NaN stays NaN
    });
  }
}

#if defined(DEEPLAB_LANES_AVX512)

// y[r][lane] = act(result[r][lane] + bias[r])
inline void store_lanes(const Lanes& lanes, const float* result, int rows, float* y, Index row_step,
                        const float* bias, bool relu) {
  if (lanes.step != 1) {
    store_lanes<float>(lanes, result, rows, y, row_step, bias, relu);
    return;
  }
  for (int v = 0; v < kTileLanes / kPieceLanes; ++v) {
    for (int i = lanes.begin[v]; i < lanes.begin[v + 1]; ++i) {
      const __mmask16 mask = static_cast<__mmask16>(lanes.mask[i]);
      float* to = y + lanes.offset[i] + v * kPieceLanes;
      const float* from = result + v * kPieceLanes;
      for (int r = 0; r < rows; ++r, to += row_step, from += kTileLanes) {
        __m512 value = _mm512_load_ps(from);
        if (bias) value = _mm512_add_ps(value, _mm512_set1_ps(bias[r]));
        // The second operand comes back where one is NaN.
        if (relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
        _mm512_mask_storeu_ps(to, mask, value);
      }
    }
  }
}

#endif

// Channels-last: y[pixel][k] = act(result[pixel][k] + bias[k])
template <typename T>
void store_channels(const Lanes& lanes, int channels, const T* result, T* y, const T* bias,
                    bool relu) {
  lanes.visit([&](int lane, Index offset) {
    store_pixel(result + lane * kTileLanes, bias, channels, relu, y + offset);
  });
}
