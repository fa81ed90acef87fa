// Minimal filtering: transform pixels and filters, one matrix product for each transformed filter,
// transform back. Included by kernels_*.cpp behind engine.h, inside their unnamed namespace.
//
// A transformed pixel is one column of such a product, of all channels; kDepth channels lie side by
// side, so that sums and differences of pixels are those of whole vectors, and the products read
// them where they were written. Filters lie in panels of kTileLanes, of which a few at a time are
// multiplied and transformed back: they and their products stay in the caches.

constexpr int kDepth = 64;

#include "winograd_transforms.h"
// In this order.
#include "winograd_filters.h"

template <typename T, int kLanes, int kMostRows, int kVectors>
class WinogradForward {
  using W = Wide<T, kLanes>;
  using Vector = typename W::Vector;

 public:
  explicit WinogradForward(const WinogradJob<T>& job) : job_(job), filters_(job) {
    if (!job.channels_last) {
      job_.sources = {job.height * job.width * job.source_channels, 1, job.source_channels};
      job_.targets = {job.out_height * job.out_width * job.target_channels, 1, job.target_channels};
    }
    chunks_ = ceil_div(job.source_channels, kDepth);
    panels_ = filters_.panels();
    for (Index r = 0; r < job.row_block_count; ++r) {
      for (Index c = 0; c < job.column_block_count; ++c) {
        most_columns_ = larger(most_columns_, block(r, c, 0, job.images_together).total);
      }
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
    const Index elements = filter_elements() + source_copy_elements() + target_copy_elements() +
                           pixel_elements() + product_elements();
    return (elements + 5 * 16) * static_cast<Index>(sizeof(T));
  }
  Index member_bytes() const { return 0; }
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
    T* const source_copy = take(source_copy_elements());
    T* const target_copy = take(target_copy_elements());
    pixels_ = take(pixel_elements());
    products_ = take(product_elements());
    if (!job_.filters) filters_.run(member, own_filters);
    packed_ = job_.filters ? job_.filters : own_filters;
    for (group_ = 0; group_ < job_.groups; ++group_) {
      source_ = job_.source + group_ * job_.source_channels;
      target_ = job_.target + group_ * job_.target_channels;
      if (!job_.channels_last) {
        copy_source(member, source_copy);
        source_ = source_copy;
        target_ = target_copy;
      }
      for (Index image = 0; image < job_.images; image += job_.images_together) {
        const Index images = smaller(job_.images_together, job_.images - image);
        for (Index r = 0; r < job_.row_block_count; ++r) {
          for (Index c = 0; c < job_.column_block_count; ++c) {
            run_block(member, block(r, c, image, images));
          }
        }
      }
      if (!job_.channels_last) copy_target(member, target_copy);
    }
  }

 private:
  // Pieces of some images: rows of them and columns.
  struct Block {
    const WinogradBlock* rows;
    const WinogradBlock* columns;
    Index first_image, images;
    // Of the products' columns, those of filters before.
    Index begin[kAxisFilterCount][kAxisFilterCount];
    Index total;
    Index most;  // of one filter

    Index count(int i, int j) const { return images * rows->columns[i] * columns->columns[j]; }
    Index piece_rows() const { return rows->end - rows->begin; }
  };

