// Exclusive scan, and a stable radix sort: integers only, the same result in every run.
#pragma once

#include "../common/kernel.cuh"

namespace deeplab {

constexpr int kSortThreads = 256;
constexpr int kSortItems = 8;  // consecutive items of a thread
constexpr int kSortTile = kSortThreads * kSortItems;
constexpr int kSortBits = 4;  // of a pass
constexpr int kSortDigits = 1 << kSortBits;

// Sum of the values of all threads before this one. sums: kSortThreads ints in shared memory; the
// last holds the sum of all afterwards.
__device__ inline int block_exclusive_sum(int value, int* sums) {
  const int thread = static_cast<int>(threadIdx.x);
  sums[thread] = value;
  __syncthreads();
  for (int step = 1; step < kSortThreads; step *= 2) {
    const int before = thread >= step ? sums[thread - step] : 0;
    __syncthreads();
    sums[thread] += before;
    __syncthreads();
  }
  return sums[thread] - value;
}

// One block owns the tiles b, b + grid, ...: replaces values by the sum of those before them in the
// tile, and writes the sum of each tile.
static __global__ void scan_tiles_kernel(Index count, int* values, int* tile_sums) {
  SHARED_ARRAY(int, sums, kSortThreads);
  const Index tiles = ceil_div(count, kSortTile);
  for (Index tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Index first = tile * kSortTile + threadIdx.x * kSortItems;
    int own[kSortItems];
    int sum = 0;
    for (int i = 0; i < kSortItems; ++i) {
      own[i] = first + i < count ? values[first + i] : 0;
      sum += own[i];
    }
    int before = block_exclusive_sum(sum, sums);
    for (int i = 0; i < kSortItems; ++i) {
      if (first + i < count) values[first + i] = before;
      before += own[i];
    }
    if (threadIdx.x == kSortThreads - 1) tile_sums[tile] = before;
    __syncthreads();
  }
}

// One block alone: the sums of the tiles before each tile, and of all in total.
static __global__ void scan_sums_kernel(Index tiles, int* tile_sums, int* total) {
  SHARED_ARRAY(int, sums, kSortThreads);
  int carry = 0;
  for (Index start = 0; start < tiles; start += kSortThreads) {
    const Index tile = start + threadIdx.x;
    const int before = block_exclusive_sum(tile < tiles ? tile_sums[tile] : 0, sums);
    if (tile < tiles) tile_sums[tile] = carry + before;
    carry += sums[kSortThreads - 1];
    __syncthreads();
  }
  if (threadIdx.x == 0) *total = carry;
}

static __global__ void add_tile_sums_kernel(Index count, const int* tile_sums, int* values) {
  GRID_STRIDE_LOOP(i, count) { values[i] += tile_sums[i / kSortTile]; }
}

__device__ inline int digit_of(int key, int shift) { return (key >> shift) & (kSortDigits - 1); }

// counts[digit * tiles + tile]
static __global__ void count_digits_kernel(Index count, const int* keys, int shift, int* counts) {
  SHARED_ARRAY(int, own, kSortDigits);
  const Index tiles = ceil_div(count, kSortTile);
  for (Index tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    if (threadIdx.x < kSortDigits) own[threadIdx.x] = 0;
    __syncthreads();
    for (Index i = tile * kSortTile + threadIdx.x; i < count && i < (tile + 1) * kSortTile;
         i += kSortThreads) {
      atomicAdd(&own[digit_of(keys[i], shift)], 1);
    }
    __syncthreads();
    if (threadIdx.x < kSortDigits) counts[threadIdx.x * tiles + tile] = own[threadIdx.x];
    __syncthreads();
  }
}

// Moves items to where their digit's items of earlier tiles, and of this one, end. first_of: the
// scanned counts. values null: an item's value is its number.
static __global__ void scatter_digits_kernel(Index count, const int* keys, const int* values,
                                             int shift, const int* first_of, int* sorted_keys,
                                             int* sorted_values) {
  SHARED_ARRAY(int, counts, kSortDigits* kSortThreads);  // digit by digit, thread by thread
  SHARED_ARRAY(int, sums, kSortThreads);
  const Index tiles = ceil_div(count, kSortTile);
  const int thread = static_cast<int>(threadIdx.x);
  for (Index tile = blockIdx.x; tile < tiles; tile += gridDim.x) {
    const Index first = tile * kSortTile + thread * kSortItems;
    for (int d = 0; d < kSortDigits; ++d) counts[d * kSortThreads + thread] = 0;
    for (int i = 0; i < kSortItems && first + i < count; ++i) {
      ++counts[digit_of(keys[first + i], shift) * kSortThreads + thread];
    }
    // Each digit's counts become the sums over the threads before.
    for (int d = 0; d < kSortDigits; ++d) {
      __syncthreads();
      const int before = block_exclusive_sum(counts[d * kSortThreads + thread], sums);
      counts[d * kSortThreads + thread] = before;
    }
    for (int i = 0; i < kSortItems && first + i < count; ++i) {
      const int digit = digit_of(keys[first + i], shift);
      const Index to = first_of[digit * tiles + tile] + counts[digit * kSortThreads + thread]++;
      sorted_keys[to] = keys[first + i];
      sorted_values[to] = values ? values[first + i] : static_cast<int>(first + i);
    }
    __syncthreads();
  }
}

}  // namespace deeplab
