// Sizes of a lattice, and where its key data lie, for the CUDA kernels.
#pragma once

#include "../common/host_device.h"

namespace deeplab {

// pictures x points with d features. Padding points, one of each picture, follow behind all others
// where padding is 1.
struct BuildGeometry {
  Index pictures;
  Index points;
  Index dimension;
  Index padding;

  HOST_DEVICE Index corners() const { return dimension + 1; }
  HOST_DEVICE Index real_points() const { return pictures * points; }
  HOST_DEVICE Index all_points() const { return real_points() + (padding ? pictures : 0); }
  HOST_DEVICE Index real_entries() const { return real_points() * corners(); }
  HOST_DEVICE Index all_entries() const { return all_points() * corners(); }
  HOST_DEVICE Index picture_of(Index point) const {
    return point < real_points() ? point / points : point - real_points();
  }
};

// Rows of values are padded to quads, four channels that one instruction moves.
constexpr int kQuad = 4;
HOST_DEVICE Index quads_of(Index channels) { return ceil_div(channels, kQuad); }

// Sorted entries that one thread adds up at most. A flat region of a picture has vertices with
// thousands of entries, which must not be left to one thread.
constexpr int kPieceEntries = 256;

// Points of all pictures.
struct FilterGeometry {
  Index points;
  Index vertices;
  Index corners;  // d + 1
  Index channels;

  HOST_DEVICE Index entries() const { return points * corners; }
  HOST_DEVICE Index quads() const { return quads_of(channels); }
  HOST_DEVICE Index pieces() const { return ceil_div(entries(), kPieceEntries); }
};

}  // namespace deeplab
