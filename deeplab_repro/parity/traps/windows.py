"""Mistakes in how windows slide: pooling, holes, padding, interpolation."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Final

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.pooling import pool2d
from deeplab_repro.parity.traps.core import Look, Variant, detector, trap
from prototxt_import.layers import Convolution, Interp, Pool, Pooling, Window

_ROUNDED: Final = {True: "down", False: "up"}
#: (kernel, padding) of the pools in use.
_POOLS: Final = ((2, 0), (3, 1), (3, 0))
#: Rates of the DeepLab networks, the plain convolution first.
_RATES: Final = (1, 2, 3, 4, 6, 8, 12, 18, 24, 36)

FLOOR = trap(
    "floor_pooling",
    "pooling rounded down instead of up",
    "Caffe's pooling counts its outputs upwards: ceil_mode=True in torch.",
)
DIVISOR = trap(
    "average_without_padding",
    "average pooling without counting the padding",
    "Caffe divides by the window's size, padding included: count_include_pad=True in torch, "
    "explicit zero padding in TensorFlow.",
)
METHOD = trap(
    "pooling_method",
    "maximum and average pooling exchanged",
    "Use the pool that the prototxt states (pool5a of LargeFOV is AVE).",
)
ZEROS = trap(
    "pooling_of_zeros",
    "padding took part in the maximum as zeros",
    "Padding never wins in Caffe's MAX pooling: pad with minus infinity.",
)
WINDOW = trap(
    "pooling_window",
    "another pooling window",
    "Use the kernel, stride and padding that the prototxt states: the released networks pool 3x3 "
    "with padding 1, the last pools with stride 1; torchvision's VGG pools 2x2 with stride 2.",
)
SHIFTED = trap(
    "padding_shifted",
    "padding missing, or on another side",
    "Caffe pads both sides alike (TensorFlow's SAME pads the right and bottom more): pad "
    "explicitly and use VALID.",
)
HOLE = trap(
    "hole_ignored",
    "hole (dilation) ignored, or another rate",
    "`hole` of the v1 format and `dilation` of the current one are the rate; read the file in its "
    "own dialect (--dialect).",
)
HALF_PIXEL = trap(
    "half_pixel",
    "interpolation with half-pixel centres (align_corners false)",
    "Caffe's Interp holds the corners in place: align_corners=True in torch.",
)
ASYMMETRIC = trap(
    "interp_asymmetric",
    "interpolation at i * in / out, corners not aligned",
    "Caffe's Interp reads at i * (in - 1) / (out - 1): align_corners=True in TensorFlow's "
    "resize_bilinear.",
)
KIND = trap(
    "interp_kind",
    "another interpolation than bilinear",
    "Caffe's Interp is bilinear, without antialiasing.",
)


def _pool(look: Look) -> Pool:
    assert isinstance(look.layer, Pooling)
    return look.layer.pool


def _window(look: Look) -> Window:
    assert isinstance(look.layer, Convolution)
    return look.layer.window_over(2)


@detector("Pooling")
def floor_pooling(look: Look) -> Iterator[Variant]:
    """Rounded down, or up where the file says down."""
    pool = _pool(look)
    if len(look.layer.tops) == 1 and pool.kernel is not None:
        how = "rounded up where the file says down" if pool.floor else "sizes rounded down"
        y, _ = pool2d(look.bottoms[0], replace(pool, floor=not pool.floor))
        yield Variant((FLOOR,), how, y)


@detector("Pooling")
def average_without_padding(look: Look) -> Iterator[Variant]:
    """The mean of what lies inside the map."""
    pool = _pool(look)
    if pool.method != "AVE" or pool.kernel is None:
        return
    x = look.bottoms[0]
    for divided_by, pad in (("real pixels only", pool.pad), ("real pixels, no padding", (0, 0))):
        whole = replace(pool, pad=pad)
        inside = pool2d(torch.ones_like(x), whole)[0]
        yield Variant((DIVISOR,), f"divided by {divided_by}", pool2d(x, whole)[0] / inside)


@detector("Pooling")
def pooling_method(look: Look) -> Iterator[Variant]:
    """MAX for AVE, and the other way round."""
    pool = _pool(look)
    other = {"MAX": "AVE", "AVE": "MAX"}.get(pool.method)
    if other is not None:
        y, _ = pool2d(look.bottoms[0], replace(pool, method=other))
        yield Variant((METHOD,), f"{other} instead of {pool.method}", y)


@detector("Pooling")
def pooling_with_other_padding(look: Look) -> Iterator[Variant]:
    """Every place where the first window could begin, with zeros or nothing around the map."""
    pool, size = _pool(look), look.size()
    if pool.kernel is None or size is None or pool.method == "STOCHASTIC":
        return
    x = look.bottoms[0]
    for begin in range(2 * max(pool.kernel) + 1):
        pads = _pads(x, pool.kernel, pool.stride, size, (begin, begin))
        where = f"the first window begins {begin} before the map, not {pool.pad[0]}"
        bare = Pool(pool.method, pool.kernel, pool.stride)
        if pool.method == "MAX":
            # Without padding in the file there is none that could have been zeros.
            if pools_of_zeros := (begin, begin) == pool.pad and begin > 0:
                where = "zeros around the map"
            y, _ = pool2d(F.pad(x, pads), bare)
            yield Variant((ZEROS if pools_of_zeros else SHIFTED,), where, y)
            y, _ = pool2d(F.pad(x, pads, value=-torch.inf), bare)
        else:
            y, _ = pool2d(F.pad(x, pads), bare)
        if (begin, begin) != pool.pad:
            yield Variant((SHIFTED,), where, y)


@detector("Pooling")
def other_window(look: Look) -> Iterator[Variant]:
    """The windows of other networks, sizes rounded down and up."""
    pool, size = _pool(look), look.size()
    if pool.kernel is None or pool.method == "STOCHASTIC" or len(look.layer.tops) > 1:
        return
    stated = pool.kernel, pool.stride, pool.pad
    for kernel, pad in _POOLS:
        for stride in (2, 1):
            window = (kernel, kernel), (stride, stride), (pad, pad)
            if window == stated:
                continue
            for floor in (True, False):
                y, _ = pool2d(look.bottoms[0], Pool(pool.method, *window, floor))
                if tuple(y.shape[2:]) == size:
                    what = f"{kernel}x{kernel} windows, stride {stride}, padding {pad}"
                    yield Variant((WINDOW,), f"{what}, sizes rounded {_ROUNDED[floor]}", y)
                    break


def _pads(
    x: Tensor,
    spread: tuple[int, ...],
    stride: tuple[int, ...],
    size: tuple[int, ...],
    begin: tuple[int, int],
) -> list[int]:
    """F.pad's pads that make windows of ``spread`` from ``-begin`` on come out at ``size``."""
    ends = [(size[i] - 1) * stride[i] + spread[i] - x.shape[2 + i] - begin[i] for i in range(2)]
    return [begin[1], ends[1], begin[0], ends[0]]


