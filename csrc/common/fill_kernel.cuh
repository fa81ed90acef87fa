// All elements of an array the same.
#pragma once

#include "kernel.cuh"

namespace deeplab {

template <typename T>
__global__ void fill_kernel(Index count, T value, T* values) {
  GRID_STRIDE_LOOP(i, count) { values[i] = value; }
}

}  // namespace deeplab
