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
constexpr int kVectorBytes = 64;
#include "engine.h"
// In this order.
#include "forward.h"
// In this order.
#include "engine_grad_weight.h"
// In this order.
#include "amx_unit.h"
// In this order.
#include "amx_kernels.h"

bool forward(const ForwardJob<float>& job, Precision precision) {
  switch (precision) {
    case Precision::fp32:
      return run_in_team<Forward<AmxUnit<3>>>(job);
    case Precision::bf16:
      return run_in_team<Forward<AmxUnit<1>>>(job);
    default:
      return run_in_team<Forward<AmxUnit<2>>>(job);
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

constexpr DirectKernels kAmxKernels = {0, forward, nullptr, grad_weight, nullptr};

}  // namespace deeplab

DEEPLAB_END_TARGET

#endif
