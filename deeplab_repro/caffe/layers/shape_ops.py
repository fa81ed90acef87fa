"""Layers that join, cut, repeat, pick and reduce."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register
from prototxt_import.shapes import canonical_axis, enum_name

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

__all__ = [
    "ArgMax",
    "BatchReindex",
    "Concat",
    "Crop",
    "Filter",
    "Flatten",
    "Reduction",
    "Reshape",
    "Slice",
    "Softmax",
    "Split",
    "Tile",
    "largest_first",
]


@register("Concat")
class Concat(CaffeLayer):
    """Bottoms one after the other along an axis (concat_layer.cpp)."""

    shares_memory = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.concat_param
        axis = spec.concat_dim if spec.HasField("concat_dim") else spec.axis
        self.axis = canonical_axis(layer, axis, len(bottoms[0]))

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Any shapes that agree outside the axis; a single bottom passes through."""
        return bottoms[0] if len(bottoms) == 1 else torch.cat(bottoms, self.axis)


@register("Slice")
class Slice(CaffeLayer):
    """A bottom cut along an axis, at slice points or evenly (slice_layer.cpp)."""

    shares_memory = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.slice_param
        axis = spec.slice_dim if spec.HasField("slice_dim") else spec.axis
        self.axis = canonical_axis(layer, axis, len(bottoms[0]))
        self.points: list[int] = list(spec.slice_point)

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Any shape; the tops are views."""
        if self.num_tops == 1:
            return x
        cuts = self.points or self.num_tops
        return torch.tensor_split(x, cuts, self.axis)


@register("Split")
class Split(CaffeLayer):
    """The bottom, as often as there are tops (split_layer.cpp)."""

    shares_memory = True

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Any shape."""
        return x if self.num_tops == 1 else (x,) * self.num_tops


