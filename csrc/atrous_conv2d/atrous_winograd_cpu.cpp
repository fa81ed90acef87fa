// The ops of minimal filtering: checks, allocation, launch. The CPU's alone.
#include <torch/csrc/stable/library.h>

#include "atrous_conv2d_entry.h"
#include "cpu/winograd.h"
#include "torch_threads.h"

namespace deeplab {
namespace {

constexpr const char* kDtypes = "float32 or float64";

// The convolution of maps of this size; transposed: that whose result is the gradient of the input.
ConvGeometry geometry(const char* op, Index batch, const Sizes& image_size, const Tensor& weight,
                      const Sizes& padding, const Sizes& rate, Index groups, bool transposed) {
  check_map(op, "weight", weight);
  check(weight.size(2) == 3 && weight.size(3) == 3, op, ": weight must have 3x3 taps, got shape ",
        shape_of(weight));
  check(groups >= 1 && weight.size(0) % groups == 0, op, ": groups must divide ", weight.size(0),
        " filters, got ", groups);
  check_pair(op, "image_size", image_size, 1);
  check_pair(op, "rate", rate, 1);
  check(padding.size() == 2, op, ": padding must be two ints");
  ConvGeometry g{};
  g.batch = batch;
  g.in_channels = transposed ? weight.size(0) : weight.size(1) * groups;
  g.out_channels = transposed ? weight.size(1) * groups : weight.size(0);
  g.groups = groups;
  g.kernel_h = g.kernel_w = 3;
  g.stride_h = g.stride_w = 1;
  g.height = image_size[0];
  g.width = image_size[1];
  g.pad_h = padding[0];
  g.pad_w = padding[1];
  g.rate_h = rate[0];
  g.rate_w = rate[1];
  g.out_height = g.height + 2 * g.pad_h - 2 * g.rate_h;
  g.out_width = g.width + 2 * g.pad_w - 2 * g.rate_w;
  check(g.out_height >= 1 && g.out_width >= 1, op, ": the filter spans ", 2 * g.rate_h + 1, "x",
        2 * g.rate_w + 1, " pixels, the padded input only ", g.height + 2 * g.pad_h, "x",
        g.width + 2 * g.pad_w);
  return g;
}

void check_dtype(const char* op, const char* name, const Tensor& t) {
  using torch::headeronly::ScalarType;
  check(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, op, ": ",
        name, " must be ", kDtypes, ", got ", torch::headeronly::toString(t.scalar_type()));
}

Tensor filters(const Tensor& weight, const Sizes image_size, const Sizes padding, const Sizes rate,
               int64_t groups, bool transposed, int64_t) {
  const char* op = "atrous_winograd_filters";
  check_dtype(op, "weight", weight);
  const auto g = geometry(op, 1, image_size, weight, padding, rate, groups, transposed);
  const WinogradShape s = winograd_shape(g);
  const int64_t sizes[] = {s.groups, s.filters, s.panels, s.channels, s.lanes};
  const Tensor to = torch::stable::new_empty(weight, {sizes, 5});
  if (to.numel() == 0) return to;
  dispatch_float(weight, [&](auto element) {
    using T = decltype(element);
    const WinogradWeight<T> w{static_cast<const T*>(weight.data_ptr()), strides_of(weight),
                              transposed};
    winograd_filters(g, w, static_cast<T*>(to.data_ptr()), torch_threads());
  });
  return to;
}

Tensor forward(const Tensor& x_any, const Tensor& weight, const std::optional<Tensor>& filters,
               const std::optional<Tensor>& bias_any, const Sizes padding, const Sizes rate,
               int64_t groups, bool transposed, bool relu, int64_t) {
  const char* op = "atrous_conv2d_winograd";
  check_map(op, "x", x_any);
  check_dtype(op, "x", x_any);
  check_like(op, "weight", weight, "x", x_any);
  const auto g = geometry(op, x_any.size(0), {x_any.size(2), x_any.size(3)}, weight, padding, rate,
                          groups, transposed);
  check(x_any.size(1) == g.in_channels, op, ": weight ", shape_of(weight), " with groups=", groups,
        " needs x with ", g.in_channels, " channels, got ", shape_of(x_any));
  if (bias_any) {
    check_like(op, "bias", *bias_any, "x", x_any);
    check_vector(op, "bias", *bias_any, g.out_channels);
  }
  if (filters) {
    const WinogradShape s = winograd_shape(g);
    check_like(op, "filters", *filters, "x", x_any);
    check(filters->dim() == 5 && filters->size(0) == s.groups && filters->size(1) == s.filters &&
              filters->size(2) == s.panels && filters->size(3) == s.channels &&
              filters->size(4) == s.lanes && filters->is_contiguous(),
          op, ": filters were made for another convolution, of shape ", shape_of(*filters));
  }
  ConvOptions options;
  options.channels_last = is_channels_last(x_any);
  options.relu = relu;
  const Tensor x = in_format(x_any, options.channels_last);
  const Tensor bias = bias_any ? torch::stable::contiguous(*bias_any) : x;
  const Tensor y =
      new_map(x, g.batch, g.out_channels, g.out_height, g.out_width, options.channels_last);
  if (y.numel() == 0) return y;
  dispatch_float(x, [&](auto element) {
    using T = decltype(element);
    const WinogradWeight<T> w{static_cast<const T*>(weight.data_ptr()), strides_of(weight),
                              transposed};
    winograd_forward(g, static_cast<const T*>(x.data_ptr()), w,
                     filters ? static_cast<const T*>(filters->data_ptr()) : nullptr,
                     bias_any ? static_cast<const T*>(bias.data_ptr()) : nullptr,
                     static_cast<T*>(y.data_ptr()), options, torch_threads());
  });
  return y;
}

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("atrous_winograd_filters", TORCH_BOX(&deeplab::filters));
  m.impl("atrous_conv2d_winograd", TORCH_BOX(&deeplab::forward));
}
