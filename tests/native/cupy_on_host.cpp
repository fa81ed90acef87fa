// Kernels by the names that CuPy is given, with arguments as a driver takes them: one pointer each.
#include <map>

#include "atrous_conv2d/depthwise_kernels.cuh"
#include "atrous_conv2d/im2col_kernels.cuh"
#include "atrous_conv2d/plan_kernels.cuh"
#include "on_host.h"

namespace {

using Run = std::function<void(unsigned blocks, unsigned threads, std::size_t shared_bytes,
                               void* const* arguments)>;

template <typename... Args, std::size_t... kIndex>
Run bind_each(void (*kernel)(Args...), std::index_sequence<kIndex...>) {
  return [=](unsigned blocks, unsigned threads, std::size_t shared_bytes, void* const* arguments) {
    cuda_on_host::launch(
        blocks, threads, [=] { kernel(*static_cast<Args*>(arguments[kIndex])...); }, shared_bytes);
  };
}

template <typename... Args>
Run bind(void (*kernel)(Args...)) {
  return bind_each(kernel, std::index_sequence_for<Args...>());
}

// The name is the expression's own text.
#define KERNEL(...) {#__VA_ARGS__, bind(&__VA_ARGS__)}
#define FOR_ELEMENT(T)                                                                           \
  KERNEL(deeplab::im2col_kernel<T>), KERNEL(deeplab::col2im_kernel<T>),                          \
      KERNEL(deeplab::depthwise_kernel<T, 3>), KERNEL(deeplab::depthwise_kernel<T, 5>),          \
      KERNEL(deeplab::depthwise_kernel<T, 0>), KERNEL(deeplab::depthwise_grad_weight_kernel<T>), \
      KERNEL(deeplab::depthwise_grad_weight_sum_kernel<T>)
#define FOR_WAY(Way, T)                                                                  \
  KERNEL(deeplab::pack_map_kernel<Way, T>), KERNEL(deeplab::pack_weight_kernel<Way, T>), \
      KERNEL(deeplab::grad_weight_sum_kernel<Way, T>)
#define FOR_TILE(Way, Tile, T)                                                                    \
  KERNEL(deeplab::direct_kernel<Way, Tile, T>), KERNEL(deeplab::direct_sum_kernel<Way, Tile, T>), \
      KERNEL(deeplab::forward_plan_kernel<Way, Tile>),                                            \
      KERNEL(deeplab::grad_input_plan_kernel<Way, Tile>)
#define FOR_GRAD_TILE(Way, Tile)                  \
  KERNEL(deeplab::grad_weight_kernel<Way, Tile>), \
      KERNEL(deeplab::grad_weight_plan_kernel<Way, Tile>)

const std::map<std::string, Run> kKernels = {
    FOR_ELEMENT(float),
    FOR_ELEMENT(double),
    FOR_ELEMENT(deeplab::BFloat16),
    FOR_WAY(deeplab::Tf32x3, float),
    FOR_TILE(deeplab::Tf32x3, deeplab::NarrowTile, float),
    FOR_TILE(deeplab::Tf32x3, deeplab::WideTile, float),
    FOR_GRAD_TILE(deeplab::Tf32x3, deeplab::LowTile),
    FOR_GRAD_TILE(deeplab::Tf32x3, deeplab::NarrowTile),
    FOR_WAY(deeplab::Bf16, float),
    FOR_TILE(deeplab::Bf16, deeplab::NarrowTile, float),
    FOR_GRAD_TILE(deeplab::Bf16, deeplab::LowTile),
    FOR_WAY(deeplab::Bf16, deeplab::BFloat16),
    KERNEL(deeplab::direct_kernel<deeplab::Bf16, deeplab::NarrowTile, deeplab::BFloat16>),
    FOR_WAY(deeplab::MultiplyAdd<double>, double),
    FOR_TILE(deeplab::MultiplyAdd<double>, deeplab::PlainTile, double),
    FOR_GRAD_TILE(deeplab::MultiplyAdd<double>, deeplab::PlainTile),
};

}  // namespace

extern "C" int run_kernel(const char* name, deeplab::Index blocks, deeplab::Index threads,
                          deeplab::Index shared_bytes, void* const* arguments) {
  return guarded(0, [&] {
    const auto found = kKernels.find(name);
    if (found == kKernels.end()) throw std::runtime_error(std::string("no kernel ") + name);
    found->second(static_cast<unsigned>(blocks), static_cast<unsigned>(threads),
                  static_cast<std::size_t>(shared_bytes), arguments);
  });
}
