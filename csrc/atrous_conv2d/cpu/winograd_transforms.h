// Sums and differences of whole vectors: the transforms of minimal filtering, and maps turned from
// planes into pixels. Included by engine_winograd.h, inside its unnamed namespace.

template <typename T, int kLanes>
struct Wide {
  typedef T Vector __attribute__((vector_size(sizeof(T) * kLanes), aligned(sizeof(T)), may_alias));
  static Vector load(const T* at) { return *reinterpret_cast<const Vector*>(at); }
  static void store(T* at, Vector v) { *reinterpret_cast<Vector*>(at) = v; }
};

// A row of a matrix without its zeros.
template <typename T>
struct Combination {
  static constexpr int kMost = 4;
  int count = 0;
  int index[kMost] = {};
  T factor[kMost] = {};

  Combination() = default;
  Combination(const float* row, int size) {
    for (int i = 0; i < size; ++i) {
      if (row[i] == 0) continue;
      index[count] = i;
      factor[count++] = static_cast<T>(row[i]);
    }
  }

  // to[l] = the combination of from[i][l], for l in [0, lanes), whole vectors.
  template <int kLanes>
  void apply(const T* const* from, int lanes, T* to) const {
    switch (count) {
      case 1:
        return sum<kLanes, 1>(from, lanes, to);
      case 2:
        return sum<kLanes, 2>(from, lanes, to);
      case 3:
        return sum<kLanes, 3>(from, lanes, to);
      default:
        return sum<kLanes, 4>(from, lanes, to);
    }
  }

 private:
  template <int kLanes, int kCount>
  void sum(const T* const* from, int lanes, T* to) const {
    using W = Wide<T, kLanes>;
    const T* terms[kCount];
    for (int i = 0; i < kCount; ++i) terms[i] = from[index[i]];
    for (int l = 0; l < lanes; l += kLanes) {
      auto total = W::load(terms[0] + l) * factor[0];
      for (int i = 1; i < kCount; ++i) total += W::load(terms[i] + l) * factor[i];
      W::store(to + l, total);
    }
  }
};

// F(2,3) in registers, for the pieces that are most of the work.
template <typename V>
inline __attribute__((always_inline)) void pair_of_inputs(const V* from, int step, V* to) {
  to[0] = from[0] - from[2 * step];
  to[step] = from[step] + from[2 * step];
  to[2 * step] = from[2 * step] - from[step];
  to[3 * step] = from[step] - from[3 * step];
}

template <typename V>
inline __attribute__((always_inline)) void pair_of_products(const V* from, int step, V* to,
                                                            int to_step) {
  to[0] = from[0] + from[step] + from[2 * step];
  to[to_step] = from[step] - from[2 * step] - from[3 * step];
}

// A WinogradForm, ready to be applied.
template <typename T>
struct Transform {
  int outputs, inputs, products;
  int filter[WinogradForm::kProducts];
  Combination<T> of_inputs[WinogradForm::kProducts];
  Combination<T> of_products[WinogradForm::kOutputs];

  Transform() = default;
  explicit Transform(const WinogradForm& form)
      : outputs(form.outputs), inputs(form.inputs), products(form.products) {
    for (int p = 0; p < products; ++p) {
      filter[p] = form.filter[p];
      of_inputs[p] = Combination<T>(form.of_inputs[p], inputs);
    }
    for (int o = 0; o < outputs; ++o) {
      of_products[o] = Combination<T>(form.of_products[o], products);
    }
  }
};

// Exchanges the elements off the diagonal of 2x2 squares of ever larger blocks.
template <typename T, int kLanes>
void transpose_square(const T* from, Index from_step, T* to, Index to_step) {
  using W = Wide<T, kLanes>;
  using Vector = typename W::Vector;
  using Mask = decltype(Vector{} == Vector{});
  Vector rows[kLanes];
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) rows[i] = W::load(from + i * from_step);
#pragma GCC unroll 4
  for (int step = 1; step < kLanes; step *= 2) {
    Mask first, second;
    for (int l = 0; l < kLanes; ++l) {
      first[l] = l & step ? kLanes + l - step : l;
      second[l] = l & step ? kLanes + l : l + step;
    }
#pragma GCC unroll 16
    for (int i = 0; i < kLanes; ++i) {
      if (i & step) continue;
      const Vector a = rows[i], b = rows[i + step];
      rows[i] = __builtin_shuffle(a, b, first);
      rows[i + step] = __builtin_shuffle(a, b, second);
    }
  }
#pragma GCC unroll 16
  for (int i = 0; i < kLanes; ++i) W::store(to + i * to_step, rows[i]);
}

// to[j][i] = from[i][j] for i < rows, j < columns; steps in elements between rows.
template <typename T, int kLanes>
void transpose_map(const T* from, Index from_step, Index rows, Index columns, T* to,
                   Index to_step) {
  for (Index i = 0; i < rows; i += kLanes) {
    for (Index j = 0; j < columns; j += kLanes) {
      const Index height = smaller(kLanes, rows - i), width = smaller(kLanes, columns - j);
      const T* const here = from + i * from_step + j;
      T* const there = to + j * to_step + i;
      if (height == kLanes && width == kLanes) {
        transpose_square<T, kLanes>(here, from_step, there, to_step);
        continue;
      }
      for (Index a = 0; a < width; ++a) {
        for (Index b = 0; b < height; ++b) there[a * to_step + b] = here[b * from_step + a];
      }
    }
  }
}
