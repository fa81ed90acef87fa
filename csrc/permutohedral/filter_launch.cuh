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
      : table(device.template allocate<T>(g.vertices * g.channels)),
        spare(device.template allocate<T>(g.vertices * g.channels)),
        partial(
            device.template allocate<T>(2 * ceil_div(g.entries(), kChunkEntries) * g.channels)) {}
};

// Leaves the blurred values of the vertices in tables.table. scale (points) or null.
template <typename Device, typename T>
void splat_and_blur(const Device& device, const DeviceLattice<T>& lattice, const T* scale,
                    const T* values, bool reverse, FilterTables<T>& tables) {
  const FilterGeometry& g = lattice.geometry;
  const Index chunks = ceil_div(g.entries(), kChunkEntries);
  launch_items(device, chunks * g.channels, splat_kernel<T>, g, lattice.vertex, lattice.weight,
               lattice.splat_entry, scale, values, tables.table, tables.partial);
  launch_items(device, g.vertices * g.channels, combine_kernel<T>, g, lattice.splat_start,
               tables.partial, tables.table);
  for (Index i = 0; i < g.corners; ++i) {
    const Index axis = reverse ? g.corners - 1 - i : i;
    launch_items(device, g.vertices * g.channels, blur_kernel<T>, g,
                 lattice.neighbours + axis * g.vertices * 2, tables.table, tables.spare);
    std::swap(tables.table, tables.spare);
  }
}

template <typename Device, typename T>
void launch_filter(Device& device, const DeviceLattice<T>& lattice, const T* values, bool reverse,
                   T* result) {
  const FilterGeometry& g = lattice.geometry;
  FilterTables<T> tables(device, g);
  splat_and_blur(device, lattice, static_cast<const T*>(nullptr), values, reverse, tables);
  launch_items(device, g.points * g.channels, slice_kernel<T>, g, lattice.vertex, lattice.weight,
               lattice.alpha(), tables.table, result);
}

// result (points, corners): the gradient of the lattice's weights, which both splat and slice.
template <typename Device, typename T>
void launch_grad_weight(Device& device, const DeviceLattice<T>& lattice, const T* grad,
                        const T* values, bool reverse, T* result) {
  const FilterGeometry& g = lattice.geometry;
  FilterTables<T> tables(device, g);
  const auto add_products = [&](const T* splatted, const T* sliced, bool back) {
    splat_and_blur(device, lattice, static_cast<const T*>(nullptr), splatted, reverse != back,
                   tables);
    launch_items(device, g.entries(), corner_product_kernel<T>, g, lattice.vertex, sliced,
                 lattice.alpha(), back, tables.table, result);
  };
  add_products(values, grad, false);
  add_products(grad, values, true);
}

}  // namespace deeplab
