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
    for (int f = 0; f < kFormCount; ++f) transforms_[f] = Transform<T>(job.forms[f]);
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
    constexpr int kInputs = WinogradForm::kInputs;
    alignas(64) static const T zeros[kDepth] = {};
    alignas(64) T staged[kInputs * kInputs][kDepth];
    const WinogradPiece& pr = job_.row_pieces[row];
    const Index c0 = chunk * kDepth;
    const int channels = static_cast<int>(smaller(kDepth, job_.source_channels - c0));
    const T* const map = source_ + (b.first_image + image) * job_.sources.image + c0;
    for (Index column = b.columns->begin; column < b.columns->end; ++column) {
      const WinogradPiece& pc = job_.column_pieces[column];
      const Transform<T>&down = transforms_[pr.form], &across = transforms_[pc.form];
      const T* from[kInputs * kInputs];
      for (int e = 0; e < down.inputs; ++e) {
        const Index y = pr.source + e * job_.row_rate;
        for (int f = 0; f < across.inputs; ++f) {
          const Index x = pc.source + f * job_.column_rate;
          const T*& at = from[e * kInputs + f];
          at = zeros;
          if (y < 0 || y >= job_.height || x < 0 || x >= job_.width) continue;
          at = map + (y * job_.width + x) * job_.sources.pixel;
          if (channels == kDepth) continue;
          T* const to = staged[e * kInputs + f];
          for (int l = 0; l < kDepth; ++l) to[l] = l < channels ? at[l] : 0;
          at = to;
        }
      }
      T* to[WinogradForm::kProducts * WinogradForm::kProducts];
      for (int u = 0; u < down.products; ++u) {
        for (int v = 0; v < across.products; ++v) {
          const int i = down.filter[u], j = across.filter[v];
          const Index at = column_of(b, image, i, j, pr.column[u], pc.column[v]);
          to[u * WinogradForm::kProducts + v] =
              pixels_ + (b.begin[i][j] * chunks_ + chunk * b.count(i, j) + at) * kDepth;
        }
      }
      if (pr.form == kPairForm && pc.form == kPairForm) {
        transform_pairs(from, to);
      } else {
        transform_any(down, across, from, to);
      }
    }
  }

  static void transform_pairs(const T* const* from, T* const* to) {
    for (int l = 0; l < kDepth; l += kLanes) {
      Vector x[16], half[16], whole[16];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) x[i] = W::load(from[i] + l);
#pragma GCC unroll 4
      for (int e = 0; e < 4; ++e) pair_of_inputs(x + 4 * e, 1, half + 4 * e);
#pragma GCC unroll 4
      for (int v = 0; v < 4; ++v) pair_of_inputs(half + v, 4, whole + v);
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) W::store(to[i] + l, whole[i]);
    }
  }

  static void transform_any(const Transform<T>& down, const Transform<T>& across,
                            const T* const* from, T* const* to) {
    alignas(64) T half[WinogradForm::kInputs][WinogradForm::kProducts][kDepth];
    for (int e = 0; e < down.inputs; ++e) {
      for (int v = 0; v < across.products; ++v) {
        across.of_inputs[v].template apply<kLanes>(from + e * WinogradForm::kInputs, kDepth,
                                                   half[e][v]);
      }
    }
    for (int v = 0; v < across.products; ++v) {
      const T* rows[WinogradForm::kInputs];
      for (int e = 0; e < down.inputs; ++e) rows[e] = half[e][v];
      for (int u = 0; u < down.products; ++u) {
        down.of_inputs[u].template apply<kLanes>(rows, kDepth, to[u * WinogradForm::kProducts + v]);
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
          multiply_rows<kMostRows>(static_cast<int>(rows), filters, product);
        }
      }
    }
  }

  // One row of pieces of an image, `panels` panels of filters from p0 on.
  void transform_back(const Block& b, Index image, Index row, Index p0, Index panels) const {
    constexpr int kProducts = WinogradForm::kProducts, kOutputs = WinogradForm::kOutputs;
    const WinogradPiece& pr = job_.row_pieces[row];
    const Transform<T>& down = transforms_[pr.form];
    const Index step = together_ * kTileLanes, k0 = p0 * kTileLanes;
    const int filters = static_cast<int>(smaller(panels * kTileLanes, job_.target_channels - k0));
    const T* const bias = job_.bias ? job_.bias + group_ * job_.target_channels + k0 : nullptr;
    T* const map = target_ + (b.first_image + image) * job_.targets.image + k0;
    for (Index column = b.columns->begin; column < b.columns->end; ++column) {
      const WinogradPiece& pc = job_.column_pieces[column];
      const Transform<T>& across = transforms_[pc.form];
      const T* from[kProducts * kProducts];
      for (int u = 0; u < down.products; ++u) {
        for (int v = 0; v < across.products; ++v) {
          const int i = down.filter[u], j = across.filter[v];
          const Index at = column_of(b, image, i, j, pr.column[u], pc.column[v]);
          from[u * kProducts + v] = products_ + (b.begin[i][j] + at) * step;
        }
      }
      T* to[kOutputs * kOutputs] = {};  // null beyond the end
      for (int e = 0; e < down.outputs; ++e) {
        const Index y = pr.target + e * job_.row_rate;
        for (int f = 0; f < across.outputs; ++f) {
          const Index x = pc.target + f * job_.column_rate;
          if (y >= job_.out_height || x >= job_.out_width) continue;
          to[e * kOutputs + f] = map + (y * job_.out_width + x) * job_.targets.pixel;
        }
      }
      int k = 0;
      if (pr.form == kPairForm && pc.form == kPairForm) k = back_pairs(from, bias, filters, to);
      if (k < filters) back_any(down, across, from, bias, k, filters, to);
    }
  }

  // Whole vectors of filters; returns how many these are.
  int back_pairs(const T* const* from, const T* bias, int filters, T* const* to) const {
    const Vector zero{};
    int k = 0;
    for (; k + kLanes <= filters; k += kLanes) {
      Vector m[16], half[8], y[4];
#pragma GCC unroll 16
      for (int i = 0; i < 16; ++i) m[i] = W::load(from[i] + k);
#pragma GCC unroll 4
      for (int u = 0; u < 4; ++u) pair_of_products(m + 4 * u, 1, half + 2 * u, 1);
#pragma GCC unroll 2
      for (int f = 0; f < 2; ++f) pair_of_products(half + f, 2, y + f, 2);
#pragma GCC unroll 4
      for (int i = 0; i < 4; ++i) {
        if (!to[i]) continue;
        if (bias) y[i] += W::load(bias + k);
        if (job_.relu) y[i] = y[i] < zero ? zero : y[i];  // not a maximum: NaN stays NaN
        W::store(to[i] + k, y[i]);
      }
    }
    return k;
  }

  // Filters [first, last).
  void back_any(const Transform<T>& down, const Transform<T>& across, const T* const* from,
                const T* bias, int first, int last, T* const* to) const {
    constexpr int kPart = 2 * kTileLanes;
    alignas(64) T half[WinogradForm::kProducts][WinogradForm::kOutputs][kPart];
    alignas(64) T sum[kPart];
    for (int k = first; k < last; k += kPart) {
      const int filters = static_cast<int>(smaller(kPart, last - k));
      const int lanes = static_cast<int>(round_up(filters, kLanes));
      for (int u = 0; u < down.products; ++u) {
        const T* columns[WinogradForm::kProducts];
        for (int v = 0; v < across.products; ++v) {
          columns[v] = from[u * WinogradForm::kProducts + v] + k;
        }
        for (int f = 0; f < across.outputs; ++f) {
          combined(across.of_products[f], columns, lanes, half[u][f]);
        }
      }
      for (int e = 0; e < down.outputs; ++e) {
        for (int f = 0; f < across.outputs; ++f) {
          T* const y = to[e * WinogradForm::kOutputs + f];
          if (!y) continue;
          const T* rows[WinogradForm::kProducts];
          for (int u = 0; u < down.products; ++u) rows[u] = half[u][f];
          combined(down.of_products[e], rows, lanes, sum);
          for (int l = 0; l < filters; ++l) {
            const T value = bias ? sum[l] + bias[k + l] : sum[l];
            y[k + l] = job_.relu && value < 0 ? 0 : value;
          }
        }
      }
    }
  }

  // Outputs all of whose taps lie outside have no products.
  static void combined(const Combination<T>& c, const T* const* from, int lanes, T* to) {
    if (c.count > 0) return c.template apply<kLanes>(from, lanes, to);
    for (int l = 0; l < lanes; ++l) to[l] = 0;
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
          __builtin_prefetch(right + kRowsAhead * kTileLanes + v * kLanes);
        }
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

  WinogradJob<T> job_;
  Transform<T> transforms_[kFormCount];
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
