#include <sys/mman.h>

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
  }                                                                                            \
  extern "C" int grad_weight_##T(const Index* sizes, const int* vertex, const T* weight,       \
                                 const int* neighbours, const int* start, const int* entry,    \
                                 const T* grad, const T* values, Index reverse, T* result,     \
                                 Index max_blocks, int order) {                                \
    return guarded(order, [&] {                                                                \
      HostDevice device{max_blocks};                                                           \
      const DeviceLattice<T> lattice{                                                          \
          {sizes[0], sizes[1], sizes[2], sizes[3]}, vertex, weight, neighbours, start, entry}; \
      deeplab::launch_grad_weight(device, lattice, grad, values, reverse != 0, result);        \
    });                                                                                        \
  }
FOR_TYPE(float)
FOR_TYPE(double)

// The table that the largest number of entries needs, 16 GB: all of it has addresses, but only the
// pages that are written have memory.
class LargestTable {
 public:
  static constexpr Index kSlots = deeplab::slots_for(deeplab::kMaxEntries);

  LargestTable() {
    void* const memory = mmap(nullptr, kBytes, PROT_READ | PROT_WRITE,
                              MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (memory == MAP_FAILED) throw std::runtime_error("no addresses for a table of 16 GB");
    table_ = static_cast<int*>(memory);
  }
  LargestTable(const LargestTable&) = delete;
  ~LargestTable() { munmap(table_, kBytes); }

  int* get() const { return table_; }
  void free_slots_from(Index first) {
    for (Index i = 0; i < 64; ++i) table_[(first + i) & (kSlots - 1)] = deeplab::kFreeSlot;
  }

 private:
  static constexpr std::size_t kBytes = kSlots * sizeof(int);
  int* table_;
};

// features (pictures, points, 2). slot (entries): where each entry's vertex lives in the largest
// table; first (entries): the vertex's first entry, as the kernels find it there.
extern "C" int insert_into_largest_table(const Index* sizes, const float* features, Index* slot,
                                         int* first) {
  return guarded(0, [&] {
    HostDevice device{0};
    const BuildGeometry g{sizes[0], sizes[1], 2, 0};
    const Index entries = g.all_entries();
    int* const codes = device.allocate<int>(g.all_points() * 2);
    float* const weight = device.allocate<float>(entries);
    auto* const slot_of = device.allocate<deeplab::Slot>(entries);
    int* const is_first = device.allocate<int>(entries);
    const deeplab::FeatureScale<float> scale = {{1, 1}};
    LargestTable table;
    deeplab::launch_items(device, g.all_points(), deeplab::simplex_kernel<float, 2>, g, scale,
                          features, codes, weight);
    for (Index entry = 0; entry < entries; ++entry) {
      const auto key = deeplab::key_of<2>(g, codes, entry);
      table.free_slots_from(deeplab::first_slot(key, 2, LargestTable::kSlots));
    }
    deeplab::launch_items(device, entries, deeplab::insert_kernel<2>, g, codes,
                          LargestTable::kSlots, table.get(), slot_of);
    for (Index entry = 0; entry < entries; ++entry) slot[entry] = slot_of[entry];
    // With a slot's number cut off, the kernel would read outside the table.
    if (*std::min_element(slot, slot + entries) < 0) return;
    deeplab::launch_items(device, entries, deeplab::mark_first_kernel, entries, table.get(),
                          slot_of, is_first);
    for (Index entry = 0; entry < entries; ++entry) {
      first[entry] = table.get()[slot_of[entry]];
      if (is_first[entry] != (first[entry] == entry)) throw std::runtime_error("mark_first_kernel");
    }
  });
}
