#include "mean_field/mean_field_launch.cuh"

#include "host_device.h"

using namespace deeplab;

// One kernel, as an array of 64-bit numbers.
struct KernelRecord {
  Index vertices, corners, normalization, compatibility;
  const int* vertex;
  const float* weight;
  const int *neighbours, *start, *entry;
  const float *kernel_weight, *mu;
};

// sizes: pictures, points, classes, iterations, number of kernels
extern "C" int mean_field(const Index* sizes, const float* unary, const float* initial,
                          const float* options, const KernelRecord* records, float* result,
                          Index max_blocks, int order) {
  return guarded(order, [&] {
    HostDevice device{max_blocks};
    const MeanFieldInput input = {sizes[0], sizes[1],   sizes[2], unary,
                                  initial,  options[0], sizes[3], options[1]};
    std::vector<MeanFieldInputKernel> kernels;
    for (Index k = 0; k < sizes[4]; ++k) {
      const KernelRecord& r = records[k];
      kernels.push_back({{{sizes[0] * sizes[1], r.vertices, r.corners, sizes[2]},
                          r.vertex,
                          r.weight,
                          r.neighbours,
                          r.start,
                          r.entry},
                         static_cast<Normalization>(r.normalization),
                         static_cast<Compatibility>(r.compatibility),
                         r.kernel_weight,
                         r.mu});
    }
    launch_mean_field(device, input, kernels, result);
  });
}
