// The one header a kernel file includes in place of CUDA's own. nvcc and NVRTC know the CUDA words
// by themselves; for any other compiler cuda_on_host.h defines them, and the kernel runs on the
// CPU.
#pragma once

#include "host_device.h"

#if defined(__CUDACC__)

// Shared memory of a block: SHARED_ARRAY(float, partial, 256); makes `partial` a float*.
// A macro because the host harness has to find the array, to fill it with garbage for every block.
#define SHARED_ARRAY(type, name, count)    \
  __shared__ type name##_storage[(count)]; \
  type* const name = name##_storage

// The shared memory whose size launch_with_shared was told; at most one a kernel.
#define DYNAMIC_SHARED(type, name)                                     \
  extern __shared__ __align__(128) unsigned char dynamic_shared_raw[]; \
  type* const name = reinterpret_cast<type*>(dynamic_shared_raw)

// The loop that follows, unrolled: its arrays then live in registers.
#define UNROLL _Pragma("unroll")
#define NO_UNROLL _Pragma("unroll 1")
#define UNROLL_BY(times) _Pragma(PRAGMA_TEXT(unroll times))
#define PRAGMA_TEXT(text) #text

#else

#define UNROLL
#define NO_UNROLL
#define UNROLL_BY(times)
#include "cuda_on_host.h"

#endif

// for (i = this thread's first item; i < count; i += all threads of the grid)
#define GRID_STRIDE_LOOP(i, count)                                                                \
  for (::deeplab::Index i = static_cast<::deeplab::Index>(blockIdx.x) * blockDim.x + threadIdx.x; \
       i < (count); i += static_cast<::deeplab::Index>(gridDim.x) * blockDim.x)
