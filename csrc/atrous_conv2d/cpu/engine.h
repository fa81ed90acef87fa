// The direct convolution as a blocked matrix product, over a Kernel that multiplies packed panels.
//
// Included by each kernels_*.cpp inside an unnamed namespace and behind its target pragma, so that
// all of it is compiled for that processor and none of it can be taken for another.
//
// A left panel holds up to kRows rows, a right panel kTileLanes columns, both along a depth that is
// packed in chunks of kChunk. A Kernel has
//   Element                               float or double
//   kRows                                 rows of a left panel
//   kBalanced                             whether rows are better shared out evenly
//   kDepthUnit                            what a depth is rounded up to
//   kRightAsStaged                        whether right panels are [depth][kTileLanes] elements
//   Thread                                made by each thread for the time it works; its suits()
//                                         tells whether what it packed may be multiplied so
//   left_bytes(depth), right_bytes(depth)
//   pack_left(staging, rows, entries, at, thread, panel)   staging [rows][kChunk]
//   pack_right(staging, entries, at, thread, panel)        staging [kChunk][kTileLanes]
//   multiply(runs, count, rows, columns, thread, tile)     tile [kRows][kTileLanes]
// at: entries of the panel before these.

constexpr int kChunk = 32;

struct Run {
  const unsigned char* left;
  const unsigned char* right;
  Index depth;  // rounded up
};

inline Index smaller(Index a, Index b) { return a < b ? a : b; }
inline Index larger(Index a, Index b) { return a > b ? a : b; }
inline Index round_up(Index a, Index unit) { return (a + unit - 1) / unit * unit; }

template <typename F>
void each(const Parallel& parallel, Index count, F&& f) {
  parallel.run(count, [](Index i, void* context) { (*static_cast<F*>(context))(i); }, &f);
}

