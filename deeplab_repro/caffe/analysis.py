"""What a network costs and sees without running it: parameters, multiply-adds, receptive fields."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from prototxt_import import Net, Shape, ShapedLayer, infer_net
from prototxt_import.inference import blob_memory
from prototxt_import.layers import Field, count
from prototxt_import.matching import shared_parameters

__all__ = ["Field", "LayerCost", "Memory", "analyse", "memory"]

Weights = Mapping[str, Sequence[np.ndarray[Any, Any]]]
_BYTES = 4  # float32


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
        window = layer.window(item.bottoms[0]) if item.bottoms else None
        counts = _parameters(item, weights)
        borrowed = [(layer.name, i) in shared for i in range(len(counts))]
        own = [size for size, other in zip(counts, borrowed, strict=True) if not other]
        rows.append(
            LayerCost(
                layer.name,
                layer.type,
                dict(zip(layer.tops, item.shapes.tops, strict=True)),
                None if None in own else sum(size or 0 for size in own),
                sum(size or 0 for size, other in zip(counts, borrowed, strict=True) if other),
                layer.multiply_adds(item.bottoms, item.shapes),
                layer.useful_multiply_adds(item.bottoms, item.shapes),
                None if window is None else window.kernel,
                None if window is None else window.stride,
                # A pool's window has no holes.
                window.dilation if window and layer.family == "weights" else None,
                field,
            )
        )
    return rows


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
    own = [
        size
        for item in shapes.layers
        for i, size in enumerate(_parameters(item, weights))
        if (item.layer.name, i) not in shared
    ]
    parameters = None if None in own else sum(size or 0 for size in own)
    blobs = blob_memory(net, shapes)
    peak, where = blobs.inputs, ""
    for item, live in zip(shapes.layers, blobs.live, strict=True):
        if peak is None or live is None:
            peak, where = None, ""
        elif live > peak:
            peak, where = live, item.layer.name
    return Memory(_in_bytes(parameters), _in_bytes(peak), where, _in_bytes(blobs.everything))


def _in_bytes(values: int | None) -> int | None:
    return None if values is None else values * _BYTES


def _parameters(item: ShapedLayer, weights: Weights | None) -> list[int | None]:
    """Number of values of each blob."""
    counts = [count(shape) for shape in item.shapes.params]
    there = (weights or {}).get(item.layer.name, ())
    if len(there) == len(counts):
        return [blob.size if n is None else n for n, blob in zip(counts, there, strict=True)]
    return counts


def _field(item: ShapedLayer, below: list[Field | None]) -> Field | None:
    known = [field for field in below if field is not None]
    if not known or len(known) < len(below) or not item.shapes.tops:
        return None
    return item.layer.receptive_field(Field.joined(known), item.bottoms[0], item.shapes.tops[0])
