"""Pooling: windows that count their outputs upwards (pooling_layer.cpp, spp_layer.cpp)."""

from __future__ import annotations

from typing import Any, Final, cast

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from prototxt_import import layers as kinds
from prototxt_import.layers import Pool

__all__ = ["SPP", "Pooling", "pool2d"]

#: FLT_MAX: what a maximum over nothing is in Caffe.
_LOWEST: Final = -torch.finfo(torch.float32).max


def pool2d(
    x: Tensor, pool: Pool, *, training: bool = False, with_mask: bool = False
) -> tuple[Tensor, Tensor | None]:
    """Pool as Caffe does.

    torch's own pooling follows the same rules (sizes rounded up, an AVE divisor that counts
    padding but nothing beyond it, the first of equal maxima), but takes pads of up to half a
    kernel, and never begins a window beyond the map.  Where Caffe does either, the map is padded
    by hand first.

    Args:
        x: (N, C, H, W).
        pool: the window.
        training: stochastic pooling draws; otherwise it weighs.
        with_mask: MAX also gives where the maxima were.

    Returns:
        (N, C, H', W'), and the mask (N, C, H', W'): h * W + w of each maximum, or None.
    """
    height, width = x.shape[2:]
    kernel = pool.kernel or (height, width)
    if torch.compiler.is_exporting() and not with_mask and _depends_on_size(pool):
        return _of_any_size(x, pool, kernel), None
    out = cast(tuple[int, int], pool.output((height, width)))
    if pool.method == "STOCHASTIC":
        return _stochastic(_to_extent(x, kernel, pool, out, 0.0), kernel, pool, training), None
    if pool.method == "AVE" and pool.kernel is None:
        return x.mean((2, 3), keepdim=True), None
    if _torch_agrees((height, width), kernel, pool, out):
        if pool.method == "AVE":
            y = F.avg_pool2d(x, kernel, pool.stride, pool.pad, ceil_mode=not pool.floor)
            return y, None
        if not with_mask:
            return _max_pool(x, kernel, pool), None
        y, where = F.max_pool2d(
            x, kernel, pool.stride, pool.pad, ceil_mode=not pool.floor, return_indices=True
        )
        return y, where.to(x.dtype)
    if pool.method == "AVE":
        sums = F.avg_pool2d(
            _to_extent(x, kernel, pool, out, 0.0), kernel, pool.stride, divisor_override=1
        )
        return sums / _pool_sizes(x, kernel, pool, out), None
    padded = _to_extent(x, kernel, pool, out, _LOWEST)
    y, where = F.max_pool2d(padded, kernel, pool.stride, return_indices=True)
    h, w = where // padded.shape[3] - pool.pad[0], where % padded.shape[3] - pool.pad[1]
    # A window of nothing but padding has no place: -1, as pooling_layer.cpp leaves it.
    inside = (h >= 0) & (h < height) & (w >= 0) & (w < width)
    return y, torch.where(inside, h * width + w, -1).to(x.dtype) if with_mask else None


def _max_pool(x: Tensor, kernel: tuple[int, int], pool: Pool) -> Tensor:
    """torch's pooling, with less memory until the backward pass."""
    window = list(kernel), list(pool.stride), list(pool.pad), [1, 1], not pool.floor
    if (
        x.requires_grad
        and torch.is_grad_enabled()
        and not torch.compiler.is_compiling()
        and not torch._C._are_functorch_transforms_active()
    ):
        y: Tensor = _MaxPool.apply(x, window)
        return y
    return F.max_pool2d(x, *window)


class _MaxPool(torch.autograd.Function):
    """Finds the maxima again in the backward pass instead of remembering where they were.

    Their places are 64-bit numbers, twice as large as the map of the maxima; finding them takes a
    hundredth of a training step of DeepLab.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, window: tuple[Any, ...]) -> Tensor:
        ctx.window = window
        ctx.save_for_backward(x)
        return F.max_pool2d(x, *window)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> tuple[Tensor, None]:
        (x,) = ctx.saved_tensors
        _, where = F.max_pool2d(x, *ctx.window, return_indices=True)
        back = torch.ops.aten.max_pool2d_with_indices_backward(grads[0], x, *ctx.window, where)
        return back, None


def _torch_agrees(
    size: tuple[int, int], kernel: tuple[int, int], pool: Pool, out: tuple[int, ...]
) -> bool:
    """Whether torch's pooling takes these pads and begins every window that Caffe begins."""
    return all(
        2 * p <= k and o >= 1 and (o - 1) * s < n + p
        for n, k, s, p, o in zip(size, kernel, pool.stride, pool.pad, out, strict=True)
    )


