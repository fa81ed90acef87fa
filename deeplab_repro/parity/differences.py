"""How two networks differ: layers, fields, shapes, weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from deeplab_repro.parity.agreement import Agreement, agreement
from prototxt_import import Net, Shape, infer_net
from prototxt_import.words import show

__all__ = ["Differences", "LayerDifference", "differences", "without_leading_ones"]

Weights = Mapping[str, Sequence[np.ndarray[Any, Any]]]
#: Fields that say when a layer exists; both networks have been filtered by them.
_RULES = frozenset(["name", "include", "exclude", "phase", "blobs"])


@dataclass(frozen=True)
class LayerDifference:
    """One thing in which a layer of both networks differs.

    Attributes:
        layer: its name.
        what: a field's path (``convolution_param.dilation``), ``type``, ``output NAME`` or
            ``blob N``.
        first: in the first network, as text.
        second: in the second.
    """

    layer: str
    what: str
    first: str
    second: str


@dataclass
class Differences:
    """How a first network differs from a second.

    Attributes:
        only_first: layers that the second lacks, in running order.
        only_second: layers that the first lacks.
        fields: types and parameters that differ.
        shapes: shapes of tops and blobs that differ.
        weights: blobs whose values differ, with their distance (the second being the reference).
        equal_blobs: number of blobs with equal values.
        in_both: number of layers that both have.
    """

    only_first: list[str] = field(default_factory=list)
    only_second: list[str] = field(default_factory=list)
    fields: list[LayerDifference] = field(default_factory=list)
    shapes: list[LayerDifference] = field(default_factory=list)
    weights: list[tuple[str, int, Agreement]] = field(default_factory=list)
    equal_blobs: int = 0
    in_both: int = 0

    def __bool__(self) -> bool:
        return bool(
            self.only_first or self.only_second or self.fields or self.shapes or self.weights
        )


def differences(
    first: Net | None,
    second: Net | None,
    first_weights: Weights,
    second_weights: Weights,
    inputs: dict[str, Shape] | None = None,
) -> Differences:
    """Compare two networks by the names of their layers.

    Args:
        first: a network; None where a file holds weights alone, and then only those are compared.
        second: the other.
        first_weights: layer -> blobs.
        second_weights: of the other.
        inputs: input sizes in place of the declared ones, where a network has such an input.
    """
    found = Differences()
    if first is not None and second is not None:
        _compare_nets(first, second, inputs or {}, found)
    else:
        found.only_first = [name for name in first_weights if name not in second_weights]
        found.only_second = [name for name in second_weights if name not in first_weights]
        found.in_both = len(first_weights) - len(found.only_first)
    for name in first_weights:
        if name in second_weights:
            _compare_blobs(name, first_weights[name], second_weights[name], found)
    return found


def _compare_nets(first: Net, second: Net, inputs: dict[str, Shape], found: Differences) -> None:
    sides = []
    for net in (first, second):
        own = {name: shape for name, shape in inputs.items() if name in net.inputs}
        sides.append({item.layer.name: item for item in infer_net(net, own).layers})
    for blob in first.inputs.keys() & second.inputs.keys():
        shapes = [tuple(inputs.get(blob, net.inputs[blob].shape)) for net in (first, second)]
        if shapes[0] != shapes[1]:
            found.shapes.append(LayerDifference("", f"input {blob}", *map(show, shapes)))
    found.only_first = [name for name in sides[0] if name not in sides[1]]
    found.only_second = [name for name in sides[1] if name not in sides[0]]
    for name, a in sides[0].items():
        if name not in sides[1]:
            continue
        b = sides[1][name]
        found.in_both += 1
        for path, values in _fields(a.layer.spec, b.layer.spec):
            found.fields.append(LayerDifference(name, path, *map(_text, values)))
        tops = zip(a.layer.tops, a.shapes.tops, b.shapes.tops, strict=False)
        pairs = [(f"output {top}", x, y) for top, x, y in tops]
        params = zip(a.shapes.params, b.shapes.params, strict=False)
        pairs += [
            (f"blob {i}", without_leading_ones(x), without_leading_ones(y))
            for i, (x, y) in enumerate(params)
        ]
        for what, x, y in pairs:
            if tuple(x) != tuple(y):
                found.shapes.append(LayerDifference(name, what, show(x), show(y)))


def without_leading_ones(shape: Shape) -> Shape:
    """A parameter's sizes without the ones that old files put before them: (1, 1, 1, 64) -> (64,).

    The v1 fork gives every blob four axes (blob.hpp of 2014), so that one bias has either shape.
    """
    leading = next((i for i, size in enumerate(shape) if size != 1), len(shape))
    return shape[leading:]


def _fields(a: Any, b: Any, prefix: str = "") -> Iterator[tuple[str, tuple[Any, Any]]]:
    """Paths and values of the fields that differ; one left out has its default."""
    stated = {f.name: f for message in (a, b) for f, _ in message.ListFields()}
    for descriptor in a.DESCRIPTOR.fields:
        name = descriptor.name
        if name not in stated or (not prefix and name in _RULES):
            continue
        x, y = getattr(a, name), getattr(b, name)
        repeated = hasattr(x, "add") or hasattr(x, "append")
        if descriptor.message_type is None or repeated:
            values = (list(x), list(y)) if repeated else (x, y)
            if values[0] != values[1]:
                if descriptor.enum_type is not None and not repeated:
                    names = descriptor.enum_type.values_by_number
                    values = names[x].name, names[y].name
                yield prefix + name, values
        else:
            yield from _fields(x, y, f"{prefix}{name}.")


def _text(value: Any) -> str:
    if isinstance(value, list):
        return "[" + ", ".join(" ".join(str(item).split()) for item in value) + "]"
    return f"{value:g}" if isinstance(value, float) else str(value)


def _compare_blobs(
    name: str,
    first: Sequence[np.ndarray[Any, Any]],
    second: Sequence[np.ndarray[Any, Any]],
    found: Differences,
) -> None:
    if len(first) != len(second):
        text = (f"{len(first)} blobs", f"{len(second)} blobs")
        found.shapes.append(LayerDifference(name, "blobs", *text))
    for i, (a, b) in enumerate(zip(first, second, strict=False)):
        if a.size == b.size and a.shape != b.shape:
            a = a.reshape(b.shape)  # old files give every blob four axes
        near = agreement(a, b)
        if near.rel == 0 and near.max == 0:
            found.equal_blobs += 1
        else:
            found.weights.append((name, i, near))