  Block block(Index r, Index c, Index first_image, Index images) const {
    Block b;
    b.rows = job_.row_blocks + r;
    b.columns = job_.column_blocks + c;
    b.first_image = first_image;
    b.images = images;
    b.total = b.most = 0;
    for (int i = 0; i < kAxisFilterCount; ++i) {
      for (int j = 0; j < kAxisFilterCount; ++j) {
        b.begin[i][j] = b.total;
        b.total += b.count(i, j);
        b.most = larger(b.most, b.count(i, j));
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
  Index source_copy_elements() const {
    return job_.channels_last ? 0 : job_.images * job_.sources.image;
  }
  Index target_copy_elements() const {
    return job_.channels_last ? 0 : job_.images * job_.targets.image;
  }

  // Column (row, column) among the products of filters i and j.
  Index column_of(const Block& b, Index image, int i, int j, Index row, Index column) const {
    return (image * b.rows->columns[i] + row) * b.columns->columns[j] + column;
  }

  // ---- a block, in phases

  void run_block(Member& member, const Block& b) {
    const Index rows = b.piece_rows();
    member.each(b.images * rows * chunks_, [&](Index i) {
      const Index chunk = i % chunks_, row = i / chunks_;
      transform(b, row / rows, b.rows->begin + row % rows, chunk);
    });
    const Index parts = ceil_div(b.most, part_columns_);
    for (Index p0 = 0; p0 < panels_; p0 += together_) {
      const Index panels = smaller(together_, panels_ - p0);
      member.each(filters_.size() * parts,
                  [&](Index i) { multiply(b, i / parts, i % parts, p0, panels); });
      member.each(b.images * rows, [&](Index i) {
        transform_back(b, i / rows, b.rows->begin + i % rows, p0, panels);
      });
    }
  }

  // One row of pieces of an image, one chunk of channels.
  void transform(const Block& b, Index image, Index row, Index chunk) const {
    constexpr int kInputs = WinogradForm::kInputs, kProducts = WinogradForm::kProducts;
    alignas(64) static const T zeros[kDepth] = {};
    alignas(64) T staged[kInputs * kInputs][kDepth], half[kInputs * kProducts][kDepth];
    T* halves[kInputs * kProducts];
    for (int i = 0; i < kInputs * kProducts; ++i) halves[i] = half[i];
    const WinogradPiece& pr = job_.row_pieces[row];
    const WinogradForm& down = kWinogradForms[pr.form];
    const Index c0 = chunk * kDepth;
    const int channels = static_cast<int>(smaller(kDepth, job_.source_channels - c0));
    const T* const map = source_ + (b.first_image + image) * job_.sources.image + c0;
    for (Index column = b.columns->begin; column < b.columns->end; ++column) {
      const WinogradPiece& pc = job_.column_pieces[column];
      const WinogradForm& across = kWinogradForms[pc.form];
      for (int e = 0; e < down.inputs; ++e) {
        const Index y = pr.source + e * job_.row_rate;
        const T* from[kInputs];
        for (int f = 0; f < across.inputs; ++f) {
          const Index x = pc.source + f * job_.column_rate;
          from[f] = zeros;
          if (y < 0 || y >= job_.height || x < 0 || x >= job_.width) continue;
          from[f] = map + (y * job_.width + x) * job_.sources.pixel;
          if (channels == kDepth) continue;
          T* const to = staged[e * kInputs + f];
          for (int l = 0; l < kDepth; ++l) to[l] = l < channels ? from[f][l] : 0;
          from[f] = to;
        }
        transforms_.inputs[pc.form](from, halves + e * kProducts, kDepth);
      }
      for (int v = 0; v < across.products; ++v) {
        T* to[kProducts];
        for (int u = 0; u < down.products; ++u) {
          const int i = down.filter[u], j = across.filter[v];
          const Index at = column_of(b, image, i, j, pr.column[u], pc.column[v]);
          to[u] = pixels_ + (b.begin[i][j] * chunks_ + chunk * b.count(i, j) + at) * kDepth;
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
    const Index n = b.count(pair.row, pair.column), begin = b.begin[pair.row][pair.column];
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
          const Product product = {left + (c0 / kDepth * n + at) * kDepth,
                                   n * kDepth,
                                   right + c0 * kTileLanes,
                                   depth,
                                   to + at * step,
                                   step,
                                   c0 > 0};
          const Index lines = depth * kTileLanes * static_cast<Index>(sizeof(T)) / 64;
          for (Index i = lines * g / groups; i < lines * (g + 1) / groups; ++i) {
            __builtin_prefetch(
                product.right + depth * kTileLanes + i * (64 / static_cast<Index>(sizeof(T))), 0,
                2);
          }
          multiply_rows<kMostRows>(static_cast<int>(rows), filters, product);
        }
      }
    }
  }

  // One row of pieces of an image, `panels` panels of filters from p0 on.
  void transform_back(const Block& b, Index image, Index row, Index p0, Index panels) const {
    const WinogradPiece& pr = job_.row_pieces[row];
    const Index k0 = p0 * kTileLanes;
    const Index filters = smaller(panels * kTileLanes, job_.target_channels - k0);
    T* const map = target_ + (b.first_image + image) * job_.targets.image + k0;
    for (Index column = b.columns->begin; column < b.columns->end; ++column) {
      const WinogradPiece& pc = job_.column_pieces[column];
      for (Index k = 0; k < filters; k += kBackLanes) {
        const int lanes = static_cast<int>(smaller(kBackLanes, filters - k));
        piece_back(b, image, pr, pc, k0 + k, k, lanes, map + k);
      }
    }
  }

  // `lanes` filters of a piece: those from k0 on, whose products lie from `at` on.
  void piece_back(const Block& b, Index image, const WinogradPiece& pr, const WinogradPiece& pc,
                  Index k0, Index at, int lanes, T* map) const {
    constexpr int kProducts = WinogradForm::kProducts, kOutputs = WinogradForm::kOutputs;
    alignas(64) T half[kProducts * kOutputs][kBackLanes], whole[kOutputs * kOutputs][kBackLanes];
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
    for (int e = 0; e < down.outputs; ++e) {
      const Index y = pr.target + e * job_.row_rate;
      for (int f = 0; f < across.outputs; ++f) {
        const Index x = pc.target + f * job_.column_rate;
        if (y >= job_.out_height || x >= job_.out_width) continue;
        finish(whole[e * kOutputs + f], bias, lanes,
               map + (y * job_.out_width + x) * job_.targets.pixel);
      }
    }
  }

  // y = act(sums + bias)
  void finish(const T* sums, const T* bias, int lanes, T* y) const {
    const bool relu = job_.relu;
    for (int k = 0; k < lanes; ++k) {
      const T value = bias ? sums[k] + bias[k] : sums[k];
      y[k] = relu && value < 0 ? 0 : value;  // not a maximum: NaN stays NaN
    }
  }

  // ---- products

  // Rows of pixels, `depth` numbers of each, in chunks chunk_step apart, times a panel.
  struct Product {
    const T* left;
    Index chunk_step;
    const T* right;
    Index depth;
    T* to;
    Index to_step;
    bool add;  // to what is there
  };

  template <int kCandidate>
  static void multiply_rows(int rows, int filters, const Product& product) {
    if constexpr (kCandidate > 0) {
      if (rows < kCandidate) return multiply_rows<kCandidate - 1>(rows, filters, product);
      constexpr int kColumns = kLanes * kVectors;
      for (int first = 0; first < filters; first += kColumns) {
        Product part = product;
        part.right += first;
        part.to += first;
        if (filters - first <= kLanes) {
          multiply_block<kCandidate, 1>(part);
        } else {
          multiply_block<kCandidate, kVectors>(part);
        }
      }
    }
  }

  // Every loop over the accumulators is unrolled, or the compiler keeps them in memory.
  template <int kR, int kV>
  static void multiply_block(const Product& product) {
    const T *left = product.left, *right = product.right;
    Vector sums[kR][kV];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) sums[r][v] = Vector{};
    }
    for (Index rest = product.depth; rest > 0; rest -= kDepth, left += product.chunk_step) {
      const int depth = static_cast<int>(smaller(kDepth, rest));
      for (int d = 0; d < depth; ++d, right += kTileLanes) {
        Vector x[kV];
#pragma GCC unroll 4
        for (int v = 0; v < kV; ++v) {
          x[v] = W::load(right + v * kLanes);
        }
        // The next pixels follow these.
        __builtin_prefetch(left + kR * kDepth + d * (64 / sizeof(T)));
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r) {
          const T factor = left[r * kDepth + d];
#pragma GCC unroll 4
          for (int v = 0; v < kV; ++v) sums[r][v] += x[v] * factor;
        }
      }
    }
    T* to = product.to;
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r, to += product.to_step) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) {
        W::store(to + v * kLanes, product.add ? W::load(to + v * kLanes) + sums[r][v] : sums[r][v]);
      }
    }
  }

  // ---- maps whose channels are not last

  void copy_source(Member& member, T* copy) const {
    const Index pixels = job_.height * job_.width, channels = job_.source_channels;
    const Index parts = ceil_div(pixels, kPixelsTogether);
    member.each(job_.images * parts, [&](Index i) {
      const Index image = i / parts, first = i % parts * kPixelsTogether;
      const T* from = job_.source + (image * job_.groups + group_) * channels * pixels + first;
      T* to = copy + (image * pixels + first) * channels;
      transpose_map<T, kLanes>(from, pixels, channels, smaller(kPixelsTogether, pixels - first), to,
                               channels);
    });
  }

  void copy_target(Member& member, const T* copy) const {
    const Index pixels = job_.out_height * job_.out_width, channels = job_.target_channels;
    const Index parts = ceil_div(pixels, kPixelsTogether);
    member.each(job_.images * parts, [&](Index i) {
      const Index image = i / parts, first = i % parts * kPixelsTogether;
      const T* from = copy + (image * pixels + first) * channels;
      T* to = job_.target + (image * job_.groups + group_) * channels * pixels + first;
      transpose_map<T, kLanes>(from, channels, smaller(kPixelsTogether, pixels - first), channels,
                               to, pixels);
    });
  }

  // Sums of more products would lose digits, and a panel of fewer stays in the first-level cache.
  static constexpr Index kSumDepth = 2 * kDepth;
  static constexpr int kRowsAhead = 16;  // from the second-level cache
  static constexpr Index kPixelsTogether = 64;
  static constexpr Index kPartBytes = 1 << 19;
  static constexpr int kBackLanes = 64;  // filters

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
