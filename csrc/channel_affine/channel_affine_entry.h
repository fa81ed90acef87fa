// Checks and allocation, shared by the CPU and the CUDA entries; only the launch differs.
#pragma once

#include <optional>
#include <tuple>

#include "../common/check.h"
#include "../common/memory_format.h"
#include "geometry.h"

namespace deeplab {

inline void check_channel_affine(const char* op, const Tensor& x, const Tensor& scale) {
  check_float(op, "x", x);
  check(x.dim() >= 2, op, ": x must have shape (N, C, ...), got ", shape_of(x));
  check_like(op, "scale", scale, "x", x);
  check_vector(op, "scale", scale, x.size(1));
}

// Channels-last, each pixel is an item of its own, with one value a channel.
inline ChannelAffineGeometry channel_affine_geometry(const Tensor& x, bool channels_last) {
  Index spatial = 1;
  for (int64_t d = 2; d < x.dim(); ++d) {
    spatial *= x.size(d);
  }
  if (channels_last) return {x.size(0) * spatial, x.size(1), 1};
  return {x.size(0), x.size(1), spatial};
}

inline Tensor new_like(const Tensor& x, bool channels_last) {
  return channels_last ? new_map(x, x.size(0), x.size(1), x.size(2), x.size(3), true)
                       : torch::stable::new_empty(x, x.sizes());
}

// Launch::forward<T>(geometry, x, scale, shift or null, y, max_blocks, device index)
// y lies in memory as x does.
template <typename Launch>
Tensor channel_affine_forward(const Tensor& x_any, const Tensor& scale_any,
                              const std::optional<Tensor>& shift_any, int64_t max_blocks) {
  const char* op = "channel_affine";
  check_channel_affine(op, x_any, scale_any);
  if (shift_any) {
    check_like(op, "shift", *shift_any, "x", x_any);
    check_vector(op, "shift", *shift_any, x_any.size(1));
  }
  const bool channels_last = is_channels_last(x_any);
  const auto geometry = channel_affine_geometry(x_any, channels_last);
  const Tensor x = in_format(x_any, channels_last);
  const Tensor scale = torch::stable::contiguous(scale_any);
  const Tensor shift = shift_any ? torch::stable::contiguous(*shift_any) : scale;
  const Tensor y = new_like(x, channels_last);
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
// device); x is read where there is a grad_scale.
// Launch::kPlanarReduce: whether it wants contiguous maps.
template <typename Launch>
std::tuple<Tensor, Tensor, Tensor> channel_affine_backward(const Tensor& grad_y_any,
                                                           const Tensor& x_any,
                                                           const Tensor& scale_any, bool need_x,
                                                           bool need_scale, bool need_shift,
                                                           int64_t max_blocks) {
  const char* op = "channel_affine_backward";
  check_channel_affine(op, x_any, scale_any);
  check_like(op, "grad_y", grad_y_any, "x", x_any);
  check_same_shape(op, "grad_y", grad_y_any, "x", x_any);
  const bool channels_last = is_channels_last(grad_y_any);
  const auto geometry = channel_affine_geometry(grad_y_any, channels_last);
  const Tensor grad_y = in_format(grad_y_any, channels_last);
  const Tensor scale = torch::stable::contiguous(scale_any);

  const int64_t none[] = {0};
  const int64_t per_channel[] = {geometry.channels};
  const auto allocate = [&](bool needed) {
    return torch::stable::new_empty(grad_y, {needed ? per_channel : none, 1});
  };
  const Tensor grad_x = need_x ? new_like(grad_y, channels_last) : allocate(false);
  const Tensor grad_scale = allocate(need_scale);
  const Tensor grad_shift = allocate(need_shift);
  dispatch_float(grad_y, [&](auto zero) {
    using T = decltype(zero);
    if (need_x && geometry.count() > 0) {
      Launch::forward(geometry, grad_y.const_data_ptr<T>(), scale.const_data_ptr<T>(),
                      static_cast<const T*>(nullptr), grad_x.mutable_data_ptr<T>(), max_blocks,
                      grad_y.get_device_index());
    }
    // An empty batch still has per-channel gradients: zeros.
    if ((need_scale || need_shift) && geometry.channels > 0) {
      const bool last = channels_last && !Launch::kPlanarReduce;
      const Tensor summed = in_format(grad_y, last);
      const Tensor x = need_scale ? in_format(x_any, last) : summed;
      Launch::reduce(channel_affine_geometry(summed, last), summed.const_data_ptr<T>(),
                     x.const_data_ptr<T>(), need_scale ? grad_scale.mutable_data_ptr<T>() : nullptr,
                     need_shift ? grad_shift.mutable_data_ptr<T>() : nullptr, max_blocks,
                     grad_y.get_device_index());
    }
  });
  return {grad_x, grad_scale, grad_shift};
}

}  // namespace deeplab
