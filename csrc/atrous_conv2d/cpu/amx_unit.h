// What this project asks of the matrix unit: float32 numbers in parts, and products of tiles of
// them. Included by kernels_amx.cpp behind engine.h, inside the same unnamed namespace.

constexpr int kTileRows = 16;
constexpr Index kRowBytes = 64;  // 32 bfloat16 numbers, a chunk of depth
constexpr Index kTileBytes = kTileRows * kRowBytes;

struct alignas(64) TileConfig {
  unsigned char palette = 1;
  unsigned char start_row = 0;
  unsigned char reserved[14] = {};
  unsigned short column_bytes[16] = {};
  unsigned char rows[16] = {};
};

inline __m512i magnitude(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff)); }

inline __mmask16 first_lanes(Index count) {
  return static_cast<__mmask16>(count >= 16 ? 0xffffu : count <= 0 ? 0u : (1u << count) - 1);
}

// A thread's use of the unit: configures it, and watches over the numbers that go into it.
class AmxThread {
 public:
  AmxThread() = default;
  ~AmxThread() {
    if (rows_) _tile_release();
  }
  AmxThread(const AmxThread&) = delete;
  AmxThread& operator=(const AmxThread&) = delete;

  void saw_left(__m512i magnitudes) { left_ = _mm512_max_epu32(left_, magnitudes); }
  void saw_right(__m512i magnitudes) { right_ = _mm512_max_epu32(right_, magnitudes); }

  // No infinity or NaN, which the parts of a number cannot express. Nor may the largest number be
  // so small that parts of it, or of others that matter beside it, are subnormal, which the unit
  // takes for 0: at least 2^-100, or 0.
  bool suits() const { return normal(left_) && normal(right_); }

  // Tiles 0 to 3: sums of `rows` left rows; 4 and 5: left; 6 and 7: right.
  void configure(int rows) {
    if (rows == rows_) return;
    rows_ = rows;
    const int upper = rows < kTileRows ? rows : kTileRows;
    const int lower = rows > kTileRows ? rows - kTileRows : upper;
    const int rows_of[8] = {upper, upper, lower, lower, upper, lower, kTileRows, kTileRows};
    TileConfig config;
    for (int t = 0; t < 8; ++t) {
      config.rows[t] = static_cast<unsigned char>(rows_of[t]);
      config.column_bytes[t] = kRowBytes;
    }
    _tile_loadconfig(&config);
  }

 private:
  static bool normal(__m512i magnitudes) {
    const unsigned bits = _mm512_reduce_max_epu32(magnitudes);
    return bits == 0 || (bits < 0x7f800000u && bits >= (127u - 100u) << 23);
  }

  __m512i left_ = _mm512_setzero_si512();
  __m512i right_ = _mm512_setzero_si512();
  int rows_ = 0;
};

// Numbers as sums of kParts bfloat16 numbers: 24, 16 or 8 bits of them.
template <int kParts>
struct Parts {
  // Takes the next part off x, into the upper half of each element. Parts are cut off; only the
  // last of two or one is rounded, because nothing follows it.
  static __m512i next(__m512i& x, int part) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    if (kParts < 3 && part == kParts - 1) {
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
      const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
      return _mm512_and_si512(_mm512_add_epi32(x, half), upper);
    }
    const __m512i cut = _mm512_and_si512(x, upper);
    x = _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(cut)));
    return cut;
  }

  // Elements of a and b, in the upper halves, as pairs.
  static __m512i pair(__m512i a, __m512i b) { return _mm512_or_si512(_mm512_srli_epi32(a, 16), b); }

  // The upper halves of 32 elements, in order.
  static __m512i row(__m512i a, __m512i b) {
    return _mm512_inserti64x4(
        _mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(a, 16))),
        _mm512_cvtepi32_epi16(_mm512_srli_epi32(b, 16)), 1);
  }
};

inline __attribute__((always_inline)) void transpose16(__m512i r[16]) {
  __m512i t[16];
#pragma GCC unroll 4
  for (int i = 0; i < 16; i += 4) {
    const __m512i a = _mm512_unpacklo_epi32(r[i], r[i + 1]);
    const __m512i b = _mm512_unpackhi_epi32(r[i], r[i + 1]);
    const __m512i c = _mm512_unpacklo_epi32(r[i + 2], r[i + 3]);
    const __m512i d = _mm512_unpackhi_epi32(r[i + 2], r[i + 3]);
    t[i] = _mm512_unpacklo_epi64(a, c);
    t[i + 1] = _mm512_unpackhi_epi64(a, c);
    t[i + 2] = _mm512_unpacklo_epi64(b, d);
    t[i + 3] = _mm512_unpackhi_epi64(b, d);
  }
#pragma GCC unroll 4
  for (int i = 0; i < 4; ++i) {
    const __m512i a = _mm512_shuffle_i32x4(t[i], t[i + 4], 0x88);
    const __m512i b = _mm512_shuffle_i32x4(t[i], t[i + 4], 0xdd);
    const __m512i c = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0x88);
    const __m512i d = _mm512_shuffle_i32x4(t[i + 8], t[i + 12], 0xdd);
    r[i] = _mm512_shuffle_i32x4(a, c, 0x88);
    r[i + 4] = _mm512_shuffle_i32x4(b, d, 0x88);
    r[i + 8] = _mm512_shuffle_i32x4(a, c, 0xdd);
    r[i + 12] = _mm512_shuffle_i32x4(b, d, 0xdd);
  }
}

