// 1x1 filters (pointwise) over maps whose channels are last: one matrix product. Included by
// kernels_*.cpp behind product.h, inside their unnamed namespace.
//
// The filters are packed in panels of kTileLanes, once. Then each thread takes a block of pixels,
// lays them down in chunks of channels, so that no two of a product's rows fall upon the same lines
// of the cache, and multiplies them by one panel after the other: the block stays in the
// second-level cache and the part of a panel that it meets in the first.

template <typename T, int kLanes, int kMostRows, int kVectors>
class Pointwise {
  // Channels. Sums of more products would lose digits, and this much of a panel stays in the
  // first-level cache.
  static constexpr int kChunk = 128;
  using Rows = Product<T, kLanes, kMostRows, kVectors, kChunk>;

 public:
  explicit Pointwise(const PointwiseJob<T>& job)
      : job_(job),
        pixels_(job.images * job.height * job.width),
        chunks_(ceil_div(job.source_channels, kChunk)),
        panels_(ceil_div(job.target_channels, kTileLanes)),
        groups_(ceil_div(pixels_, kMostRows)) {
    const Index pixel_bytes = chunks_ * kChunk * static_cast<Index>(sizeof(T));
    const Index most = larger(1, smaller(kBlockPixels, kBlockBytes / pixel_bytes) / kMostRows);
    // As many blocks for each thread, which share the groups of rows evenly; none is empty.
    blocks_ = smaller(groups_, round_up(ceil_div(groups_, most), job.parallel.threads));
    block_pixels_ = ceil_div(groups_, blocks_) * kMostRows;
  }

  // ---- as run_in_team asks

  Index shared_bytes() const { return panels_ * panel_elements() * sizeof(T); }
  Index member_bytes() const { return block_pixels_ * (chunks_ * kChunk + kTileLanes) * sizeof(T); }
  Index count() const { return pixels_ * job_.source_channels * job_.target_channels; }

  void run(Member& member) {
    T* const panels = reinterpret_cast<T*>(member.shared);
    T* const sums = reinterpret_cast<T*>(member.own);
    T* const rows = sums + block_pixels_ * kTileLanes;
    member.each(panels_ * chunks_, [&](Index i) {
      pack_filters(i / chunks_, i % chunks_ * kChunk, panels + i / chunks_ * panel_elements());
    });
    member.each(blocks_, [&](Index i) {
      const Index first = block_begin(i), count = block_begin(i + 1) - first;
      pack_pixels(first, count, rows);
      Ahead ahead = next_block(i, ceil_div(count, kMostRows));
      for (Index p = 0; p < panels_; ++p) {
        multiply(rows, first, count, p * kTileLanes, panels + p * panel_elements(), sums, ahead);
      }
    });
  }

 private:
  Index panel_elements() const { return job_.source_channels * kTileLanes; }

  Index block_begin(Index i) const { return smaller(pixels_, groups_ * i / blocks_ * kMostRows); }

  // Lines of the source that the next block will read, some of which are asked for at each product.
  struct Ahead {
    const T *at, *end;
    Index lines;

    void ask() {
      for (Index i = 0; i < lines && at < end; ++i, at += kLineElements) {
        __builtin_prefetch(at, 0, 2);
      }
    }
  };

  Ahead next_block(Index i, Index groups) const {
    const T* const at = job_.source + block_begin(i + 1) * job_.source_channels;
    // Where the source's pixels do not follow each other, they are left to the processor.
    const bool in_line = job_.source_column == job_.source_channels &&
                         job_.source_row == job_.width * job_.source_channels;
    const Index pixels = in_line && i + 1 < blocks_ ? block_begin(i + 2) - block_begin(i + 1) : 0;
    const Index elements = pixels * job_.source_channels;
    return {at, at + elements, ceil_div(elements / kLineElements, panels_ * chunks_ * groups)};
  }

