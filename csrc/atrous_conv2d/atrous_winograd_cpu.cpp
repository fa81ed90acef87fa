// The ops of minimal filtering: checks, allocation, launch. The CPU's alone.
#include <torch/csrc/stable/library.h>

#include <vector>

#include "atrous_conv2d_entry.h"
#include "cpu/winograd.h"
#include "torch_threads.h"

namespace deeplab {
namespace {

constexpr const char* kDtypes = "float32 or float64";

// Sizes of maps; a padding may be negative.
ConvGeometry geometry(const char* op, const Sizes& image_size, const Sizes& padding,
                      const Sizes& rate) {
  check_pair(op, "image_size", image_size, 1);
  check_pair(op, "rate", rate, 1);
  check(padding.size() == 2, op, ": padding must be two ints");
  ConvGeometry g{};
  g.batch = 1;
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

// transposed: of the convolution whose result is the gradient of the input.
void set_weight(const char* op, ConvGeometry& g, const Tensor& weight, Index groups,
                bool transposed) {
  check_map(op, "weight", weight);
  check(weight.size(2) == 3 && weight.size(3) == 3, op, ": weight must have 3x3 taps, got shape ",
        shape_of(weight));
  const Index in = weight.size(1) * groups, out = weight.size(0);
  transposed ? set_channels(op, g, out, in, groups) : set_channels(op, g, in, out, groups);
}

void check_dtype(const char* op, const char* name, const Tensor& t) {
  using torch::headeronly::ScalarType;
  check(t.scalar_type() == ScalarType::Float || t.scalar_type() == ScalarType::Double, op, ": ",
        name, " must be ", kDtypes, ", got ", torch::headeronly::toString(t.scalar_type()));
}

std::vector<int64_t> filter_sizes(const ConvGeometry& g, unsigned filter_set) {
  return {g.groups, winograd_filter_count(filter_set), ceil_div(g.group_out(), kTileLanes),
          g.group_in(), kTileLanes};
}

int64_t filter_set(const Sizes image_size, const Sizes padding, const Sizes rate, bool fast) {
  return winograd_filter_set(geometry("atrous_winograd_filter_set", image_size, padding, rate),
                             fast);
}

int64_t filter_count(int64_t set) { return winograd_filter_count(set); }

Tensor filters(const Tensor& weight, int64_t set, int64_t groups, int64_t) {
  const char* op = "atrous_winograd_filters";
  check_dtype(op, "weight", weight);
  ConvGeometry g{};
  set_weight(op, g, weight, groups, /*transposed=*/false);
  const Tensor to = torch::stable::new_empty(weight, filter_sizes(g, set));
  if (to.numel() == 0) return to;
  dispatch_float(weight, [&](auto element) {
    using T = decltype(element);
    const WinogradWeight<T> w{static_cast<const T*>(weight.data_ptr()), strides_of(weight), false};
    winograd_filters(g, set, w, static_cast<T*>(to.data_ptr()), torch_threads());
  });
  return to;
}

Tensor forward(const Tensor& x_any, const Tensor& weight, const std::optional<Tensor>& filters,
               int64_t set, const std::optional<Tensor>& bias_any, const Sizes padding,
               const Sizes rate, bool fast, int64_t groups, bool transposed, bool relu, int64_t) {
  const char* op = "atrous_conv2d_winograd";
  check_map(op, "x", x_any);
  check_dtype(op, "x", x_any);
  check_like(op, "weight", weight, "x", x_any);
  auto g = geometry(op, {x_any.size(2), x_any.size(3)}, padding, rate);
  set_weight(op, g, weight, groups, transposed);
  g.batch = x_any.size(0);
  check(x_any.size(1) == g.in_channels, op, ": weight ", shape_of(weight), " with groups=", groups,
        " needs x with ", g.in_channels, " channels, got ", shape_of(x_any));
  if (bias_any) {
    check_like(op, "bias", *bias_any, "x", x_any);
    check_vector(op, "bias", *bias_any, g.out_channels);
  }
  if (filters) {
    check_like(op, "filters", *filters, "x", x_any);
    const unsigned needed = winograd_filter_set(g, fast);
    check((set & needed) == needed, op, ": filters are of set ", set, ", these maps need set ",
          needed);
    const auto sizes = filter_sizes(g, set);
    bool fits = filters->dim() == 5 && filters->is_contiguous();
    for (int i = 0; fits && i < 5; ++i) fits = filters->size(i) == sizes[i];
    check(fits, op, ": filters were made of another weight, got shape ", shape_of(*filters));
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
                     static_cast<unsigned>(set),
                     bias_any ? static_cast<const T*>(bias.data_ptr()) : nullptr,
                     static_cast<T*>(y.data_ptr()), options, fast, torch_threads());
  });
  return y;
}

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CPU, m) {
  m.impl("atrous_winograd_filters", TORCH_BOX(&deeplab::filters));
  m.impl("atrous_conv2d_winograd", TORCH_BOX(&deeplab::forward));
}

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CompositeImplicitAutograd, m) {
  m.impl("atrous_winograd_filter_set", TORCH_BOX(&deeplab::filter_set));
  m.impl("atrous_winograd_filter_count", TORCH_BOX(&deeplab::filter_count));
}
