// float32 products on the matrix unit of recent Intel processors, which multiplies bfloat16 only: a
// float32 is the sum of three bfloat16 numbers, exactly, and of the nine products of two such sums
// the six largest are taken. What is left out is below 2^-23 of a product, and the unit adds 32
// products before it rounds, so results are as close to the exact ones as those of float32
// arithmetic, at 2.7 times its speed. "tf32" and "fp16" take two parts and three products (16
// bits), "bf16" one.
//
// The unit flushes what is subnormal and knows no infinity times zero: Thread::suits().
#include "../../common/instruction_set.h"

#if DEEPLAB_HAS_X86_TARGETS

#include <immintrin.h>

#include "kernels.h"

// GCC's own header says x = x where it means "anything".
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

DEEPLAB_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma,amx-tile,amx-bf16")

namespace deeplab {
namespace {

#define DEEPLAB_LANES_AVX512
#include "engine.h"
// In this order.
#include "engine_grad_weight.h"
// In this order.
#include "amx_unit.h"
// In this order.
#include "amx_forward.h"

// The Kernel of engine.h: for gradients of weights, and for maps of few channels.
template <int kParts>
struct AmxKernel {
  using Element = float;
  using Thread = AmxThread;
  static constexpr int kRows = 2 * kTileRows;
  static constexpr bool kBalanced = false;
  static constexpr int kDepthUnit = kChunk;
  static constexpr bool kRightAsStaged = false;

  // A chunk of a panel: for each part two tiles.
  static Index left_bytes(Index depth) { return depth / kChunk * kParts * 2 * kTileBytes; }
  static Index right_bytes(Index depth) { return left_bytes(depth); }

  static void pack_left(const float* staging, int rows, int entries, Index at, Thread& thread,
                        unsigned char* panel) {
    unsigned char* chunk = panel + left_bytes(at);
    const __mmask16 low = first_lanes(entries), high = first_lanes(entries - 16);
    for (int r = 0; r < rows; ++r, staging += kChunk) {
      __m512i a = _mm512_maskz_loadu_epi32(low, staging);
      __m512i b = _mm512_maskz_loadu_epi32(high, staging + 16);
      thread.saw_left(_mm512_max_epu32(magnitude(a), magnitude(b)));
      unsigned char* to = chunk + r * kRowBytes;
      for (int part = 0; part < kParts; ++part, to += 2 * kTileBytes) {
        const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
        _mm512_store_si512(to, Parts<kParts>::row(x, y));
      }
    }
  }

  static void pack_right(const float* staging, int entries, Index at, Thread& thread,
                         unsigned char* panel) {
    unsigned char* chunk = panel + right_bytes(at);
    for (int pair = 0; pair < kChunk / 2; ++pair, staging += 2 * kTileLanes) {
      for (int half = 0; half < 2; ++half) {
        const float* from = staging + half * 16;
        __m512i a = _mm512_setzero_si512(), b = a;
        if (2 * pair < entries) a = _mm512_load_si512(from);
        if (2 * pair + 1 < entries) b = _mm512_load_si512(from + kTileLanes);
        thread.saw_right(_mm512_max_epu32(magnitude(a), magnitude(b)));
        unsigned char* to = chunk + half * kTileBytes + pair * kRowBytes;
        for (int part = 0; part < kParts; ++part, to += 2 * kTileBytes) {
          const __m512i x = Parts<kParts>::next(a, part), y = Parts<kParts>::next(b, part);
          _mm512_store_si512(to, Parts<kParts>::pair(x, y));
        }
      }
    }
  }

  static void multiply(const Run* runs, int count, int rows, int columns, Thread& thread,
                       float* tile) {
    thread.configure(rows);
    with_tiles(rows, columns, [&](auto left, auto right) {
      zero_sums();
      for (int i = 0; i < count; ++i) {
        for (Index d = 0; d < runs[i].depth; d += kChunk) {
          const unsigned char* at = runs[i].left + left_bytes(d);
          const LeftRows rows_at[2] = {{at, kRowBytes}, {at + kTileBytes, kRowBytes}};
          accumulate_chunk<kParts, left.value, right.value>(rows_at, 2 * kTileBytes,
                                                            runs[i].right + right_bytes(d));
        }
      }
      store_sums<left.value, right.value>(tile);
    });
  }
};

template <int kParts>
bool forward_in(const ForwardJob<float>& job) {
  // Channels that fill less than half of a chunk are better off with all taps in one.
  if (2 * job.source_channels <= kChunk) return run_in_team<Forward<AmxKernel<kParts>>>(job);
  return run_in_team<AmxForward<kParts>>(job);
}

bool forward(const ForwardJob<float>& job, Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return forward_in<3>(job);
    case Precision::bf16:
      return forward_in<1>(job);
    default:
      return forward_in<2>(job);
  }
}

bool grad_weight(const GradWeightJob<float>& job, Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return run_in_team<GradWeight<AmxKernel<3>>>(job);
    case Precision::bf16:
      return run_in_team<GradWeight<AmxKernel<1>>>(job);
    default:
      return run_in_team<GradWeight<AmxKernel<2>>>(job);
  }
}

}  // namespace

constexpr DirectKernels kAmxKernels = {forward, nullptr, grad_weight, nullptr};

}  // namespace deeplab

DEEPLAB_END_TARGET

#endif
