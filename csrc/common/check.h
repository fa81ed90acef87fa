// Shape, dtype and device checks for op entries. Each failure names the tensor and what it got.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <sstream>
#include <stdexcept>
#include <string>

namespace deeplab {

using torch::stable::Tensor;

// Without a file and line: the message is for the caller, who passed the tensor.
template <typename... Parts>
void check(bool condition, const Parts&... parts) {
  if (!condition) {
    std::ostringstream message;
    (message << ... << parts);
    throw std::runtime_error(message.str());
  }
}

inline std::string shape_of(const Tensor& t) {
  std::string text = "(";
  for (int64_t d = 0; d < t.dim(); ++d) {
    text += (d ? ", " : "") + std::to_string(t.size(d));
  }
  return text + ")";
}

inline void check_float(const char* op, const char* name, const Tensor& t) {
  const auto dtype = t.scalar_type();
  check(dtype == torch::headeronly::ScalarType::Float ||
            dtype == torch::headeronly::ScalarType::Double,
        op, ": ", name, " must be float32 or float64, got ", torch::headeronly::toString(dtype));
}

inline void check_like(const char* op, const char* name, const Tensor& t, const char* other_name,
                       const Tensor& other) {
  check(t.scalar_type() == other.scalar_type(), op, ": ", name, " must have the dtype of ",
        other_name, " (", torch::headeronly::toString(other.scalar_type()), "), got ",
        torch::headeronly::toString(t.scalar_type()));
  check(t.device() == other.device(), op, ": ", name, " must be on the device of ", other_name);
}

inline void check_vector(const char* op, const char* name, const Tensor& t, int64_t size) {
  check(t.dim() == 1 && t.size(0) == size, op, ": ", name, " must have shape (", size, "), got ",
        shape_of(t));
}

inline void check_same_shape(const char* op, const char* name, const Tensor& t,
                             const char* other_name, const Tensor& other) {
  bool same = t.dim() == other.dim();
  for (int64_t d = 0; same && d < t.dim(); ++d) {
    same = t.size(d) == other.size(d);
  }
  check(same, op, ": ", name, " must have the shape of ", other_name, " ", shape_of(other),
        ", got ", shape_of(t));
}

// Calls f with a value of the tensor's element type: dispatch_float(t, [&](auto zero) {
// using T = decltype(zero); ... }). To be called after check_float.
template <typename F>
void dispatch_float(const Tensor& t, const F& f) {
  if (t.scalar_type() == torch::headeronly::ScalarType::Double) {
    f(double{0});
  } else {
    f(float{0});
  }
}

}  // namespace deeplab
