#include <memory>
#include <vector>

#include "atrous_conv2d/depthwise_launch.cuh"
#include "on_host.h"

using namespace deeplab;

namespace {

// As tests/native/test_depthwise_kernels.py writes them down.
struct Settings {
  Index channels_last, relu_before, activation, max_blocks;

  DepthwiseOptions options() const {
    return {channels_last != 0, relu_before != 0, static_cast<Activation>(activation), max_blocks,
            0};
  }
};

// Filled with NaN, so that a sum that was never written shows.
struct HostMemory {
  void* operator()(Index bytes) const {
    blocks->emplace_back(new unsigned char[bytes]);
    std::memset(blocks->back().get(), 0xFF, bytes);
    return blocks->back().get();
  }
  std::shared_ptr<std::vector<std::unique_ptr<unsigned char[]>>> blocks =
      std::make_shared<std::vector<std::unique_ptr<unsigned char[]>>>();
};

}  // namespace

#define FOR_TYPE(T, name)                                                                     \
  extern "C" int depthwise_##name(const ConvGeometry* g, const T* x, const T* weight,         \
                                  const T* bias, T* y, const Settings* s, int order) {        \
    return guarded(order,                                                                     \
                   [&] { launch_depthwise(*g, x, weight, bias, y, s->options(), nullptr); }); \
  }                                                                                           \
  extern "C" int grad_input_##name(const ConvGeometry* g, const T* grad_y, const T* weight,   \
                                   T* grad_x, const Settings* s, int order) {                 \
    return guarded(order, [&] {                                                               \
      launch_depthwise_grad_input(*g, grad_y, weight, grad_x, s->options(), nullptr);         \
    });                                                                                       \
  }                                                                                           \
  extern "C" int grad_weight_##name(const ConvGeometry* g, const T* grad_y, const T* x,       \
                                    T* grad_weight, const Settings* s, int order) {           \
    return guarded(order, [&] {                                                               \
      launch_depthwise_grad_weight(*g, grad_y, x, grad_weight, s->options(), HostMemory{},    \
                                   nullptr);                                                  \
    });                                                                                       \
  }

FOR_TYPE(float, float32)
FOR_TYPE(double, float64)
FOR_TYPE(Half, float16)
FOR_TYPE(BFloat16, bfloat16)
