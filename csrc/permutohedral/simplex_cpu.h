// The simplex of the lattice around each point, for blocks of points.
#pragma once

#include "../common/host_device.h"
#include "../common/instruction_set.h"

namespace deeplab {

constexpr int kSimplexPoints = 16;
constexpr int kMaxCorners = 17;

// By axis or rank, then by point.
struct SimplexBlock {
  // The corner whose coordinates are multiples of d+1, divided by d+1.
  int base[kMaxCorners][kSimplexPoints];
  // Which axis's offset from that corner is the largest, second largest, ...
  int axis_of_rank[kMaxCorners][kSimplexPoints];
};

// features (kSimplexPoints, d), scale (d) of ops/reference/permutohedral.py, weight
// (kSimplexPoints, d+1) by the corners' remainder modulo d+1. Each operation is rounded by itself:
// a fused one would put points within rounding of a face into another simplex than densecrf did.
template <typename T>
using FindSimplex = void (*)(int d, const T* scale, const T* features, T* weight, SimplexBlock*);

template <typename T>
FindSimplex<T> baseline_find_simplex();
template <typename T>
FindSimplex<T> avx2_find_simplex();

template <typename T>
FindSimplex<T> find_simplex() {
#if DEEPLAB_HAS_X86_TARGETS
  if (cpu_target() != CpuTarget::baseline) return avx2_find_simplex<T>();
#endif
  return baseline_find_simplex<T>();
}

}  // namespace deeplab