def _depends_on_size(pool: Pool) -> bool:
    """Whether it is for the map's size to say if torch's pooling, or a runtime's, does the same."""
    if pool.kernel is None or pool.method == "STOCHASTIC":
        return False
    return any(
        2 * p > k or (not pool.floor and s > 1 and (pool.method == "AVE" or s + p > k))
        for k, s, p in zip(pool.kernel, pool.stride, pool.pad, strict=True)
    )


def _of_any_size(x: Tensor, pool: Pool, kernel: tuple[int, int]) -> Tensor:
    """MAX or AVE by operations that are right for every size of ``x``, for exported programs."""
    out: list[int] = []
    pads: list[int] = []
    for n, k, s, p in zip(x.shape[2:], kernel, pool.stride, pool.pad, strict=True):
        size = (n + 2 * p - k + (0 if pool.floor else s - 1)) // s + 1
        if any(pool.pad) and not pool.floor:  # windows that begin beyond the padding are left out
            size = torch.sym_min(size, (n + p + s - 1) // s)
        out.append(size)
        pads = [p, (size - 1) * s + k - n - p, *pads]
    padded = F.pad(x, pads, value=_LOWEST if pool.method == "MAX" else 0.0)
    if pool.method == "MAX":
        return F.max_pool2d(padded, kernel, pool.stride)
    means = F.avg_pool2d(padded, kernel, pool.stride)
    return means * (kernel[0] * kernel[1] / _pool_sizes(x, kernel, pool, (out[0], out[1])))


def _to_extent(
    x: Tensor, kernel: tuple[int, int], pool: Pool, out: tuple[int, ...], value: float
) -> Tensor:
    """``x`` padded by ``value`` to just the size that all windows together span."""
    pads: list[int] = []
    for n, k, s, p, o in zip(x.shape[2:], kernel, pool.stride, pool.pad, out, strict=True):
        pads = [p, (o - 1) * s + k - n - p, *pads]
    return F.pad(x, pads, value=value) if any(pads) else x


def _pool_sizes(x: Tensor, kernel: tuple[int, int], pool: Pool, out: tuple[int, ...]) -> Tensor:
    """(H', W'): pixels of each window, padding included, but nothing beyond the padding."""
    spans = []
    for n, k, s, p, o in zip(x.shape[2:], kernel, pool.stride, pool.pad, out, strict=True):
        starts = torch.arange(o, device=x.device) * s - p
        spans.append((starts + k).clamp(max=n + p) - starts)
    return torch.outer(spans[0], spans[1]).to(x.dtype)


def _stochastic(x: Tensor, kernel: tuple[int, int], pool: Pool, training: bool) -> Tensor:
    """One value of each window, drawn by its size; when not training, their mean so weighted.

    Caffe has this on the GPU only (pooling_layer.cu).
    """
    windows = x.unfold(2, kernel[0], pool.stride[0]).unfold(3, kernel[1], pool.stride[1])
    values = windows.flatten(4)
    if not training:
        total = values.sum(-1)
        weighted = values.square().sum(-1)
        return torch.where(total > 0, weighted / torch.where(total > 0, total, 1), 0)
    sums = values.detach().cumsum(-1)
    threshold = torch.rand_like(sums[..., :1]) * sums[..., -1:]
    chosen = (sums < threshold).sum(-1, keepdim=True).clamp(max=values.shape[-1] - 1)
    return values.gather(-1, chosen).squeeze(-1)


@register("Pooling")
class Pooling(CaffeLayer):
    """MAX, AVE or STOCHASTIC over windows; MAX's second top says where (pooling_layer.cpp)."""

    layer: kinds.Pooling

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, C, H, W) -> (N, C, H', W')."""
        y, mask = pool2d(x, self.layer.pool, training=self.training, with_mask=self.num_tops > 1)
        return y if mask is None else (y, mask)


@register("SPP")
class SPP(CaffeLayer):
    """A pyramid of poolings into 1, 2 x 2, 4 x 4, ... bins (spp_layer.cpp)."""

    layer: kinds.SPP

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C * bins), or (N, C, 1, 1) with a single level."""
        size = tuple(x.shape[2:])
        maps = [
            pool2d(x, self.layer.level(level, size), training=self.training)[0]
            for level in range(self.layer.pyramid_height)
        ]
        return maps[0] if len(maps) == 1 else torch.cat([y.flatten(1) for y in maps], 1)
