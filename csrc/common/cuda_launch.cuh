// How kernels are launched, the same for nvcc and for the host harness. Launchers (<op>_launch.cuh)
// use this; they take a params struct, raw pointers and a stream, and know nothing of torch.
#pragma once

#include "kernel.cuh"

namespace deeplab {

// Enough blocks to fill today's largest GPUs several times over; more would only queue.
constexpr Index kAutomaticMaxBlocks = 4096;

// Blocks for `items` work items, `per_block` of them at a time; max_blocks 0 = automatic.
inline unsigned grid_size(Index items, Index per_block, Index max_blocks) {
  const Index wanted = ceil_div(items, per_block);
  const Index limit = max_blocks > 0 ? max_blocks : kAutomaticMaxBlocks;
  return static_cast<unsigned>(wanted < limit ? wanted : limit);
}

// kernel<<<blocks, threads>>> with `shared_bytes` of DYNAMIC_SHARED.
#if defined(__CUDACC__)
template <typename Kernel, typename... Args>
void launch_with_shared(Kernel kernel, unsigned blocks, dim3 threads, int shared_bytes,
                        cudaStream_t stream, Args... args) {
  constexpr int kGrantedUnasked = 48 * 1024;
  if (shared_bytes > kGrantedUnasked) {
    cudaFuncSetAttribute(kernel, cudaFuncAttributeMaxDynamicSharedMemorySize, shared_bytes);
  }
  kernel<<<blocks, threads, shared_bytes, stream>>>(args...);
}
#else
template <typename Kernel, typename... Args>
void launch_with_shared(Kernel kernel, unsigned blocks, dim3 threads, int shared_bytes,
                        cudaStream_t, Args... args) {
  cuda_on_host::launch(blocks, threads, [=] { kernel(args...); }, shared_bytes);
}
#endif

template <typename Kernel, typename... Args>
void launch(Kernel kernel, unsigned blocks, dim3 threads, cudaStream_t stream, Args... args) {
  launch_with_shared(kernel, blocks, threads, 0, stream, args...);
}

}  // namespace deeplab
