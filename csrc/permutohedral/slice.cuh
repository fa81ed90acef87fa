// Slicing, for kernels that go on with what they read.
#pragma once

#include "../common/kernel.cuh"

namespace deeplab {

// What a point reads of one channel.
template <typename T>
__device__ T sliced(Index corners, Index channels, const int* vertex, const T* weight,
                    const T* table, Index point, Index channel) {
  T sum = 0;
  for (Index c = point * corners; c < (point + 1) * corners; ++c) {
    sum += weight[c] * table[vertex[c] * channels + channel];
  }
  return sum;
}

}  // namespace deeplab
