// The direct convolution as the matrix unit computes it, against sums in double precision, with the
// unit in software. Prints one line about the first case that is wrong, and returns 1.
#include <algorithm>
#include <cmath>
#include <cstdio>
#include <limits>
#include <random>
#include <vector>

#include "atrous_conv2d/cpu/direct.h"
#include "atrous_conv2d/cpu/kernels.h"

namespace deeplab {

namespace {
int declined = 0;

// What would run where the unit's arithmetic does not suit the numbers.
template <typename Job>
bool note(const Job&, Precision) {
  ++declined;
  return true;
}
}  // namespace

CpuTarget cpu_target() { return CpuTarget::amx; }

constexpr DirectKernels kNoKernels = {0, note<ForwardJob<float>>, nullptr,
                                      note<GradWeightJob<float>>, nullptr};
const DirectKernels kBaselineKernels = kNoKernels;
const DirectKernels kAvx2Kernels = kNoKernels;
const DirectKernels kAvx512Kernels = kNoKernels;
// The unit multiplies by filters of one tap, too.
const PointwiseKernels kBaselinePointwise{};
const PointwiseKernels kAvx2Pointwise{};
const PointwiseKernels kAvx512Pointwise{};

}  // namespace deeplab

using namespace deeplab;

namespace {

const Parallel kAlone = {1, [](Index count, void (*body)(Index, void*), void* context) {
                           for (Index i = 0; i < count; ++i) body(i, context);
                         }};

struct Case {
  ConvGeometry g;
  bool channels_last, relu;
  Precision precision;
  std::vector<float> x, weight, bias, grad_y;

  Index x_at(Index n, Index c, Index i, Index j) const {
    const Index pixel = i * g.width + j;
    return channels_last ? (n * g.in_pixels() + pixel) * g.in_channels + c
                         : (n * g.in_channels + c) * g.in_pixels() + pixel;
  }
  Index y_at(Index n, Index k, Index i, Index j) const {
    const Index pixel = i * g.out_width + j;
    return channels_last ? (n * g.out_pixels() + pixel) * g.out_channels + k
                         : (n * g.out_channels + k) * g.out_pixels() + pixel;
  }
  Index weight_at(Index k, Index c, Index r, Index s) const {
    return ((k * g.group_in() + c) * g.kernel_h + r) * g.kernel_w + s;
  }
  WeightStrides strides() const { return {g.group_in() * g.taps(), g.taps(), g.kernel_w, 1}; }

