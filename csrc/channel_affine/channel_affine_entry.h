// Checks and allocation, shared by the CPU and the CUDA entries; only the launch differs.
#pragma once

#include <optional>
#include <tuple>

#include "../common/check.h"
#include "geometry.h"

namespace deeplab {

inline ChannelAffineGeometry channel_affine_geometry(const char* op, const Tensor& x,
                                                     const Tensor& scale) {
  check_float(op, "x", x);
  check(x.dim() >= 2, op, ": x must have shape (N, C, ...), got ", shape_of(x));
  check_like(op, "scale", scale, "x", x);
  check_vector(op, "scale", scale, x.size(1));
  Index spatial = 1;
  for (int64_t d = 2; d < x.dim(); ++d) {
    spatial *= x.size(d);
  }
  return {x.size(0), x.size(1), spatial};
}

// Launch::forward<T>(geometry, x, scale, shift or null, y, max_blocks, device index)
template <typename Launch>
Tensor channel_affine_forward(const Tensor& x_any, const Tensor& scale_any,
                              const std::optional<Tensor>& shift_any, int64_t max_blocks) {
  const char* op = "channel_affine";
  const auto geometry = channel_affine_geometry(op, x_any, scale_any);
  if (shift_any) {
    check_like(op, "shift", *shift_any, "x", x_any);
    check_vector(op, "shift", *shift_any, geometry.channels);
  }
  const Tensor x = torch::stable::contiguous(x_any);
  const Tensor scale = torch::stable::contiguous(scale_any);
  const Tensor shift = shift_any ? torch::stable::contiguous(*shift_any) : scale;
  const Tensor y = torch::stable::new_empty(x, x.sizes());
  if (geometry.count() == 0) {
    return y;
  }
  dispatch_float(x, [&](auto zero) {
    using T = decltype(zero);
    Launch::forward(geometry, x.const_data_ptr<T>(), scale.const_data_ptr<T>(),
                    shift_any ? shift.const_data_ptr<T>() : nullptr, y.mutable_data_ptr<T>(),
                    max_blocks, x.get_device_index());
  });
  return y;
}

// Launch::reduce<T>(geometry, grad_y, x, grad_scale or null, grad_shift or null, max_blocks,
// device)
template <typename Launch>
std::tuple<Tensor, Tensor, Tensor> channel_affine_backward(const Tensor& grad_y_any,
                                                           const Tensor& x_any,
                                                           const Tensor& scale_any, bool need_x,
                                                           bool need_scale, bool need_shift,
                                                           int64_t max_blocks) {
  const char* op = "channel_affine_backward";
  const auto geometry = channel_affine_geometry(op, x_any, scale_any);
  check_like(op, "grad_y", grad_y_any, "x", x_any);
  check_same_shape(op, "grad_y", grad_y_any, "x", x_any);
  const Tensor grad_y = torch::stable::contiguous(grad_y_any);
  const Tensor x = torch::stable::contiguous(x_any);
  const Tensor scale = torch::stable::contiguous(scale_any);

  const int64_t none[] = {0};
  const int64_t per_channel[] = {geometry.channels};
  const auto allocate = [&](bool needed) {
    return torch::stable::new_empty(x, {needed ? per_channel : none, 1});
  };
  const Tensor grad_x = need_x ? torch::stable::new_empty(x, x.sizes()) : allocate(false);
  const Tensor grad_scale = allocate(need_scale);
  const Tensor grad_shift = allocate(need_shift);
  dispatch_float(x, [&](auto zero) {
    using T = decltype(zero);
    if (need_x && geometry.count() > 0) {
      Launch::forward(geometry, grad_y.const_data_ptr<T>(), scale.const_data_ptr<T>(),
                      static_cast<const T*>(nullptr), grad_x.mutable_data_ptr<T>(), max_blocks,
                      x.get_device_index());
    }
    // An empty batch still has per-channel gradients: zeros.
    if ((need_scale || need_shift) && geometry.channels > 0) {
      Launch::reduce(geometry, grad_y.const_data_ptr<T>(), x.const_data_ptr<T>(),
                     need_scale ? grad_scale.mutable_data_ptr<T>() : nullptr,
                     need_shift ? grad_shift.mutable_data_ptr<T>() : nullptr, max_blocks,
                     x.get_device_index());
    }
  });
  return {grad_x, grad_scale, grad_shift};
}

}  // namespace deeplab
