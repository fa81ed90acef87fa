// Sums and differences of whole vectors: the transforms of minimal filtering. Included by
// engine_winograd.h, inside its unnamed namespace.

// One axis of one form, of which the compiler sees every number.
template <typename T, int kLanes, int kForm>
struct FormTransform {
  using W = Wide<T, kLanes>;
  using Vector = typename W::Vector;
  static constexpr WinogradForm kSelf = kWinogradForms[kForm];

  // to[p][l] of from[e][l], for l in [0, lanes), whole vectors.
  static void inputs(const T* const* from, T* const* to, int lanes) {
    apply<kSelf.inputs, kSelf.products>(kSelf.of_inputs, from, to, lanes);
  }

  // to[o][l] of from[p][l]
  static void outputs(const T* const* from, T* const* to, int lanes) {
    apply<kSelf.products, kSelf.outputs>(kSelf.of_products, from, to, lanes);
  }

 private:
  static constexpr int kMost = WinogradForm::kInputs;

  template <int kFrom, int kTo>
  static inline __attribute__((always_inline)) void apply(const double (*factors)[kMost],
                                                          const T* const* from, T* const* to,
                                                          int lanes) {
    for (int l = 0; l < lanes; l += kLanes) {
      Vector x[kMost];
#pragma GCC unroll 6
      for (int i = 0; i < kFrom; ++i) x[i] = W::load(from[i] + l);
#pragma GCC unroll 6
      for (int i = 0; i < kTo; ++i) W::store(to[i] + l, combined(x, factors[i], kFrom));
    }
  }

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
