// Uninitialized memory of one call, in huge pages where that saves page faults and the processor's
// address look-ups: rows of a lattice are read in no order that it could foresee.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdlib>
#include <memory>
#include <new>

#include "host_device.h"

namespace deeplab {

template <typename T>
class Buffer {
 public:
  explicit Buffer(Index count = 0) {
    if (count == 0) return;
    constexpr std::size_t kHugePage = std::size_t{1} << 21;
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
    const std::size_t alignment = bytes >= 2 * kHugePage ? kHugePage : 64;
    const std::size_t rounded = (bytes + alignment - 1) / alignment * alignment;
    memory_.reset(static_cast<T*>(std::aligned_alloc(alignment, rounded)));
    if (!memory_) throw std::bad_alloc();
#if defined(__linux__)
    if (alignment == kHugePage) madvise(memory_.get(), rounded, MADV_HUGEPAGE);
#endif
  }

  T* get() const { return memory_.get(); }
  T& operator[](Index i) const { return memory_.get()[i]; }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  struct Free {
    void operator()(T* memory) const { std::free(memory); }
  };
  std::unique_ptr<T, Free> memory_;
};

}  // namespace deeplab
