"""Interp and Padding, the DeepLab forks' layers that change the size of a map."""

from __future__ import annotations

from fractions import Fraction
from typing import Any, ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.field import Field
from prototxt_import.layers.parts import Family, LayerShapes, Memory
from prototxt_import.layers.sizes import Shape
from prototxt_import.schema import Dialect

__all__ = ["Interp", "Padding", "interp_output"]


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


@kind("Interp", "interp_param", programs=("dl2",))
class Interp(Layer):
    """interp_layer.cpp of both DeepLab forks: bilinear, the corners held in place.

    Attributes:
        zoom: factor by which to enlarge, see :func:`interp_output`; None if not stated.
        shrink: factor by which to reduce.
        height: explicit size, of use where height and width are both stated.
        width: likewise.
        pad_beg: at most 0: rows and columns to cut off first, at the top and left.
        pad_end: likewise, at the bottom and right.
    """

    family: ClassVar[Family] = "resampling"
    zoom: int | None
    shrink: int | None
    height: int | None = None
    width: int | None = None
    pad_beg: int
    pad_end: int

    @classmethod
    def read(cls, message: Any, spec: Any, dialect: Dialect) -> dict[str, Any]:
        """Height and width count together only."""
        values = super().read(message, spec, dialect)
        for ours, name in (("zoom", "zoom_factor"), ("shrink", "shrink_factor")):
            values[ours] = getattr(message, name) if message.HasField(name) else None
        if values["height"] is None or values["width"] is None:
            values["height"] = values["width"] = None
        return values

    def check(self) -> None:
        """interp_layer.cpp, LayerSetUp."""
        explicit = self.height is not None
        given = (self.zoom is not None) + (self.shrink is not None) + explicit
        if given == 0:
            self.fail("no output size", expected="zoom_factor, shrink_factor or height and width")
        if given > 1 and self.is_legacy:
            self.fail(
                "the v1 fork takes one of zoom_factor, shrink_factor, height and width",
                expected=1,
                got=given,
            )
        for name, factor in (("zoom_factor", self.zoom), ("shrink_factor", self.shrink)):
            if factor is not None and factor < 1:
                self.fail(f"bad {name}", expected=">= 1", got=factor)
        for name, pad in (("pad_beg", self.pad_beg), ("pad_end", self.pad_end)):
            if pad > 0:
                self.fail(f"{name} can only crop", expected="<= 0", got=pad)

    @property
    def memory(self) -> Memory:
        """A map that keeps its size is passed on."""
        return Memory.PART

    def output(self, n: int | None, size: int | None) -> int | None:
        """The size that one axis of size ``n`` gets, ``size`` being its explicit one."""
        if size is not None and (self.zoom is None) == (self.shrink is None):
            return size
        if n is None:
            return None
        return interp_output(
            n, zoom=self.zoom, shrink=self.shrink, pad_beg=self.pad_beg, pad_end=self.pad_end
        )

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W) -> (N, C, H', W')."""
        num, channels, height, width = bottom = self.four_axes(bottoms[0])
        crop = self.pad_beg + self.pad_end
        cropped = tuple(None if n is None else n + crop for n in (height, width))
        self.something_left("pad_beg and pad_end", cropped, bottom)
        out = (self.output(height, self.height), self.output(width, self.width))
        return LayerShapes([(num, channels, *self.something_left("interpolation", out, bottom))])

    def receptive_field(self, below: Field, bottom: Shape, top: Shape) -> Field | None:
        """Bilinear between two neighbours, unless each value falls on a neighbour."""
        crop = self.pad_beg + self.pad_end
        size, stride = [], []
        for before, after, seen, step in zip(
            bottom[2:], top[2:], below.size, below.stride, strict=True
        ):
            if before is None or after is None:
                return None
            ratio = Fraction(before + crop - 1, after - 1) if after > 1 else Fraction(1)
            on_grid = ratio.denominator == 1
            size.append(seen if on_grid else seen + step)
            stride.append(step * ratio)
        return Field((size[0], size[1]), (stride[0], stride[1]))

    def describe(self) -> str:
        """The factors, or the size."""
        parts = [f"shrink {self.shrink}"] if self.shrink is not None else []
        parts += [f"zoom {self.zoom}"] if self.zoom is not None else []
        parts += [f"to {self.height}x{self.width}"] if self.height is not None and not parts else []
        return f"Interp {', '.join(parts)}"


@kind("Padding", "padding_param", programs=())
class Padding(Layer):
    """padding_layer.cpp of the v1 fork: zeros around the map, or a crop."""

    family: ClassVar[Family] = "resampling"
    pad_beg: int
    pad_end: int

    def check(self) -> None:
        """Zeros or a crop, not both."""
        if self.pad_beg * self.pad_end < 0:
            self.fail(
                "pad_beg and pad_end must not pad at one end and crop at the other",
                got=f"{self.pad_beg}, {self.pad_end}",
            )

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W) -> (N, C, H', W')."""
        num, channels, *maps = bottom = self.four_axes(bottoms[0])
        out = tuple(None if n is None else n + self.pad_beg + self.pad_end for n in maps)
        return LayerShapes([(num, channels, *self.something_left("padding", out, bottom))])
