// The product that every vector kernel comes down to: rows of numbers times a panel of
// kTileLanes columns. Included behind engine.h, inside its unnamed namespace.

// kMostRows x kVectors accumulators stay in registers. A row's numbers lie side by side, the next
// row begins kStep further; a panel is [depth][kTileLanes].
template <typename T, int kLanes, int kMostRows, int kVectors, int kStep>
struct Product {
  using W = Wide<T, kLanes>;
  using Vector = typename W::Vector;

  // Part of a sum: `depth` numbers of each row, at most kStep, times the panel.
  struct Run {
    const T* rows;
    const T* panel;
    Index depth;
  };

  // to[row][column] (+)= the sum of all runs; `rows` is at most kMostRows, the columns are filled
  // up to whole vectors.
  static void multiply(const Run* runs, int count, int rows, int columns, T* to, Index to_step,
                       bool add) {
    multiply_rows<kMostRows>(runs, count, rows, columns, to, to_step, add);
  }

 private:
  // The number of rows as a constant, so that every accumulator has a register.
  template <int kR>
  static void multiply_rows(const Run* runs, int count, int rows, int columns, T* to, Index to_step,
                            bool add) {
    if constexpr (kR > 0) {
      if (rows < kR) return multiply_rows<kR - 1>(runs, count, rows, columns, to, to_step, add);
      for (int first = 0; first < columns; first += kLanes * kVectors) {
        if (columns - first <= kLanes) {
          multiply_block<kR, 1>(runs, count, first, to + first, to_step, add);
        } else {
          multiply_block<kR, kVectors>(runs, count, first, to + first, to_step, add);
        }
      }
    }
  }

  // Every loop over the accumulators is unrolled, or the compiler keeps them in memory.
  template <int kR, int kV>
  static void multiply_block(const Run* runs, int count, int first, T* to, Index to_step,
                             bool add) {
    Vector sums[kR][kV];
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) sums[r][v] = Vector{};
    }
    for (int i = 0; i < count; ++i) {
      const T *row = runs[i].rows, *panel = runs[i].panel + first;
      const int depth = static_cast<int>(runs[i].depth);
      for (int d = 0; d < depth; ++d, panel += kTileLanes) {
        Vector x[kV];
#pragma GCC unroll 4
        for (int v = 0; v < kV; ++v) x[v] = W::load(panel + v * kLanes);
        // The rows that come next follow these.
        __builtin_prefetch(row + kR * kStep + d * (64 / sizeof(T)));
#pragma GCC unroll 16
        for (int r = 0; r < kR; ++r) {
          const T factor = row[r * kStep + d];
#pragma GCC unroll 4
          for (int v = 0; v < kV; ++v) sums[r][v] += x[v] * factor;
        }
      }
    }
#pragma GCC unroll 16
    for (int r = 0; r < kR; ++r, to += to_step) {
#pragma GCC unroll 4
      for (int v = 0; v < kV; ++v) {
        T* const at = to + v * kLanes;
        W::store(at, add ? W::load(at) + sums[r][v] : sums[r][v]);
      }
    }
  }
};
