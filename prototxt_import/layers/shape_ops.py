"""Layers that join, cut, repeat, pick and reduce."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.elementwise import Elementwise
from prototxt_import.layers.parts import Family, LayerShapes, Memory
from prototxt_import.layers.sizes import Shape, at_axis, count
from prototxt_import.words import show

__all__ = [
    "ArgMax", "BatchReindex", "Concat", "Crop", "Filter", "Flatten", "Reduction", "Reshape",
    "Slice", "Softmax", "Split", "Tile",
]  # fmt: skip


class _Sharing(Layer):
    """A layer whose tops are its bottom, in Caffe too (Blob::ShareData)."""

    def check(self) -> None:
        """flatten_layer.cpp, reshape_layer.cpp: what shares memory has a name of its own."""
        if not self.is_legacy:
            self.refuse_in_place()

    @property
    def memory(self) -> Memory:
        """Its tops are views of the bottom."""
        return Memory.VIEW

    @property
    def shares_data(self) -> bool:
        """In Caffe its tops are always the memory of the bottom."""
        return True


@kind("Softmax", "softmax_param")
class Softmax(Elementwise):
    """softmax_layer.cpp: the softmax along one axis."""

    axis: int

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Any shape that has the axis."""
        self.axis_of(self.axis, len(bottoms[0]))
        return super().infer(bottoms)


@dataclass(frozen=True, kw_only=True, eq=False)
class _AlongAxis(Layer):
    """Concat and Slice, whose ``axis`` the v1 fork calls by an old name, here ``old_axis``."""

    axis: int | None = None

    def _axis(self, axes: int, old: int | None, old_name: str) -> int:
        if old is None:
            return self.axis_of(1 if self.axis is None else self.axis, axes)
        if self.axis is not None:
            self.fail(f"axis and {old_name} are both given")
        if self.is_legacy and old > 1:
            self.fail(f"bad {old_name}", expected="0 or 1", got=old)
        return self.axis_of(old, axes, old_name)


@kind("Concat", "concat_param", bottoms=(1, None))
class Concat(_AlongAxis):
    """concat_layer.cpp; concat_dim is axis's old name."""

    family: ClassVar[Family] = "joining"
    concat_dim: int | None = None

    def channel_axis(self, axes: int) -> int:
        """The axis along which its bottoms lie one after the other."""
        return self._axis(axes, self.concat_dim, "concat_dim")

    def check(self) -> None:
        """concat_layer.hpp of 2014 wants two bottoms."""
        if self.is_legacy and len(self.bottoms) == 1:
            self.fail("the v1 fork joins no single bottom", expected="2 or more bottoms", got=1)

    @property
    def memory(self) -> Memory:
        """A single bottom is passed on."""
        return Memory.VIEW if len(self.bottoms) == 1 else Memory.FRESH

    @property
    def shares_data(self) -> bool:
        """In Caffe the concatenation of a single bottom is that bottom's memory."""
        return len(self.bottoms) == 1

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Shapes that agree outside the axis."""
        axis = self.channel_axis(len(bottoms[0]))
        for number, bottom in enumerate(bottoms):
            if len(bottom) != len(bottoms[0]):
                self.fail(
                    f"bottom {number} has other axes than bottom 0",
                    expected=len(bottoms[0]),
                    got=len(bottom),
                )
        sizes = [bottom[axis] for bottom in bottoms]
        total = None if None in sizes else sum(size for size in sizes if size is not None)
        rest = self.same_shape([at_axis(bottom, axis, None) for bottom in bottoms])
        return LayerShapes([at_axis(rest, axis, total)])


@kind("Slice", "slice_param", tops=(1, None))
class Slice(_AlongAxis):
    """slice_layer.cpp; slice_dim is axis's old name."""

    slice_dim: int | None = None
    slice_point: tuple[int, ...]

    def channel_axis(self, axes: int) -> int:
        """The axis along which it cuts."""
        return self._axis(axes, self.slice_dim, "slice_dim")

    @property
    def memory(self) -> Memory:
        """Caffe copies the parts, unless there is one alone."""
        return Memory.VIEW if len(self.tops) == 1 else Memory.PART

    @property
    def shares_data(self) -> bool:
        """A single top does."""
        return len(self.tops) == 1

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The parts, from point to point or all equal."""
        (bottom,) = bottoms
        axis = self.channel_axis(len(bottom))
        n, tops, points = bottom[axis], len(self.tops), self.slice_point
        if points:
            if len(points) != tops - 1:
                self.fail(
                    "needs one slice_point fewer than tops", expected=tops - 1, got=len(points)
                )
            edges = [0, *points]
            if any(a >= b for a, b in zip(edges, points, strict=False)):
                self.fail("slice points must rise", got=list(points))
            if n is not None and points[-1] >= n:
                self.fail("slice point beyond the bottom", expected=f"< {n}", got=points[-1])
            sizes: list[int | None] = [b - a for a, b in zip(edges, points, strict=False)]
            sizes.append(None if n is None else n - points[-1])
        else:
            if n is not None and n % tops:
                self.fail("the axis does not split evenly", expected=f"a multiple of {tops}", got=n)
            sizes = [None if n is None else n // tops] * tops
        return LayerShapes([at_axis(bottom, axis, size) for size in sizes])


@kind("Split", tops=(1, None))
class Split(_Sharing):
    """split_layer.cpp: each top is the bottom."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The bottom, as often as there are tops."""
        return LayerShapes([bottoms[0]] * len(self.tops))


