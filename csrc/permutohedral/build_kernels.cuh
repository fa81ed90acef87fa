// The lattice of points with features. A hash table holds for each vertex the least of the entries
// (point and corner) that touch it; vertices are numbered in the order of these entries, so that
// the numbers do not depend on the order in which threads come.
#pragma once

#include "../common/fill_kernel.cuh"
#include "geometry.h"

namespace deeplab {

constexpr int kMaxAxes = 17;
constexpr int kFreeSlot = 0x7fffffff;
// Entries are numbered by ints, none of which may be kFreeSlot.
constexpr Index kMaxEntries = kFreeSlot;
constexpr int kRankBits = 5;

// Each rounded by itself, also where the compiler would fuse: see FindSimplex.
#if defined(__CUDA_ARCH__)
__device__ inline float times(float a, float b) { return __fmul_rn(a, b); }
__device__ inline float plus(float a, float b) { return __fadd_rn(a, b); }
__device__ inline double times(double a, double b) { return __dmul_rn(a, b); }
__device__ inline double plus(double a, double b) { return __dadd_rn(a, b); }
#else
template <typename T>
T times(T a, T b) {
  return a * b;
}
template <typename T>
T plus(T a, T b) {
  return a + b;
}
#endif

template <typename T>
struct FeatureScale {
  T of[kMaxAxes - 1];
};

// One thread, one point: the simplex around it. codes (all points, d): quotient of the base
// corner's coordinate, and its rank, see quotient_of. weight (real points, d+1). kDimension: d or
// 0.
template <typename T, int kDimension>
__global__ void simplex_kernel(BuildGeometry g, FeatureScale<T> scale, const T* features,
                               int* codes, T* weight) {
  const int d = kDimension ? kDimension : static_cast<int>(g.dimension);
  // Adding and subtracting it rounds to the nearest integer, half to even.
  const T rounder = sizeof(T) == 4 ? T(12582912) : T(6755399441055744);
  GRID_STRIDE_LOOP(point, g.all_points()) {
    const bool real = point < g.real_points();
    T elevated[kDimension ? kDimension + 1 : kMaxAxes];
    T nearest[kDimension ? kDimension + 1 : kMaxAxes];
    int rank[kDimension ? kDimension + 1 : kMaxAxes];
    T partial = 0;
    for (int i = d; i > 0; --i) {
      const T scaled = real ? times(features[point * d + i - 1], scale.of[i - 1]) : T(0);
      elevated[i] = plus(partial, -times(T(i), scaled));
      partial = plus(partial, scaled);
    }
    elevated[0] = partial;
    const T share = 1 / T(d + 1);
    int sum = 0;
    for (int i = 0; i <= d; ++i) {
      nearest[i] = plus(plus(times(elevated[i], share), rounder), -rounder);
      sum += static_cast<int>(nearest[i]);
      rank[i] = 0;
    }
    for (int i = 0; i <= d; ++i) {
      for (int j = i + 1; j <= d; ++j) {
        const T at_i = plus(elevated[i], -times(nearest[i], T(d + 1)));
        const T at_j = plus(elevated[j], -times(nearest[j], T(d + 1)));
        ++rank[at_i < at_j ? i : j];
      }
    }
    T falling[kDimension ? kDimension + 1 : kMaxAxes];
    for (int i = 0; i <= d; ++i) {
      const int shifted = rank[i] + sum;
      const int step = (shifted < 0) - (shifted > d);
      rank[i] = shifted + step * (d + 1);
      nearest[i] += T(step);
      falling[rank[i]] = times(plus(elevated[i], -times(nearest[i], T(d + 1))), share);
      if (i < d) codes[point * d + i] = static_cast<int>(nearest[i]) * (1 << kRankBits) + rank[i];
    }
    if (!real) continue;
    T* own = weight + point * (d + 1);
    own[0] = plus(falling[d], plus(T(1), -falling[0]));
    for (int r = 1; r <= d; ++r) own[r] = plus(falling[d - r], -falling[d - r + 1]);
  }
}

// A vertex: (d+1) * quotient[i] + remainder are its coordinates.
template <int kDimension>
struct VertexKey {
  int quotient[kDimension ? kDimension : kMaxAxes - 1];
  int remainder;
  Index picture;
};

// Coordinate i of the vertex at corner `remainder` of a point's simplex.
__device__ inline int quotient_of(int code, int d, int remainder) {
  const int rank = code & ((1 << kRankBits) - 1);
  return (code >> kRankBits) - (rank > d - remainder);
}

template <int kDimension>
__device__ VertexKey<kDimension> key_of(const BuildGeometry& g, const int* codes, Index entry) {
  const int d = kDimension ? kDimension : static_cast<int>(g.dimension);
  const Index point = entry / (d + 1);
  VertexKey<kDimension> key;
  key.remainder = static_cast<int>(entry - point * (d + 1));
  key.picture = g.picture_of(point);
  for (int i = 0; i < d; ++i) {
    key.quotient[i] = quotient_of(codes[point * d + i], d, key.remainder);
  }
  return key;
}

template <int kDimension>
__device__ bool is_key_of(const VertexKey<kDimension>& key, const BuildGeometry& g,
                          const int* codes, Index entry) {
  const int d = kDimension ? kDimension : static_cast<int>(g.dimension);
  const Index point = entry / (d + 1);
  bool same = key.remainder == static_cast<int>(entry - point * (d + 1)) &&
              key.picture == g.picture_of(point);
  for (int i = 0; same && i < d; ++i) {
    same = key.quotient[i] == quotient_of(codes[point * d + i], d, key.remainder);
  }
  return same;
}

template <int kDimension>
__device__ Index first_slot(const VertexKey<kDimension>& key, Index d, Index slots) {
  unsigned long long hash = static_cast<unsigned long long>(key.picture) * 17 + key.remainder;
  for (int i = 0; i < (kDimension ? kDimension : d); ++i) {
    hash = (hash + static_cast<unsigned>(key.quotient[i])) * 0x9E3779B97F4A7C15ull;
    hash ^= hash >> 29;
  }
  return static_cast<Index>((hash >> 16) & static_cast<unsigned long long>(slots - 1));
}

// The number of a slot. An int would not do: more than 2^30 entries need 2^32 slots.
using Slot = unsigned;

// The table's size, a power of 2 and at least twice the entries.
HOST_DEVICE constexpr Index slots_for(Index entries) {
  Index slots = 1;
  while (slots < 2 * entries) slots *= 2;
  return slots;
}
static_assert(slots_for(kMaxEntries) - 1 <= static_cast<Index>(~Slot{0}),
              "every slot has a number");

// table (slots): the least entry of the vertex that lives there, kFreeSlot at first. slot_of (all
// entries): where the entry's vertex lives.
template <int kDimension>
__global__ void insert_kernel(BuildGeometry g, const int* codes, Index slots, int* table,
                              Slot* slot_of) {
  GRID_STRIDE_LOOP(entry, g.all_entries()) {
    const auto key = key_of<kDimension>(g, codes, entry);
    const int own = static_cast<int>(entry);
    for (Index slot = first_slot(key, g.dimension, slots);; slot = (slot + 1) & (slots - 1)) {
      const int old = atomicCAS(&table[slot], kFreeSlot, own);
      // Whatever entry is there, it has the key of the vertex that came first.
      if (old == kFreeSlot || is_key_of(key, g, codes, old)) {
        if (old != kFreeSlot) atomicMin(&table[slot], own);
        slot_of[entry] = static_cast<Slot>(slot);
        break;
      }
    }
  }
}

static __global__ void mark_first_kernel(Index entries, const int* table, const Slot* slot_of,
                                         int* is_first) {
  GRID_STRIDE_LOOP(entry, entries) { is_first[entry] = table[slot_of[entry]] == entry; }
}

// number (all entries): of the vertex if the entry is its first. first_entry (vertices): its
// inverse.
static __global__ void number_kernel(BuildGeometry g, const int* table, const Slot* slot_of,
                                     const int* number, int* vertex, int* first_entry) {
  GRID_STRIDE_LOOP(entry, g.all_entries()) {
    const int first = table[slot_of[entry]];
    if (entry < g.real_entries()) vertex[entry] = number[first];
    if (first == entry) first_entry[number[first]] = first;
  }
}

// One thread, one vertex and axis: the neighbour before it. neighbours is -1 at first.
template <int kDimension>
__global__ void neighbours_kernel(BuildGeometry g, const int* codes, Index slots, const int* table,
                                  const int* number, const int* first_entry, Index vertices,
                                  int* neighbours) {
  const int d = kDimension ? kDimension : static_cast<int>(g.dimension);
  GRID_STRIDE_LOOP(item, vertices * (d + 1)) {
    const Index axis = item / vertices;
    const Index vertex = item - axis * vertices;
    auto key = key_of<kDimension>(g, codes, first_entry[vertex]);
    // All coordinates less 1, the axis's own plus d.
    const bool carry = key.remainder == 0;
    key.remainder = carry ? d : key.remainder - 1;
    for (int i = 0; i < d; ++i) key.quotient[i] += (i == axis) - carry;
    for (Index slot = first_slot(key, d, slots);; slot = (slot + 1) & (slots - 1)) {
      const int entry = table[slot];
      if (entry == kFreeSlot) break;
      if (is_key_of(key, g, codes, entry)) {
        const int before = number[entry];
        // A vertex is `before` of one other at most.
        neighbours[item * 2] = before;
        neighbours[(axis * vertices + before) * 2 + 1] = static_cast<int>(vertex);
        break;
      }
    }
  }
}

// start (vertices + 1) of sorted vertex numbers.
static __global__ void start_kernel(Index entries, const int* sorted, Index vertices, int* start) {
  GRID_STRIDE_LOOP(i, entries + 1) {
    const Index from = i == 0 ? 0 : sorted[i - 1] + 1;
    const Index to = i == entries ? vertices : sorted[i];
    for (Index v = from; v <= to; ++v) start[v] = static_cast<int>(i);
  }
}

}  // namespace deeplab
