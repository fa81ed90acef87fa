#include <torch/csrc/stable/library.h>

#include "../permutohedral/device_cuda.cuh"
#include "../permutohedral/lattice_cuda.cuh"
#include "mean_field_entry.h"
#include "mean_field_launch.cuh"

namespace deeplab {
namespace {

Compatibility kind_of(const Tensor& mu) {
  if (mu.numel() == 0) return Compatibility::potts;
  return mu.dim() == 1 ? Compatibility::diagonal : Compatibility::matrix;
}

struct MeanFieldCuda {
  static void mean_field(const MeanFieldProblem& problem, const Tensor& result, Index max_blocks) {
    check(problem.kernels.size() <= kMaxKernels, "mean_field: at most ", kMaxKernels,
          " kernels on a GPU, got ", problem.kernels.size());
    const MeanFieldInput input = {
        problem.batch,
        problem.points,
        problem.classes,
        problem.unary.const_data_ptr<float>(),
        problem.initial ? problem.initial->const_data_ptr<float>() : nullptr,
        problem.relaxation,
        problem.iterations,
        problem.cutoff};
    std::vector<MeanFieldInputKernel> kernels;
    for (const MeanFieldKernel& from : problem.kernels) {
      kernels.push_back({device_lattice<float>(from.lattice, problem.classes), from.normalization,
                         kind_of(from.compatibility),
                         problem.weights.const_data_ptr<float>() + kernels.size(),
                         from.compatibility.const_data_ptr<float>()});
    }
    on_current_stream(problem.unary.get_device_index(), [&](cudaStream_t stream) {
      TorchDevice device(problem.unary, max_blocks, stream);
      launch_mean_field(device, input, kernels, result.mutable_data_ptr<float>());
    });
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CUDA, m) {
  m.impl("mean_field", TORCH_BOX(&deeplab::mean_field<deeplab::MeanFieldCuda>));
}
