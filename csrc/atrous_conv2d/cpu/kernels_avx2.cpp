#include "../../common/instruction_set.h"

#if DEEPLAB_HAS_X86_TARGETS

#include "kernels.h"

DEEPLAB_BEGIN_TARGET("avx2,fma")

namespace deeplab {
namespace {

constexpr int kVectorBytes = 32;
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

constexpr DirectKernels kAvx2Kernels = vector_kernels<32, 6, 2>();
constexpr PointwiseKernels kAvx2Pointwise = pointwise_kernels<32, 6, 2>();
constexpr WinogradKernels kAvx2Winograd = winograd_kernels<32, 6, 2>();
constexpr DepthwiseKernels kAvx2Depthwise = depthwise_kernels<32>();

}  // namespace deeplab

DEEPLAB_END_TARGET

#endif
