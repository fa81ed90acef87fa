// The Device of the lattice's launchers on the host harness: memory full of garbage, like a GPU's.
#pragma once

#include <cstring>
#include <memory>
#include <vector>

#include "on_host.h"

struct HostDevice {
  deeplab::Index max_blocks;
  cudaStream_t stream = nullptr;
  std::vector<std::unique_ptr<double[]>> memory = {};

  template <typename T>
  T* allocate(deeplab::Index count) {
    const std::size_t doubles = count * sizeof(T) / sizeof(double) + 1;
    memory.emplace_back(new double[doubles]);
    std::memset(memory.back().get(), 0xFF, doubles * sizeof(double));
    return reinterpret_cast<T*>(memory.back().get());
  }

  int read(const int* value) const { return *value; }
};
