"""Convolution, Deconvolution and Im2col: windows with holes over any number of axes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.field import Field
from prototxt_import.layers.parts import Family, Filler, LayerShapes, Memory, Window
from prototxt_import.layers.sizes import Shape, count
from prototxt_import.schema import Dialect
from prototxt_import.words import pair, show

__all__ = ["Convolution", "Deconvolution", "Im2col", "Sliding", "conv_output", "deconv_output"]


def conv_output(n: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """Windows along one axis, rounded towards 0 (conv_layer.cpp, compute_output_shape).

    So a kernel that exceeds the padded map by less than a stride still has one window.
    """
    room = n + 2 * pad - (dilation * (kernel - 1) + 1)
    return (room // stride if room >= 0 else -(-room // stride)) + 1


def deconv_output(n: int, kernel: int, stride: int = 1, pad: int = 0, dilation: int = 1) -> int:
    """Size of which :func:`conv_output` windows give ``n`` (deconv_layer.cpp)."""
    return stride * (n - 1) + (dilation * (kernel - 1) + 1) - 2 * pad


@dataclass(frozen=True, kw_only=True, eq=False)
class Sliding(Layer):
    """What has a convolution's window.

    Attributes:
        axis: of the channels; axes before it are a batch, those behind it spatial.
        kernel: size along each spatial axis, or one value for all; likewise the following.
        stride: how far the window moves.
        pad: zeros at both ends.
        dilation: the rate, which the v1 fork calls ``hole``.
        by_side: names that the file gives for height and width apart, such as ``kernel_h``.
    """

    axis: int
    kernel: tuple[int, ...]
    stride: tuple[int, ...]
    pad: tuple[int, ...]
    dilation: tuple[int, ...]
    by_side: tuple[str, ...]

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Every size: one value for all axes, one per axis, or height and width apart."""
        values = super().read(message, spec, dialect)
        by_side = []
        for ours, name, sides in (
            ("kernel", "kernel_size", "kernel"),
            ("stride", "stride", "stride"),
            ("pad", "pad", "pad"),
            ("dilation", "dilation", ""),
        ):
            given = tuple(getattr(message, name))
            sized = [side for side in "hw" if sides and message.HasField(f"{sides}_{side}")]
            if sized:
                by_side += [f"{sides}_{side}" for side in sized]
                by_side += [name] * bool(given)  # which check() refuses
                given = getattr(message, f"{sides}_h"), getattr(message, f"{sides}_w")
            values[ours] = given
        return {**values, "by_side": tuple(by_side)}

    def check(self) -> None:
        """base_conv_layer.cpp; the v1 fork's conv_layer.cpp wants both sides or none."""
        for name, sides in (("kernel_size", "kernel"), ("stride", "stride"), ("pad", "pad")):
            if name in self.by_side:
                self.fail(f"{name} and {sides}_h, {sides}_w are both given")
            there = [f"{sides}_{side}" for side in "hw" if f"{sides}_{side}" in self.by_side]
            if self.is_legacy and len(there) == 1:
                self.fail(f"{sides}_h and {sides}_w go together in the v1 fork", got=there[0])

    def _sizes(
        self, name: str, given: tuple[int, ...], axes: int, default: int | None, least: int
    ) -> tuple[int, ...]:
        if not given and default is not None:
            given = (default,)
        if len(given) not in (1, axes):
            self.fail(
                f"{name} has the wrong number of values", expected=f"1 or {axes}", got=len(given)
            )
        if any(value < least for value in given):
            self.fail(f"{name} is too small", expected=f">= {least}", got=min(given))
        return given * axes if len(given) == 1 else given

    def window_over(self, axes: int) -> Window:
        """Its window over ``axes`` spatial axes."""
        if self.by_side and axes != 2:
            sides = self.by_side[0].rpartition("_")[0]
            self.fail(f"{sides}_h and {sides}_w need two spatial axes", got=axes)
        return Window(
            kernel=self._sizes("kernel_size", self.kernel, axes, None, 1),
            stride=self._sizes("stride", self.stride, axes, 1, 1),
            pad=self._sizes("pad", self.pad, axes, 0, 0),
            dilation=self._sizes("dilation", self.dilation, axes, 1, 1),
        )

    def channel_axis(self, axes: int) -> int:
        """The channels' axis of a bottom with ``axes`` axes, counted from the front."""
        return self.axis_of(self.axis, axes)

    def window(self, bottom: Shape) -> Window:
        """Its window over a bottom of that shape."""
        return self.window_over(len(bottom) - self.channel_axis(len(bottom)) - 1)

    def padded(self, bottom: Shape) -> Shape | None:
        """The bottom with its padding."""
        window = self.window(bottom)
        if not any(window.pad):
            return None
        first = len(bottom) - len(window.pad)
        maps = (n and n + 2 * pad for n, pad in zip(bottom[first:], window.pad, strict=True))
        return (*bottom[:first], *maps)

    def slide(self, maps: Shape, window: Window, bottom: Shape) -> Shape:
        """How many windows there are along each spatial axis."""
        return self._positions(conv_output, maps, window, bottom)

    def _positions(self, size: Any, maps: Shape, window: Window, bottom: Shape) -> Shape:
        out = tuple(
            None if n is None else size(n, kernel, stride, pad, dilation)
            for n, kernel, stride, pad, dilation in zip(
                maps, window.kernel, window.stride, window.pad, window.dilation, strict=True
            )
        )
        return self.something_left(f"kernel {show(window.kernel)}", out, bottom)

    def receptive_field(self, below: Field, bottom: Shape, top: Shape) -> Field | None:
        """As wide as the window with its holes."""
        if len(bottom) != 4:
            return below
        window = self.window(bottom)
        return below.through(window.extent, window.stride)


