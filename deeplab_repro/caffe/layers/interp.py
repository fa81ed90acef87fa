"""Interp and Padding, the DeepLab forks' layers that change the size of a map."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from prototxt_import import layers as kinds

__all__ = ["Interp", "Padding", "align_corners"]


def align_corners(x: Tensor, height: int, width: int) -> Tensor:
    """Bilinear resampling with the corners held in place (util/interp.cpp, caffe_cpu_interp2).

    Output pixel i lies at i * (in - 1) / (out - 1), computed in float32 as there.  A map of one
    value keeps just that value, which weights that add up to 1 only nearly would not do.

    Args:
        x: (N, C, H, W).
        height: of the result.
        width: likewise.

    Returns:
        (N, C, height, width).
    """
    # Columns first: as long as the map is small.
    return _along(_along(x, 3, width), 2, height)


def _along(x: Tensor, axis: int, out: int) -> Tensor:
    """One axis of ``x`` resampled to ``out`` positions."""
    n = x.shape[axis]
    if n == out:
        return x
    # (in - 1) / (out - 1) with a float's rounding; 0 for a single position.
    step = torch.full((), n - 1, dtype=torch.float32, device=x.device) / (max(out, 2) - 1)
    place = torch.arange(out, dtype=torch.float32, device=x.device) * step
    low = place.long()
    share = (place - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(x.dim())])
    high = (low + 1).clamp(max=n - 1)
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


@register("Interp")
class Interp(CaffeLayer):
    """Bilinear resampling with the corners held in place (interp_layer.cpp, util/interp.cpp).

    Pads are <= 0 and crop first; then output pixel i lies at i * (in - 1) / (out - 1).
    """

    layer: kinds.Interp

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        form = self.layer
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        height, width = form.output(x.shape[2], form.height), form.output(x.shape[3], form.width)
        assert height is not None
        assert width is not None
        if form.pad_beg or form.pad_end:
            x = F.pad(x, (form.pad_beg, form.pad_end) * 2)
        return align_corners(x, height, width)


@register("Padding")
class Padding(CaffeLayer):
    """Zeros around a map, or a crop where the pads are negative (padding_layer.cpp, v1 fork)."""

    layer: kinds.Padding

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return F.pad(x, (self.layer.pad_beg, self.layer.pad_end) * 2)