// `total` items in groups of at most `most`: where group g begins.
struct Groups {
  Index total, most, count;
  bool balanced;
  Groups(Index total, Index most, bool balanced)
      : total(total), most(most), count((total + most - 1) / most), balanced(balanced) {}
  Index begin(Index g) const { return balanced ? total * g / count : smaller(g * most, total); }
  Index size(Index g) const { return begin(g + 1) - begin(g); }
};

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
      *at = piece.image * map.image + (piece.source + offset) * map.pixel;
      return offset != kTapOutside;
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

  // f(lane in the tile, offset)
  template <typename F>
  void visit(F&& f) const {
    for (int v = 0; v < kTileLanes / kPieceLanes; ++v) {
      for (int i = begin[v]; i < begin[v + 1]; ++i) {
        for (int l = 0; l < kPieceLanes; ++l) {
          const int lane = v * kPieceLanes + l;
          if (mask[i] >> l & 1) f(lane, offset[i] + lane * step);
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

template <typename T>
void transpose(T* square) {
  for (int i = 0; i < kTileLanes; ++i) {
    for (int j = 0; j < i; ++j) {
      const T kept = square[i * kTileLanes + j];
      square[i * kTileLanes + j] = square[j * kTileLanes + i];
      square[j * kTileLanes + i] = kept;
    }
  }
}

template <typename T>
void store_lanes(const Lanes& lanes, const T* result, int rows, T* y, Index row_step, bool add,
                 const T* bias, bool relu) {
  for (int r = 0; r < rows; ++r, y += row_step, result += kTileLanes) {
    lanes.visit([&](int lane, Index offset) {
      T value = add ? y[offset] + result[lane] : result[lane];
      if (bias) value += bias[r];
      y[offset] = relu && value < 0 ? 0 : value;  // not a maximum: NaN stays NaN
    });
  }
}

#if defined(DEEPLAB_LANES_AVX512)

// y[r][lane] (+)= result[r][lane], then bias and ReLU.
inline void store_lanes(const Lanes& lanes, const float* result, int rows, float* y, Index row_step,
                        bool add, const float* bias, bool relu) {
  if (lanes.step != 1) {
    store_lanes<float>(lanes, result, rows, y, row_step, add, bias, relu);
    return;
  }
  for (int v = 0; v < kTileLanes / kPieceLanes; ++v) {
    for (int i = lanes.begin[v]; i < lanes.begin[v + 1]; ++i) {
      const __mmask16 mask = static_cast<__mmask16>(lanes.mask[i]);
      float* to = y + lanes.offset[i] + v * kPieceLanes;
      const float* from = result + v * kPieceLanes;
      for (int r = 0; r < rows; ++r, to += row_step, from += kTileLanes) {
        __m512 value = _mm512_load_ps(from);
        if (add) value = _mm512_add_ps(value, _mm512_maskz_loadu_ps(mask, to));
        if (bias) value = _mm512_add_ps(value, _mm512_set1_ps(bias[r]));
        // The second operand comes back where one is NaN.
        if (relu) value = _mm512_max_ps(_mm512_setzero_ps(), value);
        _mm512_mask_storeu_ps(to, mask, value);
      }
    }
  }
}

#endif

// Channels-last: y[pixel][k] (+)= result[pixel][k], then bias and ReLU, for the pixels of lanes
// [first, first + rows).
template <typename T>
void store_channels(const Lanes& lanes, int first, int rows, int channels, const T* result, T* y,
                    bool add, const T* bias, bool relu) {
  lanes.visit([&](int lane, Index offset) {
    if (lane < first || lane >= first + rows) return;
    const T* from = result + (lane - first) * kTileLanes;
    T* to = y + offset;
    for (int k = 0; k < channels; ++k) {
      T value = add ? to[k] + from[k] : from[k];
      if (bias) value += bias[k];
      to[k] = relu && value < 0 ? 0 : value;
    }
  });
}

// Tiles have between none and all of the taps; a share of them has its part of the taps.
inline Index even_share(const PlanView& plan, Index tile_begin, Index tile_end, Index share,
                        Index share_count) {
  if (share == 0 || tile_begin == tile_end) return tile_begin;
  if (share == share_count) return tile_end;
  const Index first = plan.tiles[tile_begin].taps_begin;
  const Index wanted = first + (plan.tiles[tile_end - 1].taps_end - first) * share / share_count;
  Index low = tile_begin, high = tile_end;
  while (low < high) {
    const Index middle = (low + high) / 2;
    if (plan.tiles[middle].taps_begin < wanted) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

template <typename Kernel>
class Forward {
  using T = typename Kernel::Element;
  using Thread = typename Kernel::Thread;

 public:
  explicit Forward(const ForwardJob<T>& job) : job_(job) {
    // Few channels would leave most of a depth empty: then all taps share one.
    const Index apart = job.plan.taps * round_up(job.source_channels, Kernel::kDepthUnit);
    const Index together = round_up(job.plan.taps * job.source_channels, Kernel::kDepthUnit);
    merged_ = 2 * together <= apart;
    units_ = merged_ ? 1 : job.plan.taps;
    choose_blocks();
  }

  bool run() {
    const AlignedBytes packed(groups_in(filters_) * units_ * weight_bytes(depth_of(channels_)));
    packed_ = packed.get();
    const AlignedBytes workspaces(shares() * workspace_bytes());
    workspaces_ = workspaces.get();
    for (group_ = 0; group_ < job_.groups; ++group_) {
      for (k0_ = 0; k0_ < job_.target_channels; k0_ += filters_) {
        kn_ = smaller(filters_, job_.target_channels - k0_);
        // At least once: without channels the result is the bias.
        for (c0_ = 0; c0_ == 0 || c0_ < job_.source_channels; c0_ += channels_) {
          cn_ = smaller(channels_, job_.source_channels - c0_);
          if (!block()) return false;
        }
      }
    }
    return true;
  }

 private:
  // ---- sizes

  Index entries_of(Index channels) const { return merged_ ? job_.plan.taps * channels : channels; }
  Index depth_of(Index channels) const {
    return round_up(entries_of(channels), Kernel::kDepthUnit);
  }
  Groups filter_groups() const {
    return job_.channels_last ? Groups(kn_, kTileLanes, false)
                              : Groups(kn_, Kernel::kRows, Kernel::kBalanced);
  }
  Index groups_in(Index filters) const {
    const Index most = job_.channels_last ? kTileLanes : Kernel::kRows;
    return (filters + most - 1) / most;
  }
  Index weight_bytes(Index depth) const {
    return job_.channels_last ? Kernel::right_bytes(depth) : Kernel::left_bytes(depth);
  }
  Index pixel_groups() const {
    return job_.channels_last ? (kTileLanes + Kernel::kRows - 1) / Kernel::kRows : 1;
  }
  Index pixel_bytes(Index depth) const {
    return job_.channels_last ? pixel_groups() * Kernel::left_bytes(depth)
                              : Kernel::right_bytes(depth);
  }
  Index workspace_bytes() const {
    return round_up(units_ * pixel_bytes(depth_of(channels_)), 4096);
  }
  Index shares() const { return larger(1, smaller(job_.parallel.threads, job_.plan.tile_count)); }

  // Packed weights stay in the second-level cache while all pixels pass them; filters_ of them with
  // channels_ channels at a time. Deep blocks write y seldom, wide ones pack pixels seldom.
  void choose_blocks() {
    channels_ = job_.source_channels;
    filters_ = job_.target_channels;
    if (!merged_) channels_ = smaller(channels_, kBlockChannels);
    const Index one = units_ * weight_bytes(depth_of(larger(1, channels_)));
    const Index unit = job_.channels_last ? kTileLanes : Kernel::kRows;
    const Index most = larger(1, job_.memory / larger(1, one));
    const Index groups = groups_in(filters_);
    const Index blocks = larger(1, (groups + most - 1) / most);
    filters_ = smaller(filters_, (groups + blocks - 1) / blocks * unit);
  }

  // ---- one block: kn_ filters from k0_, cn_ channels from c0_

  bool block() {
    const Groups groups = filter_groups();
    suits_ = true;
    each(job_.parallel, groups.count, [&](Index g) {
      Thread thread;
      pack_weights(g, groups, thread);
      note(thread);
    });
    const Index share_count = shares();
    each(job_.parallel, share_count, [&](Index share) {
      Thread thread;
      const Index end = share_begin(share + 1, share_count);
      for (Index t = share_begin(share, share_count); t < end; ++t) {
        multiply_tile(job_.plan.tiles[t], groups, thread, workspaces_ + share * workspace_bytes());
      }
      note(thread);
    });
    return suits_;
  }

  void note(const Thread& thread) {
    if (!thread.suits()) __atomic_store_n(&suits_, false, __ATOMIC_RELAXED);
  }

  Index share_begin(Index share, Index share_count) const {
    return even_share(job_.plan, 0, job_.plan.tile_count, share, share_count);
  }

  const T* weight_at(Index filter, Index tap, Index channel) const {
    const WeightView& w = job_.weights;
    return job_.weight + group_ * job_.weight_group_step + filter * w.target_channel +
           channel * w.source_channel + w.tap(tap);
  }

  void pack_weights(Index g, const Groups& groups, Thread& thread) {
    alignas(64)
        T staging[kTileLanes * kTileLanes > Kernel::kRows * kChunk ? kTileLanes * kTileLanes
                                                                   : Kernel::kRows * kChunk] = {};
    const Index first = k0_ + groups.begin(g);
    const int size = static_cast<int>(groups.size(g));
    const Index entries = entries_of(cn_), depth = depth_of(cn_), bytes = weight_bytes(depth);
    for (Index u = 0; u < units_; ++u) {
      unsigned char* panel = packed_ + (g * units_ + u) * bytes;
      for (Index at = 0; at < entries; at += kChunk) {
        const int count = static_cast<int>(smaller(kChunk, entries - at));
        if (job_.channels_last) {
          for (int e = 0; e < count; ++e) {
            load_strided(weight_entry(first, u, at + e), job_.weights.target_channel, size,
                         staging + e * kTileLanes);
          }
          Kernel::pack_right(staging, count, at, thread, panel);
        } else {
          for (int r = 0; r < size; ++r) {
            if (merged_) {
              for (int e = 0; e < count; ++e) {
                staging[r * kChunk + e] = *weight_entry(first + r, u, at + e);
              }
            } else {
              load_strided(weight_entry(first + r, u, at), job_.weights.source_channel, count,
                           staging + r * kChunk);
            }
          }
          Kernel::pack_left(staging, size, count, at, thread, panel);
        }
      }
    }
  }

  const T* weight_entry(Index filter, Index unit, Index entry) const {
    return merged_ ? weight_at(filter, entry / cn_, c0_ + entry % cn_)
                   : weight_at(filter, unit, c0_ + entry);
  }

  // ---- one tile of pixels

  void multiply_tile(const PixelTile& tile, const Groups& groups, Thread& thread,
                     unsigned char* panel) {
    const Index* taps = job_.plan.tile_taps + tile.taps_begin;
    const Index tap_count = tile.taps_end - tile.taps_begin;
    const Index depth = depth_of(cn_);
    // Merged, all taps take part, and read zeros where a tile lacks one.
    const Index used = merged_ ? (tap_count > 0) : tap_count;
    const Groups pixels(tile.lanes, job_.channels_last ? Kernel::kRows : kTileLanes,
                        job_.channels_last && Kernel::kBalanced);
    pack_pixels(tile, pixels, taps, tap_count, thread, panel);
    const Lanes targets = Lanes::of_targets(job_.plan, tile, job_.targets);
    alignas(64) T result[Kernel::kRows * kTileLanes];
    Run runs[kMostRuns];
    for (Index g = 0; g < groups.count; ++g) {
      for (Index p = 0; p < pixels.count; ++p) {
        const int filters = static_cast<int>(groups.size(g));
        const int rows = job_.channels_last ? static_cast<int>(pixels.size(p)) : filters;
        const int columns = job_.channels_last ? filters : tile.lanes;
        bool first = c0_ == 0;
        // Mostly one round; a kernel of very many taps takes several.
        for (Index begin = 0; begin == 0 || begin < used; begin += kMostRuns) {
          const Index end = smaller(used, begin + kMostRuns);
          int count = 0;
          for (Index i = begin; i < end; ++i) {
            const unsigned char* weights =
                packed_ + (g * units_ + (merged_ ? 0 : taps[i])) * weight_bytes(depth);
            const unsigned char* x =
                panel + (job_.channels_last ? (p * used + i) * Kernel::left_bytes(depth)
                                            : i * Kernel::right_bytes(depth));
            runs[count++] = job_.channels_last ? Run{x, weights, depth} : Run{weights, x, depth};
          }
          Kernel::multiply(runs, count, rows, columns, thread, result);
          const bool last = c0_ + channels_ >= job_.source_channels && end == used;
          if (job_.channels_last) {
            emit_channels_last(targets, static_cast<int>(pixels.begin(p)), rows,
                               k0_ + groups.begin(g), filters, result, first, last);
          } else {
            emit_planar(targets, k0_ + groups.begin(g), filters, result, first, last);
          }
          first = false;
        }
      }
    }
  }

  void pack_pixels(const PixelTile& tile, const Groups& pixels, const Index* taps, Index tap_count,
                   Thread& thread, unsigned char* panel) {
    alignas(64) T staging[kChunk * kTileLanes] = {};
    const Index entries = entries_of(cn_), depth = depth_of(cn_);
    const Index used = merged_ ? (tap_count > 0) : tap_count;
    const T* source = job_.source + (group_ * job_.source_channels + c0_) * job_.sources.channel;
    for (Index u = 0; u < used; ++u) {
      Lanes lanes = Lanes::of_sources(job_.plan, tile, merged_ ? 0 : taps[u], job_.sources);
      for (Index at = 0; at < entries; at += kChunk) {
        const int count = static_cast<int>(smaller(kChunk, entries - at));
        if (merged_) {
          for (int e = 0; e < count; ++e) {
            const Index tap = (at + e) / cn_, channel = (at + e) % cn_;
            if (e == 0 || channel == 0)
              lanes = Lanes::of_sources(job_.plan, tile, tap, job_.sources);
            load_lanes(lanes, source + channel * job_.sources.channel, 0, 1,
                       staging + e * kTileLanes);
          }
        } else if (!job_.channels_last) {
          T* to = Kernel::kRightAsStaged ? right_entry(panel, u, at) : staging;
          load_lanes(lanes, source + at * job_.sources.channel, job_.sources.channel, count, to);
          if (Kernel::kRightAsStaged) continue;
        } else {
          load_pixels(lanes, source + at, count, staging);
        }
        if (!job_.channels_last) {
          Kernel::pack_right(staging, count, at, thread, panel + u * Kernel::right_bytes(depth));
          continue;
        }
        if (merged_) transpose(staging);
        for (Index p = 0; p < pixels.count; ++p) {
          Kernel::pack_left(staging + pixels.begin(p) * kChunk, static_cast<int>(pixels.size(p)),
                            count, at, thread, panel + (p * used + u) * Kernel::left_bytes(depth));
        }
      }
    }
  }

  T* right_entry(unsigned char* panel, Index unit, Index entry) const {
    panel += unit * Kernel::right_bytes(depth_of(cn_));
    return reinterpret_cast<T*>(panel) + entry * kTileLanes;
  }

  // staging[lane][e] = channel e of the lane's pixel, of a channels-last map.
  void load_pixels(const Lanes& lanes, const T* from, int count, T* staging) const {
    for (int i = 0; i < kTileLanes * kChunk; ++i) staging[i] = 0;
    lanes.visit([&](int lane, Index offset) {
      for (int e = 0; e < count; ++e) staging[lane * kChunk + e] = from[offset + e];
    });
  }

  // ---- results: y starts as, or gains, this block's sums; the last block adds bias and ReLU

  void emit_planar(const Lanes& targets, Index filter, int filters, const T* result, bool first,
                   bool last) const {
    const Index channel = group_ * job_.target_channels + filter;
    T* y = job_.target + channel * job_.targets.channel;
    const T* bias = last && job_.bias ? job_.bias + channel : nullptr;
    store_lanes(targets, result, filters, y, job_.targets.channel, !first, bias, last && job_.relu);
  }

  void emit_channels_last(const Lanes& targets, int first_lane, int rows, Index filter, int filters,
                          const T* result, bool first, bool last) const {
    const Index channel = group_ * job_.target_channels + filter;
    const T* bias = last && job_.bias ? job_.bias + channel : nullptr;
    store_channels(targets, first_lane, rows, filters, result,
                   job_.target + channel * job_.targets.channel, !first, bias, last && job_.relu);
  }

  static constexpr int kMostRuns = 64;
  static constexpr Index kBlockChannels = 64;

  const ForwardJob<T>& job_;
  bool merged_;
  Index units_;
  Index filters_, channels_;  // of a block
  unsigned char* packed_ = nullptr;
  unsigned char* workspaces_ = nullptr;
  Index group_ = 0, k0_ = 0, kn_ = 0, c0_ = 0, cn_ = 0;
  bool suits_ = true;
};

// Left panels are x, rows its channels, right panels grad_y, columns its filters; the depth runs
// over pixels, of which a tap leaves out the tiles where it reads nothing.
template <typename Kernel>
class GradWeight {
  using T = typename Kernel::Element;
  using Thread = typename Kernel::Thread;

 public:
  explicit GradWeight(const GradWeightJob<T>& job) : job_(job) {
    const Index one = kRangeTiles * Kernel::right_bytes(kTileLanes);
    filters_ =
        smaller(round_up(job.out_channels, kTileLanes), larger(1, job.memory / one) * kTileLanes);
  }

  bool run() {
    const AlignedBytes packed(filters_ / kTileLanes * kRangeTiles *
                              Kernel::right_bytes(kTileLanes));
    packed_ = packed.get();
    const AlignedBytes workspaces(shares() * workspace_bytes());
    workspaces_ = workspaces.get();
    for (group_ = 0; group_ < job_.groups; ++group_) {
      for (k0_ = 0; k0_ < job_.out_channels; k0_ += filters_) {
        kn_ = smaller(filters_, job_.out_channels - k0_);
        for (tile0_ = 0; tile0_ < job_.plan.tile_count; tile0_ += kRangeTiles) {
          tiles_ = smaller(kRangeTiles, job_.plan.tile_count - tile0_);
          if (!block()) return false;
        }
      }
    }
    return true;
  }

 private:
  static constexpr Index kRangeTiles = 24;

  Groups channel_groups() const {
    return Groups(job_.in_channels, Kernel::kRows, Kernel::kBalanced);
  }
  Index items() const { return channel_groups().count * job_.plan.taps; }
  Index shares() const { return larger(1, smaller(job_.parallel.threads, items())); }
  static Index workspace_bytes() {
    return round_up(kRangeTiles * Kernel::left_bytes(kTileLanes), 4096);
  }

  bool block() {
    suits_ = true;
    const Groups filters(kn_, kTileLanes, false);
    each(job_.parallel, filters.count * tiles_, [&](Index i) {
      Thread thread;
      pack_gradients(i / tiles_, static_cast<int>(filters.size(i / tiles_)), i % tiles_, thread);
      note(thread);
    });
    const Index share_count = shares(), item_count = items();
    each(job_.parallel, share_count, [&](Index share) {
      Thread thread;
      const Index end = item_count * (share + 1) / share_count;
      for (Index i = item_count * share / share_count; i < end; ++i) {
        multiply(i / job_.plan.taps, i % job_.plan.taps, filters, thread,
                 workspaces_ + share * workspace_bytes());
      }
      note(thread);
    });
    return suits_;
  }

  void note(const Thread& thread) {
    if (!thread.suits()) __atomic_store_n(&suits_, false, __ATOMIC_RELAXED);
  }

  unsigned char* gradient_panel(Index group, Index tile) const {
    return packed_ + (group * kRangeTiles + tile) * Kernel::right_bytes(kTileLanes);
  }

  void pack_gradients(Index g, int filters, Index tile, Thread& thread) {
    alignas(64) T staging[kTileLanes * kTileLanes] = {};
    const Lanes targets =
        Lanes::of_targets(job_.plan, job_.plan.tiles[tile0_ + tile], job_.outputs);
    const Index channel = group_ * job_.out_channels + k0_ + g * kTileLanes;
    load_lanes(targets, job_.grad_y + channel * job_.outputs.channel, job_.outputs.channel, filters,
               staging);
    transpose(staging);
    Kernel::pack_right(staging, kTileLanes, 0, thread, gradient_panel(g, tile));
  }

  void multiply(Index channel_group, Index tap, const Groups& filters, Thread& thread,
                unsigned char* panel) {
    const Groups channels = channel_groups();
    const Index c0 = channels.begin(channel_group);
    const int rows = static_cast<int>(channels.size(channel_group));
    const T* x = job_.x + (group_ * job_.in_channels + c0) * job_.inputs.channel;
    alignas(64) T staging[Kernel::kRows * kChunk > kTileLanes * kChunk ? Kernel::kRows * kChunk
                                                                       : kTileLanes * kChunk];
    alignas(64) T result[Kernel::kRows * kTileLanes];
    Index used[kRangeTiles];
    int count = 0;
    for (Index t = 0; t < tiles_; ++t) {
      const Lanes lanes =
          Lanes::of_sources(job_.plan, job_.plan.tiles[tile0_ + t], tap, job_.inputs);
      if (lanes.begin[kTileLanes / kPieceLanes] == 0) continue;
      load_lanes(lanes, x, job_.inputs.channel, rows, staging);
      Kernel::pack_left(staging, rows, kTileLanes, 0, thread,
                        panel + count * Kernel::left_bytes(kTileLanes));
      used[count++] = t;
    }
    Run runs[kRangeTiles];
    for (Index g = 0; g < filters.count; ++g) {
      for (int i = 0; i < count; ++i) {
        runs[i] = {panel + i * Kernel::left_bytes(kTileLanes), gradient_panel(g, used[i]),
                   kTileLanes};
      }
      const int columns = static_cast<int>(filters.size(g));
      Kernel::multiply(runs, count, rows, columns, thread, result);
      emit(k0_ + g * kTileLanes, columns, c0, rows, tap, result);
    }
  }

  void emit(Index k, int filters, Index c, int channels, Index tap, const T* result) const {
    const Index taps = job_.plan.taps, per_filter = job_.in_channels * taps;
    T* to = job_.grad_weight + (group_ * job_.out_channels + k) * per_filter + c * taps + tap;
    for (int i = 0; i < filters; ++i) {
      for (int j = 0; j < channels; ++j) {
        T& sum = to[i * per_filter + j * taps];
        sum = tile0_ == 0 ? result[j * kTileLanes + i] : sum + result[j * kTileLanes + i];
      }
    }
  }

  const GradWeightJob<T>& job_;
  Index filters_;  // of a block, a multiple of kTileLanes
  unsigned char* packed_ = nullptr;
  unsigned char* workspaces_ = nullptr;
  Index group_ = 0, k0_ = 0, kn_ = 0, tile0_ = 0, tiles_ = 0;
  bool suits_ = true;
};
