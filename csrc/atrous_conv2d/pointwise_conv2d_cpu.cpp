// The op of filters of one tap whose results are added to a shortcut: checks, allocation, launch.
// The CPU's alone.
#include <torch/csrc/stable/library.h>

#include "../common/huge_pages.h"
#include "atrous_conv2d_entry.h"
#include "cpu/pointwise.h"
#include "torch_threads.h"

namespace deeplab {
namespace {

Tensor forward(const Tensor& x_any, const Tensor& weight, const std::optional<Tensor>& bias_any,
               const Tensor& shortcut_any, const Sizes stride, bool relu) {
  const char* op = "pointwise_conv2d";
  check_map(op, "x", x_any);
  check_map(op, "weight", weight);
  check(x_any.is_cpu(), op, ": x must be on the CPU");
  check_float(op, "x", x_any);
  check_like(op, "weight", weight, "x", x_any);
  check(weight.size(1) == x_any.size(1) && weight.size(2) == 1 && weight.size(3) == 1, op,
        ": weight must have shape (K, ", x_any.size(1), ", 1, 1), got ", shape_of(weight));
  auto g = window_geometry(op, x_any.size(0), x_any.size(2), x_any.size(3), {1, 1}, stride, {0, 0},
                           {1, 1});
  set_channels(op, g, x_any.size(1), weight.size(0), 1);
  if (bias_any) {
    check_like(op, "bias", *bias_any, "x", x_any);
    check_vector(op, "bias", *bias_any, g.out_channels);
  }
  const Tensor x = in_format(x_any, /*channels_last=*/true);
  const Tensor bias = bias_any ? torch::stable::contiguous(*bias_any) : x;
  const Tensor y = new_map(x, g.batch, g.out_channels, g.out_height, g.out_width, true);
  check_like(op, "shortcut", shortcut_any, "x", x_any);
  check_same_shape(op, "shortcut", shortcut_any, "the result", y);
  if (y.numel() == 0) return y;
  const Tensor shortcut = in_format(shortcut_any, true);
  dispatch_float(x, [&](auto element) {
    using T = decltype(element);
    T* const to = static_cast<T*>(y.data_ptr());
    prefer_huge_pages(to, y.numel() * sizeof(T));
    pointwise_forward(g, static_cast<const T*>(x.data_ptr()),
                      static_cast<const T*>(weight.data_ptr()), strides_of(weight),
                      bias_any ? static_cast<const T*>(bias.data_ptr()) : nullptr,
                      static_cast<const T*>(shortcut.data_ptr()), relu, to, torch_threads());
  });
  return y;
}

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("pointwise_conv2d", TORCH_BOX(&deeplab::forward));
}
