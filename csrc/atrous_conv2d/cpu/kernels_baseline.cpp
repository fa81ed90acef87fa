// For every processor: the vectors that its ABI promises.
#include "kernels.h"

namespace deeplab {
namespace {

constexpr int kVectorBytes = 16;
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

constexpr DirectKernels kBaselineKernels = vector_kernels<16, 6, 2>();
constexpr PointwiseKernels kBaselinePointwise = pointwise_kernels<16, 6, 2>();
constexpr WinogradKernels kBaselineWinograd = winograd_kernels<16, 6, 2>();
constexpr DepthwiseKernels kBaselineDepthwise = depthwise_kernels<16>();

}  // namespace deeplab
