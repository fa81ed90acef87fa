"""Layers that join, cut, repeat, pick and reduce."""

from __future__ import annotations

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register
from prototxt_import import layers as kinds

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

    layer: kinds.Concat

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Any shapes that agree outside the axis; a single bottom passes through."""
        if len(bottoms) == 1:
            return bottoms[0]
        return torch.cat(bottoms, self.layer.channel_axis(bottoms[0].dim()))


@register("Slice")
class Slice(CaffeLayer):
    """A bottom cut along an axis, at slice points or evenly (slice_layer.cpp)."""

    layer: kinds.Slice

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Any shape; the tops are views."""
        if self.num_tops == 1:
            return x
        cuts = list(self.layer.slice_point) or self.num_tops
        return torch.tensor_split(x, cuts, self.layer.channel_axis(x.dim()))


@register("Split")
class Split(CaffeLayer):
    """The bottom, as often as there are tops (split_layer.cpp)."""

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Any shape."""
        return x if self.num_tops == 1 else (x,) * self.num_tops


@register("Flatten")
class Flatten(CaffeLayer):
    """The axes ``axis`` to ``end_axis`` as one (flatten_layer.cpp).

    In the v1 fork all but the first, and two axes of size 1 behind.
    """

    layer: kinds.Flatten

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the top is a view."""
        if self.is_legacy:
            return x.flatten(1)[:, :, None, None]
        first, last = self.layer.ends(x.dim())
        return x.unsqueeze(first) if last < first else x.flatten(first, last)


@register("Reshape")
class Reshape(CaffeLayer):
    """New sizes for the axes from ``axis`` on; 0 copies, -1 infers (reshape_layer.cpp)."""

    layer: kinds.Reshape

    def forward(self, x: Tensor) -> Tensor:
        """Any shape; the top is a view."""
        first, axes = self.layer.start(x.dim()), self.layer.num_axes
        last = x.dim() if axes == -1 else first + axes
        sizes = [x.shape[first + i] if dim == 0 else dim for i, dim in enumerate(self.layer.shape)]
        return x.reshape([*x.shape[:first], *sizes, *x.shape[last:]])


@register("Tile")
class Tile(CaffeLayer):
    """The bottom repeated along an axis (tile_layer.cpp)."""

    layer: kinds.Tile

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        times = [1] * x.dim()
        times[self.layer.axis] = self.layer.tiles
        return x.repeat(times)


@register("Crop")
class Crop(CaffeLayer):
    """Bottom 0 cut to the sizes of bottom 1 from ``axis`` on (crop_layer.cpp)."""

    layer: kinds.Crop

    def forward(self, x: Tensor, reference: Tensor) -> Tensor:
        """Any shape, and one with as many axes; the top is a view."""
        first = self.layer.axis % x.dim()
        for axis, offset in enumerate(self.layer.offsets(x.dim()), start=first):
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

    layer: kinds.Reduction

    def forward(self, x: Tensor) -> Tensor:
        """Any shape -> its axes before ``axis``."""
        x = x.flatten(self.layer.axis)
        if self.layer.operation == "ASUM":
            x = x.abs()
        elif self.layer.operation == "SUMSQ":
            x = x.square()
        total = x.mean(-1) if self.layer.operation == "MEAN" else x.sum(-1)
        return total if self.layer.coeff == 1 else total * self.layer.coeff


@register("Softmax")
class Softmax(CaffeLayer):
    """Softmax over one axis (softmax_layer.cpp)."""

    layer: kinds.Softmax

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x.softmax(self.layer.axis)


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

    layer: kinds.ArgMax

    @property
    def axis(self) -> int | None:
        """The one axis it goes over, if it does not go over all but the first."""
        return 1 if self.is_legacy else self.layer.axis

    @torch.no_grad()
    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        axis = self.axis
        if axis is None:
            values, indices = largest_first(x.reshape(x.shape[0], -1), 1, self.layer.top_k)
        else:
            values, indices = largest_first(x, axis % x.dim(), self.layer.top_k)
        numbers = indices.to(x.dtype)
        if self.is_legacy:
            return torch.cat([numbers, values], 1) if self.layer.out_max_val else numbers
        if axis is not None:
            return values if self.layer.out_max_val else numbers
        top = torch.stack([numbers, values] if self.layer.out_max_val else [numbers], 1)
        return top.reshape(top.shape + (1,) * (x.dim() - 3))
