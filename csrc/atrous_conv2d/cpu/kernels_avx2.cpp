#if defined(__x86_64__)

#include "kernels.h"

#if defined(__clang__)
#pragma clang attribute push(__attribute__((target("avx2,fma"))), apply_to = function)
#else
#pragma GCC target("avx2,fma")
#endif

namespace deeplab {
namespace {

#include "engine.h"
// In this order.
#include "engine_grad_weight.h"
// In this order.
#include "vector_kernel.h"

}  // namespace

const DirectKernels kAvx2Kernels = vector_kernels<32, 6, 2>("avx2");

}  // namespace deeplab

#if defined(__clang__)
#pragma clang attribute pop
#endif

#endif
