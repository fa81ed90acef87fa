"""A single layer out of a few words of prototxt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deeplab_repro.caffe.layers import CaffeLayer, build
from deeplab_repro.caffe.quirks import Quirks
from prototxt_import import DialectReport, Layer, ShapedLayer, parse_net


def layer(
    body: str, *bottoms: Sequence[int], tops: int = 1, dialect: str = "bvlc", phase: str = "TEST"
) -> Layer:
    """The layer that ``body`` describes, with bottoms of these shapes.

    In the v1 fork (dialect "dl1") the body is in the V1 format.
    """
    legacy = dialect == "dl1"
    lines = []
    for i, shape in enumerate(bottoms):
        dims = " ".join(f"dim: {n}" for n in shape)
        lines.append(f'input: "b{i}" ')
        if legacy:
            lines.append(" ".join(f"input_dim: {n}" for n in shape))
        else:
            lines.append(f"input_shape {{ {dims} }}")
    wires = [f'bottom: "b{i}"' for i in range(len(bottoms))]
    wires += [f'top: "t{i}"' for i in range(tops)]
    lines.append(f'{"layers" if legacy else "layer"} {{ name: "op" {body} {" ".join(wires)} }}')
    return parse_net("\n".join(lines), phase=phase, dialect=dialect)["op"]


def make(body: str, *bottoms: Sequence[int], quirks: bool = True, **options: Any) -> CaffeLayer:
    """The module of :func:`layer`, in the mode of its phase."""
    module = shaped(layer(body, *bottoms, **options), bottoms, quirks)
    module.initialise()
    return module.train(options.get("phase") == "TRAIN")


def shaped(
    layer: Layer, bottoms: Sequence[Sequence[int | None]], quirks: bool = True
) -> CaffeLayer:
    """The module of a layer over bottoms of these shapes; its blobs are zero."""
    known = [tuple(shape) for shape in bottoms]
    faults = Quirks(DialectReport(layer.dialect), quirks)
    return build(ShapedLayer(layer, known, layer.shapes(known)), faults)


def run(body: str, *bottoms: Tensor, **options: Any) -> Any:
    """What the layer makes of ``bottoms``."""
    return make(body, *(x.shape for x in bottoms), **options)(*bottoms)


def row(*values: float) -> Tensor:
    """A (1, 1, 1, W) map that asks for its gradient."""
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, -1).requires_grad_()


def slope(y: Tensor, x: Tensor) -> list[float]:
    """The gradient of ``y``'s sum at ``x``, flat."""
    (grad,) = torch.autograd.grad(y.sum(), x)
    return grad.reshape(-1).tolist()
