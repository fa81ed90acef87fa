// Rows of channels as the filter's kernels keep them, padded to quads. A thread owns one quad of a
// row, and the threads of a row lie side by side in x of the block, so that nothing has to be
// divided to find out which.
#pragma once

#include "../common/divisor.h"
#include "../common/kernel.cuh"
#include "geometry.h"

namespace deeplab {

// float's is 16 bytes long, double's two times 16.
template <typename T>
struct alignas(16) Quad {
  T at[kQuad];
};

// for (q, row = this thread's) over `rows` rows of `quads` quads. In 32 bits, as points, vertices
// and entries are numbered.
#define FOR_ROWS(row, q, rows, quads)                                                             \
  for (unsigned q = threadIdx.x; q < static_cast<unsigned>(quads); q += blockDim.x)               \
    for (unsigned row = blockIdx.x * blockDim.y + threadIdx.y; row < static_cast<unsigned>(rows); \
         row += gridDim.x * blockDim.y)

// Quad q of the rows of a table. 32 bits by 32 and added to a pointer: one instruction finds a row.
template <typename T>
class Column {
 public:
  __device__ Column(const T* table, unsigned quads, unsigned q)
      : first_(reinterpret_cast<const char*>(table) + q * sizeof(Quad<T>)),
        row_bytes_(quads * static_cast<unsigned>(sizeof(Quad<T>))) {}

  // By value, because references would be read one channel at a time.
  __device__ Quad<T> operator[](unsigned row) const {
    return *reinterpret_cast<const Quad<T>*>(first_ + offset(row));
  }

 protected:
  __device__ unsigned long long offset(unsigned row) const {
    return static_cast<unsigned long long>(row) * row_bytes_;
  }

  const char* first_;
  unsigned row_bytes_;
};

// The same, to be written too.
template <typename T>
class WrittenColumn : public Column<T> {
 public:
  __device__ WrittenColumn(T* table, unsigned quads, unsigned q) : Column<T>(table, quads, q) {}

  __device__ void write(unsigned row, const Quad<T>& quad) const {
    *reinterpret_cast<Quad<T>*>(const_cast<char*>(this->first_) + this->offset(row)) = quad;
  }
};

template <typename T>
__device__ void add_product(Quad<T>& sum, T factor, const Quad<T>& values) {
  UNROLL
  for (int i = 0; i < kQuad; ++i) sum.at[i] += factor * values.at[i];
}

// What a point reads of a table: vertex, weight (corners) are the point's own. Three corners at a
// time, as many as the spatial lattice has and half of what the bilateral one has.
template <typename T>
__device__ Quad<T> sliced(int corners, const int* vertex, const T* weight, const Column<T>& table) {
  constexpr int kAtATime = 3;
  Quad<T> sum{};
  int corner = 0;
  NO_UNROLL
  for (; corner + kAtATime <= corners; corner += kAtATime) {
    UNROLL
    for (int i = corner; i < corner + kAtATime; ++i) add_product(sum, weight[i], table[vertex[i]]);
  }
  NO_UNROLL
  for (; corner < corners; ++corner) add_product(sum, weight[corner], table[vertex[corner]]);
  return sum;
}

// Planes (pictures, channels, points of a picture), as tensors of pictures have them.
struct Planes {
  Index points;     // of all pictures
  Divisor picture;  // by the points of one
  Index channels;

  __device__ Index first(unsigned point) const {
    const unsigned number = picture.quotient(point);
    return Index{number} * channels * picture.value +
           (point - number * static_cast<unsigned>(picture.value));
  }
};

// rows (points, channels in quads) = factor * planes; channels that are not there get `padding`.
// One thread owns a point: neighbours read along the planes.
template <typename T>
__global__ void rows_of_planes_kernel(Planes from, const T* planes, T factor, T padding, T* rows) {
  const auto channels = static_cast<int>(from.channels);
  const auto quads = static_cast<unsigned>(quads_of(channels));
  GRID_STRIDE_LOOP(point, from.points) {
    const T* const plane = planes + from.first(static_cast<unsigned>(point));
    for (unsigned q = 0; q < quads; ++q) {
      Quad<T> quad;
      UNROLL
      for (int i = 0; i < kQuad; ++i) {
        const int c = static_cast<int>(q) * kQuad + i;
        quad.at[i] = c < channels ? factor * plane[c * from.picture.value] : padding;
      }
      WrittenColumn<T>(rows, quads, q).write(static_cast<unsigned>(point), quad);
    }
  }
}

template <typename T>
__global__ void planes_of_rows_kernel(Planes to, const T* rows, T* planes) {
  const auto channels = static_cast<int>(to.channels);
  const auto quads = static_cast<unsigned>(quads_of(channels));
  GRID_STRIDE_LOOP(point, to.points) {
    T* const plane = planes + to.first(static_cast<unsigned>(point));
    for (unsigned q = 0; q < quads; ++q) {
      const Quad<T> quad = Column<T>(rows, quads, q)[static_cast<unsigned>(point)];
      UNROLL
      for (int i = 0; i < kQuad; ++i) {
        const int c = static_cast<int>(q) * kQuad + i;
        if (c < channels) plane[c * to.picture.value] = quad.at[i];
      }
    }
  }
}

}  // namespace deeplab
