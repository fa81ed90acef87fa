// What the test libraries share: kernels run by the host harness, called from Python through
// ctypes.
#pragma once

#include <exception>
#include <string>

#include "common/cuda_launch.cuh"

inline std::string last_error;

// Exceptions do not cross ctypes: 0 = done, 1 = failed, and last_error_message() says how.
template <typename F>
int guarded(int order, const F& f) {
  try {
    cuda_on_host::order = static_cast<cuda_on_host::Order>(order);
    f();
    return 0;
  } catch (const std::exception& error) {
    last_error = error.what();
    return 1;
  }
}

extern "C" const char* last_error_message() { return last_error.c_str(); }