@kind("Convolution", "convolution_param", bottoms=(1, None), tops=(1, None))
class Convolution(Sliding):
    """base_conv_layer.cpp: every bottom is convolved with the same weights, a top each.

    The weights are num_output x C/group x kernel; the bias num_output, in the v1 fork
    1x1x1xnum_output.
    """

    family: ClassVar[Family] = "weights"
    num_output: int
    group: int
    bias_term: bool
    weight_filler: Filler
    bias_filler: Filler

    def fillers(self) -> tuple[Filler, ...]:
        """The filler of the weights and, where there is a bias, that of the bias."""
        return (self.weight_filler, self.bias_filler)[: 1 + self.bias_term]

    def check(self) -> None:
        """Without outputs or groups there is nothing to compute."""
        super().check()
        if self.num_output < 1:
            self.fail("num_output is missing or zero")
        if self.group < 1:
            self.fail("group is zero")

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """One top per bottom, all of one shape."""
        if len(self.tops) != len(bottoms):
            self.fail("needs as many tops as bottoms", expected=len(bottoms), got=len(self.tops))
        bottom = self.same_shape(bottoms)
        axis = self.channel_axis(len(bottom))
        window = self.window(bottom)
        channels, outputs, groups = bottom[axis], self.num_output, self.group
        for what, number in (("channels", channels), ("num_output", outputs)):
            if number is not None and number % groups:
                self.fail(f"{what} is no multiple of group", expected=f"n * {groups}", got=number)
        params: list[Shape] = [(*self._filters(channels), *window.kernel)]
        if self.bias_term:
            params.append((1, 1, 1, outputs) if self.is_legacy else (outputs,))
        maps = self.slide(bottom[axis + 1 :], window, bottom)
        return LayerShapes([(*bottom[:axis], outputs, *maps)] * len(bottoms), params)

    def _filters(self, channels: int | None) -> Shape:
        return self.num_output, None if channels is None else channels // self.group

    def _moves_over(self, bottom: Shape, top: Shape) -> tuple[Shape, Shape]:
        """The map that the window takes one place each on, and the one that it reads or writes."""
        return top, bottom

    def multiply_adds(self, bottoms: list[Shape], shapes: LayerShapes) -> int | None:
        """Each weight meets every position of the map that the window moves over once."""
        over, _ = self._moves_over(bottoms[0], shapes.tops[0])
        return count([count(shapes.params[0]), *over[:1], *over[2:], len(bottoms)])

    def useful_multiply_adds(self, bottoms: list[Shape], shapes: LayerShapes) -> int | None:
        """Only where a tap lies inside the map.

        A tap ``(dy, dx)`` of a 3 x 3 kernel of rate r and stride 1, padded by r, meets
        ``(H - |dy| r)(W - |dx| r)`` pixels of an H x W map; in general each axis is counted by
        itself.
        """
        small, large = self._moves_over(bottoms[0], shapes.tops[0])
        window = self.window(bottoms[0])
        taps: list[int | None] = []
        for n, out, kernel, stride, pad, rate in zip(
            large[2:], small[2:], window.kernel, window.stride, window.pad, window.dilation,
            strict=True,
        ):  # fmt: skip
            if n is None or out is None:
                return None
            taps.append(sum(_inside(n, out, stride, tap * rate - pad) for tap in range(kernel)))
        return count([*shapes.params[0][:2], large[0], *taps, len(bottoms)])

    def describe(self) -> str:
        """Kernel, rate and stride where they are not 1, channels."""
        kernel = self.kernel * 2 if len(self.kernel) == 1 else self.kernel
        text = f"{self.type} {show(kernel)}"
        text += f" rate {pair(self.dilation)}" if max(self.dilation, default=1) > 1 else ""
        text += f" stride {pair(self.stride)}" if max(self.stride, default=1) > 1 else ""
        return f"{text}, {self.num_output}"


def _inside(n: int, out: int, stride: int, offset: int) -> int:
    """How many of ``range(out)`` have ``0 <= i * stride + offset < n``."""
    first = max(0, -(offset // stride))  # the quotient rounded up, of -offset
    last = min(out - 1, (n - 1 - offset) // stride)
    return max(0, last - first + 1)


@kind("Deconvolution", "convolution_param", bottoms=(1, None), tops=(1, None))
class Deconvolution(Convolution):
    """deconv_layer.cpp: a convolution's backward pass; the weights are C x num_output/group."""

    keeps_places: ClassVar[bool] = False

    def _filters(self, channels: int | None) -> Shape:
        return channels, self.num_output // self.group

    def _moves_over(self, bottom: Shape, top: Shape) -> tuple[Shape, Shape]:
        return bottom, top

    def slide(self, maps: Shape, window: Window, bottom: Shape) -> Shape:
        """The size of which the windows give the bottom."""
        return self._positions(deconv_output, maps, window, bottom)

    def receptive_field(self, below: Field, bottom: Shape, top: Shape) -> Field | None:
        """Different from place to place."""
        return None


@kind("Im2col", "convolution_param")
class Im2col(Sliding):
    """im2col_layer.cpp: every tap of the kernel becomes a channel."""

    @property
    def memory(self) -> Memory:
        """With a window of one pixel, the top may be the bottom's memory."""
        return Memory.PART

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(..., C, spatial) -> (..., C * taps, positions)."""
        (bottom,) = bottoms
        axis = self.channel_axis(len(bottom))
        window = self.window(bottom)
        maps = self.slide(bottom[axis + 1 :], window, bottom)
        return LayerShapes([(*bottom[:axis], count([bottom[axis], *window.kernel]), *maps)])
