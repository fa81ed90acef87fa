#include <thread>

#include "team.h"

namespace deeplab {

// Plain numbers and the compiler's atomics: team.h is read where no standard header may be.

Index Team::claim(Index m, Index end) {
  Index* const claimed = &claimed_[m].value;
  Index next = __atomic_load_n(claimed, __ATOMIC_RELAXED);
  while (next < end) {
    if (__atomic_compare_exchange_n(claimed, &next, next + 1, /*weak=*/true, __ATOMIC_RELAXED,
                                    __ATOMIC_RELAXED)) {
      return next;
    }
  }
  return -1;
}

void Team::finish(Index m) { __atomic_fetch_add(&finished_[m].value, 1, __ATOMIC_RELEASE); }

void Team::wait(Index count) const {
  constexpr int kSpins = 1000;
  for (int spins = 0;; ++spins) {
    Index finished = 0;
    for (Index m = 0; m < members; ++m) {
      finished += __atomic_load_n(&finished_[m].value, __ATOMIC_ACQUIRE);
    }
    if (finished >= count) return;
    // Items take some microseconds; whoever takes longer has lost its core, and may have ours.
    if (spins > kSpins) std::this_thread::yield();
  }
}

void Team::decline() { __atomic_store_n(&declined_, true, __ATOMIC_RELAXED); }

bool Team::declined() const { return __atomic_load_n(&declined_, __ATOMIC_RELAXED); }

}  // namespace deeplab
