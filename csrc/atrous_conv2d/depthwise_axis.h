// Which pixels a convolution of single channels reads, axis by axis, for host and device.
#pragma once

#include "geometry.h"

namespace deeplab {

// One axis of a map whose pixels, the targets, are sums over taps of the pixels of another, the
// sources; of the targets, those that have the same taps. Target first + a * target_step, for a
// below count, reads source(a, k) through the tap `tap + k * tap_step` of the filter, for k below
// taps. What lies outside [0, sources) counts as zero.
struct TapAxis {
  Index sources, targets;  // of the whole map
  Index first, count, target_step;
  Index source_step, offset, spacing;
  Index taps, tap, tap_step;

  HOST_DEVICE Index target(Index a) const { return first + a * target_step; }
  HOST_DEVICE Index source(Index a, Index k) const {
    return a * source_step + offset + k * spacing;
  }
  HOST_DEVICE Index filter_tap(Index k) const { return tap + k * tap_step; }
};

HOST_DEVICE Index common_divisor(Index a, Index b) {
  while (b != 0) {
    const Index rest = a % b;
    a = b;
    b = rest;
  }
  return a;
}

// y of x: in and out are their sizes, pad the zeros before x.
HOST_DEVICE TapAxis forward_taps(Index in, Index out, Index kernel, Index stride, Index pad,
                                 Index rate) {
  return {in, out, 0, out, 1, stride, -pad, rate, kernel, 0, 1};
}

HOST_DEVICE TapAxis forward_rows(const ConvGeometry& g) {
  return forward_taps(g.height, g.out_height, g.kernel_h, g.stride_h, g.pad_h, g.rate_h);
}

HOST_DEVICE TapAxis forward_columns(const ConvGeometry& g) {
  return forward_taps(g.width, g.out_width, g.kernel_w, g.stride_w, g.pad_w, g.rate_w);
}

// The pixels of grad_x that leave `remainder`, below the stride and in, when divided by the stride:
// of all taps, every (stride / common divisor)-th reads a pixel of grad_y, perhaps none.
HOST_DEVICE TapAxis grad_input_taps(Index in, Index out, Index kernel, Index stride, Index pad,
                                    Index rate, Index remainder) {
  const Index divisor = common_divisor(stride, rate), period = stride / divisor;
  TapAxis axis{out, in, remainder, ceil_div(in - remainder, stride), stride, 1, 0, rate / divisor,
               0,   0,  -period};
  Index last = -1;
  for (Index k = 0; k < kernel && k < period; ++k) {
    if ((remainder + pad - k * rate) % stride != 0) continue;
    axis.taps = (kernel - 1 - k) / period + 1;
    last = k + (axis.taps - 1) * period;
  }
  if (last >= 0) {
    axis.tap = last;
    axis.offset = (remainder + pad - last * rate) / stride;
  }
  return axis;
}

}  // namespace deeplab
