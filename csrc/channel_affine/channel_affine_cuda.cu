#include <torch/csrc/stable/library.h>

#include "../common/cuda_torch.cuh"
#include "channel_affine_entry.h"
#include "channel_affine_launch.cuh"

namespace deeplab {
namespace {

struct ChannelAffineCuda {
  // A block sums one channel, whose values are far apart in other maps.
  static constexpr bool kPlanarReduce = true;

  template <typename T>
  static void forward(const ChannelAffineGeometry& g, const T* x, const T* scale, const T* shift,
                      T* y, Index max_blocks, int device) {
    on_current_stream(device, [&](cudaStream_t stream) {
      launch_channel_affine(g, x, scale, shift, y, max_blocks, stream);
    });
  }

  template <typename T>
  static void reduce(const ChannelAffineGeometry& g, const T* grad_y, const T* x, T* grad_scale,
                     T* grad_shift, Index max_blocks, int device) {
    on_current_stream(device, [&](cudaStream_t stream) {
      launch_channel_affine_reduce(g, grad_y, x, grad_scale, grad_shift, max_blocks, stream);
    });
  }
};

}  // namespace
}  // namespace deeplab

STABLE_TORCH_LIBRARY_IMPL(deeplab_repro, CUDA, m) {
  using deeplab::ChannelAffineCuda;
  m.impl("channel_affine", TORCH_BOX(&deeplab::channel_affine_forward<ChannelAffineCuda>));
  m.impl("channel_affine_backward",
         TORCH_BOX(&deeplab::channel_affine_backward<ChannelAffineCuda>));
}
