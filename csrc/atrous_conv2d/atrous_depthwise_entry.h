// Checks and allocation of the convolution of single channels, shared by the CPU and the CUDA
// entries; only the launch differs.
//
// A Launch has
//   kDtypes, accepts(dtype), dispatch(x, f)   as in atrous_conv2d_entry.h
//   depthwise<T>(geometry, x, weight, bias or null, y, depthwise options)
//   depthwise_grad_input<T>(geometry, grad_y, weight, grad_x, depthwise options)
//   depthwise_grad_weight<T>(geometry, grad_y, x, grad_weight, depthwise options)
//   kPlanarDepthwiseGradWeight                whether the last wants contiguous maps
// Weights (channels, 1, R, S) are contiguous, and nothing is empty.
#pragma once

#include "atrous_conv2d_entry.h"

namespace deeplab {

inline Activation activation_of(const char* op, const std::string& name) {
  static const char* const kNames[] = {"none", "relu", "relu6"};
  for (int i = 0; i < 3; ++i) {
    if (name == kNames[i]) return static_cast<Activation>(i);
  }
  check(false, op, ": activation must be none, relu or relu6, got ", name);
  return Activation::none;
}

// The geometry of `channels` single channels.
inline ConvGeometry depthwise_geometry(const char* op, Index batch, Index channels, Index height,
                                       Index width, const Sizes& kernel, const Sizes& stride,
                                       const Sizes& padding, const Sizes& rate) {
  auto g = padded_window_geometry(op, batch, height, width, kernel, stride, padding, rate);
  g.in_channels = g.out_channels = g.groups = channels;
  return g;
}

inline void check_depthwise_weight(const char* op, const Tensor& weight, Index channels) {
  check(weight.size(0) == channels && weight.size(1) == 1 && weight.numel() > 0, op,
        ": weight must have shape (", channels, ", 1, R, S), got ", shape_of(weight));
}

template <typename Launch>
Tensor conv_depthwise(const Tensor& x_any, const Tensor& weight_any,
                      const std::optional<Tensor>& bias_any, const Sizes stride,
                      const Sizes padding, const Sizes rate, bool relu_before,
                      const std::string activation, int64_t max_blocks) {
  const char* op = "atrous_depthwise";
  check_map(op, "x", x_any);
  check_map(op, "weight", weight_any);
  check_conv_dtype<Launch>(op, "x", x_any);
  check_like(op, "weight", weight_any, "x", x_any);
  const Index channels = x_any.size(1);
  check_depthwise_weight(op, weight_any, channels);
  const auto g =
      depthwise_geometry(op, x_any.size(0), channels, x_any.size(2), x_any.size(3),
                         {weight_any.size(2), weight_any.size(3)}, stride, padding, rate);
  if (bias_any) {
    check_like(op, "bias", *bias_any, "x", x_any);
    check_vector(op, "bias", *bias_any, channels);
  }
  const bool channels_last = is_channels_last(x_any);
  const DepthwiseOptions options{channels_last, relu_before, activation_of(op, activation),
                                 max_blocks, x_any.get_device_index()};
  const Tensor x = in_format(x_any, channels_last);
  const Tensor weight = in_format(weight_any, false);
  const Tensor bias = bias_any ? torch::stable::contiguous(*bias_any) : x;
  const Tensor y = new_map(x, g.batch, channels, g.out_height, g.out_width, channels_last);
  if (y.numel() == 0) {
    return y;
  }
  Launch::dispatch(x, [&](auto element) {
    using T = decltype(element);
    Launch::template depthwise<T>(g, static_cast<const T*>(x.data_ptr()),
                                  static_cast<const T*>(weight.data_ptr()),
                                  bias_any ? static_cast<const T*>(bias.data_ptr()) : nullptr,
                                  static_cast<T*>(y.data_ptr()), options);
  });
  return y;
}

template <typename Launch>
Tensor conv_depthwise_grad_input(const Tensor& grad_any, const Tensor& weight_any,
                                 const Sizes image_size, const Sizes stride, const Sizes padding,
                                 const Sizes rate, int64_t max_blocks) {
  const char* op = "atrous_depthwise_grad_input";
  check_map(op, "grad_y", grad_any);
  check_map(op, "weight", weight_any);
  check_conv_dtype<Launch>(op, "grad_y", grad_any);
  check_like(op, "weight", weight_any, "grad_y", grad_any);
  check_pair(op, "image_size", image_size, 0);
  const Index channels = grad_any.size(1);
  check_depthwise_weight(op, weight_any, channels);
  const auto g =
      depthwise_geometry(op, grad_any.size(0), channels, image_size[0], image_size[1],
                         {weight_any.size(2), weight_any.size(3)}, stride, padding, rate);
  check_output(op, grad_any, g);
  const bool channels_last = is_channels_last(grad_any);
  const DepthwiseOptions options{channels_last, false, Activation::none, max_blocks,
                                 grad_any.get_device_index()};
  const Tensor grad_y = in_format(grad_any, channels_last);
  const Tensor weight = in_format(weight_any, false);
  const Tensor grad_x = new_map(grad_y, g.batch, channels, g.height, g.width, channels_last);
  if (grad_x.numel() == 0) {
    return grad_x;
  }
  Launch::dispatch(grad_y, [&](auto element) {
    using T = decltype(element);
    Launch::template depthwise_grad_input<T>(g, static_cast<const T*>(grad_y.data_ptr()),
                                             static_cast<const T*>(weight.data_ptr()),
                                             static_cast<T*>(grad_x.data_ptr()), options);
  });
  return grad_x;
}

template <typename Launch>
Tensor conv_depthwise_grad_weight(const Tensor& grad_any, const Tensor& x_any,
                                  const Sizes kernel_size, const Sizes stride, const Sizes padding,
                                  const Sizes rate, int64_t max_blocks) {
  const char* op = "atrous_depthwise_grad_weight";
  check_map(op, "grad_y", grad_any);
  check_map(op, "x", x_any);
  check_conv_dtype<Launch>(op, "x", x_any);
  check_like(op, "grad_y", grad_any, "x", x_any);
  const Index channels = x_any.size(1);
  const auto g = depthwise_geometry(op, x_any.size(0), channels, x_any.size(2), x_any.size(3),
                                    kernel_size, stride, padding, rate);
  check_output(op, grad_any, g);
  const bool channels_last = !Launch::kPlanarDepthwiseGradWeight && is_channels_last(x_any);
  const DepthwiseOptions options{channels_last, false, Activation::none, max_blocks,
                                 x_any.get_device_index()};
  const Tensor grad_y = in_format(grad_any, channels_last);
  const Tensor x = in_format(x_any, channels_last);
  const Tensor grad_weight = new_map(x, channels, 1, g.kernel_h, g.kernel_w, false);
  if (grad_weight.numel() == 0) {
    return grad_weight;
  }
  if (grad_y.numel() == 0) {
    zero(grad_weight);
    return grad_weight;
  }
  Launch::dispatch(x, [&](auto element) {
    using T = decltype(element);
    Launch::template depthwise_grad_weight<T>(g, static_cast<const T*>(grad_y.data_ptr()),
                                              static_cast<const T*>(x.data_ptr()),
                                              static_cast<T*>(grad_weight.data_ptr()), options);
  });
  return grad_weight;
}

}  // namespace deeplab
