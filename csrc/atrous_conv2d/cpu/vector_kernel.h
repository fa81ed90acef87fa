// The direct convolution on vector registers: what Forward asks of a Unit, and GradWeight of a
// Kernel. Included behind forward.h, engine_grad_weight.h and product.h, inside their unnamed
// namespace.

// Nothing that a thread would have to prepare or watch.
struct VectorThread {
  bool suits() const { return true; }
};

template <typename T, int kLanes, int kMostRows, int kVectors>
struct VectorUnit {
  using Element = T;
  using Thread = VectorThread;
  static constexpr Index kDepth = 64;
  static constexpr Index kMostChunks = 1;  // so that pixels are kDepth apart
  static constexpr Index kPixelBytes = kDepth * sizeof(T);
  static constexpr Index kPanelBytes = kDepth * kTileLanes * sizeof(T);
  static constexpr Index kBandBytes = 1 << 19;
  static constexpr int kRows = kMostRows;
  static constexpr int kMostGroups = 1, kGroupRows = kMostRows;
  static constexpr bool kEvenSpacing = false;  // of rows: any, or that of pixels side by side
  using Rows = Product<T, kLanes, kMostRows, kVectors, kDepth>;

  static void pack_row(const T* from, Index entries, Thread&, unsigned char* to) {
    T* const row = reinterpret_cast<T*>(to);
    for (Index i = 0; i < entries; ++i) row[i] = from[i];
  }

  static void pack_planes(const T* planes, Index step, Index count, Thread&, unsigned char* to,
                          Index to_step) {
    transpose_map<T, kLanes>(planes, step, kDepth, count, reinterpret_cast<T*>(to),
                             to_step / static_cast<Index>(sizeof(T)));
  }

  static void pack_panel(const T* filters, Thread&, unsigned char* to) {
    transpose_map<T, kLanes>(filters, kDepth, kTileLanes, kDepth, reinterpret_cast<T*>(to),
                             kTileLanes);
  }

  static void multiply(const TapRows<1>* taps, int count, Index, Index entries, int lanes,
                       int filters, bool add, Thread&, T* sums) {
    typename Rows::Run runs[kMostTaps];
    for (int i = 0; i < count; ++i) {
      runs[i] = {reinterpret_cast<const T*>(taps[i].at[0]),
                 reinterpret_cast<const T*>(taps[i].panel), entries};
    }
    Rows::multiply(runs, count, lanes, filters, sums, kTileLanes, add);
  }
};

template <typename T, int kLanes, int kMostRows, int kVectors>
struct VectorKernel {
  using Element = T;
  using Thread = VectorThread;
  using Rows = Product<T, kLanes, kMostRows, kVectors, kTileLanes>;
  static constexpr int kRows = kMostRows;

  static constexpr Index kLeftBytes = kTileLanes * kTileLanes * sizeof(T);
  static constexpr Index kRightBytes = kLeftBytes;

  static void pack_left(const T* staging, int rows, Thread&, unsigned char* panel) {
    __builtin_memcpy(panel, staging, sizeof(T) * kTileLanes * rows);
  }
  static void pack_right(const T* staging, Thread&, unsigned char* panel) {
    __builtin_memcpy(panel, staging, kRightBytes);
  }

  static void multiply(const Run* runs, int count, int rows, int columns, Thread&, T* tile) {
    typename Rows::Run vectors[kMostRuns];
    for (int i = 0; i < count; ++i) {
      vectors[i] = {reinterpret_cast<const T*>(runs[i].left),
                    reinterpret_cast<const T*>(runs[i].right), kTileLanes};
    }
    Rows::multiply(vectors, count, rows, columns, tile, kTileLanes, false);
  }
};

template <typename T, int kLanes, int kMostRows, int kVectors>
bool vector_forward(const ForwardJob<T>& job, Precision) {
  return run_in_team<Forward<VectorUnit<T, kLanes, kMostRows, kVectors>>>(job);
}

template <typename T, int kLanes, int kMostRows, int kVectors>
bool vector_grad_weight(const GradWeightJob<T>& job, Precision) {
  return run_in_team<GradWeight<VectorKernel<T, kLanes, kMostRows, kVectors>>>(job);
}

template <int kBytes, int kRows, int kVectors>
constexpr DirectKernels vector_kernels() {
  constexpr int kFloats = kBytes / sizeof(float), kDoubles = kBytes / sizeof(double);
  return {kRows, vector_forward<float, kFloats, kRows, kVectors>,
          vector_forward<double, kDoubles, kRows, kVectors>,
          vector_grad_weight<float, kFloats, kRows, kVectors>,
          vector_grad_weight<double, kDoubles, kRows, kVectors>};
}
