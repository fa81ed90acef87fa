#if defined(__x86_64__)

#include <immintrin.h>

#include "kernels.h"

// GCC's own header says x = x where it means "anything".
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx512f,avx512bw,avx512dq,avx512vl,fma"))), \
                             apply_to = function)
#else
#pragma GCC target("avx512f,avx512bw,avx512dq,avx512vl,fma")
#endif

namespace deeplab {
namespace {

#define DEEPLAB_LANES_AVX512
#include "engine.h"
// In this order.
#include "engine_grad_weight.h"
// In this order.
#include "vector_kernel.h"

}  // namespace

const DirectKernels kAvx512Kernels = vector_kernels<64, 14, 2>("avx512");

}  // namespace deeplab

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
