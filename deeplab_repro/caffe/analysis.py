"""What a network costs and sees without running it: parameters, multiply-adds, receptive fields."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction
from math import prod
from typing import Any

import numpy as np

from prototxt_import import Net, Shape, ShapedLayer, infer_net
from prototxt_import.matching import shared_parameters
from prototxt_import.shapes import conv_window, interp, pooling

__all__ = ["Field", "LayerCost", "Memory", "analyse", "memory"]

Weights = Mapping[str, Sequence[np.ndarray[Any, Any]]]
_CONVOLUTIONS = ("Convolution", "Deconvolution", "Im2col")
#: Layers whose top is their bottom's memory, seen another way; Dropout in the TEST phase.
_VIEWS = ("Split", "Flatten", "Reshape", "Dropout")
_BYTES = 4  # float32


@dataclass(frozen=True)
class Field:
    """What one value of a blob sees of the first input, along height and width.

    Attributes:
        size: receptive field in pixels.
        stride: input pixels between neighbouring values.
    """

    size: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    stride: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))

    def through(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Field:
        """Behind a window of ``kernel`` (holes included) that moves by ``stride``."""
        size = [f + (k - 1) * s for f, k, s in zip(self.size, kernel, self.stride, strict=True)]
        steps = [s * move for s, move in zip(self.stride, stride, strict=True)]
        return Field((size[0], size[1]), (steps[0], steps[1]))


@dataclass(frozen=True)
class LayerCost:
    """One row of ``inspect``.

    Attributes:
        name: of the layer.
        type: of the layer.
        tops: blob -> shape; None for a size that is not known.
        parameters: values it learns or keeps, those that it shares with an earlier layer left out.
        shared: values it shares with an earlier layer.
        multiply_adds: of a convolution or inner product, padding counted; None if not known.
        useful_multiply_adds: those alone whose value lies inside the map, not in its padding.
        kernel: of a window, (h, w).
        stride: of a window.
        rate: dilation of a convolution.
        field: what a value of the first top sees; None where position has no meaning any more.
    """

    name: str
    type: str
    tops: dict[str, Shape]
    parameters: int | None
    shared: int
    multiply_adds: int | None
    useful_multiply_adds: int | None
    kernel: tuple[int, ...] | None = None
    stride: tuple[int, ...] | None = None
    rate: tuple[int, ...] | None = None
    field: Field | None = None


@dataclass(frozen=True)
class Memory:
    """What a forward pass keeps, in bytes of float32; None where a size is not known.

    Attributes:
        weights: parameters, shared ones once.
        peak: blobs that live at one time, inputs too, each freed after its last reader.
        peak_layer: the layer that runs at that time.
        all_blobs: every blob kept, as for gradients or ``compare``.
    """

    weights: int | None
    peak: int | None
    peak_layer: str
    all_blobs: int | None


def analyse(
    net: Net, inputs: dict[str, Shape] | None = None, weights: Weights | None = None
) -> list[LayerCost]:
    """One row a layer, in running order.

    Args:
        net: the network.
        inputs: input sizes in place of the declared ones.
        weights: layer -> blobs, which tell the parameters' sizes where the inputs' are not known.
    """
    shapes = infer_net(net, inputs)
    shared = shared_parameters(shapes)
    fields: dict[str, Field | None] = dict.fromkeys(net.inputs, Field())
    rows = []
    for item in shapes.layers:
        layer = item.layer
        field = _field(item, [fields[bottom] for bottom in layer.bottoms])
        fields.update(dict.fromkeys(layer.tops, field))
        kernel = stride = rate = None
        if layer.type in _CONVOLUTIONS:
            window = conv_window(layer, max(1, len(item.bottoms[0]) - 2))
            kernel, stride, rate = window.kernel, window.stride, window.dilation
        elif layer.type == "Pooling":
            pool = pooling(layer)
            kernel, stride = pool.kernel, pool.stride
        counts = _parameters(item, weights)
        borrowed = [(layer.name, i) in shared for i in range(len(counts))]
        own = [count for count, other in zip(counts, borrowed, strict=True) if not other]
        rows.append(
            LayerCost(
                layer.name,
                layer.type,
                dict(zip(layer.tops, item.shapes.tops, strict=True)),
                None if None in own else sum(count or 0 for count in own),
                sum(count or 0 for count, other in zip(counts, borrowed, strict=True) if other),
                _multiply_adds(item),
                _useful_multiply_adds(item),
                kernel,
                stride,
                rate,
                field,
            )
        )
    return rows


def _count(shape: Shape) -> int | None:
    return None if None in shape else prod(size for size in shape if size is not None)


def memory(
    net: Net, inputs: dict[str, Shape] | None = None, weights: Weights | None = None
) -> Memory:
    """What a forward pass of ``net`` keeps, buffers inside a layer aside.

    An in-place layer, and one whose top is another view of its bottom, takes no memory of its own.

    Args:
        net: the network.
        inputs: input sizes in place of the declared ones.
        weights: as for :func:`analyse`.
    """
    shapes = infer_net(net, inputs)
    shared = shared_parameters(shapes)
    parameters = _sum(
        count
        for item in shapes.layers
        for i, count in enumerate(_parameters(item, weights))
        if (item.layer.name, i) not in shared
    )
    last_use = {blob: i for i, item in enumerate(shapes.layers) for blob in _touched(item)}
    last_use.update(dict.fromkeys(net.outputs, len(shapes.layers)))
    sizes = {name: _count((inputs or {}).get(name, i.shape)) for name, i in net.inputs.items()}
    owner = {name: name for name in sizes}  # blob -> whose memory it lies in
    freed_at = {name: last_use.get(name, -1) for name in sizes}
    everything, peak, where = list(sizes.values()), _sum(sizes.values()), ""
    for i, item in enumerate(shapes.layers):
        layer = item.layer
        for k, (top, shape) in enumerate(zip(layer.tops, item.shapes.tops, strict=True)):
            if layer.is_in_place(k):
                continue
            is_view = layer.type in _VIEWS and (layer.type != "Dropout" or net.phase == "TEST")
            owner[top] = owner[layer.bottoms[0]] if is_view else top
            if not is_view:
                sizes[top] = _count(shape)
                everything.append(sizes[top])
            until = last_use.get(top, i)
            freed_at[owner[top]] = max(freed_at.get(owner[top], i), until)
        live = _sum(size for name, size in sizes.items() if freed_at[name] >= i)
        if peak is None or live is None:
            peak, where = None, ""
        elif live > peak:
            peak, where = live, layer.name
        sizes = {name: size for name, size in sizes.items() if freed_at[name] > i}
    return Memory(_in_bytes(parameters), _in_bytes(peak), where, _in_bytes(_sum(everything)))


def _in_bytes(values: int | None) -> int | None:
    return None if values is None else values * _BYTES


def _parameters(item: ShapedLayer, weights: Weights | None) -> list[int | None]:
    """Number of values of each blob."""
    counts = [_count(shape) for shape in item.shapes.params]
    there = (weights or {}).get(item.layer.name, ())
    if len(there) == len(counts):
        return [blob.size if n is None else n for n, blob in zip(counts, there, strict=True)]
    return counts


def _touched(item: ShapedLayer) -> list[str]:
    return [*item.layer.bottoms, *item.layer.tops]


def _sum(counts: Iterable[int | None]) -> int | None:
    total = 0
    for count in counts:
        if count is None:
            return None
        total += count
    return total


def _multiply_adds(item: ShapedLayer) -> int | None:
    """Products of weights with values; everything else is small beside them."""
    kind = item.layer.type
    if kind not in ("Convolution", "Deconvolution", "InnerProduct"):
        return 0
    weight = _count(item.shapes.params[0])
    # Each weight meets every position of the map that the window moves over once.
    over = item.bottoms[0] if kind == "Deconvolution" else item.shapes.tops[0]
    if kind == "InnerProduct":
        positions = _count(over[: item.layer.spec.inner_product_param.axis])
    else:
        pictures, spatial = _count(over[:1]), _count(over[2:])
        positions = None if pictures is None or spatial is None else pictures * spatial
        positions = None if positions is None else positions * len(item.bottoms)
    return None if weight is None or positions is None else weight * positions


def _useful_multiply_adds(item: ShapedLayer) -> int | None:
    """As :func:`_multiply_adds`, without the products with padding.

    A tap ``(dy, dx)`` of a 3 x 3 kernel of rate r and stride 1, padded by r, meets
    (H - |dy| r)(W - |dx| r) pixels of an H x W map; in general each axis is counted by itself.
    """
    if item.layer.type not in ("Convolution", "Deconvolution"):
        return _multiply_adds(item)
    # A deconvolution is the same with the two maps exchanged: what it writes beyond is cropped.
    small, large = item.shapes.tops[0], item.bottoms[0]
    if item.layer.type == "Deconvolution":
        small, large = large, small
    window = conv_window(item.layer, max(1, len(large) - 2))
    taps = 1
    for n, out, kernel, stride, pad, rate in zip(
        large[2:], small[2:], window.kernel, window.stride, window.pad, window.dilation, strict=True
    ):
        if n is None or out is None:
            return None
        taps *= sum(_inside(n, out, stride, tap * rate - pad) for tap in range(kernel))
    filters, pictures = _count(item.shapes.params[0][:2]), _count(large[:1])
    if filters is None or pictures is None:
        return None
    return filters * pictures * taps * len(item.bottoms)


def _inside(n: int, out: int, stride: int, offset: int) -> int:
    """How many of ``range(out)`` have ``0 <= i * stride + offset < n``."""
    first = max(0, -(offset // stride))  # the quotient rounded up, of -offset
    last = min(out - 1, (n - 1 - offset) // stride)
    return max(0, last - first + 1)


def _field(item: ShapedLayer, below: list[Field | None]) -> Field | None:
    layer = item.layer
    known = [field for field in below if field is not None]
    if not known or len(known) < len(below):
        return None
    field = Field(
        size=(max(f.size[0] for f in known), max(f.size[1] for f in known)),
        stride=(max(f.stride[0] for f in known), max(f.stride[1] for f in known)),
    )
    if layer.type in ("Convolution", "Im2col") and len(item.bottoms[0]) == 4:
        window = conv_window(layer, 2)
        spread = tuple(d * (k - 1) + 1 for k, d in zip(window.kernel, window.dilation, strict=True))
        return field.through(spread, window.stride)
    if layer.type == "Pooling":
        pool = pooling(layer)
        return None if pool.kernel is None else field.through(pool.kernel, pool.stride)
    if layer.type == "Interp":
        return _interpolated(item, field)
    if layer.type in ("InnerProduct", "Flatten", "Reshape", "SPP", "Deconvolution"):
        return None
    return field


def _interpolated(item: ShapedLayer, field: Field) -> Field | None:
    """Bilinear between two neighbours, unless each value falls on a neighbour."""
    how = interp(item.layer)
    crop = how.pad_beg + how.pad_end
    size, stride = [], []
    bottom, top = item.bottoms[0], item.shapes.tops[0]
    pairs = zip(bottom[2:], top[2:], field.size, field.stride, strict=True)
    for before, after, seen, step in pairs:
        if before is None or after is None:
            return None
        ratio = Fraction(before + crop - 1, after - 1) if after > 1 else Fraction(1)
        on_grid = ratio.denominator == 1
        size.append(seen if on_grid else seen + step)
        stride.append(step * ratio)
    return Field((size[0], size[1]), (stride[0], stride[1]))
