// Runs CUDA kernels on the CPU, for tests. kernel.cuh includes it for compilers that know no CUDA.
//
// Blocks run one after another. The threads of a block are fibers on one operating-system thread:
// a fiber runs until it reaches a barrier (__syncthreads, __syncwarp, a warp shuffle or vote) or
// returns. What that shows and what it does not:
//   - a missing __syncthreads: `order` runs the fibers forwards, backwards or shuffled, so a thread
//     that reads too early reads garbage in at least one order;
//   - shared memory that was never written: SHARED_ARRAY and DYNAMIC_SHARED are filled with 0xFF
//     (NaN) for each block;
//   - a barrier that not all threads reach, or two different ones at a time: an exception;
//   - not shown: races inside a warp between plain instructions, memory ordering between blocks,
//     anything about speed.
// A kernel's `__shared__` variables become function statics, so launches must not overlap in time.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline
#define __restrict__ __restrict
#define __launch_bounds__(...)
#define __grid_constant__
#define __shared__ static
#define SHARED_ARRAY(type, name, count)                               \
  static ::cuda_on_host::SharedStorage<type, (count)> name##_storage; \
  type* const name = name##_storage.enter()
#define DYNAMIC_SHARED(type, name) \
  type* const name = reinterpret_cast<type*>(::cuda_on_host::machine.dynamic_shared.data())
#define __syncthreads() ::cuda_on_host::block_barrier(__FILE__, __LINE__)
#define __syncwarp(...) ::cuda_on_host::warp_barrier()

struct uint3 {
  unsigned x, y, z;
};

struct dim3 {
  unsigned x, y, z;
  dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

using cudaStream_t = void*;

inline uint3 threadIdx, blockIdx;
inline dim3 blockDim, gridDim;
constexpr int warpSize = 32;

namespace cuda_on_host {

enum class Order { forwards, backwards, shuffled };

// The order in which ready fibers run; tests try all three.
inline Order order = Order::forwards;

// Deep enough for any kernel with its arrays in registers; pages are only touched when used.
constexpr std::size_t kStackBytes = 64 * 1024;
constexpr unsigned kMaxThreads = 1024;

struct Barrier {
  const char* file;
  int line;
};

struct Fiber {
  enum class State { ready, at_block_barrier, at_warp_barrier, done };
  bool entered = false;  // fiber_main runs on this stack, and `resume` says where it stopped
  jmp_buf resume;
  // Not a vector: that would write, and so occupy, every page.
  std::unique_ptr<char[]> stack{new char[kStackBytes]};
  State state = State::done;
  Barrier barrier = {};
  uint3 index = {};
  bool parted = false;  // whether lanes may be apart since the last barrier: mma_on_host.h
  alignas(16) unsigned char lane_value[16] = {};  // what a shuffle offers to the other lanes
};

// Shared memory whose size the launch chooses, in pieces that keep its alignment.
struct alignas(128) SharedLine {
  unsigned char bytes[128];
};

struct Machine {
  jmp_buf scheduler;
  std::vector<Fiber> fibers;
  unsigned threads = 0;
  unsigned current = 0;
  std::uint64_t block_serial = 0;  // counts blocks over all launches
  std::function<void()> body;
  std::string error;
  std::vector<SharedLine> dynamic_shared;
};

inline Machine machine;

template <typename T, std::size_t kCount>
struct SharedStorage {
  alignas(16) unsigned char bytes[sizeof(T) * kCount];
  std::uint64_t block_serial = 0;

