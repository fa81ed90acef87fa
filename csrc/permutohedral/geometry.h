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

// Points of all pictures.
struct FilterGeometry {
  Index points;
  Index vertices;
  Index corners;  // d + 1
  Index channels;

  HOST_DEVICE Index entries() const { return points * corners; }
};

}  // namespace deeplab
