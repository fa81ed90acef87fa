// The sequence of kernels of a filter, for nvcc and for the host harness alike.
#pragma once

#include <utility>

#include "device_launch.cuh"
#include "filter_kernels.cuh"

namespace deeplab {

// A lattice's tensors on the device.
template <typename T>
struct DeviceLattice {
  FilterGeometry geometry;  // with the channels that are filtered
  const int* vertex;
  const T* weight;
  const int* neighbours;
  const int* splat_start;
  const int* splat_entry;

  // What slicing multiplies with, as densecrf: the blur's gain.
  T alpha() const {
    T power = 1;
    for (Index i = 1; i < geometry.corners; ++i) power /= 2;
    return 1 / (1 + power);
  }
};

// Tables that one filter after another may use.
template <typename T>
struct FilterTables {
  T *table, *spare, *partial;

  template <typename Device>
  FilterTables(Device& device, const FilterGeometry& g)
      : table(device.template allocate<T>(g.vertices * g.quads() * kQuad)),
        spare(device.template allocate<T>(g.vertices * g.quads() * kQuad)),
        partial(device.template allocate<T>(g.pieces() * g.quads() * kQuad)) {}
};

// What vertices read of points, in the order of the vertices. scale (points) or null: what values
// are multiplied with first.
template <typename Device, typename T>
const SplatPair<T>* launch_pairs(Device& device, const DeviceLattice<T>& lattice, const T* scale) {
  const FilterGeometry& g = lattice.geometry;
  auto* const pairs = device.template allocate<SplatPair<T>>(g.entries());
  launch_items(device, g.entries(), pair_kernel<T>, g.entries(), divisor_of(g.corners),
               lattice.splat_entry, lattice.weight, scale, pairs);
  return pairs;
}

// Leaves the blurred values of the vertices in tables.table. values: (points, quads).
template <typename Device, typename T>
void splat_and_blur(const Device& device, const DeviceLattice<T>& lattice,
                    const SplatPair<T>* pairs, const T* values, bool reverse,
                    FilterTables<T>& tables) {
  const FilterGeometry& g = lattice.geometry;
  launch_rows(device, g.vertices + g.pieces(), g.quads(), splat_kernel<T>, g, lattice.vertex,
              lattice.splat_start, lattice.splat_entry, pairs, values, tables.table,
              tables.partial);
  launch_rows(device, g.pieces(), g.quads(), combine_kernel<T>, g, lattice.vertex,
              lattice.splat_start, lattice.splat_entry, static_cast<const T*>(tables.partial),
              tables.table);
  for (Index i = 0; i < g.corners; ++i) {
    const Index axis = reverse ? g.corners - 1 - i : i;
    launch_rows(device, g.vertices, g.quads(), blur_kernel<T>, g,
                lattice.neighbours + axis * g.vertices * 2, static_cast<const T*>(tables.table),
                tables.spare);
    std::swap(tables.table, tables.spare);
  }
}

template <typename Device, typename T>
void slice(const Device& device, const DeviceLattice<T>& lattice, const T* table, T* result) {
  const FilterGeometry& g = lattice.geometry;
  launch_rows(device, g.points, g.quads(), slice_kernel<T>, g, lattice.vertex, lattice.weight,
              lattice.alpha(), table, result);
}

// values (points, channels) as rows of quads.
template <typename Device, typename T>
const T* launch_rows_of(Device& device, const FilterGeometry& g, const T* values) {
  if (g.channels % kQuad == 0 &&
      reinterpret_cast<unsigned long long>(values) % alignof(Quad<T>) == 0) {
    return values;
  }
  T* const rows = device.template allocate<T>(g.points * g.quads() * kQuad);
  const Planes pixels{g.points, divisor_of(1), g.channels};  // each a picture of one point
  launch_items(device, g.points, rows_of_planes_kernel<T>, pixels, values, T(1), T(0), rows);
  return rows;
}

template <typename Device, typename T>
void launch_filter(Device& device, const DeviceLattice<T>& lattice, const T* values, bool reverse,
                   T* result) {
  FilterTables<T> tables(device, lattice.geometry);
  const T* const rows = launch_rows_of(device, lattice.geometry, values);
  const SplatPair<T>* const pairs = launch_pairs<Device, T>(device, lattice, nullptr);
  splat_and_blur(device, lattice, pairs, rows, reverse, tables);
  slice(device, lattice, static_cast<const T*>(tables.table), result);
}

// result (points, corners): the gradient of the lattice's weights, which both splat and slice.
template <typename Device, typename T>
void launch_grad_weight(Device& device, const DeviceLattice<T>& lattice, const T* grad,
                        const T* values, bool reverse, T* result) {
  const FilterGeometry& g = lattice.geometry;
  FilterTables<T> tables(device, g);
  const SplatPair<T>* const pairs = launch_pairs<Device, T>(device, lattice, nullptr);
  const T* const grad_rows = launch_rows_of(device, g, grad);
  const T* const value_rows = launch_rows_of(device, g, values);
  const auto add_products = [&](const T* splatted, const T* sliced, bool back) {
    splat_and_blur(device, lattice, pairs, splatted, reverse != back, tables);
    launch_rows(device, g.points, g.corners, corner_product_kernel<T>, g, lattice.vertex, sliced,
                lattice.alpha(), back, static_cast<const T*>(tables.table), result);
  };
  add_products(value_rows, grad_rows, false);
  add_products(grad_rows, value_rows, true);
}

}  // namespace deeplab
