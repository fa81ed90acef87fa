#include <torch/csrc/stable/library.h>

#include <vector>

#include "../common/cuda_torch.cuh"
#include "atrous_conv2d_launch.cuh"
#include "atrous_depthwise_entry.h"
#include "depthwise_launch.cuh"

namespace deeplab {
namespace {

// Does nothing; the driver says which code it took for it, of all that this file was compiled to.
__global__ void which_code_kernel() {}

// Whether kernels on the current device may multiply on tensor cores. What counts is what they were
// compiled for, not what the device could do: PTX of sm_75 runs on later devices too, and has no
// such products.
bool compiled_for_tensor_cores() {
  cudaFuncAttributes attributes = {};
  STD_CUDA_CHECK(cudaFuncGetAttributes(&attributes, which_code_kernel));
  return attributes.ptxVersion >= kTensorCoreArchitecture;
}

// Memory from torch's allocator. It may be given back as soon as the launches are queued: torch
// hands it out again in the order of the stream.
class Workspace {
 public:
  explicit Workspace(int device) : device_(torch::headeronly::DeviceType::CUDA, device) {}

  void* operator()(Index bytes) const {
    const int64_t sizes[] = {bytes};
    blocks_.push_back(
        torch::stable::empty({sizes, 1}, torch::headeronly::ScalarType::Byte, {}, device_));
    return blocks_.back().mutable_data_ptr();
  }

 private:
  torch::stable::Device device_;
  mutable std::vector<Tensor> blocks_;
};

struct AtrousConv2dCuda {
  static constexpr const char* kDtypes = "float16, bfloat16, float32 or float64";
  static constexpr bool kPlanarGradWeight = false;
  // A block sums one channel, whose values are far apart in other maps.
  static constexpr bool kPlanarDepthwiseGradWeight = true;

  static bool accepts(torch::headeronly::ScalarType dtype) {
    using torch::headeronly::ScalarType;
    return dtype == ScalarType::Half || dtype == ScalarType::BFloat16 ||
           dtype == ScalarType::Float || dtype == ScalarType::Double;
  }

  template <typename F>
  static void dispatch(const Tensor& t, const F& f) {
    using torch::headeronly::ScalarType;
    if (t.scalar_type() == ScalarType::Half) {
      f(Half{});
    } else if (t.scalar_type() == ScalarType::BFloat16) {
      f(BFloat16{});
    } else {
      dispatch_float(t, f);
    }
  }

  template <typename T>
  static void forward(const ConvGeometry& g, const T* x, const T* weight, WeightStrides strides,
                      const T* bias, T* y, const ConvOptions& options) {
    run<T>(options, [&](auto way, const Workspace& workspace, cudaStream_t stream) {
      dispatch_tile<decltype(way)>(g.group_out(), [&](auto tile) {
        launch_direct<decltype(way), decltype(tile)>(g, x, weight, strides, bias, y, options,
                                                     workspace, stream);
      });
    });
  }

  template <typename T>
  static void grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                         WeightStrides strides, T* grad_x, const ConvOptions& options) {
    run<T>(options, [&](auto way, const Workspace& workspace, cudaStream_t stream) {
      dispatch_tile<decltype(way)>(g.group_in(), [&](auto tile) {
        launch_grad_input<decltype(way), decltype(tile)>(g, grad_y, weight, strides, grad_x,
                                                         options, workspace, stream);
      });
    });
  }

  template <typename T>
  static void grad_weight(const ConvGeometry& g, const T* grad_y, const T* x, T* grad_weight,
                          const ConvOptions& options) {
    run<T>(options, [&](auto way, const Workspace& workspace, cudaStream_t stream) {
      dispatch_grad_tile<decltype(way)>(g.group_out(), g.group_in(), [&](auto tile) {
        launch_grad_weight<decltype(way), decltype(tile)>(g, grad_y, x, grad_weight, options,
                                                          workspace, stream);
      });
    });
  }

  template <typename T>
  static void depthwise(const ConvGeometry& g, const T* x, const T* weight, const T* bias, T* y,
                        const DepthwiseOptions& options) {
    on_current_stream(options.device, [&](cudaStream_t stream) {
      launch_depthwise(g, x, weight, bias, y, options, stream);
    });
  }

  template <typename T>
  static void depthwise_grad_input(const ConvGeometry& g, const T* grad_y, const T* weight,
                                   T* grad_x, const DepthwiseOptions& options) {
    on_current_stream(options.device, [&](cudaStream_t stream) {
      launch_depthwise_grad_input(g, grad_y, weight, grad_x, options, stream);
    });
  }

  template <typename T>
  static void depthwise_grad_weight(const ConvGeometry& g, const T* grad_y, const T* x,
                                    T* grad_weight, const DepthwiseOptions& options) {
    const Workspace workspace(options.device);
    on_current_stream(options.device, [&](cudaStream_t stream) {
      launch_depthwise_grad_weight(g, grad_y, x, grad_weight, options, workspace, stream);
    });
  }

  template <typename T>
  static void im2col(const ConvGeometry& g, const T* x, T* columns, const ConvOptions& options) {
    on_current_stream(options.device, [&](cudaStream_t stream) {
      launch_im2col(g, x, columns, options.max_blocks, stream);
    });
  }

  template <typename T>
  static void col2im(const ConvGeometry& g, const T* columns, T* x, const ConvOptions& options) {
    on_current_stream(options.device, [&](cudaStream_t stream) {
      launch_col2im(g, columns, x, options.max_blocks, stream);
    });
  }

 private:
  template <typename T, typename F>
  static void run(const ConvOptions& options, const F& f) {
    const Workspace workspace(options.device);
    on_current_stream(options.device, [&](cudaStream_t stream) {
      dispatch_way<T>(options.precision, compiled_for_tensor_cores(),
                      [&](auto way) { f(way, workspace, stream); });
    });
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CUDA, m) {
  using deeplab::AtrousConv2dCuda;
  m.impl("atrous_conv2d_direct", TORCH_BOX(&deeplab::conv_direct<AtrousConv2dCuda>));
  m.impl("atrous_conv2d_direct_grad_input",
         TORCH_BOX(&deeplab::conv_direct_grad_input<AtrousConv2dCuda>));
  m.impl("atrous_conv2d_direct_grad_weight",
         TORCH_BOX(&deeplab::conv_direct_grad_weight<AtrousConv2dCuda>));
  m.impl("atrous_depthwise", TORCH_BOX(&deeplab::conv_depthwise<AtrousConv2dCuda>));
  m.impl("atrous_depthwise_grad_input",
         TORCH_BOX(&deeplab::conv_depthwise_grad_input<AtrousConv2dCuda>));
  m.impl("atrous_depthwise_grad_weight",
         TORCH_BOX(&deeplab::conv_depthwise_grad_weight<AtrousConv2dCuda>));
  m.impl("atrous_im2col", TORCH_BOX(&deeplab::conv_im2col<AtrousConv2dCuda>));
  m.impl("atrous_col2im", TORCH_BOX(&deeplab::conv_col2im<AtrousConv2dCuda>));
}
