#include <torch/csrc/stable/library.h>

#include "filter_plan.h"
#include "permutohedral_entry.h"

namespace deeplab {
namespace {

// Copies the values (points, channels) of a block into rows, padded with zeros.
template <typename T>
auto reader(const T* values, Index channels, Index stride) {
  return [=](Index first, Index count, T* rows) {
    for (Index i = 0; i < count; ++i) {
      std::memcpy(rows + i * stride, values + (first + i) * channels, channels * sizeof(T));
      std::fill(rows + i * stride + channels, rows + (i + 1) * stride, T(0));
    }
  };
}

struct FilterCpu {
  template <typename T>
  static void filter(const LatticeTensors& tensors, const Tensor& values_tensor, bool reverse,
                     const Tensor& result_tensor, Index /*max_blocks*/) {
    const Index channels = values_tensor.size(2);
    const T* values = values_tensor.const_data_ptr<T>();
    T* result = result_tensor.mutable_data_ptr<T>();
    const LatticeView<T> lattice = view_of<T>(tensors);
    const FilterPlan plan(lattice.vertex, lattice.neighbours, lattice.points, lattice.vertices,
                          lattice.corners);
    const Index stride = row_stride<T>(channels);
    const auto read = reader(values, channels, stride);
    const auto write = [&](Index first, Index count, const T* rows) {
      for (Index i = 0; i < count; ++i) {
        std::memcpy(result + (first + i) * channels, rows + i * stride, channels * sizeof(T));
      }
    };
    filter_points(lattice, plan, stride, lattice.points, reverse, read, write);
  }

  template <typename T>
  static void grad_weight(const LatticeTensors& tensors, const Tensor& grad, const Tensor& values,
                          bool reverse, const Tensor& result_tensor, Index /*max_blocks*/) {
    const Index channels = values.size(2);
    T* result = result_tensor.mutable_data_ptr<T>();
    const LatticeView<T> lattice = view_of<T>(tensors);
    const FilterPlan plan(lattice.vertex, lattice.neighbours, lattice.points, lattice.vertices,
                          lattice.corners);
    const Index stride = row_stride<T>(channels);
    const int corners = lattice.corners;
    const Buffer<T> table(plan.table_rows() * stride);
    const auto add_products = [&](const Tensor& splatted, const Tensor& sliced, bool back) {
      const auto read = reader(sliced.const_data_ptr<T>(), channels, stride);
      const auto read_splatted = reader(splatted.const_data_ptr<T>(), channels, stride);
      in_team([&](Member& member) {
        splat_and_blur(member, lattice, plan, stride, lattice.points, reverse != back,
                       read_splatted, table.get());
        for_strips<T>(member, plan, stride, [&](Index strip, T* rows) {
          for_blocks(plan, strip, lattice.points, [&](Index first, Index count) {
            read(first, count, rows);
            kernels<T>().lattice.corner_products(
                {stride, count, corners, lattice.vertex + first * corners, nullptr, nullptr},
                lattice.alpha(), back, table.get(), rows, result + first * corners);
          });
        });
      });
    };
    add_products(values, grad, false);
    add_products(grad, values, true);
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  using deeplab::FilterCpu;
  m.impl("permutohedral_filter", TORCH_BOX(&deeplab::permutohedral_filter<FilterCpu>));
  m.impl("permutohedral_grad_weight", TORCH_BOX(&deeplab::permutohedral_grad_weight<FilterCpu>));
}
