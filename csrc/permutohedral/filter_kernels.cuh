// Splat by gathering, blur and slice. No atomics: the sums of every run are the same.
//
// Values and tables are rows of quads (rows.cuh). `make cuda-report` counts the instructions.
#pragma once

#include "../common/fill_kernel.cuh"
#include "geometry.h"
#include "rows.cuh"

namespace deeplab {

// What a vertex reads of a point.
template <typename T>
struct alignas(2 * sizeof(T)) SplatPair {
  T weight;
  int point;
};

// One thread, one of the entries in the order of their vertices. corners: d + 1. scale (points) or
// null: multiplied in.
template <typename T>
__global__ void pair_kernel(Index entries, Divisor corners, const int* splat_entry, const T* weight,
                            const T* scale, SplatPair<T>* pairs) {
  GRID_STRIDE_LOOP(i, entries) {
    const int entry = splat_entry[i];
    const auto point = static_cast<int>(corners.quotient(static_cast<unsigned>(entry)));
    pairs[i] = {scale ? weight[entry] * scale[point] : weight[entry], point};
  }
}

// The vertex of the first entry of a piece, and where its entries lie.
struct PieceVertex {
  int vertex, begin, end;

  __device__ PieceVertex(const int* vertices, const int* splat_start, const int* splat_entry,
                         int first)
      : vertex(vertices[splat_entry[first]]),
        begin(splat_start[vertex]),
        end(splat_start[vertex + 1]) {}
};

// One thread, one quad of a vertex: the sum of its entries up to the end of their piece, 0 if there
// are none. Behind the vertices follow the pieces: of a vertex that began in an earlier piece, what
// lies in this one goes to partial (pieces, quads).
template <typename T>
__global__ void splat_kernel(FilterGeometry g, const int* vertex, const int* splat_start,
                             const int* splat_entry, const SplatPair<T>* pairs, const T* values,
                             T* table, T* partial) {
  const auto quads = static_cast<unsigned>(g.quads()), vertices = static_cast<unsigned>(g.vertices);
  FOR_ROWS(row, q, g.vertices + g.pieces(), quads) {
    const Column<T> column(values, quads, q);
    T* sums = table;
    unsigned to = row;
    int begin, end;
    if (row < vertices) {
      begin = splat_start[row];
      end = splat_start[row + 1];
    } else {
      to = row - vertices;
      begin = static_cast<int>(to) * kPieceEntries;
      const PieceVertex there(vertex, splat_start, splat_entry, begin);
      if (there.begin == begin) continue;
      end = there.end;
      sums = partial;
    }
    // Without a sign: the last piece may end at 2^31.
    const unsigned end_of_piece = (begin / kPieceEntries + 1u) * kPieceEntries;
    if (static_cast<unsigned>(end) > end_of_piece) end = static_cast<int>(end_of_piece);
    Quad<T> sum{};
    UNROLL_BY(4)
    for (int i = begin; i < end; ++i) {
      const SplatPair<T> pair = pairs[i];
      add_product(sum, pair.weight, column[pair.point]);
    }
    WrittenColumn<T>(sums, quads, q).write(to, sum);
  }
}

// One thread, one piece and quad: if it is the first that a vertex goes on into, all parts of the
// vertex are added, in order.
template <typename T>
__global__ void combine_kernel(FilterGeometry g, const int* vertex, const int* splat_start,
                               const int* splat_entry, const T* partial, T* table) {
  const auto quads = static_cast<unsigned>(g.quads());
  FOR_ROWS(piece, q, g.pieces(), quads) {
    const int first = static_cast<int>(piece) * kPieceEntries;
    const PieceVertex there(vertex, splat_start, splat_entry, first);
    if (there.begin == first || there.begin < first - kPieceEntries) continue;
    const Column<T> parts(partial, quads, q);
    const WrittenColumn<T> column(table, quads, q);
    Quad<T> sum = column[there.vertex];
    const auto last = static_cast<unsigned>((there.end - 1) / kPieceEntries);
    UNROLL_BY(8)
    for (unsigned part = piece; part <= last; ++part) add_product(sum, T(1), parts[part]);
    column.write(there.vertex, sum);
  }
}

// One axis, one thread a vertex and quad: neighbours (vertices, 2), -1 where there is none.
template <typename T>
__global__ void blur_kernel(FilterGeometry g, const int* neighbours, const T* table, T* blurred) {
  const auto quads = static_cast<unsigned>(g.quads());
  FOR_ROWS(vertex, q, g.vertices, quads) {
    const Column<T> column(table, quads, q);
    const int before = neighbours[2 * vertex], after = neighbours[2 * vertex + 1];
    Quad<T> low{}, high{};
    if (before >= 0) low = column[before];
    if (after >= 0) high = column[after];
    Quad<T> sum = column[vertex];
    UNROLL
    for (int i = 0; i < kQuad; ++i) sum.at[i] += (low.at[i] + high.at[i]) * T(0.5);
    WrittenColumn<T>(blurred, quads, q).write(vertex, sum);
  }
}

// One thread, one point and quad; factor: the blur's gain. result (points, channels), not padded.
template <typename T>
__global__ void slice_kernel(FilterGeometry g, const int* vertex, const T* weight, T factor,
                             const T* table, T* result) {
  const auto quads = static_cast<unsigned>(g.quads());
  const auto corners = static_cast<int>(g.corners), channels = static_cast<int>(g.channels);
  FOR_ROWS(point, q, g.points, quads) {
    const Index first = Index{point} * corners;
    const Quad<T> sum = sliced(corners, vertex + first, weight + first, Column<T>(table, quads, q));
    T* const to = result + Index{point} * channels;
    UNROLL
    for (int i = 0; i < kQuad; ++i) {
      const int c = static_cast<int>(q) * kQuad + i;
      if (c < channels) to[c] = factor * sum.at[i];
    }
  }
}

// One thread, one point and corner: products (points, corners) = factor * (values of the point .
// the vertex's row of the table), added to what is there if add.
template <typename T>
__global__ void corner_product_kernel(FilterGeometry g, const int* vertex, const T* values,
                                      T factor, bool add, const T* table, T* products) {
  const auto quads = static_cast<unsigned>(g.quads());
  FOR_ROWS(point, corner, g.points, g.corners) {
    const Index entry = Index{point} * g.corners + corner;
    T sum = 0;
    for (unsigned q = 0; q < quads; ++q) {
      const Quad<T> at_point = Column<T>(values, quads, q)[point];
      const Quad<T> at_vertex = Column<T>(table, quads, q)[vertex[entry]];
      for (int i = 0; i < kQuad; ++i) {
        if (static_cast<int>(q) * kQuad + i < g.channels) sum += at_point.at[i] * at_vertex.at[i];
      }
    }
    products[entry] = (add ? products[entry] : T(0)) + factor * sum;
  }
}

}  // namespace deeplab
