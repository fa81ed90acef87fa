#include "../../common/instruction_set.h"

#if DEEPLAB_HAS_X86_TARGETS

#include <immintrin.h>

#include "kernels.h"

// GCC's own header says x = x where it means "anything".
#if !defined(__clang__)
#pragma GCC diagnostic ignored "-Wmaybe-uninitialized"
#pragma GCC diagnostic ignored "-Wuninitialized"
#endif

DEEPLAB_BEGIN_TARGET("avx512f,avx512bw,avx512dq,avx512vl,fma")

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
#include "product.h"
// In this order.
#include "vector_kernel.h"
// In this order.
#include "engine_pointwise.h"
// In this order.
#include "engine_winograd.h"
// In this order.
#include "engine_depthwise.h"

}  // namespace

constexpr DirectKernels kAvx512Kernels = vector_kernels<64, 14, 2>();
constexpr PointwiseKernels kAvx512Pointwise = pointwise_kernels<64, 14, 2>();
constexpr WinogradKernels kAvx512Winograd = winograd_kernels<64, 14, 2>();
constexpr DepthwiseKernels kAvx512Depthwise = depthwise_kernels<64>();

}  // namespace deeplab

DEEPLAB_END_TARGET

#endif
