// What a header needs that host code, nvcc and NVRTC all compile. No standard headers: NVRTC has
// none.
#pragma once

#if defined(__CUDACC__)
#define HOST_DEVICE __host__ __device__ __forceinline__
#else
#define HOST_DEVICE inline
#endif

namespace deeplab {

// Sizes and offsets. int64_t without <cstdint>.
using Index = long long;
static_assert(sizeof(Index) == 8, "tensor offsets need 64 bits");

HOST_DEVICE Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

}  // namespace deeplab
