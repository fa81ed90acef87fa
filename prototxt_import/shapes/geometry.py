"""Sizes of windows that slide over maps: convolution, pooling, interpolation.

The plain functions compute one axis and know nothing of layers; those that take a layer read its
parameters in all the ways in which Caffe lets them be written.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from prototxt_import.shapes.core import enum_name, fail, is_legacy

if TYPE_CHECKING:
    from prototxt_import.net import Layer

__all__ = [
    "Interp",
    "Pool",
    "Window",
    "conv_output",
    "conv_window",
    "deconv_output",
    "interp",
    "interp_output",
    "pool_output",
    "pooling",
    "spp_pool",
]


@dataclass(frozen=True)
class Window:
    """A sliding window, one entry per spatial axis."""

    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]


@dataclass(frozen=True)
class Pool:
    """A pooling window over height and width.

    Attributes:
        method: ``"MAX"``, ``"AVE"`` or ``"STOCHASTIC"``.
        kernel: None stands for the whole map (``global_pooling``).
        floor: round output sizes down, where Caffe rounds up by default.
    """

    method: str
    kernel: tuple[int, int] | None
    stride: tuple[int, int] = (1, 1)
    pad: tuple[int, int] = (0, 0)
    floor: bool = False

    def output(self, size: Sequence[int | None]) -> tuple[int | None, int | None]:
        """Windows over a map of ``size`` (height, width), None where that is not known.

        A pad along one axis clips the windows of both (pooling_layer.cpp).
        """
        if self.kernel is None:
            return 1, 1
        clip = any(self.pad)
        height, width = (
            None if n is None else pool_output(n, kernel, stride, pad, self.floor, clip)
            for n, kernel, stride, pad in zip(size, self.kernel, self.stride, self.pad, strict=True)
        )
        return height, width


def conv_output(n: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """Windows along one axis, rounded towards 0 (conv_layer.cpp, compute_output_shape).

    So a kernel that exceeds the padded map by less than a stride still has one window.
    """
    room = n + 2 * pad - (dilation * (kernel - 1) + 1)
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def deconv_output(n: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """Size of which :func:`conv_output` windows give ``n`` (deconv_layer.cpp)."""
    return stride * (n - 1) + (dilation * (kernel - 1) + 1) - 2 * pad


def pool_output(
    n: int,
    kernel: int,
    stride: int = 1,
    pad: int = 0,
    floor: bool = False,
    clip: bool | None = None,
) -> int:
    """Windows along one axis, rounded up (pooling_layer.cpp).

    With padding, a last window that would begin beyond the map and its padding is left out;
    ``clip`` tells whether there is padding along any axis, by default whether there is along this.
    """
    span = n + 2 * pad - kernel
    out = (span // stride if floor else -(-span // stride)) + 1
    if (pad > 0 if clip is None else clip) and (out - 1) * stride >= n + pad:
        out -= 1
    return out


def interp_output(
    n: int,
    *,
    zoom: int | None = None,
    shrink: int | None = None,
    size: int | None = None,
    pad_beg: int = 0,
    pad_end: int = 0,
) -> int:
    """Size of one axis after Interp (interp_layer.cpp), which crops by its pads, both <= 0, first.

    ``shrink`` or ``zoom`` alone go before an explicit ``size``; both together are the v2 fork's
    fourth form: shrink, then zoom, in a single resampling.
    """
    n += pad_beg + pad_end
    if size is not None and (zoom is None) == (shrink is None):
        return size
    if shrink is not None:
        n = (n - 1) // shrink + 1
    if zoom is not None:
        n += (n - 1) * (zoom - 1)
    return n


def conv_window(layer: Layer, axes: int) -> Window:
    """The window of a Convolution, Deconvolution or Im2col over ``axes`` spatial axes.

    ``kernel_size``, ``stride``, ``pad`` and ``dilation`` hold one value for all axes or one per
    axis; ``kernel_h`` with ``kernel_w`` and so on stand in for two axes (base_conv_layer.cpp).
    """
    spec = layer.spec.convolution_param

    def sizes(name: str, split: str | None, default: int | None, least: int) -> tuple[int, ...]:
        given = list(getattr(spec, name))
        if split and (spec.HasField(f"{split}_h") or spec.HasField(f"{split}_w")):
            if axes != 2:
                fail(layer, f"{split}_h and {split}_w need two spatial axes", got=axes)
            if given:
                fail(layer, f"{name} and {split}_h, {split}_w are both given")
            given = [getattr(spec, f"{split}_h"), getattr(spec, f"{split}_w")]
        if not given and default is not None:
            given = [default]
        if len(given) not in (1, axes):
            fail(layer, f"{name} has the wrong number of values", expected=f"1 or {axes}",
                 got=len(given))  # fmt: skip
        if any(value < least for value in given):
            fail(layer, f"{name} is too small", expected=f">= {least}", got=min(given))
        return tuple(given * axes if len(given) == 1 else given)

    return Window(
        kernel=sizes("kernel_size", "kernel", None, 1),
        stride=sizes("stride", "stride", 1, 1),
        pad=sizes("pad", "pad", 0, 0),
        dilation=sizes("dilation", None, 1, 1),
    )


def pooling(layer: Layer) -> Pool:
    """The window of a Pooling layer, checked as pooling_layer.cpp checks it."""
    spec = layer.spec.pooling_param
    method = enum_name(spec, "pool")
    floor = enum_name(spec, "round_mode") == "FLOOR"

    def pair(name: str, split: str) -> tuple[int, int]:
        if not (spec.HasField(f"{split}_h") or spec.HasField(f"{split}_w")):
            return getattr(spec, name), getattr(spec, name)
        if spec.HasField(name):
            fail(layer, f"{name} and {split}_h, {split}_w are both given")
        if not (spec.HasField(f"{split}_h") and spec.HasField(f"{split}_w")):
            fail(layer, f"{split}_h and {split}_w go together")
        return getattr(spec, f"{split}_h"), getattr(spec, f"{split}_w")

    kernel: tuple[int, int] | None = pair("kernel_size", "kernel")
    stride, pad = pair("stride", "stride"), pair("pad", "pad")
    if spec.global_pooling:
        if any(spec.HasField(name) for name in ("kernel_size", "kernel_h", "kernel_w")):
            fail(layer, "global_pooling takes no kernel size")
        if pad != (0, 0) or stride != (1, 1):
            fail(layer, "global_pooling takes pad 0 and stride 1 only", got=f"{pad}, {stride}")
        kernel = None
    return checked_pool(layer, Pool(method, kernel, stride, pad, floor))


def checked_pool(layer: Layer, pool: Pool) -> Pool:
    """``pool``, or the reason why Caffe would not run it."""
    if pool.kernel is not None and min(pool.kernel) < 1:
        fail(layer, "kernel size is missing or zero", got=pool.kernel)
    if min(pool.stride) < 1:
        fail(layer, "stride is zero", got=pool.stride)
    if pool.pad != (0, 0):
        if pool.method == "STOCHASTIC":
            fail(layer, "stochastic pooling takes no padding", got=pool.pad)
        if pool.kernel is None or any(p >= k for p, k in zip(pool.pad, pool.kernel, strict=True)):
            fail(layer, "padding must be smaller than the kernel", expected=f"< {pool.kernel}",
                 got=pool.pad)  # fmt: skip
    return pool


def spp_pool(layer: Layer, level: int, size: Sequence[int]) -> Pool:
    """The window that pools a map of ``size`` into 2**level bins a side (spp_layer.cpp)."""
    bins = 2**level
    kernel = tuple(-(-n // bins) for n in size)
    pad = tuple((k * bins - n + 1) // 2 for k, n in zip(kernel, size, strict=True))
    method = enum_name(layer.spec.spp_param, "pool")
    return checked_pool(layer, Pool(method, (kernel[0], kernel[1]), (kernel[0], kernel[1]),
                                    (pad[0], pad[1])))  # fmt: skip


@dataclass(frozen=True)
class Interp:
    """How an Interp layer resamples; the words are those of :func:`interp_output`."""

    zoom: int | None
    shrink: int | None
    height: int | None
    width: int | None
    pad_beg: int
    pad_end: int

    def output(self, n: int | None, size: int | None) -> int | None:
        """The size that one axis of size ``n`` gets, ``size`` being its explicit one."""
        if size is not None and (self.zoom is None) == (self.shrink is None):
            return size
        if n is None:
            return None
        return interp_output(
            n, zoom=self.zoom, shrink=self.shrink, pad_beg=self.pad_beg, pad_end=self.pad_end
        )


def interp(layer: Layer) -> Interp:
    """What an Interp layer is to do, checked as interp_layer.cpp checks it."""
    spec = layer.spec.interp_param
    explicit = spec.HasField("height") and spec.HasField("width")
    zoom = spec.zoom_factor if spec.HasField("zoom_factor") else None
    shrink = spec.shrink_factor if spec.HasField("shrink_factor") else None
    given = (zoom is not None) + (shrink is not None) + explicit
    if given == 0:
        fail(layer, "no output size", expected="zoom_factor, shrink_factor or height and width")
    if given > 1 and is_legacy(layer):
        fail(layer, "the v1 fork takes one of zoom_factor, shrink_factor, height and width",
             expected=1, got=given)  # fmt: skip
    for name, factor in (("zoom_factor", zoom), ("shrink_factor", shrink)):
        if factor is not None and factor < 1:
            fail(layer, f"bad {name}", expected=">= 1", got=factor)
    for name in ("pad_beg", "pad_end"):
        if getattr(spec, name) > 0:
            fail(layer, f"{name} can only crop", expected="<= 0", got=getattr(spec, name))
    height, width = (spec.height, spec.width) if explicit else (None, None)
    return Interp(zoom, shrink, height, width, spec.pad_beg, spec.pad_end)
