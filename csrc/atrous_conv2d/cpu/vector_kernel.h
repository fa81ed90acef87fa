// The Kernel of engine.h on vector registers, written once for every width: GCC's and clang's
// vector types, of kLanes elements. Included behind engine.h, inside the same unnamed namespace.
//
// kMostRows x kVectors accumulators stay in registers; a right panel's row is broken into pieces of
// kVectors vectors. Left panels are [depth][rows], right panels [depth][kTileLanes].

template <typename T, int kLanes, int kMostRows, int kVectors>
struct VectorKernel {
  typedef T Vector __attribute__((vector_size(sizeof(T) * kLanes)));
  using Element = T;
  static constexpr int kRows = kMostRows;
  static constexpr bool kBalanced = true;
  static constexpr int kDepthUnit = 1;
  static constexpr bool kRightAsStaged = true;
  static constexpr int kColumns = kLanes * kVectors;

  struct Thread {
    bool suits() const { return true; }
  };

  static Index left_bytes(Index depth) {
    return round_up(kRows * depth * static_cast<Index>(sizeof(T)), 64);
  }
  static Index right_bytes(Index depth) { return kTileLanes * depth * sizeof(T); }

  static void pack_left(const T* staging, int rows, int entries, Index at, Thread&,
                        unsigned char* panel) {
    T* to = reinterpret_cast<T*>(panel) + at * rows;
    for (int r = 0; r < rows; ++r) {
      for (int e = 0; e < entries; ++e) to[e * rows + r] = staging[r * kChunk + e];
    }
  }

  static void pack_right(const T* staging, int entries, Index at, Thread&, unsigned char* panel) {
    T* to = reinterpret_cast<T*>(panel) + at * kTileLanes;
    __builtin_memcpy(to, staging, sizeof(T) * kTileLanes * entries);
  }

  static void multiply(const Run* runs, int count, int rows, int columns, Thread&, T* tile) {
    multiply_rows<kMostRows>(runs, count, rows, columns, tile);
  }

 private:
  // The number of rows as a constant, so that every accumulator has a register.
  template <int kCandidate>
  static void multiply_rows(const Run* runs, int count, int rows, int columns, T* tile) {
    if constexpr (kCandidate > 0) {
      if (rows < kCandidate) {
        multiply_rows<kCandidate - 1>(runs, count, rows, columns, tile);
        return;
      }
      for (int first = 0; first < columns; first += kColumns) {
        if (columns - first <= kLanes) {
          multiply_block<kCandidate, 1>(runs, count, tile + first, first);
        } else {
          multiply_block<kCandidate, kVectors>(runs, count, tile + first, first);
        }
      }
    }
  }

  // Every loop over the accumulators is unrolled, or the compiler keeps them in memory.
  template <int kR, int kV>
  static void multiply_block(const Run* runs, int count, T* tile, int first) {
    Vector sums[kR][kV];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) sums[r][v] = Vector{};
    }
    for (int i = 0; i < count; ++i) {
      const T* left = reinterpret_cast<const T*>(runs[i].left);
      const T* right = reinterpret_cast<const T*>(runs[i].right) + first;
      for (Index d = 0; d < runs[i].depth; ++d, left += kR, right += kTileLanes) {
        Vector x[kV];
#pragma GCC unroll 4
        for (int v = 0; v < kV; ++v) {
          x[v] = *reinterpret_cast<const Vector*>(right + v * kLanes);
        }
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r) {
          const T factor = left[r];
#pragma GCC unroll 4
          for (int v = 0; v < kV; ++v) sums[r][v] += x[v] * factor;
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) {
        *reinterpret_cast<Vector*>(tile + r * kTileLanes + v * kLanes) = sums[r][v];
      }
    }
  }
};

template <typename T, int kLanes, int kMostRows, int kVectors>
bool vector_forward(const ForwardJob<T>& job, Precision) {
  return run_in_team<Forward<VectorKernel<T, kLanes, kMostRows, kVectors>>>(job);
}

template <typename T, int kLanes, int kMostRows, int kVectors>
bool vector_grad_weight(const GradWeightJob<T>& job, Precision) {
  return run_in_team<GradWeight<VectorKernel<T, kLanes, kMostRows, kVectors>>>(job);
}

template <int kBytes, int kRows, int kVectors>
constexpr DirectKernels vector_kernels() {
  constexpr int kFloats = kBytes / sizeof(float), kDoubles = kBytes / sizeof(double);
  return {vector_forward<float, kFloats, kRows, kVectors>,
          vector_forward<double, kDoubles, kRows, kVectors>,
          vector_grad_weight<float, kFloats, kRows, kVectors>,
          vector_grad_weight<double, kDoubles, kRows, kVectors>};
}
