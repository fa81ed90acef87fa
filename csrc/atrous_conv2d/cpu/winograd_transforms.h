// Sums and differences of whole vectors: the transforms of minimal filtering. Included by
// engine_winograd.h, inside its unnamed namespace.

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
