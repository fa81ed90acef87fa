// Minimal filtering: transform pixels and filters, one matrix product for each transformed filter,
// transform back. Included by kernels_*.cpp behind engine.h, inside their unnamed namespace.
//
// A transformed pixel is one column of such a product, of all channels; kDepth channels lie side by
// side, so that sums and differences of pixels are those of whole vectors, and the products read
// them where they were written. Filters lie in panels of kTileLanes, of which a few at a time are
// multiplied and transformed back: they and their products stay in the caches. Maps whose channels
// are not last are turned as they are read and written, a row of pieces at a time.

constexpr int kDepth = 64;

#include "winograd_transforms.h"
// In this order.
#include "winograd_filters.h"

template <typename T, int kLanes, int kMostRows, int kVectors>
class WinogradForward {
  using Rows = Product<T, kLanes, kMostRows, kVectors, kDepth>;

 public:
  explicit WinogradForward(const WinogradJob<T>& job) : job_(job), filters_(job) {
    chunks_ = ceil_div(job.source_channels, kDepth);
    panels_ = filters_.panels();
    for (Index r = 0; r < job.row_block_count; ++r) {
      most_columns_ = larger(most_columns_, block(r, 0, job.images_together).total);
    }
    // Its transformed pixels stay in the second-level cache while a few panels pass them.
    const Index column_bytes = chunks_ * kDepth * static_cast<Index>(sizeof(T));
    part_columns_ = larger(8, kPartBytes / larger(1, column_bytes) / kMostRows) * kMostRows;
    const Index panel = most_columns_ * kTileLanes + filters_.size() * filters_.panel_elements();
    const Index most = larger(1, job.memory / (panel * static_cast<Index>(sizeof(T))));
    together_ = ceil_div(panels_, ceil_div(panels_, most));
  }

  // ---- as run_in_team asks

  Index shared_bytes() const {
    const Index elements = filter_elements() + pixel_elements() + product_elements();
    return (elements + 3 * 16) * static_cast<Index>(sizeof(T));
  }
  Index member_bytes() const {
    if (job_.channels_last) return 0;
    return larger(WinogradForm::kInputs * job_.width, WinogradForm::kOutputs * job_.out_width) *
           kDepth * static_cast<Index>(sizeof(T));
  }
  Index count() const {
    return job_.images * job_.groups * most_columns_ * job_.source_channels * job_.target_channels;
  }

  void run(Member& member) {
    T* at = reinterpret_cast<T*>(member.shared);
    const auto take = [&](Index elements) {
      T* const taken = at;
      at += round_up(elements, 16);
      return taken;
    };
    T* const own_filters = take(filter_elements());
    pixels_ = take(pixel_elements());
    products_ = take(product_elements());
    if (!job_.filters) filters_.run(member, own_filters);
    packed_ = job_.filters ? job_.filters : own_filters;
    for (group_ = 0; group_ < job_.groups; ++group_) {
      source_ = job_.source + group_ * job_.source_channels * job_.sources.channel;
      target_ = job_.target + group_ * job_.target_channels * job_.targets.channel;
      for (Index image = 0; image < job_.images; image += job_.images_together) {
        const Index images = smaller(job_.images_together, job_.images - image);
        for (Index r = 0; r < job_.row_block_count; ++r) run_block(member, block(r, image, images));
      }
    }
  }

 private:
  // Rows of pieces of some images.
  struct Block {
    const WinogradBlock* rows;
    Index first_image, images;
    // Of the products' columns, those of filters before.
    Index begin[kAxisFilterCount][kAxisFilterCount];
    Index total;
    Index most;  // of one filter

    Index count[kAxisFilterCount][kAxisFilterCount];
    Index piece_rows() const { return rows->end - rows->begin; }
  };

  Block block(Index r, Index first_image, Index images) const {
    Block b;
    b.rows = job_.row_blocks + r;
    b.first_image = first_image;
    b.images = images;
    b.total = b.most = 0;
    for (int i = 0; i < kAxisFilterCount; ++i) {
      for (int j = 0; j < kAxisFilterCount; ++j) {
        b.begin[i][j] = b.total;
        b.count[i][j] = images * b.rows->columns[i] * job_.columns->columns[j];
        b.total += b.count[i][j];
        b.most = larger(b.most, b.count[i][j]);
      }
    }
    return b;
  }

