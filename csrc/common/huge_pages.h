// Large results in huge pages: the system hands memory out page by page as it is first written,
// which takes longer than to compute what only passes through.
#pragma once

#if defined(__linux__)
#include <sys/mman.h>
#endif

#include <cstdint>

#include "host_device.h"

namespace deeplab {

// Of memory that nobody has written yet. malloc takes new pages from the system, and gives them
// back when they are freed, from 32 MB on at the latest; smaller blocks are mostly used again.
inline void prefer_huge_pages([[maybe_unused]] void* memory, [[maybe_unused]] Index bytes) {
#if defined(__linux__)
  constexpr Index kAlwaysNew = 32 << 20;
  constexpr std::uintptr_t kHugePage = 2 << 20;
  if (bytes < kAlwaysNew) return;
  const std::uintptr_t begin = reinterpret_cast<std::uintptr_t>(memory);
  const std::uintptr_t first = (begin + kHugePage - 1) / kHugePage * kHugePage;
  const std::uintptr_t last = (begin + static_cast<std::uintptr_t>(bytes)) / kHugePage * kHugePage;
  if (first < last) madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#endif
}

}  // namespace deeplab