@kind("Flatten", "flatten_param")
class Flatten(_Sharing):
    """flatten_layer.cpp; in the v1 fork the top keeps four axes."""

    keeps_places: ClassVar[bool] = False
    axis: int
    end_axis: int

    def ends(self, axes: int) -> tuple[int, int]:
        """The first and the last of the axes that become one."""
        return self.axis_of(self.axis, axes), self.axis_of(self.end_axis, axes, "end_axis")

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Some axes as one."""
        (bottom,) = bottoms
        if self.is_legacy:
            return LayerShapes([(bottom[0], count(bottom[1:]), 1, 1)])
        first, last = self.ends(len(bottom))
        # Where the last comes before the first, flatten_layer.cpp inserts an axis of size 1.
        flat = count(bottom[first : last + 1])
        return LayerShapes([(*bottom[:first], flat, *bottom[last + 1 :])])


@kind("Reshape", "reshape_param")
class Reshape(_Sharing):
    """reshape_layer.cpp: new sizes for the axes [axis, axis + num_axes); 0 copies, -1 infers."""

    keeps_places: ClassVar[bool] = False
    axis: int
    num_axes: int
    shape: tuple[int, ...]

    def start(self, axes: int) -> int:
        """The first axis that gets a new size; -1 means "after the last"."""
        return self.axis_of(self.axis, axes + 1)

    def check(self) -> None:
        """reshape_layer.cpp, LayerSetUp."""
        super().check()
        if self.num_axes < -1:
            self.fail("bad num_axes", expected=">= -1", got=self.num_axes)
        if self.shape.count(-1) > 1:
            self.fail("more than one -1 in shape", got=list(self.shape))

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """As many values in another shape."""
        (bottom,) = bottoms
        start = self.start(len(bottom))
        end = len(bottom) if self.num_axes == -1 else start + self.num_axes
        if end > len(bottom):
            self.fail(
                "axis + num_axes is beyond the bottom's axes",
                expected=f"at most {len(bottom)}",
                got=end,
            )
        sizes: list[int | None] = []
        for i, dim in enumerate(self.shape):
            if dim == 0 and start + i >= len(bottom):
                self.fail("a 0 in shape has no axis of the bottom to copy", got=list(self.shape))
            sizes.append(bottom[start + i] if dim == 0 else dim)
        if -1 in sizes:
            old, place = count(bottom), sizes.index(-1)
            known = count([*bottom[:start], *sizes[:place], *sizes[place + 1 :], *bottom[end:]])
            if old is not None and known is not None and (known == 0 or old % known):
                self.fail(
                    "the -1 in shape cannot be inferred", expected=f"a divisor of {old}", got=known
                )
            sizes[place] = None if old is None or known is None else old // known
        top = (*bottom[:start], *sizes, *bottom[end:])
        if count(top) is not None and count(bottom) is not None and count(top) != count(bottom):
            self.fail(
                "the number of values changes",
                expected=f"{count(bottom)} ({show(bottom)})",
                got=f"{count(top)} ({show(top)})",
            )
        return LayerShapes([top])


@kind("Tile", "tile_param")
class Tile(Layer):
    """tile_layer.cpp: the bottom several times, one behind the other along an axis."""

    axis: int
    tiles: int

    def check(self) -> None:
        """Refuse to repeat the bottom less than once."""
        if self.tiles < 1:
            self.fail("tiles is missing or not positive", got=self.tiles)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """One axis so many times as long."""
        (bottom,) = bottoms
        axis = self.axis_of(self.axis, len(bottom))
        return LayerShapes([at_axis(bottom, axis, count([bottom[axis], self.tiles]))])


@kind("Crop", "crop_param", bottoms=2, programs=("bvlc",))
class Crop(Layer):
    """crop_layer.cpp: bottom 0 cut to bottom 1's sizes, from ``axis`` on."""

    axis: int
    offset: tuple[int, ...]

    @property
    def memory(self) -> Memory:
        """Caffe makes a copy."""
        return Memory.PART

    def offsets(self, axes: int) -> tuple[int, ...]:
        """Where the cut begins along each axis from :attr:`axis` on."""
        cut = axes - self.axis_of(self.axis, axes)
        if len(self.offset) > 1 and len(self.offset) != cut:
            self.fail(
                "offset has the wrong number of values",
                expected=f"0, 1 or {cut}",
                got=len(self.offset),
            )
        return self.offset * cut if len(self.offset) == 1 else self.offset or (0,) * cut

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """As many axes in both."""
        bottom, reference = bottoms
        axis = self.axis_of(self.axis, len(bottom))
        if len(reference) != len(bottom):
            self.fail("bottoms must have as many axes", expected=len(bottom), got=len(reference))
        offsets = self.offsets(len(bottom))
        for i, (n, size, offset) in enumerate(
            zip(bottom[axis:], reference[axis:], offsets, strict=True), start=axis
        ):
            if n is not None and size is not None and offset + size > n:
                self.fail(
                    f"the crop exceeds axis {i}",
                    expected=f"offset + size <= {n}",
                    got=f"{offset} + {size}",
                )
        return LayerShapes([(*bottom[:axis], *reference[axis:])])


