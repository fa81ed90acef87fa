"""The shape of every blob and parameter of a network, without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prototxt_import.errors import CaffeImportError
from prototxt_import.net import Layer, Net, Shape
from prototxt_import.shapes import LayerShapes, infer

__all__ = ["NetShapes", "ShapedLayer", "infer_net"]


@dataclass(frozen=True)
class ShapedLayer:
    """A layer with the shapes around it."""

    layer: Layer
    bottoms: list[Shape]
    shapes: LayerShapes


@dataclass(frozen=True)
class NetShapes:
    """All shapes of a network.

    Attributes:
        blobs: blob -> shape of the last value written to it; None for an unknown size.
        layers: in running order.
    """

    blobs: dict[str, Shape]
    layers: list[ShapedLayer]


def infer_net(
    net: Net, inputs: Mapping[str, Shape] | None = None, *, without: Iterable[str] = ()
) -> NetShapes:
    """Infer all shapes from those of the inputs.

    Args:
        net: the network.
        inputs: shapes in place of the declared ones.
        without: inputs that are not given; what depends on them is left out.

    Raises:
        CaffeImportError: shapes that do not fit a layer, which is named.
    """
    blobs: dict[str, Shape] = {name: declared.shape for name, declared in net.inputs.items()}
    for name, shape in (inputs or {}).items():
        if name not in blobs:
            raise CaffeImportError(
                f"has no input '{name}'", file=net.file, expected=f"one of {list(net.inputs)}"
            )
        blobs[name] = tuple(shape)
    absent = set(without)
    for name in absent:
        del blobs[name]
    layers = []
    for layer in net.layers:
        if absent and not absent.isdisjoint(layer.bottoms):
            absent.update(layer.tops)
            continue
        bottoms = [blobs[bottom] for bottom in layer.bottoms]
        try:
            shapes = infer(layer, bottoms)
        except CaffeImportError as error:
            raise (error.with_file(net.file) if net.file else error) from None
        blobs.update(zip(layer.tops, shapes.tops, strict=True))
        layers.append(ShapedLayer(layer, bottoms, shapes))
    return NetShapes(blobs, layers)
