// Uninitialized memory of one call, in huge pages where that saves page faults and the processor's
// address look-ups: rows of a lattice are read in no order that it could foresee. Large buffers are
// the system's again as soon as they are freed: malloc would keep the hash table of a lattice while
// the lattice is used.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>
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
    const std::size_t bytes = static_cast<std::size_t>(count) * sizeof(T);
#if defined(__linux__)
    if (bytes >= 2 * kHugePage) {
      const std::size_t mapped = rounded(bytes, kHugePage);
      memory_ = std::unique_ptr<T, Free>(static_cast<T*>(map_huge(mapped)), Free{mapped});
      return;
    }
#endif
    constexpr std::size_t kLine = 64;
    memory_.reset(static_cast<T*>(std::aligned_alloc(kLine, rounded(bytes, kLine))));
    if (!memory_) throw std::bad_alloc();
  }

  T* get() const { return memory_.get(); }
  T& operator[](Index i) const { return memory_.get()[i]; }
  explicit operator bool() const { return memory_ != nullptr; }

 private:
  static constexpr std::size_t kHugePage = std::size_t{1} << 21;

  static std::size_t rounded(std::size_t bytes, std::size_t unit) {
    return (bytes + unit - 1) / unit * unit;
  }

#if defined(__linux__)
  // Pages from a multiple of kHugePage on; those before and behind go back.
  static void* map_huge(std::size_t bytes) {
    void* mapped = mmap(nullptr, bytes + kHugePage, PROT_READ | PROT_WRITE,
                        MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (mapped == MAP_FAILED) throw std::bad_alloc();
    char* const start = static_cast<char*>(mapped);
    const auto address = reinterpret_cast<std::uintptr_t>(mapped);
    const std::size_t before = rounded(address, kHugePage) - address;
    if (before > 0) munmap(start, before);
    munmap(start + before + bytes, kHugePage - before);
    madvise(start + before, bytes, MADV_HUGEPAGE);
    return start + before;
  }
#endif

  struct Free {
    std::size_t mapped = 0;  // bytes; 0 = by malloc
    void operator()(T* memory) const {
#if defined(__linux__)
      if (mapped > 0) {
        munmap(memory, mapped);
        return;
      }
#endif
      std::free(memory);
    }
  };
  std::unique_ptr<T, Free> memory_;
};

}  // namespace deeplab