@register("Flatten")
class Flatten(CaffeLayer):
    """The axes ``axis`` to ``end_axis`` as one (flatten_layer.cpp).

    In the v1 fork all but the first, and two axes of size 1 behind.
    """

    shares_memory = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.flatten_param
        self.first = canonical_axis(layer, spec.axis, len(bottoms[0]))
        self.last = canonical_axis(layer, spec.end_axis, len(bottoms[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the top is a view."""
        if self.is_legacy:
            return x.flatten(1)[:, :, None, None]
        if self.last < self.first:
            return x.unsqueeze(self.first)
        return x.flatten(self.first, self.last)


@register("Reshape")
class Reshape(CaffeLayer):
    """New sizes for the axes from ``axis`` on; 0 copies, -1 infers (reshape_layer.cpp)."""

    shares_memory = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.reshape_param
        self.first = canonical_axis(layer, spec.axis, len(bottoms[0]) + 1)
        self.num_axes: int = spec.num_axes
        self.dims: list[int] = list(spec.shape.dim)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the top is a view."""
        first = self.first
        last = x.dim() if self.num_axes == -1 else first + self.num_axes
        sizes = [x.shape[first + i] if dim == 0 else dim for i, dim in enumerate(self.dims)]
        return x.reshape([*x.shape[:first], *sizes, *x.shape[last:]])


@register("Tile")
class Tile(CaffeLayer):
    """The bottom repeated along an axis (tile_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.tile_param
        self.axis = canonical_axis(layer, spec.axis, len(bottoms[0]))
        self.tiles: int = spec.tiles

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        times = [1] * x.dim()
        times[self.axis] = self.tiles
        return x.repeat(times)


@register("Crop")
class Crop(CaffeLayer):
    """Bottom 0 cut to the sizes of bottom 1 from ``axis`` on (crop_layer.cpp)."""

    shares_memory = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.crop_param
        self.axis = canonical_axis(layer, spec.axis, len(bottoms[0]))
        axes = len(bottoms[0]) - self.axis
        offsets = list(spec.offset)
        self.offsets: list[int] = offsets * axes if len(offsets) == 1 else offsets or [0] * axes

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Any shape, and one with as many axes; the top is a view."""
        for axis, offset in enumerate(self.offsets, start=self.axis):
            x = x.narrow(axis, offset, reference.shape[axis])
        return x


@register("BatchReindex")
class BatchReindex(CaffeLayer):
    """Items of bottom 0 in the order that bottom 1 lists (batch_reindex_layer.cpp)."""

    def forward(self, x: Tensor, items: Tensor) -> Tensor:
        """(N, ...), (M,) -> (M, ...)."""
        numbers, _ = label_numbers(self, items, x.shape[0])
        return x.index_select(0, numbers)


@register("Filter")
class Filter(CaffeLayer):
    """Items whose selector, the last bottom, is not 0 (filter_layer.cpp)."""

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, ...) each, selector (N,) or (N, 1, ...) -> (M, ...) each; M depends on the data."""
        *data, selector = bottoms
        kept = selector.detach().reshape(-1).nonzero().squeeze(1)
        tops = tuple(x.index_select(0, kept) for x in data)
        return tops[0] if len(tops) == 1 else tops


@register("Reduction")
class Reduction(CaffeLayer):
    """Everything from ``axis`` on added up, in one of four ways, times ``coeff``.

    reduction_layer.cpp.
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.reduction_param
        self.axis = canonical_axis(layer, spec.axis, len(bottoms[0]))
        self.operation = enum_name(spec, "operation")
        self.coeff: float = spec.coeff

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> its axes before ``axis``."""
        x = x.flatten(self.axis)
        if self.operation == "ASUM":
            x = x.abs()
        elif self.operation == "SUMSQ":
            x = x.square()
        total = x.mean(-1) if self.operation == "MEAN" else x.sum(-1)
        return total if self.coeff == 1 else total * self.coeff


@register("Softmax")
class Softmax(CaffeLayer):
    """Softmax over one axis (softmax_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.axis = canonical_axis(layer, layer.spec.softmax_param.axis, len(bottoms[0]))

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.softmax(self.axis)


def largest_first(x: Tensor, axis: int, k: int = 1) -> tuple[Tensor, Tensor]:
    """The ``k`` largest values along an axis and their indices, largest first.

    Of equal values the one with the higher index goes first: Caffe sorts (value, index) pairs.
    """
    last, flipped = x.shape[axis] - 1, x.flip(axis)
    if k == 1:
        indices = flipped.argmax(axis, keepdim=True)
    else:
        order = flipped.sort(dim=axis, descending=True, stable=True).indices
        indices = order.narrow(axis, 0, k)
    return flipped.gather(axis, indices), last - indices


@register("ArgMax")
class ArgMax(CaffeLayer):
    """Indices, or values, of the largest (argmax_layer.cpp).

    Over one axis with ``axis``; else over everything but the first, the top being N x 1 x top_k,
    or N x 2 x top_k with the values behind the indices.  The v1 fork goes over the channels and
    puts the values, if asked for, behind the indices there.
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.argmax_param
        self.top_k: int = spec.top_k
        self.with_values = bool(spec.out_max_val)
        self.axis: int | None = None
        if self.is_legacy:
            self.axis = 1
        elif spec.HasField("axis"):
            self.axis = canonical_axis(layer, spec.axis, len(bottoms[0]))

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if self.axis is None:
            values, indices = largest_first(x.reshape(x.shape[0], -1), 1, self.top_k)
        else:
            values, indices = largest_first(x, self.axis, self.top_k)
        numbers = indices.to(x.dtype)
        if self.is_legacy:
            return torch.cat([numbers, values], 1) if self.with_values else numbers
        if self.axis is not None:
            return values if self.with_values else numbers
        top = torch.stack([numbers, values] if self.with_values else [numbers], 1)
        return top.reshape(top.shape + (1,) * (x.dim() - 3))
