// The sequence of kernels of a build, for nvcc and for the host harness alike.
#pragma once

#include <cmath>

#include "build_kernels.cuh"
#include "device_launch.cuh"
#include "sort_kernels.cuh"

namespace deeplab {

// values become the sums of those before; the sum of all is written to *total.
template <typename Device>
void exclusive_scan(Device& device, Index count, int* values, int* total) {
  const Index tiles = ceil_div(count, kSortTile);
  int* tile_sums = device.template allocate<int>(tiles);
  launch(scan_tiles_kernel, grid_size(tiles, 1, device.max_blocks), kSortThreads, device.stream,
         count, values, tile_sums);
  launch(scan_sums_kernel, 1, kSortThreads, device.stream, tiles, tile_sums, total);
  launch_items(device, count, add_tile_sums_kernel, count, tile_sums, values);
}

// numbers of the items 0..count-1 in the order of their keys in [0, key_end), equal ones in theirs.
// Returns the sorted keys.
template <typename Device>
const int* sort_items(Device& device, Index count, const int* keys, Index key_end, int* numbers) {
  const Index tiles = ceil_div(count, kSortTile);
  int* counts = device.template allocate<int>(kSortDigits * tiles);
  int* total = device.template allocate<int>(1);
  int* spare_numbers = device.template allocate<int>(count);
  int* spare_keys[2] = {device.template allocate<int>(count), device.template allocate<int>(count)};
  int passes = 1;
  while ((key_end - 1) >> (passes * kSortBits)) ++passes;
  const unsigned blocks = grid_size(tiles, 1, device.max_blocks);
  // Written to last, numbers are where the caller wants them.
  int* to = passes % 2 ? numbers : spare_numbers;
  const int* from = nullptr;
  for (int pass = 0; pass < passes; ++pass) {
    const int shift = pass * kSortBits;
    launch(count_digits_kernel, blocks, kSortThreads, device.stream, count, keys, shift, counts);
    exclusive_scan(device, kSortDigits * tiles, counts, total);
    int* sorted = spare_keys[pass % 2];
    launch(scatter_digits_kernel, blocks, kSortThreads, device.stream, count, keys, from, shift,
           counts, sorted, to);
    keys = sorted;
    from = to;
    to = to == numbers ? spare_numbers : numbers;
  }
  return keys;
}

// What of a build has to wait until the vertices' number is known.
template <typename Device, typename T>
class LatticeBuild {
 public:
  LatticeBuild(Device& device, const BuildGeometry& g) : device_(device), g_(g) {}

  // Fills vertex and weight; returns the number of vertices. There must be points, and at most
  // kMaxEntries entries.
  Index number_vertices(const T* features, int* vertex, T* weight) {
    const Index entries = g_.all_entries();
    slots_ = slots_for(entries);
    codes_ = device_.template allocate<int>(g_.all_points() * g_.dimension);
    table_ = device_.template allocate<int>(slots_);
    number_ = device_.template allocate<int>(entries);
    first_entry_ = device_.template allocate<int>(entries);
    Slot* slot_of = device_.template allocate<Slot>(entries);
    int* total = device_.template allocate<int>(1);
    FeatureScale<T> scale = {};
    const int d = static_cast<int>(g_.dimension);
    // Onto the hyperplane of d+1 coordinates whose sum is 0. The blur has variance 2/3 (d+1)^2.
    const T std = static_cast<T>(std::sqrt(2.0 / 3.0) * (d + 1));
    for (int i = 0; i < d; ++i) {
      scale.of[i] = static_cast<T>(1 / std::sqrt((i + 1.0) * (i + 2.0)) * std);
    }
    launch_items(device_, slots_, fill_kernel<int>, slots_, kFreeSlot, table_);
    with_dimension([&](auto dimension) {
      constexpr int kDimension = decltype(dimension)::value;
      launch_items(device_, g_.all_points(), simplex_kernel<T, kDimension>, g_, scale, features,
                   codes_, weight);
      launch_items(device_, entries, insert_kernel<kDimension>, g_, codes_, slots_, table_,
                   slot_of);
    });
    launch_items(device_, entries, mark_first_kernel, entries, table_, slot_of, number_);
    exclusive_scan(device_, entries, number_, total);
    launch_items(device_, entries, number_kernel, g_, table_, slot_of, number_, vertex,
                 first_entry_);
    return device_.read(total);
  }

  void finish(Index vertices, const int* vertex, int* neighbours, int* splat_start,
              int* splat_entry) {
    const Index pairs = vertices * g_.corners();
    launch_items(device_, pairs * 2, fill_kernel<int>, pairs * 2, -1, neighbours);
    with_dimension([&](auto dimension) {
      launch_items(device_, pairs, neighbours_kernel<decltype(dimension)::value>, g_, codes_,
                   slots_, table_, number_, first_entry_, vertices, neighbours);
    });
    const Index entries = g_.real_entries();
    const int* sorted = sort_items(device_, entries, vertex, vertices, splat_entry);
    launch_items(device_, entries + 1, start_kernel, entries, sorted, vertices, splat_start);
  }

 private:
  template <int kValue>
  struct Constant {
    static constexpr int value = kValue;
  };

  template <typename F>
  void with_dimension(const F& f) const {
    switch (g_.dimension) {
      case 2:
        return f(Constant<2>());
      case 5:
        return f(Constant<5>());
      default:
        return f(Constant<0>());
    }
  }

  Device& device_;
  BuildGeometry g_;
  Index slots_ = 0;
  int *codes_ = nullptr, *table_ = nullptr, *number_ = nullptr, *first_entry_ = nullptr;
};

}  // namespace deeplab
