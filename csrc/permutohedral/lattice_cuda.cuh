// A lattice's tensors as the launchers take them.
#pragma once

#include "filter_launch.cuh"
#include "permutohedral_entry.h"

namespace deeplab {

template <typename T>
DeviceLattice<T> device_lattice(const LatticeTensors& t, Index channels) {
  return {{t.batch * t.points, t.vertices, t.corners, channels},
          t.vertex.template const_data_ptr<int>(),
          t.weight.template const_data_ptr<T>(),
          t.neighbours.template const_data_ptr<int>(),
          t.splat_start.template const_data_ptr<int>(),
          t.splat_entry.template const_data_ptr<int>()};
}

}  // namespace deeplab
