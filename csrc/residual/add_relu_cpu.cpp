// The end of a residual unit in one pass: the sum and the ReLU on it.
#include <torch/csrc/stable/library.h>

#include "../common/check.h"
#include "../common/memory_format.h"

namespace deeplab {
namespace {

// Work below this many elements is not worth a second thread.
constexpr Index kGrain = 32768;

// NaN stays NaN.
template <typename T>
void add_relu(T* y, const T* other, Index count) {
  for (Index i = 0; i < count; ++i) {
    const T sum = y[i] + other[i];
    y[i] = sum < 0 ? T{0} : sum;
  }
}

template <typename T>
void add_relu(const Tensor& y, const Tensor& other) {
  T* const to = static_cast<T*>(y.data_ptr());
  const T* const from = static_cast<const T*>(other.data_ptr());
  torch::stable::parallel_for(0, y.numel(), kGrain, [&](int64_t begin, int64_t end) {
    add_relu(to + begin, from + begin, end - begin);
  });
}

// Element by element where they lie, whatever the memory format, as long as both have the same.
void add_relu_(const Tensor& y, const Tensor& other) {
  const char* op = "add_relu_";
  check(y.is_cpu(), op, ": y must be on the CPU");
  check_float(op, "y", y);
  check_like(op, "other", other, "y", y);
  check_same_shape(op, "other", other, "y", y);
  const bool alike = (y.is_contiguous() && other.is_contiguous()) ||
                     (is_channels_last(y) && is_channels_last(other));
  check(alike, op, ": y and other must both be contiguous, or both channels last");
  dispatch_float(y, [&](auto value) { add_relu<decltype(value)>(y, other); });
}

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("add_relu_", TORCH_BOX(&deeplab::add_relu_));
}
