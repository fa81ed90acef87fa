// Checks and allocation, shared by the CPU and the CUDA entries; only the launch differs.
//
// A Launch has
//   kDtypes                          what dispatch() may be called with, for messages
//   accepts(dtype), dispatch(x, f)   f(element of x's type)
//   forward<T>(geometry, x, weight, weight strides, bias or null, y, options)
//   grad_input<T>(geometry, grad_y, weight, weight strides, grad_x, options)
//   grad_weight<T>(geometry, grad_y, x, grad_weight, options)
//   im2col<T>(geometry, x, columns, options)
//   col2im<T>(geometry, columns, x, options)
//   kPlanarGradWeight                whether grad_weight wants contiguous maps
// Activations are contiguous in the memory format that options say; nothing is empty.
#pragma once

#include <algorithm>
#include <optional>
#include <string>
#include <vector>

#include "../common/check.h"
#include "../common/memory_format.h"
#include "options.h"

namespace deeplab {

using Sizes = std::vector<int64_t>;

inline Sizes check_pair(const char* op, const char* name, const Sizes& pair, int64_t least) {
  check(pair.size() == 2 && pair[0] >= least && pair[1] >= least, op, ": ", name,
        " must be two ints >= ", least);
  return pair;
}

inline void check_map(const char* op, const char* name, const Tensor& t) {
  check(t.dim() == 4, op, ": ", name, " must have 4 dimensions, got shape ", shape_of(t));
}

template <typename Launch>
void check_conv_dtype(const char* op, const char* name, const Tensor& t) {
  check(Launch::accepts(t.scalar_type()), op, ": ", name, " must be ", Launch::kDtypes, ", got ",
        torch::headeronly::toString(t.scalar_type()));
}

inline Precision precision_of(const char* op, const std::string& name) {
  static const char* const kNames[] = {"fp32", "tf32", "bf16", "fp16"};
  for (int i = 0; i < 4; ++i) {
    if (name == kNames[i]) return static_cast<Precision>(i);
  }
  check(false, op, ": precision must be fp32, tf32, bf16 or fp16, got ", name);
  return Precision::fp32;
}

// padded: the size with the zeros on both sides.
inline Index conv_output(Index padded, Index kernel, Index stride, Index rate) {
  return (padded - rate * (kernel - 1) - 1) / stride + 1;
}

// The geometry of a window over maps of size (height, width); channels and groups are still 1.
// padding: (top, bottom, left, right).
inline ConvGeometry padded_window_geometry(const char* op, Index batch, Index height, Index width,
                                           const Sizes& kernel, const Sizes& stride,
                                           const Sizes& padding, const Sizes& rate) {
  check_pair(op, "kernel_size", kernel, 1);
  check_pair(op, "stride", stride, 1);
  check(padding.size() == 4 && *std::min_element(padding.begin(), padding.end()) >= 0, op,
        ": padding must be four ints >= 0");
  check_pair(op, "rate", rate, 1);
  const Index padded[] = {height + padding[0] + padding[1], width + padding[2] + padding[3]};
  for (int axis = 0; axis < 2; ++axis) {
    const Index reach = rate[axis] * (kernel[axis] - 1) + 1;
    check(padded[axis] >= reach, op, ": the filter spans ", reach, " pixels in ", "HW"[axis],
          " at rate ", rate[axis], ", the padded input only ", padded[axis]);
  }
  ConvGeometry g{};
  g.batch = batch;
  g.in_channels = g.out_channels = g.groups = 1;
  g.height = height;
  g.width = width;
  g.out_height = conv_output(padded[0], kernel[0], stride[0], rate[0]);
  g.out_width = conv_output(padded[1], kernel[1], stride[1], rate[1]);
  g.kernel_h = kernel[0];
  g.kernel_w = kernel[1];
  g.stride_h = stride[0];
  g.stride_w = stride[1];
  g.pad_h = padding[0];
  g.pad_w = padding[2];
  g.rate_h = rate[0];
  g.rate_w = rate[1];
  return g;
}

// The same with padding (h, w).
inline ConvGeometry window_geometry(const char* op, Index batch, Index height, Index width,
                                    const Sizes& kernel, const Sizes& stride, const Sizes& padding,
                                    const Sizes& rate) {
  check_pair(op, "padding", padding, 0);
  return padded_window_geometry(op, batch, height, width, kernel, stride,
                                {padding[0], padding[0], padding[1], padding[1]}, rate);
}

inline void set_channels(const char* op, ConvGeometry& g, Index in, Index out, Index groups) {
  check(groups >= 1 && in % groups == 0 && out % groups == 0, op, ": groups must divide ", in,
        " channels and ", out, " filters, got ", groups);
  g.in_channels = in;
  g.out_channels = out;
  g.groups = groups;
}

inline WeightStrides strides_of(const Tensor& weight) {
  return {weight.stride(0), weight.stride(1), weight.stride(2), weight.stride(3)};
}

inline ConvOptions conv_options(const char* op, const Tensor& first, bool channels_last,
                                const std::string& precision, int64_t max_blocks) {
  ConvOptions o;
  o.precision = precision_of(op, precision);
  o.channels_last = channels_last;
  o.max_blocks = max_blocks;
  o.device = first.get_device_index();
  return o;
}

inline void check_output(const char* op, const Tensor& grad_y, const ConvGeometry& g) {
  check(grad_y.size(0) == g.batch && grad_y.size(1) == g.out_channels &&
            grad_y.size(2) == g.out_height && grad_y.size(3) == g.out_width,
        op, ": grad_y must have shape (", g.batch, ", ", g.out_channels, ", ", g.out_height, ", ",
        g.out_width, "), got ", shape_of(grad_y));
}

inline void zero(Tensor t) { torch::stable::zero_(t); }

template <typename Launch>
Tensor conv_direct(const Tensor& x_any, const Tensor& weight, const std::optional<Tensor>& bias_any,
                   const Sizes stride, const Sizes padding, const Sizes rate, int64_t groups,
                   const std::string precision, bool relu, int64_t max_blocks) {
  const char* op = "atrous_conv2d_direct";
  check_map(op, "x", x_any);
  check_map(op, "weight", weight);
  check_conv_dtype<Launch>(op, "x", x_any);
  check_like(op, "weight", weight, "x", x_any);
  auto g = window_geometry(op, x_any.size(0), x_any.size(2), x_any.size(3),
                           {weight.size(2), weight.size(3)}, stride, padding, rate);
  set_channels(op, g, x_any.size(1), weight.size(0), groups);
  check(weight.size(1) == g.group_in(), op, ": weight ", shape_of(weight), " with groups=", groups,
        " needs x with ", weight.size(1) * groups, " channels, got ", shape_of(x_any));
  if (bias_any) {
    check_like(op, "bias", *bias_any, "x", x_any);
    check_vector(op, "bias", *bias_any, g.out_channels);
  }
  const bool channels_last = is_channels_last(x_any);
  auto options = conv_options(op, x_any, channels_last, precision, max_blocks);
  options.relu = relu;
  const Tensor x = in_format(x_any, channels_last);
  const Tensor bias = bias_any ? torch::stable::contiguous(*bias_any) : x;
  const Tensor y = new_map(x, g.batch, g.out_channels, g.out_height, g.out_width, channels_last);
  if (y.numel() == 0) {
    return y;
  }
  Launch::dispatch(x, [&](auto element) {
    using T = decltype(element);
    // Without input channels, y is the bias; the launch reads nothing of x and weight then.
    Launch::template forward<T>(g, static_cast<const T*>(x.data_ptr()),
                                static_cast<const T*>(weight.data_ptr()), strides_of(weight),
                                bias_any ? static_cast<const T*>(bias.data_ptr()) : nullptr,
                                static_cast<T*>(y.data_ptr()), options);
  });
  return y;
}

template <typename Launch>
Tensor conv_direct_grad_input(const Tensor& grad_any, const Tensor& weight, const Sizes image_size,
                              const Sizes stride, const Sizes padding, const Sizes rate,
                              int64_t groups, const std::string precision, int64_t max_blocks) {
  const char* op = "atrous_conv2d_direct_grad_input";
  check_map(op, "grad_y", grad_any);
  check_map(op, "weight", weight);
  check_conv_dtype<Launch>(op, "grad_y", grad_any);
  check_like(op, "weight", weight, "grad_y", grad_any);
  check_pair(op, "image_size", image_size, 0);
  auto g = window_geometry(op, grad_any.size(0), image_size[0], image_size[1],
                           {weight.size(2), weight.size(3)}, stride, padding, rate);
  set_channels(op, g, weight.size(1) * groups, weight.size(0), groups);
  check_output(op, grad_any, g);
  const bool channels_last = is_channels_last(grad_any);
  const auto options = conv_options(op, grad_any, channels_last, precision, max_blocks);
  const Tensor grad_y = in_format(grad_any, channels_last);
  const Tensor grad_x = new_map(grad_y, g.batch, g.in_channels, g.height, g.width, channels_last);
  if (grad_x.numel() == 0) {
    return grad_x;
  }
  if (grad_y.numel() == 0) {
    zero(grad_x);
    return grad_x;
  }
  Launch::dispatch(grad_y, [&](auto element) {
    using T = decltype(element);
    Launch::template grad_input<T>(g, static_cast<const T*>(grad_y.data_ptr()),
                                   static_cast<const T*>(weight.data_ptr()), strides_of(weight),
                                   static_cast<T*>(grad_x.data_ptr()), options);
  });
  return grad_x;
}

template <typename Launch>
Tensor conv_direct_grad_weight(const Tensor& grad_any, const Tensor& x_any, const Sizes kernel_size,
                               const Sizes stride, const Sizes padding, const Sizes rate,
                               int64_t groups, const std::string precision, int64_t max_blocks) {
  const char* op = "atrous_conv2d_direct_grad_weight";
  check_map(op, "grad_y", grad_any);
  check_map(op, "x", x_any);
  check_conv_dtype<Launch>(op, "x", x_any);
  check_like(op, "grad_y", grad_any, "x", x_any);
  auto g = window_geometry(op, x_any.size(0), x_any.size(2), x_any.size(3), kernel_size, stride,
                           padding, rate);
  set_channels(op, g, x_any.size(1), grad_any.size(1), groups);
  check_output(op, grad_any, g);
  const bool channels_last = !Launch::kPlanarGradWeight && is_channels_last(x_any);
  const auto options = conv_options(op, x_any, channels_last, precision, max_blocks);
  const Tensor grad_y = in_format(grad_any, channels_last);
  const Tensor x = in_format(x_any, channels_last);
  const Tensor grad_weight =
      new_map(x, g.out_channels, g.group_in(), g.kernel_h, g.kernel_w, /*channels_last=*/false);
  if (grad_weight.numel() == 0) {
    return grad_weight;
  }
  if (grad_y.numel() == 0) {
    zero(grad_weight);
    return grad_weight;
  }
  Launch::dispatch(x, [&](auto element) {
    using T = decltype(element);
    Launch::template grad_weight<T>(g, static_cast<const T*>(grad_y.data_ptr()),
                                    static_cast<const T*>(x.data_ptr()),
                                    static_cast<T*>(grad_weight.data_ptr()), options);
  });
  return grad_weight;
}

template <typename Launch>
Tensor conv_im2col(const Tensor& x_any, const Sizes kernel_size, const Sizes stride,
                   const Sizes padding, const Sizes rate, int64_t max_blocks) {
  const char* op = "atrous_im2col";
  check_map(op, "x", x_any);
  check_conv_dtype<Launch>(op, "x", x_any);
  auto g = window_geometry(op, x_any.size(0), x_any.size(2), x_any.size(3), kernel_size, stride,
                           padding, rate);
  g.in_channels = x_any.size(1);
  const Tensor x = in_format(x_any, false);
  const int64_t sizes[] = {g.batch, g.in_channels * g.taps(), g.out_pixels()};
  const Tensor columns = torch::stable::new_empty(x, {sizes, 3});
  if (columns.numel() > 0) {
    const auto options = conv_options(op, x, false, "fp32", max_blocks);
    Launch::dispatch(x, [&](auto element) {
      using T = decltype(element);
      Launch::template im2col<T>(g, static_cast<const T*>(x.data_ptr()),
                                 static_cast<T*>(columns.data_ptr()), options);
    });
  }
  return columns;
}

template <typename Launch>
Tensor conv_col2im(const Tensor& columns_any, const Sizes image_size, const Sizes kernel_size,
                   const Sizes stride, const Sizes padding, const Sizes rate, int64_t max_blocks) {
  const char* op = "atrous_col2im";
  check(columns_any.dim() == 3, op, ": columns must have shape (N, C * R * S, H' * W'), got ",
        shape_of(columns_any));
  check_conv_dtype<Launch>(op, "columns", columns_any);
  check_pair(op, "image_size", image_size, 0);
  auto g = window_geometry(op, columns_any.size(0), image_size[0], image_size[1], kernel_size,
                           stride, padding, rate);
  check(columns_any.size(1) % g.taps() == 0 && columns_any.size(2) == g.out_pixels(), op,
        ": columns must have shape (N, C * ", g.taps(), ", ", g.out_pixels(), "), got ",
        shape_of(columns_any));
  g.in_channels = columns_any.size(1) / g.taps();
  const Tensor columns = torch::stable::contiguous(columns_any);
  const Tensor x = new_map(columns, g.batch, g.in_channels, g.height, g.width, false);
  if (x.numel() > 0) {
    const auto options = conv_options(op, columns, false, "fp32", max_blocks);
    Launch::dispatch(columns, [&](auto element) {
      using T = decltype(element);
      Launch::template col2im<T>(g, static_cast<const T*>(columns.data_ptr()),
                                 static_cast<T*>(x.data_ptr()), options);
    });
  }
  return x;
}

}  // namespace deeplab