  // [channel][kTileLanes], a chunk of channels from c0 on.
  void pack_filters(Index p, Index c0, T* panel) const {
    const Index k0 = p * kTileLanes, filters = smaller(kTileLanes, job_.target_channels - k0);
    const int channels = static_cast<int>(smaller(kChunk, job_.source_channels - c0));
    const T* const from = job_.weight + k0 * job_.weight_target + c0 * job_.weight_source;
    T* const to = panel + c0 * kTileLanes;
    if (job_.weight_target == 1) {
      for (Index c = 0; c < channels; ++c) {
        const T* const row = from + c * job_.weight_source;
        for (Index k = 0; k < kTileLanes; ++k) to[c * kTileLanes + k] = k < filters ? row[k] : 0;
      }
      return;
    }
    if (job_.weight_source == 1 && filters == kTileLanes) {
      transpose_map<T, kLanes>(from, job_.weight_target, kTileLanes, channels, to, kTileLanes);
      return;
    }
    alignas(64) T staging[kTileLanes * kChunk] = {};
    for (Index k = 0; k < filters; ++k) {
      load_strided(from + k * job_.weight_target, job_.weight_source, channels,
                   staging + k * kChunk);
    }
    transpose_map<T, kLanes>(staging, kChunk, kTileLanes, channels, to, kTileLanes);
  }

  // [chunk][pixel][kChunk]
  void pack_pixels(Index first, Index count, T* rows) const {
    for (Index i = 0; i < count; ++i) {
      const Index pixel = first + i, column = pixel % job_.width, line = pixel / job_.width;
      const T* const from = job_.source + line / job_.height * job_.source_image +
                            line % job_.height * job_.source_row + column * job_.source_column;
      for (Index c = 0; c < job_.source_channels; c += kChunk) {
        T* const to = rows + (c / kChunk * count + i) * kChunk;
        if (job_.source_channels - c >= kChunk) {
          for (int l = 0; l < kChunk; ++l) to[l] = from[c + l];
        } else {
          for (Index l = 0; l < job_.source_channels - c; ++l) to[l] = from[c + l];
        }
      }
    }
  }

  // Filters from k0 on, whose panel is given, of a block of pixels. sums: [pixel][kTileLanes].
  void multiply(const T* rows, Index first, Index count, Index k0, const T* panel, T* sums,
                Ahead& ahead) const {
    const Index groups = ceil_div(count, kMostRows);
    const int filters = static_cast<int>(smaller(kTileLanes, job_.target_channels - k0));
    for (Index c0 = 0; c0 < job_.source_channels; c0 += kChunk) {
      const Index depth = smaller(kChunk, job_.source_channels - c0);
      const bool last = c0 + depth == job_.source_channels;
      const T* const next = panel + (c0 + depth) * kTileLanes;
      const Index lines = depth * kTileLanes / kLineElements;
      for (Index g = 0; g < groups; ++g) {
        const Index at = count * g / groups, end = count * (g + 1) / groups;
        for (Index i = lines * g / groups; i < lines * (g + 1) / groups; ++i) {
          __builtin_prefetch(next + i * kLineElements, 0, 2);
        }
        ahead.ask();
        const typename Rows::Run run = {rows + (c0 / kChunk * count + at) * kChunk,
                                        panel + c0 * kTileLanes, depth};
        Rows::multiply(&run, 1, static_cast<int>(end - at), filters, sums + at * kTileLanes,
                       kTileLanes, c0 > 0);
        if (last) store(sums + at * kTileLanes, first + at, end - at, k0, filters);
      }
    }
  }

  void store(const T* sums, Index first, Index count, Index k0, int filters) const {
    const T* const bias = job_.bias ? job_.bias + k0 : nullptr;
    T* to = job_.target + first * job_.target_channels + k0;
    for (Index i = 0; i < count; ++i, sums += kTileLanes, to += job_.target_channels) {
      store_pixel(sums, bias, filters, job_.relu, to);
    }
  }

  static constexpr Index kLineElements = 64 / sizeof(T);
  static constexpr Index kBlockBytes = 3 << 17, kBlockPixels = 112;

  const PointwiseJob<T>& job_;
  const Index pixels_, chunks_, panels_;
  const Index groups_;  // of pixels that are multiplied at a time
  Index blocks_, block_pixels_;
};

template <typename T, int kLanes, int kMostRows, int kVectors>
void pointwise_forward(const PointwiseJob<T>& job) {
  run_in_team<Pointwise<T, kLanes, kMostRows, kVectors>>(job);
}

template <int kBytes, int kRows, int kVectors>
constexpr PointwiseKernels pointwise_kernels() {
  return {pointwise_forward<float, kBytes / 4, kRows, kVectors>,
          pointwise_forward<double, kBytes / 8, kRows, kVectors>};
}
