// What mma.cuh's instructions compute, on the host harness: the same fragments, with the lanes of a
// warp exchanging them at a warp barrier.
//   - a lane that skips an instruction: an exception (barriers never meet);
//   - an instruction that lanes reach straight from copying, where they may have parted: an
//   exception;
//   - asynchronous copies happen when their thread waits for them, not before: who reads without
//     waiting, or without the barrier after it, reads garbage;
//   - sums are formed exactly and cut off towards zero, the worst that is known of the hardware.
#pragma once

#include <array>
#include <deque>

#include "cuda_on_host.h"

namespace cuda_on_host {

// Every lane offers a value; the result lists those of its warp, lane by lane. Two sets of slots in
// turns: nobody can offer the next but one before all have read this one.
template <typename T>
const T* offer(const T& value) {
  struct Slots {
    std::array<T, kMaxThreads> values[2];
    std::array<std::uint64_t, kMaxThreads> block_serial{};
    std::array<unsigned char, kMaxThreads> turn{};
  };
  static Slots slots;
  const unsigned self = machine.current;
  if (machine.fibers[self].parted) {
    throw std::runtime_error(
        "lanes come to an aligned instruction from a copy, without __syncwarp");
  }
  if (slots.block_serial[self] != machine.block_serial) {
    slots.block_serial[self] = machine.block_serial;
    slots.turn[self] = 0;
  }
  const unsigned turn = slots.turn[self] ^= 1;
  slots.values[turn][self] = value;
  warp_barrier();
  return &slots.values[turn][self - static_cast<unsigned>(lane())];
}

inline float towards_zero(double exact) {
  const float nearest = static_cast<float>(exact);
  return std::fabs(static_cast<double>(nearest)) > std::fabs(exact) ? std::nextafter(nearest, 0.0f)
                                                                    : nearest;
}

template <typename Element, typename Decode>
void mma(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], const Decode& decode) {
  struct Fragments {
    unsigned a[4], b[2];
  };
  Fragments mine;
  std::memcpy(mine.a, a, sizeof(a));
  std::memcpy(mine.b, b, sizeof(b));
  const Fragments* warp = offer(mine);
  constexpr int kPerRegister = 4 / sizeof(Element);
  // Element k of a row or column lies in lane `4 * line + t`, in the register of its half.
  const auto element = [&](int line, int k, bool of_a, int upper_rows) {
    const int word = k / kPerRegister;
    const Fragments& owner = warp[4 * line + word % 4];
    const unsigned bits = of_a ? owner.a[2 * (word / 4) + upper_rows] : owner.b[word / 4];
    Element value;
    std::memcpy(&value, reinterpret_cast<const char*>(&bits) + k % kPerRegister * sizeof(Element),
                sizeof(Element));
    return static_cast<double>(decode(value));
  };
  const int g = lane() / 4, t = lane() % 4;
  for (int i = 0; i < 4; ++i) {
    double sum = d[i];
    for (int k = 0; k < 8 * kPerRegister; ++k) {
      sum += element(g, k, true, i / 2) * element(2 * t + i % 2, k, false, 0);
    }
    d[i] = towards_zero(sum);
  }
}

inline void load_matrices(unsigned (&registers)[4], const void* row) {
  const void* const* rows = offer(row);
  for (int i = 0; i < 4; ++i) {
    const auto* from = static_cast<const char*>(rows[8 * i + lane() / 4]);
    std::memcpy(&registers[i], from + 4 * (lane() % 4), 4);
  }
}

inline void load_matrices_transposed(unsigned (&registers)[4], const void* row) {
  const void* const* rows = offer(row);
  for (int i = 0; i < 4; ++i) {
    for (int half = 0; half < 2; ++half) {
      const auto* from = static_cast<const char*>(rows[8 * i + 2 * (lane() % 4) + half]);
      std::memcpy(reinterpret_cast<char*>(&registers[i]) + 2 * half, from + 2 * (lane() / 4), 2);
    }
  }
}

inline float round_tf32(float value) {
  unsigned bits;
  std::memcpy(&bits, &value, 4);
  if ((bits & 0x7f800000u) != 0x7f800000u) bits = (bits + 0x1000u) & 0xffffe000u;
  std::memcpy(&value, &bits, 4);
  return value;
}

struct Copy {
  void* to;
  const void* from;
  bool valid;
};

struct Copies {
  std::uint64_t block_serial = 0;
  std::vector<Copy> open;
  std::deque<std::vector<Copy>> committed;
};

inline Copies& copies_of_thread() {
  static std::array<Copies, kMaxThreads> all;
  Copies& mine = all[machine.current];
  if (mine.block_serial != machine.block_serial) {
    mine = {};
    mine.block_serial = machine.block_serial;
  }
  return mine;
}

inline void copy_chunk(void* shared, const void* global, bool valid) {
  if (reinterpret_cast<std::uintptr_t>(shared) % 16 ||
      (valid && reinterpret_cast<std::uintptr_t>(global) % 16)) {
    throw std::runtime_error("copy_chunk: an address is no multiple of 16");
  }
  copies_of_thread().open.push_back({shared, global, valid});
  machine.fibers[machine.current].parted = true;
}

inline void copy_commit() {
  Copies& mine = copies_of_thread();
  mine.committed.push_back(std::move(mine.open));
  mine.open.clear();
}

template <int kPending>
void copy_wait() {
  Copies& mine = copies_of_thread();
  while (mine.committed.size() > kPending) {
    for (const Copy& copy : mine.committed.front()) {
      if (copy.valid) {
        std::memcpy(copy.to, copy.from, 16);
      } else {
        std::memset(copy.to, 0, 16);
      }
    }
    mine.committed.pop_front();
  }
}

}  // namespace cuda_on_host
