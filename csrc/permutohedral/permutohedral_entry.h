// Checks and allocation, shared by the CPU and the CUDA entries; only the launch differs.
#pragma once

#include <limits>
#include <tuple>

#include "../common/check.h"
#include "../common/host_device.h"

namespace deeplab {

constexpr int kMaxDimension = 16;
// The original programs keep lattice coordinates in 16 bits; ours are refused where theirs wrap.
constexpr int kMaxCoordinate = 32767;
// SSE code of the originals: pixels are handled by fours.
constexpr Index kPaddedPoints = 4;

inline void check_int32(const char* op, const char* name, const Tensor& t) {
  check(t.scalar_type() == torch::headeronly::ScalarType::Int, op, ": ", name,
        " must be int32, got ", torch::headeronly::toString(t.scalar_type()));
}

inline void check_shape(const char* op, const char* name, const Tensor& t,
                        std::initializer_list<Index> sizes) {
  bool same = t.dim() == static_cast<int64_t>(sizes.size());
  std::string expected;
  int64_t d = 0;
  for (const Index size : sizes) {
    same = same && t.size(d) == size;
    expected += (d++ ? ", " : "") + std::to_string(size);
  }
  check(same, op, ": ", name, " must have shape (", expected, "), got ", shape_of(t));
}

inline void check_build(const char* op, const Tensor& features) {
  check_float(op, "features", features);
  check(features.dim() == 3 && features.size(2) >= 1 && features.size(2) <= kMaxDimension, op,
        ": features must have shape (B, P, d) with d in 1..16, got ", shape_of(features));
  const Index entries =
      features.size(0) * (features.size(1) + kPaddedPoints) * (features.size(2) + 1);
  check(entries <= std::numeric_limits<int>::max(), op, ": features ", shape_of(features), " need ",
        entries, " entries, 2**31 is the limit");
}

// Five tensors of one lattice, contiguous.
struct LatticeTensors {
  Tensor vertex, weight, neighbours, splat_start, splat_entry;
  Index batch, points, vertices;
  int corners;  // d + 1

  // values: what the lattice is to filter or has to agree with, (batch, ...).
  LatticeTensors(const char* op, const Tensor& vertex_any, const Tensor& weight_any,
                 const Tensor& neighbours_any, const Tensor& start_any, const Tensor& entry_any,
                 const Tensor& values)
      : vertex(torch::stable::contiguous(vertex_any)),
        weight(torch::stable::contiguous(weight_any)),
        neighbours(torch::stable::contiguous(neighbours_any)),
        splat_start(torch::stable::contiguous(start_any)),
        splat_entry(torch::stable::contiguous(entry_any)) {
    check(vertex.dim() == 3 && vertex.size(2) >= 2 && vertex.size(2) <= kMaxDimension + 1, op,
          ": vertex must have shape (B, P, d+1) with d in 1..16, got ", shape_of(vertex));
    batch = vertex.size(0);
    points = vertex.size(1);
    corners = static_cast<int>(vertex.size(2));
    check_like(op, "weight", weight, "values", values);
    check_shape(op, "weight", weight, {batch, points, corners});
    check(neighbours.dim() == 3, op, ": neighbours must have shape (d+1, M, 2), got ",
          shape_of(neighbours));
    vertices = neighbours.size(1);
    check_shape(op, "neighbours", neighbours, {corners, vertices, 2});
    check_shape(op, "splat_start", splat_start, {vertices + 1});
    check_shape(op, "splat_entry", splat_entry, {batch * points * corners});
    const std::pair<const char*, const Tensor*> indices[] = {{"vertex", &vertex},
                                                             {"neighbours", &neighbours},
                                                             {"splat_start", &splat_start},
                                                             {"splat_entry", &splat_entry}};
    for (const auto& [name, tensor] : indices) {
      check_int32(op, name, *tensor);
      check(tensor->device() == values.device(), op, ": ", name,
            " must be on the device of values");
    }
  }
};

// Launch::filter<T>(lattice, values, reverse, result, max_blocks)
template <typename Launch>
Tensor permutohedral_filter(const Tensor& values_any, const Tensor& vertex, const Tensor& weight,
                            const Tensor& neighbours, const Tensor& splat_start,
                            const Tensor& splat_entry, bool reverse, int64_t max_blocks) {
  const char* op = "permutohedral_filter";
  check_float(op, "values", values_any);
  check(values_any.dim() == 3, op, ": values must have shape (B, P, V), got ",
        shape_of(values_any));
  const LatticeTensors lattice(op, vertex, weight, neighbours, splat_start, splat_entry,
                               values_any);
  check_shape(op, "values", values_any, {lattice.batch, lattice.points, values_any.size(2)});
  const Tensor values = torch::stable::contiguous(values_any);
  const Tensor result = torch::stable::new_empty(values, values.sizes());
  if (result.numel() == 0) return result;
  dispatch_float(values, [&](auto zero) {
    using T = decltype(zero);
    Launch::template filter<T>(lattice, values, reverse, result, max_blocks);
  });
  return result;
}

// Launch::grad_weight<T>(lattice, grad, values, reverse, result, max_blocks)
template <typename Launch>
Tensor permutohedral_grad_weight(const Tensor& grad_any, const Tensor& values_any,
                                 const Tensor& vertex, const Tensor& weight,
                                 const Tensor& neighbours, const Tensor& splat_start,
                                 const Tensor& splat_entry, bool reverse, int64_t max_blocks) {
  const char* op = "permutohedral_grad_weight";
  check_float(op, "values", values_any);
  check(values_any.dim() == 3, op, ": values must have shape (B, P, V), got ",
        shape_of(values_any));
  check_like(op, "grad", grad_any, "values", values_any);
  check_same_shape(op, "grad", grad_any, "values", values_any);
  const LatticeTensors lattice(op, vertex, weight, neighbours, splat_start, splat_entry,
                               values_any);
  check_shape(op, "values", values_any, {lattice.batch, lattice.points, values_any.size(2)});
  const Tensor grad = torch::stable::contiguous(grad_any);
  const Tensor values = torch::stable::contiguous(values_any);
  Tensor result = torch::stable::new_empty(lattice.weight, lattice.weight.sizes());
  if (values.numel() == 0) return torch::stable::zero_(result);
  dispatch_float(values, [&](auto zero) {
    using T = decltype(zero);
    Launch::template grad_weight<T>(lattice, grad, values, reverse, result, max_blocks);
  });
  return result;
}

}  // namespace deeplab
