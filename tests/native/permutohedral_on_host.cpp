#include "host_device.h"
#include "permutohedral/build_launch.cuh"
#include "permutohedral/filter_launch.cuh"

using deeplab::BuildGeometry;
using deeplab::DeviceLattice;
using deeplab::Index;

// sizes: pictures, points, d, padding. neighbours, start: as large as all entries could need.
#define FOR_TYPE(T)                                                                            \
  extern "C" int build_##T(const Index* sizes, const T* features, int* vertex, T* weight,      \
                           int* neighbours, int* start, int* entry, Index* count,              \
                           Index max_blocks, int order) {                                      \
    return guarded(order, [&] {                                                                \
      HostDevice device{max_blocks};                                                           \
      const BuildGeometry g{sizes[0], sizes[1], sizes[2], sizes[3]};                           \
      deeplab::LatticeBuild<HostDevice, T> build(device, g);                                   \
      *count = build.number_vertices(features, vertex, weight);                                \
      build.finish(*count, vertex, neighbours, start, entry);                                  \
    });                                                                                        \
  }                                                                                            \
  extern "C" int filter_##T(const Index* sizes, const int* vertex, const T* weight,            \
                            const int* neighbours, const int* start, const int* entry,         \
                            const T* values, Index reverse, T* result, Index max_blocks,       \
                            int order) {                                                       \
    return guarded(order, [&] {                                                                \
      HostDevice device{max_blocks};                                                           \
      const DeviceLattice<T> lattice{                                                          \
          {sizes[0], sizes[1], sizes[2], sizes[3]}, vertex, weight, neighbours, start, entry}; \
      deeplab::launch_filter(device, lattice, values, reverse != 0, result);                   \
    });                                                                                        \
  }
FOR_TYPE(float)
FOR_TYPE(double)
