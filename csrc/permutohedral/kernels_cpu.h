// The hot loops of the lattice filter and of mean field on the CPU, compiled once for each
// instruction set (kernels_*_cpu.cpp). They work on rows: the values of one vertex or one point,
// padded to `stride` elements, 16 bytes or a multiple of 32.
#pragma once

#include "../common/host_device.h"
#include "../common/instruction_set.h"

namespace deeplab {

// Points that are handled at a time; their rows stay in the first-level cache.
constexpr Index kBlockPoints = 16;

// Elements of a padded row of `count` values.
template <typename T>
inline Index row_stride(Index count) {
  const Index least = 16 / sizeof(T);
  return count <= least ? least : ceil_div(count, 2 * least) * 2 * least;
}

// What is read or written for `count` <= kBlockPoints consecutive points; n = the points' number.
template <typename T>
struct PointBlock {
  Index stride;  // of rows and of the table
  Index count;
  int corners;       // d + 1
  const int* index;  // (n, corners) rows of the table
  const T* weight;   // (n, corners)
  const T* scale;    // (n) factors of the points' values; null = 1
};

template <typename T>
struct LatticeKernels {
  // table[index] += weight * scale * rows
  void (*splat)(const PointBlock<T>&, const T* rows, T* table);
  // rows (+)= factor * scale * sum over corners of weight * table[index]
  void (*slice)(const PointBlock<T>&, T factor, bool add, const T* table, T* rows);
  // products (count, corners) (+)= factor * (rows . table[index])
  void (*corner_products)(const PointBlock<T>&, T factor, bool add, const T* table, const T* rows,
                          T* products);
  // One axis. chains: the vertices of each chain of neighbours, in order; the last of a chain is
  // stored as ~vertex. v + (before + after) / 2, in place.
  void (*blur)(Index stride, const int* chains, Index count, T* table);
  // table[vertex[i]] += table[slot], for slots of slot[start[i]:start[i+1]] in order, i < count
  void (*merge)(Index stride, const int* vertex, const int* start, const int* slot, Index count,
                T* table);
};

// float alone: what mean field does with a block of kBlockPoints points. rows (kBlockPoints,
// stride) hold the labels of a point, padded; planes (stride, kBlockPoints) the points of a label.
// Tensors have their labels `plane` elements apart, and `count` points of the block.
struct MeanFieldKernels {
  void (*rows_to_planes)(Index stride, const float* rows, float* planes);
  void (*planes_to_rows)(Index stride, const float* planes, float* rows);
  // planes = softmax of planes - unary; a value more than -cutoff below the largest becomes 0.
  void (*softmax)(Index channels, Index count, const float* unary, Index plane, float cutoff,
                  float* planes);
  // rows -= mu * message. columns: `diagonal` alone, or mu's columns, one after another, padded.
  void (*subtract_diagonal)(Index stride, Index count, const float* diagonal, const float* message,
                            float* rows);
  void (*subtract_product)(Index stride, Index count, Index channels, const float* columns,
                           const float* message, float* rows);
  // planes = (1 - rate) * old + rate * planes
  void (*relax)(Index channels, Index count, float rate, const float* old, Index plane,
                float* planes);
};

template <typename T>
struct KernelSet;
template <>
struct KernelSet<float> {
  LatticeKernels<float> lattice;
  MeanFieldKernels mean_field;
};
template <>
struct KernelSet<double> {
  LatticeKernels<double> lattice;
};

template <typename T>
const KernelSet<T>& baseline_kernels();
template <typename T>
const KernelSet<T>& avx2_kernels();
template <typename T>
const KernelSet<T>& avx512_kernels();

// Those for this processor.
template <typename T>
inline const KernelSet<T>& kernels() {
#if DEEPLAB_HAS_X86_TARGETS
  switch (cpu_target()) {
    case CpuTarget::amx:  // of no use to it
    case CpuTarget::avx512:
      return avx512_kernels<T>();
    case CpuTarget::avx2:
      return avx2_kernels<T>();
    case CpuTarget::baseline:
      break;
  }
#endif
  return baseline_kernels<T>();
}

}  // namespace deeplab