  // ---- memory, in elements

  Index filter_elements() const {
    return job_.filters ? 0 : job_.groups * filters_.group_elements();
  }
  Index pixel_elements() const { return most_columns_ * chunks_ * kDepth; }
  Index product_elements() const { return most_columns_ * together_ * kTileLanes; }
  // Column (row, column) among the products of filters i and j.
  Index column_of(const Block& b, Index image, int i, int j, Index row, Index column) const {
    return (image * b.rows->columns[i] + row) * job_.columns->columns[j] + column;
  }

  // ---- a block, in phases

  void run_block(Member& member, const Block& b) {
    const Index rows = b.piece_rows();
    T* const own = reinterpret_cast<T*>(member.own);
    member.each(b.images * rows * chunks_, [&](Index i) {
      const Index chunk = i % chunks_, row = i / chunks_;
      transform(b, row / rows, b.rows->begin + row % rows, chunk, own);
    });
    const Index parts = ceil_div(b.most, part_columns_);
    for (Index p0 = 0; p0 < panels_; p0 += together_) {
      const Index panels = smaller(together_, panels_ - p0);
      member.each(filters_.size() * parts,
                  [&](Index i) { multiply(b, i / parts, i % parts, p0, panels); });
      member.each(b.images * rows, [&](Index i) {
        transform_back(b, i / rows, b.rows->begin + i % rows, p0, panels, own);
      });
    }
  }

  // One row of pieces of an image, one chunk of channels. turned: room for its rows of the map.
  void transform(const Block& b, Index image, Index row, Index chunk, T* turned) const {
    constexpr int kInputs = WinogradForm::kInputs, kProducts = WinogradForm::kProducts;
    alignas(64) static const T zeros[kDepth] = {};
    alignas(64) T staged[kInputs][kDepth], half[kInputs * kProducts][kDepth];
    T* halves[kInputs * kProducts];
    for (int i = 0; i < kInputs * kProducts; ++i) halves[i] = half[i];
    const WinogradPiece& pr = job_.row_pieces[row];
    const WinogradForm& down = kWinogradForms[pr.form];
    const Index c0 = chunk * kDepth;
    const int channels = static_cast<int>(smaller(kDepth, job_.source_channels - c0));
    // Of each input row: its pixels, or null beyond the map.
    const T* lines[kInputs];
    const Index step = job_.channels_last ? job_.sources.pixel : kDepth;
    for (int e = 0; e < down.inputs; ++e) {
      const Index y = pr.source + e * job_.row_rate;
      const T* const from = source_ + (b.first_image + image) * job_.sources.image +
                            y * job_.width * job_.sources.pixel + c0 * job_.sources.channel;
      lines[e] = y < 0 || y >= job_.height ? nullptr : from;
      if (!lines[e] || job_.channels_last) continue;
      T* const to = turned + e * job_.width * kDepth;
      transpose_map<T, kLanes>(from, job_.sources.channel, channels, job_.width, to, kDepth);
      lines[e] = to;
    }
    for (Index column = job_.columns->begin; column < job_.columns->end; ++column) {
      const WinogradPiece& pc = job_.column_pieces[column];
      const WinogradForm& across = kWinogradForms[pc.form];
      for (int e = 0; e < down.inputs; ++e) {
        const T* from[kInputs];
        for (int f = 0; f < across.inputs; ++f) {
          const Index x = pc.source + f * job_.column_rate;
          from[f] = zeros;
          if (!lines[e] || x < 0 || x >= job_.width) continue;
          from[f] = lines[e] + x * step;
          if (channels == kDepth) continue;
          for (int l = 0; l < kDepth; ++l) staged[f][l] = l < channels ? from[f][l] : 0;
          from[f] = staged[f];
        }
        transforms_.inputs[pc.form](from, halves + e * kProducts, kDepth);
      }
      for (int v = 0; v < across.products; ++v) {
        T* to[kProducts];
        for (int u = 0; u < down.products; ++u) {
          const int i = down.filter[u], j = across.filter[v];
          const Index at = column_of(b, image, i, j, pr.column[u], pc.column[v]);
          to[u] = pixels_ + (b.begin[i][j] * chunks_ + chunk * b.count[i][j] + at) * kDepth;
        }
        const T* from[kInputs];
        for (int e = 0; e < down.inputs; ++e) from[e] = half[e * kProducts + v];
        transforms_.inputs[pr.form](from, to, kDepth);
      }
    }
  }

