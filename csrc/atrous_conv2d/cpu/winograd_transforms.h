// Sums and differences of whole vectors: the transforms of minimal filtering, and maps turned from
// planes into pixels. Included by engine_winograd.h, inside its unnamed namespace.

template <typename T, int kLanes>
struct Wide {
  typedef T Vector __attribute__((vector_size(sizeof(T) * kLanes), aligned(sizeof(T)), may_alias));
  static Vector load(const T* at) { return *reinterpret_cast<const Vector*>(at); }
  static void store(T* at, Vector v) { *reinterpret_cast<Vector*>(at) = v; }
};

// One axis of one form, of which the compiler sees every number.
//
template <typename T, int kLanes, int kForm>
struct FormTransform {
  using W = Wide<T, kLanes>;
  using Vector = typename W::Vector;
  static constexpr WinogradForm kSelf = kWinogradForms[kForm];

  // to[p][l] of from[e][l], for l in [0, lanes), whole vectors.
  static void inputs(const T* const* from, T* const* to, int lanes) {
    for (int l = 0; l < lanes; l += kLanes) {
      Vector x[WinogradForm::kInputs];
#pragma GCC unroll 6
      for (int e = 0; e < kSelf.inputs; ++e) x[e] = W::load(from[e] + l);
#pragma GCC unroll 6
      for (int p = 0; p < kSelf.products; ++p) {
        W::store(to[p] + l, combined(x, kSelf.of_inputs[p], kSelf.inputs));
      }
    }
  }

  // to[o][l] of from[p][l]
  static void outputs(const T* const* from, T* const* to, int lanes) {
    for (int l = 0; l < lanes; l += kLanes) {
      Vector x[WinogradForm::kProducts];
#pragma GCC unroll 6
      for (int p = 0; p < kSelf.products; ++p) x[p] = W::load(from[p] + l);
#pragma GCC unroll 4
      for (int o = 0; o < kSelf.outputs; ++o) {
        W::store(to[o] + l, combined(x, kSelf.of_products[o], kSelf.products));
      }
    }
  }

 private:
  static inline __attribute__((always_inline)) Vector combined(const Vector* x,
                                                               const double* factors, int count) {
    Vector sum{};
    bool first = true;
#pragma GCC unroll 6
    for (int i = 0; i < count; ++i) {
      const T factor = static_cast<T>(factors[i]);
      if (factor == 0) continue;
      const Vector term = factor == 1 ? x[i] : factor == -1 ? -x[i] : x[i] * factor;
      sum = first ? term : sum + term;
      first = false;
    }
    return sum;
  }
};

// The transforms of all forms, to be found by their number.
template <typename T, int kLanes>
struct FormTransforms {
  using Transform = void (*)(const T* const* from, T* const* to, int lanes);
  Transform inputs[kFormCount], outputs[kFormCount];

  FormTransforms() { fill<kFormCount - 1>(); }

 private:
  template <int kForm>
  void fill() {
    inputs[kForm] = FormTransform<T, kLanes, kForm>::inputs;
    outputs[kForm] = FormTransform<T, kLanes, kForm>::outputs;
    if constexpr (kForm > 0) fill<kForm - 1>();
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
