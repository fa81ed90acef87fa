#include "channel_affine/channel_affine_launch.cuh"
#include "on_host.h"

using deeplab::ChannelAffineGeometry;
using deeplab::Index;

#define FOR_TYPE(T)                                                                           \
  extern "C" int channel_affine_##T(const Index* sizes, const T* x, const T* scale,           \
                                    const T* shift, T* y, Index max_blocks, int order) {      \
    return guarded(order, [&] {                                                               \
      const ChannelAffineGeometry g{sizes[0], sizes[1], sizes[2]};                            \
      deeplab::launch_channel_affine(g, x, scale, shift, y, max_blocks, nullptr);             \
    });                                                                                       \
  }                                                                                           \
  extern "C" int channel_affine_reduce_##T(const Index* sizes, const T* grad_y, const T* x,   \
                                           T* grad_scale, T* grad_shift, Index max_blocks,    \
                                           int order) {                                       \
    return guarded(order, [&] {                                                               \
      const ChannelAffineGeometry g{sizes[0], sizes[1], sizes[2]};                            \
      deeplab::launch_channel_affine_reduce(g, grad_y, x, grad_scale, grad_shift, max_blocks, \
                                            nullptr);                                         \
    });                                                                                       \
  }

FOR_TYPE(float)
FOR_TYPE(double)