def _convolved(look: Look, rate: tuple[int, ...], begin: tuple[int, int]) -> Tensor | None:
    """The convolution with another rate or padding, of the size that was recorded."""
    window, size = _window(look), look.size()
    x, module = look.bottoms[0], look.module
    spread = tuple(r * (k - 1) + 1 for r, k in zip(rate, window.kernel, strict=True))
    if size is None:
        return None
    pads = _pads(x, spread, window.stride, size, begin)
    padded_size = x.shape[2] + pads[2] + pads[3], x.shape[3] + pads[0] + pads[1]
    limit = max(*spread) + max(*window.stride)
    if any(n < s for n, s in zip(padded_size, spread, strict=True)) or max(pads) > limit:
        return None
    bias = module.blob(1).view(-1) if len(module.blob_shapes) > 1 else None
    assert isinstance(look.layer, Convolution)
    groups = look.layer.group
    return F.conv2d(F.pad(x, pads), module.blob(0), bias, window.stride, 0, rate, groups)


@detector("Convolution")
def hole_ignored(look: Look) -> Iterator[Variant]:
    """Other rates, padded as stated, or so that the window stays centred."""
    if look.bottoms[0].dim() != 4:
        return
    window = _window(look)
    if max(window.kernel) == 1:
        return
    for rate in _RATES:
        rates = (rate, rate)
        if rates == window.dilation:
            continue
        centred = tuple(
            p - (d - rate) * (k - 1) // 2
            for p, d, k in zip(window.pad, window.dilation, window.kernel, strict=True)
        )
        for begin in dict.fromkeys([window.pad, centred]):
            y = _convolved(look, rates, (begin[0], begin[1]))
            if y is not None:
                detail = f"rate {rate} instead of {window.dilation[0]}, padding {begin[0]}"
                yield Variant((HOLE,), detail, y)


