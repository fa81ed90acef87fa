// float32 products on the matrix unit of recent Intel processors, which multiplies bfloat16 only: a
// float32 is the sum of three bfloat16 numbers, exactly, and of the nine products of two such sums
// the six largest are taken. What is left out is below 2^-23 of a product, and the unit adds 32
// products before it rounds, so results are as close to the exact ones as those of float32
// arithmetic, at 2.7 times its speed. "tf32" and "fp16" take two parts and three products (16
// bits), "bf16" one.
//
// The unit flushes what is subnormal and knows no infinity times zero: Thread::suits().
#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels.h"

// GCC's own header says x = x where it means "anything".
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push(                                                            \
    __attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma,amx-tile,amx-bf16"))), \
    apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma,amx-tile,amx-bf16")
#endif

namespace deeplab {
namespace {

#define DEEPLAB_LANES_AVX512
#include "engine.h"

constexpr int kTileRows = 16;
constexpr Index kTileBytes = 1024;  // 16 rows of 64 bytes

struct alignas(64) TileConfig {
  unsigned char palette = 1;
  unsigned char start_row = 0;
  unsigned char reserved[14] = {};
  unsigned short column_bytes[16] = {};
  unsigned char rows[16] = {};
};

// Largest magnitudes packed, as bits; what decides whether the unit may multiply them.
thread_local unsigned largest_left, largest_right;
thread_local int configured_rows;

template <int kParts>
struct AmxKernel {
  using Element = float;
  static constexpr int kRows = 2 * kTileRows;
  static constexpr bool kBalanced = false;
  static constexpr int kDepthUnit = kChunk;

  struct Thread {
    Thread() {
      largest_left = largest_right = 0;
      configured_rows = 0;
    }
    ~Thread() { _tile_release(); }
    Thread(const Thread&) = delete;
    Thread& operator=(const Thread&) = delete;

    // No infinity or NaN. Nor may the largest number be so small that parts of it, or of others
    // that matter beside it, would be subnormal: 2^-100, or 0.
    bool suits() const { return normal(largest_left) && normal(largest_right); }

   private:
    static bool normal(unsigned bits) {
      return bits == 0 || (bits < 0x7f800000u && bits >= (127u - 100u) << 23);
    }
  };

  // A chunk of a panel: for each part two tiles. Left tiles are 16 rows of 32 entries, right tiles
  // 16 pairs of entries for 16 columns.
  static Index left_bytes(Index depth) { return depth / kChunk * kParts * 2 * kTileBytes; }
  static Index right_bytes(Index depth) { return left_bytes(depth); }

  static void pack_left(const float* staging, int rows, int entries, Index /*depth*/, Index at,
                        unsigned char* panel) {
    unsigned char* chunk = panel + left_bytes(at);
    const __mmask16 low = mask_of(entries), high = mask_of(entries - 16);
    __m512i largest = _mm512_setzero_si512();
    for (int r = 0; r < rows; ++r, staging += kChunk) {
      __m512i a = _mm512_maskz_loadu_epi32(low, staging);
      __m512i b = _mm512_maskz_loadu_epi32(high, staging + 16);
      largest = _mm512_max_epu32(largest, _mm512_max_epu32(magnitude(a), magnitude(b)));
      unsigned char* row = chunk + r / kTileRows * kTileBytes + r % kTileRows * 64;
      for (int part = 0; part < kParts; ++part, row += 2 * kTileBytes) {
        const __m512i x = split(a, part), y = split(b, part);
        // The upper halves, in order.
        const __m512i halves = _mm512_inserti64x4(
            _mm512_castsi256_si512(_mm512_cvtepi32_epi16(_mm512_srli_epi32(x, 16))),
            _mm512_cvtepi32_epi16(_mm512_srli_epi32(y, 16)), 1);
        _mm512_store_si512(row, halves);
      }
    }
    const unsigned most = _mm512_reduce_max_epu32(largest);
    if (most > largest_left) largest_left = most;
  }

  static void pack_right(const float* staging, int entries, Index /*depth*/, Index at,
                         unsigned char* panel) {
    unsigned char* chunk = panel + right_bytes(at);
    __m512i largest = _mm512_setzero_si512();
    for (int pair = 0; pair < kChunk / 2; ++pair, staging += 2 * kTileLanes) {
      const bool has_first = 2 * pair < entries, has_second = 2 * pair + 1 < entries;
      for (int half = 0; half < 2; ++half) {
        const float* from = staging + 16 * half;
        __m512i a = has_first ? _mm512_load_si512(from) : _mm512_setzero_si512();
        __m512i b = has_second ? _mm512_load_si512(from + kTileLanes) : _mm512_setzero_si512();
        largest = _mm512_max_epu32(largest, _mm512_max_epu32(magnitude(a), magnitude(b)));
        unsigned char* row = chunk + half * kTileBytes + pair * 64;
        for (int part = 0; part < kParts; ++part, row += 2 * kTileBytes) {
          const __m512i x = split(a, part), y = split(b, part);
          _mm512_store_si512(row, _mm512_or_si512(_mm512_srli_epi32(x, 16), y));
        }
      }
    }
    const unsigned most = _mm512_reduce_max_epu32(largest);
    if (most > largest_right) largest_right = most;
  }

  static void multiply(const Run* runs, int count, int rows, int columns, float* tile) {
    configure(rows);
    if (rows > kTileRows) {
      columns > kTileRows ? product<2, 2>(runs, count, tile) : product<2, 1>(runs, count, tile);
    } else {
      columns > kTileRows ? product<1, 2>(runs, count, tile) : product<1, 1>(runs, count, tile);
    }
  }

