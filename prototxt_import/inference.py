"""The shape of every blob and parameter of a network, without running anything."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prototxt_import.errors import CaffeImportError
from prototxt_import.limits import MAX_BLOB_BYTES, MAX_PARAMETER_BYTES, check_shape
from prototxt_import.net import Layer, Net, Shape
from prototxt_import.shapes import LayerShapes, conv_window, count, infer, pooling

__all__ = ["NetShapes", "ShapedLayer", "check_blob_bytes", "check_parameter_bytes", "infer_net"]


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
        check_shape(blobs[name], f"input '{name}'", file=net.file)
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


def check_parameter_bytes(shapes: NetShapes, file: object | None = None) -> None:
    """Refuse a network whose parameters are larger than ``MAX_PARAMETER_BYTES``.

    For whoever is about to allocate them: a prototxt of a hundred bytes can ask for any number.
    What DummyData fills counts too; sizes that are not known count as nothing.

    Raises:
        CaffeImportError: naming the layer with which the sum goes over the limit.
    """
    total = 0
    for item in shapes.layers:
        filled = item.shapes.tops if item.layer.type == "DummyData" else []
        total += sum(map(_bytes, [*item.shapes.params, *filled]))
        MAX_PARAMETER_BYTES.check(
            total,
            "the network's parameters are too large, in bytes",
            file=file,
            layer=item.layer.name,
        )


def check_blob_bytes(shapes: NetShapes, net: Net, *, keep: bool) -> None:
    """Refuse a forward pass whose blobs, float32, are larger than ``MAX_BLOB_BYTES``.

    Args:
        shapes: of all blobs, for the inputs in question; unknown ones count as nothing.
        net: the network.
        keep: all blobs stay until the end; otherwise each is freed after its last reader.

    Raises:
        CaffeImportError: naming the layer with which the blobs go over the limit.
    """
    last_use = {
        name: i
        for i, item in enumerate(shapes.layers)
        for name in (*item.layer.bottoms, *item.layer.tops)
    }
    made = {top for item in shapes.layers for top in item.layer.tops}
    alive = {name: _bytes(shape) for name, shape in shapes.blobs.items() if name not in made}
    in_use = sum(alive.values())
    outputs = set(net.outputs)
    for i, item in enumerate(shapes.layers):
        for top, shape in zip(item.layer.tops, item.shapes.tops, strict=True):
            in_use += _bytes(shape) - alive.get(top, 0)
            alive[top] = _bytes(shape)
        MAX_BLOB_BYTES.check(
            in_use + _padding_bytes(item),
            "the blobs that exist at the same time are too large, in bytes",
            file=net.file,
            layer=item.layer.name,
        )
        if not keep:
            for name in {*item.layer.bottoms, *item.layer.tops} - outputs:
                if last_use[name] == i:
                    in_use -= alive.pop(name, 0)


def _padding_bytes(item: ShapedLayer) -> int:
    """Of a copy of the bottom with zeros around it: a few bytes of text make it terabytes."""
    layer, bottom = item.layer, item.bottoms[0] if item.bottoms else ()
    if layer.type in ("Convolution", "Im2col"):
        axis = layer.spec.convolution_param.axis % len(bottom)
        pads: tuple[int, ...] = conv_window(layer, len(bottom) - axis - 1).pad
    elif layer.type == "Pooling":
        pads = pooling(layer).pad
    else:
        return 0
    outer, maps = bottom[: -len(pads) or None], bottom[len(bottom) - len(pads) :]
    padded = [n and n + 2 * pad for n, pad in zip(maps, pads, strict=True)]
    return _bytes((*outer, *padded)) if any(pads) else 0


def _bytes(shape: Shape) -> int:
    return 4 * (count(shape) or 0)
