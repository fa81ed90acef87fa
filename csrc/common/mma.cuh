// Tensor-core products and asynchronous copies, by the names of what they do. On sm_80 and later
// they are single PTX instructions; before that copies are plain and products must not be reached;
// on the host they are emulated lane by lane (mma_on_host.h).
//
// Fragments of a 16 x 8 product, lane = 4 * g + t. A register holds 4 bytes of a row's k, so that
// one layout serves 4-byte (k = 8) and 2-byte elements (k = 16):
//   a[0], a[1]: rows g, g + 8, bytes 4t..; a[2], a[3]: the same rows, bytes 16 + 4t..
//   b[0], b[1]: column g, bytes 4t.. and 16 + 4t..
//   d[0], d[1]: row g, columns 2t, 2t + 1; d[2], d[3]: row g + 8
//
// Products and load_matrices are `.aligned`: all lanes of a warp must come to them together. Lanes
// part in loops that not all leave at a time, as those that compute what to copy do, and __syncwarp
// brings them together; the host harness throws where it is missing after a copy.
#pragma once

#include "float16.h"
#include "kernel.cuh"

#if !defined(__CUDACC__)
#include "mma_on_host.h"
#endif

namespace deeplab {

#define DEVICE_INLINE __device__ __forceinline__

// 10 * major + minor of the first that has what is used here.
#define TENSOR_CORE_ARCHITECTURE 80
[[maybe_unused]] constexpr int kTensorCoreArchitecture = TENSOR_CORE_ARCHITECTURE;

// Begins a kernel that no launcher takes for `Way` on an older architecture: nothing follows there.
#if defined(__CUDA_ARCH__) && __CUDA_ARCH__ < 10 * TENSOR_CORE_ARCHITECTURE
#define RETURN_WITHOUT_TENSOR_CORES(Way) \
  if (Way::kOnTensorCores) {             \
    __trap();                            \
    return;                              \
  }
#else
#define RETURN_WITHOUT_TENSOR_CORES(Way)
#endif

constexpr int kChunkBytes = 16;  // what one copy moves, and a row of a matrix for load_matrices

struct alignas(kChunkBytes) Chunk {
  unsigned words[4];
};

#if defined(__CUDACC__)

DEVICE_INLINE unsigned shared_address(const void* pointer) {
  return static_cast<unsigned>(__cvta_generic_to_shared(pointer));
}

#if __CUDA_ARCH__ >= 10 * TENSOR_CORE_ARCHITECTURE
#define TENSOR_CORES 1
#endif

// The nearest value with 10 bits of mantissa, ties away from zero.
DEVICE_INLINE float round_tf32(float value) {
#if defined(TENSOR_CORES)
  unsigned bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return __uint_as_float(bits);
#else
  return value;
#endif
}

#if defined(TENSOR_CORES)
#define MMA(shape_and_types)                                                      \
  asm volatile("mma.sync.aligned." shape_and_types                                \
               " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};" \
               : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])                   \
               : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]))
#else
#define MMA(shape_and_types) __trap()
#endif

// d += a b, each operand's low 13 bits ignored.
DEVICE_INLINE void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  MMA("m16n8k8.row.col.f32.tf32.tf32.f32");
}
DEVICE_INLINE void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  MMA("m16n8k16.row.col.f32.bf16.bf16.f32");
}
DEVICE_INLINE void mma_fp16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  MMA("m16n8k16.row.col.f32.f16.f16.f32");
}
#undef MMA

// Four 8 x 8 matrices of 2-byte elements; `row` of lane 8 i + j is row j of matrix i. Register i
// gets the 4 bytes at 4t of row g of matrix i; transposed, elements (2t, g) and (2t + 1, g).
DEVICE_INLINE void load_matrices(unsigned (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}
DEVICE_INLINE void load_matrices_transposed(unsigned (&registers)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(registers[0]), "=r"(registers[1]), "=r"(registers[2]), "=r"(registers[3])
               : "r"(shared_address(row))
               : "memory");
}

// Copies a chunk from global to shared memory, or fills it with zeros where not `valid`; both
// addresses are multiples of 16. It is there after copy_commit, copy_wait and a barrier.
DEVICE_INLINE void copy_chunk(void* shared, const void* global, bool valid) {
#if defined(TENSOR_CORES)
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)),
               "l"(__cvta_generic_to_global(global)), "r"(valid ? kChunkBytes : 0)
               : "memory");
#else
  *static_cast<uint4*>(shared) =
      valid ? *static_cast<const uint4*>(global) : make_uint4(0, 0, 0, 0);
#endif
}

DEVICE_INLINE void copy_commit() {
#if defined(TENSOR_CORES)
  asm volatile("cp.async.commit_group;" ::: "memory");
#endif
}

// Waits until at most the last kPending committed groups are under way.
template <int kPending>
DEVICE_INLINE void copy_wait() {
#if defined(TENSOR_CORES)
  asm volatile("cp.async.wait_group %0;" ::"n"(kPending) : "memory");
#endif
}

#else

using cuda_on_host::copy_chunk;
using cuda_on_host::copy_commit;
using cuda_on_host::copy_wait;
using cuda_on_host::load_matrices;
using cuda_on_host::load_matrices_transposed;
using cuda_on_host::round_tf32;

inline void mma_tf32(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  cuda_on_host::mma<float>(
      d, a, b, [](float value) { return bits_as<float>(bits_as<unsigned>(value) & 0xffffe000u); });
}
inline void mma_bf16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  cuda_on_host::mma<BFloat16>(d, a, b, [](BFloat16 value) { return to_real(value); });
}
inline void mma_fp16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  cuda_on_host::mma<Half>(d, a, b, [](Half value) { return to_real(value); });
}

#endif

}  // namespace deeplab
