#include <torch/csrc/stable/library.h>

#include "build_launch.cuh"
#include "device_cuda.cuh"
#include "lattice_cuda.cuh"
#include "permutohedral_entry.h"

namespace deeplab {
namespace {

std::tuple<Tensor, Tensor, Tensor, Tensor, Tensor> permutohedral_build(const Tensor& features_any,
                                                                       bool padding_points,
                                                                       int64_t max_blocks) {
  const char* op = "permutohedral_build";
  check_build(op, features_any);
  const Tensor features = torch::stable::contiguous(features_any);
  BuildGeometry g = {features.size(0), features.size(1), features.size(2), 0};
  g.padding = padding_points && g.points % kPaddedPoints != 0;
  const auto new_int = [&](std::initializer_list<int64_t> sizes) {
    return torch::stable::new_empty(features, {sizes.begin(), sizes.size()},
                                    torch::headeronly::ScalarType::Int);
  };
  const Tensor vertex = new_int({g.pictures, g.points, g.corners()});
  const int64_t weight_sizes[] = {g.pictures, g.points, g.corners()};
  const Tensor weight = torch::stable::new_empty(features, {weight_sizes, 3});
  const Tensor splat_entry = new_int({g.real_entries()});
  if (g.real_points() == 0) {
    Tensor start = new_int({1});
    return {vertex, weight, new_int({g.corners(), 0, 2}), torch::stable::zero_(start), splat_entry};
  }
  Tensor neighbours, splat_start;
  dispatch_float(features, [&](auto zero) {
    using T = decltype(zero);
    on_current_stream(features.get_device_index(), [&](cudaStream_t stream) {
      TorchDevice device(features, max_blocks, stream);
      LatticeBuild<TorchDevice, T> build(device, g);
      int* vertices = vertex.mutable_data_ptr<int>();
      const Index count = build.number_vertices(features.const_data_ptr<T>(), vertices,
                                                weight.mutable_data_ptr<T>());
      neighbours = new_int({g.corners(), count, 2});
      splat_start = new_int({count + 1});
      build.finish(count, vertices, neighbours.mutable_data_ptr<int>(),
                   splat_start.mutable_data_ptr<int>(), splat_entry.mutable_data_ptr<int>());
    });
  });
  return {vertex, weight, neighbours, splat_start, splat_entry};
}

struct FilterCuda {
  template <typename T>
  static void filter(const LatticeTensors& tensors, const Tensor& values, bool reverse,
                     const Tensor& result, Index max_blocks) {
    on_current_stream(values.get_device_index(), [&](cudaStream_t stream) {
      TorchDevice device(values, max_blocks, stream);
      launch_filter(device, device_lattice<T>(tensors, values.size(2)), values.const_data_ptr<T>(),
                    reverse, result.mutable_data_ptr<T>());
    });
  }

  template <typename T>
  static void grad_weight(const LatticeTensors& tensors, const Tensor& grad, const Tensor& values,
                          bool reverse, const Tensor& result, Index max_blocks) {
    on_current_stream(values.get_device_index(), [&](cudaStream_t stream) {
      TorchDevice device(values, max_blocks, stream);
      launch_grad_weight(device, device_lattice<T>(tensors, values.size(2)),
                         grad.const_data_ptr<T>(), values.const_data_ptr<T>(), reverse,
                         result.mutable_data_ptr<T>());
    });
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CUDA, m) {
  m.impl("permutohedral_build", TORCH_BOX(&deeplab::permutohedral_build));
  using deeplab::FilterCuda;
  m.impl("permutohedral_filter", TORCH_BOX(&deeplab::permutohedral_filter<FilterCuda>));
  m.impl("permutohedral_grad_weight", TORCH_BOX(&deeplab::permutohedral_grad_weight<FilterCuda>));
}