  // Some columns of one filter times some panels from p0 on.
  void multiply(const Block& b, Index f, Index part, Index p0, Index panels) const {
    const auto& pair = filters_[f];
    const Index n = b.count[pair.row][pair.column], begin = b.begin[pair.row][pair.column];
    const Index first = part * part_columns_, last = smaller(n, first + part_columns_);
    if (first >= n) return;
    const T* const left = pixels_ + begin * chunks_ * kDepth;
    const Index step = together_ * kTileLanes;
    const Index groups = ceil_div(last - first, kMostRows);
    for (Index p = 0; p < panels; ++p) {
      const Index k0 = (p0 + p) * kTileLanes;
      const int filters = static_cast<int>(smaller(kTileLanes, job_.target_channels - k0));
      const T* const right = filters_.panel(packed_, group_, f, p0 + p);
      T* const to = products_ + begin * step + p * kTileLanes;
      // At least once: without channels the products are 0.
      for (Index c0 = 0; c0 == 0 || c0 < job_.source_channels; c0 += kSumDepth) {
        const Index depth = smaller(kSumDepth, job_.source_channels - c0);
        for (Index g = 0; g < groups; ++g) {
          const Index at = first + (last - first) * g / groups;
          const Index rows = first + (last - first) * (g + 1) / groups - at;
          typename Rows::Run runs[kSumDepth / kDepth];
          int count = 0;
          for (Index d = 0; d < depth; d += kDepth) {
            runs[count++] = {left + ((c0 + d) / kDepth * n + at) * kDepth,
                             right + (c0 + d) * kTileLanes, smaller(kDepth, depth - d)};
          }
          const Index lines = depth * kTileLanes * static_cast<Index>(sizeof(T)) / 64;
          for (Index i = lines * g / groups; i < lines * (g + 1) / groups; ++i) {
            __builtin_prefetch(
                right + (c0 + depth) * kTileLanes + i * (64 / static_cast<Index>(sizeof(T))), 0, 2);
          }
          Rows::multiply(runs, count, static_cast<int>(rows), filters, to + at * step, step,
                         c0 > 0);
        }
      }
    }
  }

  // One row of pieces of an image, `panels` panels of filters from p0 on. turned: room for some
  // filters of its rows of the map.
  void transform_back(const Block& b, Index image, Index row, Index p0, Index panels,
                      T* turned) const {
    constexpr int kOutputs = WinogradForm::kOutputs;
    const WinogradPiece& pr = job_.row_pieces[row];
    const int height = kWinogradForms[pr.form].outputs;
    const Index filters = smaller(panels * kTileLanes, job_.target_channels - p0 * kTileLanes);
    for (Index k = 0; k < filters; k += kDepth) {
      const int lanes = static_cast<int>(smaller(kDepth, filters - k));
      const Index k0 = p0 * kTileLanes + k;
      T *lines[kOutputs], *planes[kOutputs];  // null beyond the map
      for (int e = 0; e < height; ++e) {
        const Index y = pr.target + e * job_.row_rate;
        planes[e] = target_ + (b.first_image + image) * job_.targets.image +
                    y * job_.out_width * job_.targets.pixel + k0 * job_.targets.channel;
        lines[e] = y >= job_.out_height ? nullptr
                   : job_.channels_last ? planes[e]
                                        : turned + e * job_.out_width * kDepth;
      }
      for (Index column = job_.columns->begin; column < job_.columns->end; ++column) {
        piece_back(b, image, pr, job_.column_pieces[column], k0, k, lanes, lines);
      }
      if (job_.channels_last) continue;
      for (int e = 0; e < height; ++e) {
        if (!lines[e]) continue;
        transpose_map<T, kLanes>(lines[e], kDepth, job_.out_width, lanes, planes[e],
                                 job_.targets.channel);
      }
    }
  }

