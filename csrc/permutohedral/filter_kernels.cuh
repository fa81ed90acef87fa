// Splat by gathering, blur and slice. No atomics: the sums of every run are the same.
#pragma once

#include "../common/fill_kernel.cuh"
#include "geometry.h"
#include "slice.cuh"

namespace deeplab {

// Entries of a chunk. A flat region of a picture has vertices with thousands of entries, which must
// not be left to one thread.
constexpr int kChunkEntries = 32;

// One thread, one chunk of the sorted entries and one channel. Sums of vertices that lie in the
// chunk go to the table; of one that began before it to partial[chunk][0], of one that continues
// behind it to partial[chunk][1] (if both, [0]). scale (points) or null. values: (points, V).
template <typename T>
__global__ void splat_kernel(FilterGeometry g, const int* vertex, const T* weight,
                             const int* splat_entry, const T* scale, const T* values, T* table,
                             T* partial) {
  const Index chunks = ceil_div(g.entries(), kChunkEntries);
  GRID_STRIDE_LOOP(item, chunks * g.channels) {
    const Index chunk = item / g.channels;
    const Index channel = item - chunk * g.channels;
    const Index begin = chunk * kChunkEntries;
    const Index end = begin + kChunkEntries < g.entries() ? begin + kChunkEntries : g.entries();
    const auto vertex_at = [&](Index i) { return vertex[splat_entry[i]]; };
    bool began_before = begin > 0 && vertex_at(begin - 1) == vertex_at(begin);
    T sum = 0;
    for (Index i = begin; i < end; ++i) {
      const int entry = splat_entry[i];
      const int here = vertex[entry];
      const Index point = entry / g.corners;
      const T value = values[point * g.channels + channel];
      sum += weight[entry] * (scale ? scale[point] * value : value);
      const bool continues = i + 1 < g.entries() && vertex_at(i + 1) == here;
      if (continues && i + 1 < end) continue;
      if (began_before || continues) {
        partial[(chunk * 2 + (began_before ? 0 : 1)) * g.channels + channel] = sum;
      } else {
        table[here * g.channels + channel] = sum;
      }
      sum = 0;
      began_before = false;
    }
  }
}

// One thread, one vertex and channel: adds up the vertices that lie in several chunks, and zeroes
// those that no point touches.
template <typename T>
__global__ void combine_kernel(FilterGeometry g, const int* splat_start, const T* partial,
                               T* table) {
  GRID_STRIDE_LOOP(item, g.vertices * g.channels) {
    const Index vertex = item / g.channels;
    const Index channel = item - vertex * g.channels;
    const Index begin = splat_start[vertex];
    const Index end = splat_start[vertex + 1];
    if (begin == end) {
      table[item] = 0;
      continue;
    }
    const Index first = begin / kChunkEntries;
    const Index last = (end - 1) / kChunkEntries;
    if (first == last) continue;
    T sum = partial[(first * 2 + 1) * g.channels + channel];
    for (Index chunk = first + 1; chunk <= last; ++chunk) {
      sum += partial[chunk * 2 * g.channels + channel];
    }
    table[item] = sum;
  }
}

// One axis: neighbours (vertices, 2).
template <typename T>
__global__ void blur_kernel(FilterGeometry g, const int* neighbours, const T* table, T* blurred) {
  GRID_STRIDE_LOOP(item, g.vertices * g.channels) {
    const Index vertex = item / g.channels;
    const Index channel = item - vertex * g.channels;
    const int before = neighbours[vertex * 2];
    const int after = neighbours[vertex * 2 + 1];
    const T beside = (before >= 0 ? table[before * g.channels + channel] : T(0)) +
                     (after >= 0 ? table[after * g.channels + channel] : T(0));
    blurred[item] = table[item] + beside * T(0.5);
  }
}

// One thread, one point and channel; factor: the blur's gain.
template <typename T>
__global__ void slice_kernel(FilterGeometry g, const int* vertex, const T* weight, T factor,
                             const T* table, T* result) {
  GRID_STRIDE_LOOP(item, g.points * g.channels) {
    const Index point = item / g.channels;
    const Index channel = item - point * g.channels;
    result[item] = factor * sliced(g.corners, g.channels, vertex, weight, table, point, channel);
  }
}

// One thread, one point and corner: products (points, corners) = factor * (values of the point .
// the vertex's row of the table), added to what is there if add.
template <typename T>
__global__ void corner_product_kernel(FilterGeometry g, const int* vertex, const T* values,
                                      T factor, bool add, const T* table, T* products) {
  GRID_STRIDE_LOOP(item, g.entries()) {
    const T* row = values + item / g.corners * g.channels;
    const T* corner = table + vertex[item] * g.channels;
    T sum = 0;
    for (Index c = 0; c < g.channels; ++c) {
      sum += row[c] * corner[c];
    }
    products[item] = (add ? products[item] : T(0)) + factor * sum;
  }
}

}  // namespace deeplab