 private:
  static __mmask16 mask_of(int count) {
    return static_cast<__mmask16>(count >= 16 ? 0xffffu : count <= 0 ? 0 : (1u << count) - 1);
  }

  static __m512i magnitude(__m512i x) { return _mm512_and_si512(x, _mm512_set1_epi32(0x7fffffff)); }

  // The next part of x, in the upper half of each element, and x without it. All parts but the last
  // of two or one are cut off; that one is rounded, because nothing follows it.
  static __m512i split(__m512i& x, int part) {
    const __m512i upper = _mm512_set1_epi32(static_cast<int>(0xffff0000u));
    if (part == kParts - 1) {
      if (kParts == 3) return _mm512_and_si512(x, upper);
      const __m512i odd = _mm512_and_si512(_mm512_srli_epi32(x, 16), _mm512_set1_epi32(1));
      const __m512i half = _mm512_add_epi32(odd, _mm512_set1_epi32(0x7fff));
      return _mm512_and_si512(_mm512_add_epi32(x, half), upper);
    }
    const __m512i cut = _mm512_and_si512(x, upper);
    x = _mm512_castps_si512(_mm512_sub_ps(_mm512_castsi512_ps(x), _mm512_castsi512_ps(cut)));
    return cut;
  }

  // Tiles 0 to 3: sums; 4 and 5: left; 6 and 7: right.
  static void configure(int rows) {
    if (rows == configured_rows) return;
    configured_rows = rows;
    TileConfig config;
    const int upper = rows < kTileRows ? rows : kTileRows;
    const int lower = rows - upper > 0 ? rows - upper : upper;
    const int rows_of[8] = {upper, upper, lower, lower, upper, lower, kTileRows, kTileRows};
    for (int t = 0; t < 8; ++t) {
      config.rows[t] = static_cast<unsigned char>(rows_of[t]);
      config.column_bytes[t] = 64;
    }
    _tile_loadconfig(&config);
  }

  template <int kLeft, int kRight>
  static void load_left(const unsigned char* chunk, int part) {
    _tile_loadd(4, chunk + part * 2 * kTileBytes, 64);
    if (kLeft == 2) _tile_loadd(5, chunk + (part * 2 + 1) * kTileBytes, 64);
  }

  template <int kLeft, int kRight>
  static void load_right(const unsigned char* chunk, int part) {
    _tile_loadd(6, chunk + part * 2 * kTileBytes, 64);
    if (kRight == 2) _tile_loadd(7, chunk + (part * 2 + 1) * kTileBytes, 64);
  }

  template <int kLeft, int kRight>
  static void accumulate() {
    _tile_dpbf16ps(0, 4, 6);
    if (kRight == 2) _tile_dpbf16ps(1, 4, 7);
    if (kLeft == 2) _tile_dpbf16ps(2, 5, 6);
    if (kLeft == 2 && kRight == 2) _tile_dpbf16ps(3, 5, 7);
  }

  template <int kLeft, int kRight>
  static void product(const Run* runs, int count, float* tile) {
    _tile_zero(0);
    _tile_zero(1);
    _tile_zero(2);
    _tile_zero(3);
    for (int i = 0; i < count; ++i) {
      const unsigned char* left = runs[i].left;
      const unsigned char* right = runs[i].right;
      for (Index d = 0; d < runs[i].depth; d += kChunk) {
        // Each step changes one side only. Small products first.
        if (kParts == 3) {
          load_left<kLeft, kRight>(left, 2);
          load_right<kLeft, kRight>(right, 0);
          accumulate<kLeft, kRight>();
          load_left<kLeft, kRight>(left, 1);
          accumulate<kLeft, kRight>();
          load_right<kLeft, kRight>(right, 1);
          accumulate<kLeft, kRight>();
          load_left<kLeft, kRight>(left, 0);
          accumulate<kLeft, kRight>();
          load_right<kLeft, kRight>(right, 2);
          accumulate<kLeft, kRight>();
        } else if (kParts == 2) {
          load_left<kLeft, kRight>(left, 1);
          load_right<kLeft, kRight>(right, 0);
          accumulate<kLeft, kRight>();
          load_left<kLeft, kRight>(left, 0);
          load_right<kLeft, kRight>(right, 1);
          accumulate<kLeft, kRight>();
        } else {
          load_left<kLeft, kRight>(left, 0);
        }
        load_right<kLeft, kRight>(right, 0);
        accumulate<kLeft, kRight>();
        left += left_bytes(kChunk);
        right += right_bytes(kChunk);
      }
    }
    constexpr Index kStep = kTileLanes * sizeof(float);
    _tile_stored(0, tile, kStep);
    if (kRight == 2) _tile_stored(1, tile + kTileRows, kStep);
    if (kLeft == 2) _tile_stored(2, tile + kTileRows * kTileLanes, kStep);
    if (kLeft == 2 && kRight == 2) _tile_stored(3, tile + kTileRows * (kTileLanes + 1), kStep);
  }
};

bool forward(const ForwardJob<float>& job, Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return Forward<AmxKernel<3>>(job).run();
    case Precision::bf16:
      return Forward<AmxKernel<1>>(job).run();
    default:
      return Forward<AmxKernel<2>>(job).run();
  }
}

bool grad_weight(const GradWeightJob<float>& job, Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return GradWeight<AmxKernel<3>>(job).run();
    case Precision::bf16:
      return GradWeight<AmxKernel<1>>(job).run();
    default:
      return GradWeight<AmxKernel<2>>(job).run();
  }
}

}  // namespace

const DirectKernels kAmxKernels = {"amx", forward, nullptr, grad_weight, nullptr};

}  // namespace deeplab

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
