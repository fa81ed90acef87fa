// Shapes of an atrous convolution and its index arithmetic, for host and device.
#pragma once

#include "../common/host_device.h"

namespace deeplab {

// x (batch, in_channels, height, width) -> y (batch, out_channels, out_height, out_width) with
// weight (out_channels, in_channels / groups, kernel_h, kernel_w). All in elements and pixels.
struct ConvGeometry {
  Index batch, in_channels, height, width;
  Index out_channels, out_height, out_width;
  Index kernel_h, kernel_w;
  Index stride_h, stride_w;
  Index pad_h, pad_w;
  Index rate_h, rate_w;
  Index groups;

  HOST_DEVICE Index group_in() const { return in_channels / groups; }
  HOST_DEVICE Index group_out() const { return out_channels / groups; }
  HOST_DEVICE Index taps() const { return kernel_h * kernel_w; }
  HOST_DEVICE Index in_pixels() const { return height * width; }
  HOST_DEVICE Index out_pixels() const { return out_height * out_width; }

  // The row (column) of x that tap r (s) of output row i (column j) reads; outside the map it
  // counts as zero.
  HOST_DEVICE Index in_row(Index i, Index r) const { return i * stride_h - pad_h + r * rate_h; }
  HOST_DEVICE Index in_column(Index j, Index s) const { return j * stride_w - pad_w + s * rate_w; }
};

}  // namespace deeplab
