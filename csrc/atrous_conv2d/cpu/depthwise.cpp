#include "depthwise.h"

#include <algorithm>
#include <type_traits>
#include <vector>

#include "kernels.h"

namespace deeplab {
namespace {

AxisParts view(const std::vector<TapAxis>& parts) {
  return {parts.data(), static_cast<Index>(parts.size())};
}

std::vector<TapAxis> grad_input_parts(Index in, Index out, Index kernel, Index stride, Index pad,
                                      Index rate) {
  std::vector<TapAxis> parts;
  for (Index remainder = 0; remainder < std::min(stride, in); ++remainder) {
    parts.push_back(grad_input_taps(in, out, kernel, stride, pad, rate, remainder));
  }
  return parts;
}

template <typename T>
DepthwiseJob<T> new_job(const ConvGeometry& g, bool channels_last, Parallel parallel) {
  DepthwiseJob<T> job{};
  job.batch = g.batch;
  job.channels = g.in_channels;
  job.taps = g.taps();
  job.kernel_w = g.kernel_w;
  job.channels_last = channels_last;
  job.parallel = parallel;
  return job;
}

template <typename T>
void run(const DepthwiseJob<T>& job) {
  if constexpr (std::is_same_v<T, float>) {
    DEEPLAB_BEST_KERNELS(Depthwise).forward_float(job);
  } else {
    DEEPLAB_BEST_KERNELS(Depthwise).forward_double(job);
  }
}

}  // namespace

template <typename T>
void depthwise_forward(const ConvGeometry& g, const T* x, const T* weight, const T* bias, T* y,
                       const DepthwiseOptions& options, Parallel parallel) {
  const std::vector<TapAxis> rows = {forward_rows(g)}, columns = {forward_columns(g)};
  DepthwiseJob<T> job = new_job<T>(g, options.channels_last, parallel);
  job.rows = view(rows);
  job.columns = view(columns);
  job.source = x;
  job.weight = weight;
  job.bias = bias;
  job.target = y;
  job.relu_before = options.relu_before;
  job.activation = options.activation;
  run(job);
}

template <typename T>
void depthwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight, T* grad_x,
                          const DepthwiseOptions& options, Parallel parallel) {
  const auto rows =
      grad_input_parts(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h);
  const auto columns =
      grad_input_parts(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w);
  DepthwiseJob<T> job = new_job<T>(g, options.channels_last, parallel);
  job.rows = view(rows);
  job.columns = view(columns);
  job.source = grad_y;
  job.weight = weight;
  job.target = grad_x;
  run(job);
}

template <typename T>
void depthwise_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                           const DepthwiseOptions& options, Parallel parallel) {
  DepthwiseGradWeightJob<T> job{};
  job.rows = forward_rows(g);
  job.columns = forward_columns(g);
  job.batch = g.batch;
  job.channels = g.in_channels;
  job.taps = g.taps();
  job.kernel_w = g.kernel_w;
  job.channels_last = options.channels_last;
  job.grad_y = grad_y;
  job.x = x;
  job.grad_weight = grad_weight;
  job.parallel = parallel;
  if constexpr (std::is_same_v<T, float>) {
    DEEPLAB_BEST_KERNELS(Depthwise).grad_weight_float(job);
  } else {
    DEEPLAB_BEST_KERNELS(Depthwise).grad_weight_double(job);
  }
}

#define INSTANTIATE(T)                                                                   \
  template void depthwise_forward(const ConvGeometry&, const T*, const T*, const T*, T*, \
                                  const DepthwiseOptions&, Parallel);                    \
  template void depthwise_grad_input(const ConvGeometry&, const T*, const T*, T*,        \
                                     const DepthwiseOptions&, Parallel);                 \
  template void depthwise_grad_weight(const ConvGeometry&, const T*, const T*, T*,       \
                                      const DepthwiseOptions&, Parallel);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace deeplab
