// Vectors of any width, with the types of GCC and clang, and matrices turned by them. Included by
// engine.h, inside its unnamed namespace.

constexpr Index smaller(Index a, Index b) { return a < b ? a : b; }
constexpr Index larger(Index a, Index b) { return a > b ? a : b; }
inline Index round_up(Index a, Index unit) { return (a + unit - 1) / unit * unit; }

template <typename T, int kLanes>
struct Wide {
  typedef T Vector __attribute__((vector_size(sizeof(T) * kLanes), aligned(sizeof(T)), may_alias));
  static Vector load(const T* at) { return *reinterpret_cast<const Vector*>(at); }
  static void store(T* at, Vector v) { *reinterpret_cast<Vector*>(at) = v; }
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