  // `lanes` filters of a piece: those from k0 on, whose products lie from `at` on.
  void piece_back(const Block& b, Index image, const WinogradPiece& pr, const WinogradPiece& pc,
                  Index k0, Index at, int lanes, T* const* lines) const {
    constexpr int kProducts = WinogradForm::kProducts, kOutputs = WinogradForm::kOutputs;
    alignas(64) T half[kProducts * kOutputs][kDepth], whole[kOutputs * kOutputs][kDepth];
    const WinogradForm &down = kWinogradForms[pr.form], &across = kWinogradForms[pc.form];
    const int vectors = static_cast<int>(round_up(lanes, kLanes));
    const Index step = together_ * kTileLanes;
    for (int u = 0; u < down.products; ++u) {
      const T* from[kProducts];
      for (int v = 0; v < across.products; ++v) {
        const int i = down.filter[u], j = across.filter[v];
        from[v] = products_ + at +
                  (b.begin[i][j] + column_of(b, image, i, j, pr.column[u], pc.column[v])) * step;
      }
      T* to[kOutputs];
      for (int f = 0; f < across.outputs; ++f) to[f] = half[u * kOutputs + f];
      transforms_.outputs[pc.form](from, to, vectors);
    }
    for (int f = 0; f < across.outputs; ++f) {
      const T* from[kProducts];
      for (int u = 0; u < down.products; ++u) from[u] = half[u * kOutputs + f];
      T* to[kOutputs];
      for (int e = 0; e < down.outputs; ++e) to[e] = whole[e * kOutputs + f];
      transforms_.outputs[pr.form](from, to, vectors);
    }
    const T* const bias = job_.bias ? job_.bias + group_ * job_.target_channels + k0 : nullptr;
    const Index apart = job_.channels_last ? job_.targets.pixel : kDepth;
    for (int e = 0; e < down.outputs; ++e) {
      for (int f = 0; f < across.outputs; ++f) {
        const Index x = pc.target + f * job_.column_rate;
        if (!lines[e] || x >= job_.out_width) continue;
        store_pixel(whole[e * kOutputs + f], bias, lanes, job_.relu, lines[e] + x * apart);
      }
    }
  }

  // Sums of more products would lose digits, and a panel of fewer stays in the first-level cache.
  static constexpr Index kSumDepth = 2 * kDepth;
  static constexpr Index kPartBytes = 1 << 19;

  WinogradJob<T> job_;
  FormTransforms<T, kLanes> transforms_;
  WinogradFilters<T, kLanes> filters_;
  Index chunks_, panels_;
  Index together_;      // panels
  Index part_columns_;  // columns of one filter that a thread multiplies at a time
  Index most_columns_ = 0;
  Index group_ = 0;
  const T* source_ = nullptr;
  T* target_ = nullptr;
  const T* packed_ = nullptr;
  T *pixels_ = nullptr, *products_ = nullptr;
};

template <typename T, int kLanes, int kMostRows, int kVectors>
void winograd_forward(const WinogradJob<T>& job) {
  run_in_team<WinogradForward<T, kLanes, kMostRows, kVectors>>(job);
}

template <typename T, int kLanes>
void winograd_filters(const WinogradJob<T>& job) {
  run_in_team<WinogradFilters<T, kLanes>>(job);
}

template <int kBytes, int kRows, int kVectors>
constexpr WinogradKernels winograd_kernels() {
  return {winograd_forward<float, kBytes / 4, kRows, kVectors>,
          winograd_forward<double, kBytes / 8, kRows, kVectors>,
          winograd_filters<float, kBytes / 4>, winograd_filters<double, kBytes / 8>};
}
