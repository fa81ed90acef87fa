// Where launchers run. Device is any type with
//   Index max_blocks; cudaStream_t stream;
//   T* allocate<T>(Index count)   memory that lives as long as the device object
//   int read(const int* value)    waits for the stream; a build does so once, for the number of
//                                 vertices
#pragma once

#include "../common/cuda_launch.cuh"

namespace deeplab {

constexpr int kLatticeThreads = 256;

// One thread an item.
template <typename Device, typename Kernel, typename... Args>
void launch_items(const Device& device, Index items, Kernel kernel, Args... args) {
  if (items == 0) return;
  launch(kernel, grid_size(items, kLatticeThreads, device.max_blocks), kLatticeThreads,
         device.stream, args...);
}

// One thread a quad of a row, as FOR_ROWS walks them.
template <typename Device, typename Kernel, typename... Args>
void launch_rows(const Device& device, Index rows, Index quads, Kernel kernel, Args... args) {
  if (rows == 0 || quads == 0) return;
  const auto across = static_cast<unsigned>(quads < kLatticeThreads ? quads : kLatticeThreads);
  const unsigned down = kLatticeThreads / across;
  launch(kernel, grid_size(rows, down, device.max_blocks), dim3(across, down), device.stream,
         args...);
}

}  // namespace deeplab
