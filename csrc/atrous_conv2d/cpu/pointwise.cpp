#include "pointwise.h"

#include <type_traits>

#include "kernels.h"

namespace deeplab {
namespace {

template <typename T>
void run(const PointwiseJob<T>& job) {
  if constexpr (std::is_same_v<T, float>) {
    DEEPLAB_BEST_KERNELS(Pointwise).forward_float(job);
  } else {
    DEEPLAB_BEST_KERNELS(Pointwise).forward_double(job);
  }
}

}  // namespace

bool is_pointwise(const ConvGeometry& g, bool channels_last) {
  return g.taps() == 1 && g.groups == 1 && g.pad_h == 0 && g.pad_w == 0 && channels_last;
}

template <typename T>
void pointwise_forward(const ConvGeometry& g, const T* x, const T* weight, WeightStrides strides,
                       const T* bias, bool relu, T* y, Parallel parallel) {
  PointwiseJob<T> job{};
  job.target_channels = g.out_channels;
  job.source_channels = g.in_channels;
  job.images = g.batch;
  job.height = g.out_height;
  job.width = g.out_width;
  job.source_image = g.in_pixels() * g.in_channels;
  job.source_row = g.stride_h * g.width * g.in_channels;
  job.source_column = g.stride_w * g.in_channels;
  job.weight_target = strides.out;
  job.weight_source = strides.in;
  job.source = x;
  job.weight = weight;
  job.bias = bias;
  job.target = y;
  job.relu = relu;
  job.parallel = parallel;
  run(job);
}

template <typename T>
void pointwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                          WeightStrides strides, T* grad_x, Parallel parallel) {
  ConvGeometry back = g;
  back.in_channels = g.out_channels;
  back.out_channels = g.in_channels;
  const WeightStrides turned = {strides.in, strides.out, strides.row, strides.column};
  pointwise_forward<T>(back, grad_y, weight, turned, nullptr, false, grad_x, parallel);
}

#define INSTANTIATE(T)                                                                           \
  template void pointwise_forward(const ConvGeometry&, const T*, const T*, WeightStrides,        \
                                  const T*, bool, T*, Parallel);                                 \
  template void pointwise_grad_input(const ConvGeometry&, const T*, const T*, WeightStrides, T*, \
                                     Parallel);
INSTANTIATE(float)
INSTANTIATE(double)
#undef INSTANTIATE

}  // namespace deeplab
