// How maps (N, C, H, W) lie in memory: contiguous, or with the channels of a pixel together.
#pragma once

#include <torch/csrc/stable/ops.h>
#include <torch/csrc/stable/tensor.h>

#include <optional>

#include "host_device.h"

namespace deeplab {

using torch::stable::Tensor;

// Whether a map (N, C, H, W) lies channels-last in memory and not contiguous in the usual sense
// too.
inline bool is_channels_last(const Tensor& t) {
  if (t.dim() != 4) return false;
  const Index c = t.size(1), h = t.size(2), w = t.size(3);
  return c > 1 && h * w > 1 && t.stride(1) == 1 && (w == 1 || t.stride(3) == c) &&
         (h == 1 || t.stride(2) == w * c) && (t.size(0) == 1 || t.stride(0) == h * w * c);
}

// t itself where it lies so already.
inline Tensor in_format(const Tensor& t, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  return torch::stable::contiguous(
      t, channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

// No view of another tensor: autograd would not let anybody overwrite one.
inline Tensor new_map(const Tensor& like, Index n, Index c, Index h, Index w, bool channels_last) {
  using torch::headeronly::MemoryFormat;
  const int64_t sizes[] = {n, c, h, w};
  return torch::stable::empty(
      {sizes, 4}, like.scalar_type(), std::nullopt, like.device(), std::nullopt,
      channels_last ? MemoryFormat::ChannelsLast : MemoryFormat::Contiguous);
}

}  // namespace deeplab
