#include <thread>

#include "jobs.h"

namespace deeplab {

// Plain members and the compiler's atomics: jobs.h is read where no standard header may be.

Index Team::claim(Index end) {
  Index next = __atomic_load_n(&claimed_, __ATOMIC_RELAXED);
  while (next < end) {
    if (__atomic_compare_exchange_n(&claimed_, &next, next + 1, /*weak=*/true, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return next;
    }
  }
  return -1;
}

void Team::finish() { __atomic_fetch_add(&finished_, 1, __ATOMIC_RELEASE); }

void Team::wait(Index end) {
  constexpr int kSpins = 1000;
  for (int spins = 0; __atomic_load_n(&finished_, __ATOMIC_ACQUIRE) < end; ++spins) {
    // Items take some microseconds; whoever takes longer has lost its core, and may have ours.
    if (spins > kSpins) std::this_thread::yield();
  }
}

void Team::decline() { __atomic_store_n(&declined_, true, __ATOMIC_RELAXED); }

bool Team::declined() const { return __atomic_load_n(&declined_, __ATOMIC_RELAXED); }

}  // namespace deeplab
