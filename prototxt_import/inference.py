"""The shape of every blob and parameter of a network, without running anything."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from prototxt_import.errors import CaffeImportError
from prototxt_import.layers import Layer, LayerShapes, Shape, count
from prototxt_import.limits import MAX_BLOB_BYTES, MAX_PARAMETER_BYTES, check_shape
from prototxt_import.net import Net
from prototxt_import.schedule import Schedule, Value

__all__ = [
    "BlobMemory",
    "NetShapes",
    "ShapedLayer",
    "blob_memory",
    "check_blob_bytes",
    "check_parameter_bytes",
    "infer_net",
]


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
            shapes = layer.shapes(bottoms)
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
        # What a layer without bottoms makes is as large as the file asks for.
        filled = [] if item.bottoms or item.layer.fillers() else item.shapes.tops
        total += sum(map(_bytes, [*item.shapes.params, *filled]))
        MAX_PARAMETER_BYTES.check(
            total,
            "the network's parameters are too large, in bytes",
            file=file,
            layer=item.layer.name,
        )


@dataclass(frozen=True)
class BlobMemory:
    """What the blobs of a forward pass take, in values; None where a size is not known.

    An in-place layer, and one whose top is another view of its bottom, takes no memory of its own.

    Attributes:
        inputs: before the first layer runs.
        live: while each layer runs: blobs that somebody still needs, inputs too.
        everything: every blob kept, as for gradients.
    """

    inputs: int | None
    live: list[int | None]
    everything: int | None


def blob_memory(net: Net, shapes: NetShapes) -> BlobMemory:
    """What the blobs of a forward pass take at each layer's turn.

    Args:
        net: the network.
        shapes: of all blobs, for the inputs in question.
    """
    layers = [item.layer for item in shapes.layers]
    inputs = [name for name in net.inputs if name in shapes.blobs]
    made = {top for layer in layers for top in layer.tops}
    outputs = [name for name in net.outputs if name in made or name in inputs]
    schedule = Schedule(layers, inputs, outputs)
    first = {name: net.inputs[name].shape for name in inputs}
    first.update({name: shape for name, shape in shapes.blobs.items() if name not in made})
    for item in reversed(shapes.layers):  # an input that a layer overwrites is as large as that
        first.update(zip(item.layer.bottoms, item.bottoms, strict=True))
    sizes = {Value(name, 0): count(first[name]) for name in inputs}
    ends: defaultdict[int, list[Value]] = defaultdict(list)
    for home, last in schedule.last_use.items():
        ends[last].append(home)
    before = None if None in sizes.values() else _known(sizes.values())
    live: list[int | None] = []
    in_use, unknown = _known(sizes.values()), sum(size is None for size in sizes.values())
    for i, (item, turn) in enumerate(zip(shapes.layers, schedule.turns, strict=True)):
        for value, shape in zip(turn.writes, item.shapes.tops, strict=True):
            home = schedule.home[value]
            if home not in sizes:
                sizes[home] = count(shape)
                in_use, unknown = in_use + (sizes[home] or 0), unknown + (sizes[home] is None)
        live.append(None if unknown else in_use)
        for home in ends[i]:
            in_use, unknown = in_use - (sizes[home] or 0), unknown - (sizes[home] is None)
    everything = None if None in sizes.values() else _known(sizes.values())
    return BlobMemory(before, live, everything)


def check_blob_bytes(shapes: NetShapes, net: Net, *, keep: bool) -> None:
    """Refuse a forward pass whose blobs, float32, are larger than ``MAX_BLOB_BYTES``.

    Args:
        shapes: of all blobs, for the inputs in question; unknown ones count as nothing.
        net: the network.
        keep: all blobs stay until the end; otherwise each is freed after its last reader.

    Raises:
        CaffeImportError: naming the layer with which the blobs go over the limit.
    """
    memory = blob_memory(net, shapes)
    kept = 0
    for item, live in zip(shapes.layers, memory.live, strict=True):
        kept += sum(map(_bytes, item.shapes.tops))
        in_use = kept if keep else 4 * (live or 0)
        copy = item.layer.padded(item.bottoms[0]) if item.bottoms else None
        MAX_BLOB_BYTES.check(
            in_use + (_bytes(copy) if copy else 0),
            "the blobs that exist at the same time are too large, in bytes",
            file=net.file,
            layer=item.layer.name,
        )


def _known(counts: Iterable[int | None]) -> int:
    return sum(size or 0 for size in counts)


def _bytes(shape: Shape) -> int:
    return 4 * (count(shape) or 0)