  T* enter() {
    if (block_serial != machine.block_serial) {
      block_serial = machine.block_serial;
      std::memset(bytes, 0xFF, sizeof(bytes));
    }
    return reinterpret_cast<T*>(bytes);
  }
};

// Back to the scheduler until it resumes this fiber. swapcontext would do the same, but asks the
// operating system for the signal mask each time, which takes longer than most kernels.
inline void wait(Fiber::State state, Barrier barrier) {
  Fiber& fiber = machine.fibers[machine.current];
  fiber.state = state;
  fiber.barrier = barrier;
  fiber.parted = false;
  if (_setjmp(fiber.resume) == 0) _longjmp(machine.scheduler, 1);
}

inline void block_barrier(const char* file, int line) {
  wait(Fiber::State::at_block_barrier, {file, line});
}

inline void warp_barrier() { wait(Fiber::State::at_warp_barrier, {}); }

// A fiber serves its thread of every block: to make new ones for each would take longer than to run
// them.
inline void fiber_main() {
  for (;;) {
    try {
      machine.body();
    } catch (const std::exception& error) {
      machine.error = error.what();
    }
    wait(Fiber::State::done, {});
  }
}

// Wakes the threads [first, last) if every one that has not returned waits in `state`.
inline bool release(unsigned first, unsigned last, Fiber::State state) {
  const Fiber* waiting = nullptr;
  for (unsigned t = first; t < last; ++t) {
    const Fiber& fiber = machine.fibers[t];
    if (fiber.state == Fiber::State::done) continue;
    if (fiber.state != state) return false;
    if (waiting && (waiting->barrier.line != fiber.barrier.line ||
                    waiting->barrier.file != fiber.barrier.file)) {
      throw std::runtime_error("threads of one block wait at two different __syncthreads, lines " +
                               std::to_string(waiting->barrier.line) + " and " +
                               std::to_string(fiber.barrier.line));
    }
    waiting = &fiber;
  }
  for (unsigned t = first; t < last; ++t) {
    if (machine.fibers[t].state == state) machine.fibers[t].state = Fiber::State::ready;
  }
  return waiting != nullptr;
}

inline bool release_any() {
  bool released = false;
  for (unsigned first = 0; first < machine.threads; first += warpSize) {
    const unsigned last = std::min(first + warpSize, machine.threads);
    released |= release(first, last, Fiber::State::at_warp_barrier);
  }
  return released || release(0, machine.threads, Fiber::State::at_block_barrier);
}

inline void start_fiber(unsigned t) {
  Fiber& fiber = machine.fibers[t];
  // One that an error left in the middle of a kernel begins anew.
  if (fiber.state != Fiber::State::done) fiber.entered = false;
  fiber.state = Fiber::State::ready;
  fiber.parted = false;
  fiber.index = {t % blockDim.x, t / blockDim.x % blockDim.y, t / (blockDim.x * blockDim.y)};
}

// Runs a fiber until it waits.
inline void run_fiber(Fiber& fiber) {
  if (_setjmp(machine.scheduler) != 0) return;
  if (fiber.entered) _longjmp(fiber.resume, 1);
  fiber.entered = true;
  ucontext_t context;
  getcontext(&context);
  context.uc_stack.ss_sp = fiber.stack.get();
  context.uc_stack.ss_size = kStackBytes;
  context.uc_link = nullptr;
  makecontext(&context, fiber_main, 0);
  setcontext(&context);
}

inline void run_block(const std::vector<unsigned>& sequence) {
  ++machine.block_serial;
  for (SharedLine& line : machine.dynamic_shared) std::memset(line.bytes, 0xFF, sizeof(line.bytes));
  for (unsigned t = 0; t < machine.threads; ++t) start_fiber(t);
  for (;;) {
    bool all_done = true;
    for (const unsigned t : sequence) {
      Fiber& fiber = machine.fibers[t];
      if (fiber.state == Fiber::State::ready) {
        machine.current = t;
        threadIdx = fiber.index;
        run_fiber(fiber);
        if (!machine.error.empty()) throw std::runtime_error(std::exchange(machine.error, {}));
      }
      all_done &= fiber.state == Fiber::State::done;
    }
    if (all_done) return;
    if (!release_any()) {
      throw std::runtime_error("threads of one block wait at barriers that the others never reach");
    }
  }
}

// body() is the kernel call; it runs once for each thread of the grid.
inline void launch(dim3 grid, dim3 block, std::function<void()> body,
                   std::size_t shared_bytes = 0) {
  const unsigned threads = block.x * block.y * block.z;
  if (threads < 1 || threads > kMaxThreads || grid.x < 1 || grid.y < 1 || grid.z < 1) {
    throw std::runtime_error("invalid launch: " + std::to_string(grid.x * grid.y * grid.z) +
                             " blocks of " + std::to_string(threads) + " threads");
  }
  machine.threads = threads;
  machine.body = std::move(body);
  machine.dynamic_shared.resize((shared_bytes + sizeof(SharedLine) - 1) / sizeof(SharedLine));
  if (machine.fibers.size() < threads) machine.fibers.resize(threads);
  std::vector<unsigned> sequence(threads);
  std::iota(sequence.begin(), sequence.end(), 0u);
  if (order == Order::backwards) std::reverse(sequence.begin(), sequence.end());
  std::mt19937 random(1);
  blockDim = block;
  gridDim = grid;
  for (unsigned z = 0; z < grid.z; ++z) {
    for (unsigned y = 0; y < grid.y; ++y) {
      for (unsigned x = 0; x < grid.x; ++x) {
        if (order == Order::shuffled) std::shuffle(sequence.begin(), sequence.end(), random);
        blockIdx = {x, y, z};
        run_block(sequence);
      }
    }
  }
}

// Every lane offers a value, waits for its warp, reads what lane `source` offered, waits again.
// A source outside the `width` group, or a lane that has returned, gives the caller's own value.
template <typename T>
T exchange(T value, int source, int width) {
  static_assert(sizeof(T) <= sizeof(Fiber::lane_value), "shuffles move at most 16 bytes");
  const unsigned self = machine.current;
  const int lane = static_cast<int>(self % warpSize);
  std::memcpy(machine.fibers[self].lane_value, &value, sizeof(T));
  warp_barrier();
  T result = value;
  const int group = lane / width * width;
  const unsigned from = self - lane + source;
  if (source >= group && source < group + width && from < machine.threads &&
      machine.fibers[from].state != Fiber::State::done) {
    std::memcpy(&result, machine.fibers[from].lane_value, sizeof(T));
  }
  warp_barrier();
  return result;
}

inline int lane() { return static_cast<int>(machine.current % warpSize); }

template <typename T, typename F>
T atomic(T* address, const F& change) {
  const T old = *address;
  *address = change(old);
  return old;
}

}  // namespace cuda_on_host

// Warp functions. All lanes of the warp take part (mask 0xffffffff), the only use we make of them.
template <typename T>
T __shfl_sync(unsigned, T value, int source, int width = warpSize) {
  return cuda_on_host::exchange(value, cuda_on_host::lane() / width * width + source % width,
                                width);
}
template <typename T>
T __shfl_down_sync(unsigned, T value, unsigned delta, int width = warpSize) {
  return cuda_on_host::exchange(value, cuda_on_host::lane() + static_cast<int>(delta), width);
}
template <typename T>
T __shfl_up_sync(unsigned, T value, unsigned delta, int width = warpSize) {
  return cuda_on_host::exchange(value, cuda_on_host::lane() - static_cast<int>(delta), width);
}
template <typename T>
T __shfl_xor_sync(unsigned, T value, int lane_mask, int width = warpSize) {
  return cuda_on_host::exchange(value, cuda_on_host::lane() ^ lane_mask, width);
}
inline unsigned __ballot_sync(unsigned, int predicate) {
  using cuda_on_host::machine;
  const unsigned first = machine.current - cuda_on_host::lane();
  const unsigned last = std::min(first + warpSize, machine.threads);
  unsigned bits = 0;
  for (unsigned t = first; t < last; ++t) {
    const int source = static_cast<int>(t - first);
    bits |= cuda_on_host::exchange(predicate ? 1u : 0u, source, warpSize) << source;
  }
  return bits;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }
inline int __all_sync(unsigned mask, int predicate) { return __ballot_sync(mask, !predicate) == 0; }

// Atomics: fibers only change at barriers, so plain arithmetic is indivisible.
template <typename T>
T atomicAdd(T* address, T value) {
  return cuda_on_host::atomic(address, [=](T old) { return static_cast<T>(old + value); });
}
template <typename T>
T atomicMax(T* address, T value) {
  return cuda_on_host::atomic(address, [=](T old) { return std::max(old, value); });
}
template <typename T>
T atomicMin(T* address, T value) {
  return cuda_on_host::atomic(address, [=](T old) { return std::min(old, value); });
}
template <typename T>
T atomicExch(T* address, T value) {
  return cuda_on_host::atomic(address, [=](T) { return value; });
}
template <typename T>
T atomicCAS(T* address, T compare, T value) {
  return cuda_on_host::atomic(address, [=](T old) { return old == compare ? value : old; });
}
inline void __threadfence() {}
inline void __threadfence_block() {}
template <typename T>
T __ldg(const T* address) {
  return *address;
}