  // f(n, k, c of the group, r, s, i, j, row, column) for every product.
  template <typename F>
  void each_product(const F& f) const {
    for (Index n = 0; n < g.batch; ++n)
      for (Index k = 0; k < g.out_channels; ++k)
        for (Index c = 0; c < g.group_in(); ++c)
          for (Index r = 0; r < g.kernel_h; ++r)
            for (Index s = 0; s < g.kernel_w; ++s)
              for (Index i = 0; i < g.out_height; ++i)
                for (Index j = 0; j < g.out_width; ++j) {
                  const Index row = g.in_row(i, r), column = g.in_column(j, s);
                  if (row < 0 || row >= g.height || column < 0 || column >= g.width) continue;
                  f(n, k, c, r, s, i, j, row, column);
                }
  }
};

double relative(const std::vector<float>& ours, const std::vector<double>& exact) {
  double difference = 0, size = 1e-30;
  for (std::size_t i = 0; i < ours.size(); ++i) {
    difference += (ours[i] - exact[i]) * (ours[i] - exact[i]);
    size += exact[i] * exact[i];
  }
  return std::sqrt(difference / size);
}

Case draw(std::mt19937& random) {
  const auto one_of = [&](std::vector<Index> values) { return values[random() % values.size()]; };
  for (;;) {
    Case c{};
    ConvGeometry& g = c.g;
    g.batch = one_of({1, 1, 2});
    g.groups = one_of({1, 1, 2});
    g.in_channels = g.groups * one_of({1, 3, 31, 32, 33, 70, 130});
    g.out_channels = g.groups * one_of({1, 15, 16, 17, 21, 33, 70});
    g.height = one_of({1, 5, 9, 14});
    g.width = one_of({1, 6, 17, 40});
    g.kernel_h = one_of({1, 3, 3, 2});
    g.kernel_w = one_of({1, 3, 3, 4});
    g.stride_h = one_of({1, 1, 2});
    g.stride_w = one_of({1, 1, 2, 3});
    g.pad_h = one_of({0, 1, 2, 6});
    g.pad_w = one_of({0, 1, 3, 6});
    g.rate_h = one_of({1, 2, 6});
    g.rate_w = one_of({1, 2, 3, 6});
    const Index down = g.height + 2 * g.pad_h - g.rate_h * (g.kernel_h - 1) - 1;
    const Index across = g.width + 2 * g.pad_w - g.rate_w * (g.kernel_w - 1) - 1;
    if (down < 0 || across < 0) continue;
    g.out_height = down / g.stride_h + 1;
    g.out_width = across / g.stride_w + 1;
    c.channels_last = random() % 2;
    c.relu = random() % 2;
    c.precision = static_cast<Precision>(
        one_of({static_cast<Index>(Precision::fp32), static_cast<Index>(Precision::fp32),
                static_cast<Index>(Precision::tf32), static_cast<Index>(Precision::bf16)}));
    std::normal_distribution<float> normal;
    const auto fill = [&](std::vector<float>& to, Index size) {
      to.resize(size);
      for (float& value : to) value = normal(random);
    };
    fill(c.x, g.batch * g.in_channels * g.in_pixels());
    fill(c.weight, g.out_channels * g.group_in() * g.taps());
    fill(c.bias, g.out_channels);
    fill(c.grad_y, g.batch * g.out_channels * g.out_pixels());
    return c;
  }
}

double limit(Precision precision) {
  return precision == Precision::fp32 ? 2e-6 : precision == Precision::bf16 ? 1e-2 : 1e-4;
}

ConvOptions options_of(const Case& c) {
  ConvOptions options;
  options.channels_last = c.channels_last;
  options.relu = c.relu;
  options.precision = c.precision;
  return options;
}

bool check(const Case& c) {
  const ConvGeometry& g = c.g;
  std::vector<double> y(c.grad_y.size()), grad_x(c.x.size()), grad_weight(c.weight.size());
  for (Index n = 0; n < g.batch; ++n)
    for (Index k = 0; k < g.out_channels; ++k)
      for (Index i = 0; i < g.out_height; ++i)
        for (Index j = 0; j < g.out_width; ++j) y[c.y_at(n, k, i, j)] = c.bias[k];
  c.each_product(
      [&](Index n, Index k, Index ch, Index r, Index s, Index i, Index j, Index row, Index column) {
        const Index channel = k / g.group_out() * g.group_in() + ch;
        const Index x = c.x_at(n, channel, row, column), at = c.y_at(n, k, i, j);
        const Index w = c.weight_at(k, ch, r, s);
        y[at] += static_cast<double>(c.x[x]) * c.weight[w];
        grad_x[x] += static_cast<double>(c.grad_y[at]) * c.weight[w];
        grad_weight[w] += static_cast<double>(c.grad_y[at]) * c.x[x];
      });
  if (c.relu) {
    for (double& value : y) value = std::max(value, 0.0);
  }
  const ConvOptions options = options_of(c);
  std::vector<float> ours(y.size()), ours_x(grad_x.size()), ours_weight(grad_weight.size());
  direct_forward(g, c.x.data(), c.weight.data(), c.strides(), c.bias.data(), ours.data(), options,
                 kAlone);
  direct_grad_input(g, c.grad_y.data(), c.weight.data(), c.strides(), ours_x.data(), options,
                    kAlone);
  double errors[3] = {relative(ours, y), relative(ours_x, grad_x), 0};
  if (!c.channels_last) {
    direct_grad_weight(g, c.grad_y.data(), c.x.data(), ours_weight.data(), options, kAlone);
    errors[2] = relative(ours_weight, grad_weight);
  }
  for (int i = 0; i < 3; ++i) {
    if (errors[i] < limit(c.precision)) continue;
    static const char* const kNames[] = {"y", "grad_x", "grad_weight"};
    std::printf(
        "%s: error %g; batch %lld, groups %lld, %lld -> %lld channels, %lldx%lld, kernel "
        "%lldx%lld, "
        "stride %lldx%lld, padding %lldx%lld, rate %lldx%lld, channels_last %d, precision %d\n",
        kNames[i], errors[i], g.batch, g.groups, g.in_channels, g.out_channels, g.height, g.width,
        g.kernel_h, g.kernel_w, g.stride_h, g.stride_w, g.pad_h, g.pad_w, g.rate_h, g.rate_w,
        c.channels_last, static_cast<int>(c.precision));
    return false;
  }
  return true;
}

// Whether numbers that the unit cannot express are left to others.
bool declines(Case c, float value) {
  std::fill(c.x.begin(), c.x.end(), value);
  std::vector<float> y(c.grad_y.size());
  const int before = declined;
  direct_forward(c.g, c.x.data(), c.weight.data(), c.strides(), c.bias.data(), y.data(),
                 options_of(c), kAlone);
  return declined > before;
}

}  // namespace

int main() {
  std::mt19937 random(1);
  for (int i = 0; i < 150; ++i) {
    if (!check(draw(random))) return 1;
  }
  if (declined > 0) {
    std::printf("%d ordinary cases were declined\n", declined);
    return 1;
  }
  const Case last = draw(random);
  for (const float value : {std::numeric_limits<float>::infinity(), std::nanf(""), 1e-38f}) {
    if (declines(last, value)) continue;
    std::printf("%g was not declined\n", value);
    return 1;
  }
  return 0;
}