// Four columns of a [16][16] matrix in memory, as rows. Loads put the quarters in place, which
// would cost twice the shuffles in registers.
inline void transpose_columns(const unsigned* from, __m512i rows[4]) {
  __m512i quads[4];
  for (int i = 0; i < 4; ++i) {
    const auto quarter = [&](int k) {
      return _mm_load_si128(reinterpret_cast<const __m128i*>(from + (4 * k + i) * 16));
    };
    __m512i v = _mm512_castsi128_si512(quarter(0));
    v = _mm512_inserti32x4(v, quarter(1), 1);
    v = _mm512_inserti32x4(v, quarter(2), 2);
    quads[i] = _mm512_inserti32x4(v, quarter(3), 3);
  }
  const __m512i a = _mm512_unpacklo_epi32(quads[0], quads[1]);
  const __m512i b = _mm512_unpackhi_epi32(quads[0], quads[1]);
  const __m512i c = _mm512_unpacklo_epi32(quads[2], quads[3]);
  const __m512i d = _mm512_unpackhi_epi32(quads[2], quads[3]);
  rows[0] = _mm512_unpacklo_epi64(a, c);
  rows[1] = _mm512_unpackhi_epi64(a, c);
  rows[2] = _mm512_unpacklo_epi64(b, d);
  rows[3] = _mm512_unpackhi_epi64(b, d);
}

// 16 columns of 32 entries, column by column, as a right tile of each part: pairs of entries in
// rows.
template <int kParts>
void pack_columns(const float* from, AmxThread& thread, unsigned char* to) {
  __m512i a[16], b[16];
  for (int c = 0; c < 16; ++c) {
    a[c] = _mm512_load_si512(from + c * 32);
    b[c] = _mm512_load_si512(from + c * 32 + 16);
    thread.saw_right(_mm512_max_epu32(magnitude(a[c]), magnitude(b[c])));
  }
  for (int part = 0; part < kParts; ++part, to += 2 * kTileBytes) {
    __m512i rows[16];
    for (int c = 0; c < 16; ++c) {
      const __m512i x = Parts<kParts>::next(a[c], part), y = Parts<kParts>::next(b[c], part);
      rows[c] = Parts<kParts>::row(x, y);
    }
    transpose16(rows);
    for (int pair = 0; pair < 16; ++pair) _mm512_store_si512(to + pair * kRowBytes, rows[pair]);
  }
}

// Where 16 left rows lie, and how far apart they are.
struct LeftRows {
  const unsigned char* at;
  Index step;
};

// Adds to the sums in tiles 0 to 3 the products of a chunk: left rows and, right, tiles of parts.
template <int kParts, int kLeft, int kRight>
void accumulate_chunk(const LeftRows* left, Index left_part, const unsigned char* right) {
  const auto load_left = [&](int part) __attribute__((always_inline)) {
    _tile_loadd(4, left[0].at + part * left_part, left[0].step);
    if (kLeft == 2) _tile_loadd(5, left[1].at + part * left_part, left[1].step);
  };
  const auto load_right = [&](int part) __attribute__((always_inline)) {
    _tile_loadd(6, right + part * 2 * kTileBytes, kRowBytes);
    if (kRight == 2) _tile_loadd(7, right + (part * 2 + 1) * kTileBytes, kRowBytes);
  };
  const auto multiply = [&]() __attribute__((always_inline)) {
    _tile_dpbf16ps(0, 4, 6);
    if (kRight == 2) _tile_dpbf16ps(1, 4, 7);
    if (kLeft == 2) _tile_dpbf16ps(2, 5, 6);
    if (kLeft == 2 && kRight == 2) _tile_dpbf16ps(3, 5, 7);
  };
  // Small products first, and each step changes as little as it can.
  if (kParts == 3) {
    load_left(2);
    load_right(0);
    multiply();
    load_left(1);
    multiply();
    load_right(1);
    multiply();
    load_left(0);
    multiply();
    load_right(2);
    multiply();
  } else if (kParts == 2) {
    load_left(1);
    load_right(0);
    multiply();
    load_left(0);
    load_right(1);
    multiply();
  } else {
    load_left(0);
  }
  load_right(0);
  multiply();
}

inline void zero_sums() {
  _tile_zero(0);
  _tile_zero(1);
  _tile_zero(2);
  _tile_zero(3);
}

// tile: [2 * kTileRows][kTileLanes]
template <int kLeft, int kRight>
void load_sums(const float* tile) {
  constexpr Index kStep = kTileLanes * sizeof(float);
  _tile_loadd(0, tile, kStep);
  if (kRight == 2) _tile_loadd(1, tile + kTileRows, kStep);
  if (kLeft == 2) _tile_loadd(2, tile + kTileRows * kTileLanes, kStep);
  if (kLeft == 2 && kRight == 2) _tile_loadd(3, tile + kTileRows * (kTileLanes + 1), kStep);
}

template <int kLeft, int kRight>
void store_sums(float* tile) {
  constexpr Index kStep = kTileLanes * sizeof(float);
  _tile_stored(0, tile, kStep);
  if (kRight == 2) _tile_stored(1, tile + kTileRows, kStep);
  if (kLeft == 2) _tile_stored(2, tile + kTileRows * kTileLanes, kStep);
  if (kLeft == 2 && kRight == 2) _tile_stored(3, tile + kTileRows * (kTileLanes + 1), kStep);
}

// f(std::integral_constant-like kLeft, kRight) for tiles of these rows and columns.
template <int kN>
struct Count {
  static constexpr int value = kN;
};

template <typename F>
void with_tiles(int rows, int columns, const F& f) {
  if (rows > kTileRows) {
    columns > kTileRows ? f(Count<2>{}, Count<2>{}) : f(Count<2>{}, Count<1>{});
  } else {
    columns > kTileRows ? f(Count<1>{}, Count<2>{}) : f(Count<1>{}, Count<1>{});
  }
}
