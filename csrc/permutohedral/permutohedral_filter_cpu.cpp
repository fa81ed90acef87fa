#include <torch/csrc/stable/library.h>

#include "filter_plan.h"
#include "permutohedral_entry.h"

namespace deeplab {
namespace {

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
    const auto read = [&](Index first, Index count, T* rows) {
      for (Index i = 0; i < count; ++i) {
        std::memcpy(rows + i * stride, values + (first + i) * channels, channels * sizeof(T));
        std::fill(rows + i * stride + channels, rows + (i + 1) * stride, T(0));
      }
    };
    const auto write = [&](Index first, Index count, const T* rows) {
      for (Index i = 0; i < count; ++i) {
        std::memcpy(result + (first + i) * channels, rows + i * stride, channels * sizeof(T));
      }
    };
    filter_points(lattice, plan, stride, lattice.points, reverse, read, write);
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("permutohedral_filter", TORCH_BOX(&deeplab::permutohedral_filter<deeplab::FilterCpu>));
}
