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
    # A compiled program is for any size: it does not ask whether one divides the other.
    if not torch.compiler.is_compiling() and 1 < n < out and (out - 1) % (n - 1) == 0:
        return _zoomed(x, axis, place)
    low = place.long()
    share = _over(place - low, x, axis)
    high = (low + 1).clamp(max=n - 1)
    return torch.lerp(x.index_select(axis, low), x.index_select(axis, high), share)


def _zoomed(x: Tensor, axis: int, place: Tensor) -> Tensor:
    """An axis zoomed by a whole number, without a copy of each neighbour for each position."""
    parts, out = x.shape[axis] - 1, len(place)
    last = x.narrow(axis, parts, 1)
    # How far a position is from the first pixel of its part: (parts, zoom).
    share = place[:-1].reshape(parts, -1) - torch.arange(parts, device=x.device)[:, None]
    low, high = (x.narrow(axis, i, parts).unsqueeze(axis + 1) for i in (0, 1))
    share = _over(share, low, axis)
    if torch.is_grad_enabled() and x.requires_grad:
        return torch.cat([torch.lerp(low, high, share).flatten(axis, axis + 1), last], axis)
    result = x.new_empty([out if i == axis else size for i, size in enumerate(x.shape)])
    result.narrow(axis, out - 1, 1).copy_(last)
    rest = result.narrow(axis, 0, out - 1).unflatten(axis, (parts, -1))
    torch.lerp(low, high, share, out=rest)
    return result


def _over(values: Tensor, like: Tensor, axis: int) -> Tensor:
    """``values`` in the type of ``like``, along its axes from ``axis`` on."""
    behind = like.dim() - axis - values.dim()
    return values.to(like.dtype).reshape((1,) * axis + values.shape + (1,) * behind)


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
