// Kernels by the names that CuPy is given, with arguments as a driver takes them: one pointer each.
#include <map>

#include "mean_field/mean_field_kernels.cuh"
#include "on_host.h"
#include "permutohedral/build_kernels.cuh"
#include "permutohedral/filter_kernels.cuh"
#include "permutohedral/sort_kernels.cuh"

namespace {

using Run = std::function<void(unsigned blocks, dim3 threads, void* const* arguments)>;

template <typename... Args, std::size_t... kIndex>
Run bind_each(void (*kernel)(Args...), std::index_sequence<kIndex...>) {
  return [=](unsigned blocks, dim3 threads, void* const* arguments) {
    cuda_on_host::launch(blocks, threads,
                         [=] { kernel(*static_cast<Args*>(arguments[kIndex])...); });
  };
}

template <typename... Args>
Run bind(void (*kernel)(Args...)) {
  return bind_each(kernel, std::index_sequence_for<Args...>());
}

// The name is the expression's own text.
#define KERNEL(...) {"deeplab::" #__VA_ARGS__, bind(&deeplab::__VA_ARGS__)}
#define FOR_DIMENSION(d)                                                                         \
  KERNEL(simplex_kernel<float, d>), KERNEL(simplex_kernel<double, d>), KERNEL(insert_kernel<d>), \
      KERNEL(neighbours_kernel<d>)
#define FOR_TYPE(T)                                                                      \
  KERNEL(pair_kernel<T>), KERNEL(splat_kernel<T>), KERNEL(combine_kernel<T>),            \
      KERNEL(blur_kernel<T>), KERNEL(slice_kernel<T>), KERNEL(corner_product_kernel<T>), \
      KERNEL(rows_of_planes_kernel<T>), KERNEL(planes_of_rows_kernel<T>)

const std::map<std::string, Run> kKernels = {
    KERNEL(scan_tiles_kernel),
    KERNEL(scan_sums_kernel),
    KERNEL(add_tile_sums_kernel),
    KERNEL(count_digits_kernel),
    KERNEL(scatter_digits_kernel),
    KERNEL(fill_kernel<int>),
    KERNEL(mark_first_kernel),
    KERNEL(number_kernel),
    KERNEL(start_kernel),
    FOR_DIMENSION(0),
    FOR_DIMENSION(2),
    FOR_DIMENSION(5),
    FOR_TYPE(float),
    FOR_TYPE(double),
    KERNEL(update_kernel<1, 1>),
    KERNEL(update_kernel<2, 1>),
    KERNEL(update_kernel<4, 1>),
    KERNEL(update_kernel<8, 1>),
    KERNEL(update_kernel<16, 1>),
    KERNEL(update_kernel<32, 1>),
    KERNEL(update_kernel<32, 2>),
    KERNEL(update_kernel<32, 0>),
    KERNEL(normalizer_kernel),
};

}  // namespace

extern "C" int run_kernel(const char* name, deeplab::Index blocks, deeplab::Index across,
                          deeplab::Index down, void* const* arguments) {
  return guarded(0, [&] {
    const auto found = kKernels.find(name);
    if (found == kKernels.end()) throw std::runtime_error(std::string("no kernel ") + name);
    const dim3 threads(static_cast<unsigned>(across), static_cast<unsigned>(down));
    found->second(static_cast<unsigned>(blocks), threads, arguments);
  });
}

// What Python's dtype has to match.
extern "C" int update_layout(deeplab::Index* sizes) {
  using deeplab::UpdateArguments;
  using deeplab::UpdateKernel;
  sizes[0] = sizeof(UpdateArguments);
  sizes[1] = sizeof(UpdateKernel);
  sizes[2] = offsetof(UpdateArguments, marginals);
  sizes[3] = offsetof(UpdateKernel, compatibility);
  return 0;
}