@kind("Reduction", "reduction_param")
class Reduction(Layer):
    """reduction_layer.cpp: the axes from ``axis`` on are reduced to nothing."""

    operation: str
    axis: int
    coeff: float

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The top has the axes that stand before the first one reduced."""
        return LayerShapes([bottoms[0][: self.axis_of(self.axis, len(bottoms[0]))]])


@kind("ArgMax", "argmax_param", v1="ARGMAX")
class ArgMax(Layer):
    """argmax_layer.cpp: over one axis, or over everything but the first.

    The v1 fork goes over the channels and puts indices, then maxima, into the top's.
    """

    out_max_val: bool
    top_k: int
    axis: int | None = None

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The top has one value, or ``top_k`` of them, in place of the scores compared."""
        (bottom,) = bottoms
        top: Shape
        if self.is_legacy:
            candidates = bottom[1]
            top = at_axis(bottom, 1, self.top_k * (2 if self.out_max_val else 1))
        elif self.axis is not None:
            axis = self.axis_of(self.axis, len(bottom))
            candidates = bottom[axis]
            top = at_axis(bottom, axis, self.top_k)
        else:
            candidates = count(bottom[1:])
            top = (bottom[0], 2 if self.out_max_val else 1, self.top_k)
            top = (*top, *[1] * (len(bottom) - 3))
        if self.top_k < 1 or (candidates is not None and self.top_k > candidates):
            self.fail("bad top_k", expected=f"1..{candidates}", got=self.top_k)
        return LayerShapes([top])


@kind("BatchReindex", bottoms=2)
class BatchReindex(Layer):
    """batch_reindex_layer.cpp: bottom 1 lists the items of bottom 0 to take."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, ...) and (M,) -> (M, ...)."""
        if len(bottoms[1]) != 1:
            self.fail("bottom 1 must have one axis", got=show(bottoms[1]))
        return LayerShapes([(bottoms[1][0], *bottoms[0][1:])])


@kind("Filter", bottoms=(2, None), tops=(1, None))
class Filter(Layer):
    """filter_layer.cpp: items whose selector, the last bottom, is not 0; how many is data."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, ...) each -> (?, ...) each."""
        *data, selector = bottoms
        if len(self.tops) != len(data):
            self.fail("needs a top per bottom but the last", expected=len(data), got=len(self.tops))
        if any(size not in (1, None) for size in selector[1:]):
            self.fail("the selector has more than one value per item", got=show(selector))
        for number, bottom in enumerate(data):
            self.require_equal(
                f"batch sizes of selector and bottom {number}", selector[0], bottom[0]
            )
        return LayerShapes([(None, *bottom[1:]) for bottom in data])
