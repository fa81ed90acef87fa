// The sizes of a channel_affine call: x is (batch, channels, spatial), contiguous. Maps that lie
// channels-last are (pixels of all, channels, 1).
#pragma once

#include "../common/host_device.h"

namespace deeplab {

struct ChannelAffineGeometry {
  Index batch;
  Index channels;
  Index spatial;  // product of all dimensions after the channel

  HOST_DEVICE Index count() const { return batch * channels * spatial; }
  HOST_DEVICE Index channel_of(Index offset) const { return offset / spatial % channels; }
  // Offset of x[n, c, 0].
  HOST_DEVICE Index row(Index n, Index c) const { return (n * channels + c) * spatial; }
};

}  // namespace deeplab