@detector("Convolution")
def convolution_with_other_padding(look: Look) -> Iterator[Variant]:
    """Every place where the first window could begin."""
    if look.bottoms[0].dim() != 4:
        return
    window = _window(look)
    first, second = window.pad
    for delta in range(-max(window.pad), max(window.pad) + 2):
        for begin in dict.fromkeys([(first + delta, second + delta), (first + delta, second)]):
            if begin == window.pad or min(begin) < 0:
                continue
            y = _convolved(look, window.dilation, begin)
            if y is not None:
                where = f"the window begins {begin[0]}, {begin[1]} before the map, not"
                yield Variant((SHIFTED,), f"{where} {first}, {second}", y)


@detector("Interp")
def interpolation(look: Look) -> Iterator[Variant]:
    """The other ways of resampling, to the size that was recorded."""
    x, layer = look.bottoms[0], look.layer
    assert isinstance(layer, Interp)
    own = look.run()
    size = look.size() or tuple(own.shape[2:])
    crop = (layer.pad_beg, layer.pad_end) * 2
    cropped = F.pad(x, crop) if any(crop) else x
    to = f"to {size[0]}x{size[1]}"
    for source, note in ((cropped, ""), (x, ", without cropping")):
        if note and source is cropped:
            continue
        smooth = F.interpolate(source, size, mode="bilinear", align_corners=False)
        yield Variant((HALF_PIXEL,), f"align_corners=False {to}{note}", smooth)
        yield Variant(
            (ASYMMETRIC,), f"corners at i * in / out {to}{note}", _asymmetric(source, size)
        )
        yield Variant((KIND,), f"nearest neighbour {to}{note}", F.interpolate(source, size))
        cubic = F.interpolate(source, size, mode="bicubic", align_corners=True)
        yield Variant((KIND,), f"bicubic {to}{note}", cubic)
        if size != tuple(own.shape[2:]) or note:
            aligned = F.interpolate(source, size, mode="bilinear", align_corners=True)
            detail = f"{to} instead of {own.shape[2]}x{own.shape[3]}{note}"
            yield Variant((KIND,), f"bilinear {detail}", aligned)


def _asymmetric(x: Tensor, size: tuple[int, ...]) -> Tensor:
    """Bilinear at i * in / out, as TensorFlow's resize_bilinear by default."""
    for axis, n in ((2, size[0]), (3, size[1])):
        here = torch.arange(n) * (x.shape[axis] / n)
        low = here.floor().long().clamp(max=x.shape[axis] - 1)
        high = (low + 1).clamp(max=x.shape[axis] - 1)
        share = (here - low).to(x.dtype).reshape([-1 if i == axis else 1 for i in range(4)])
        below, above = x.index_select(axis, low), x.index_select(axis, high)
        x = below + (above - below) * share
    return x
