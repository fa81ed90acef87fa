"""Which blob of a weights file goes where in a network (net.cpp, CopyTrainedLayersFrom)."""

from __future__ import annotations

from collections.abc import Container, Mapping, Sequence
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np

from prototxt_import.errors import CaffeImportError
from prototxt_import.inference import NetShapes, ShapedLayer
from prototxt_import.layers import Shape
from prototxt_import.words import show

__all__ = ["WeightMatch", "match_blobs", "match_weights", "same_shape", "shared_parameters"]

Key = tuple[str, int]  # layer name, blob number


@dataclass
class WeightMatch:
    """What loading a weights file into a network does.

    Attributes:
        copied: layers whose blobs the file fills, in file order.
        unused: layers of the file that the network does not have, or has without blobs.
        missing: layers of the network for some of whose blobs the file has nothing.
        conflicts: one line for each shared parameter whose copies in the file differ.
        reshaped: layers whose blobs have the same values in another shape in the file.
        unfit: one line for each layer whose blobs do not fit; see ``strict`` of
            :func:`match_blobs`.
    """

    copied: list[str] = field(default_factory=list)
    unused: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    conflicts: list[str] = field(default_factory=list)
    reshaped: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line: how many layers, and the first few names of those that stand out."""
        parts = [f"{len(self.copied)} layers copied"]
        for what in ("missing", "unused", "reshaped", "unfit", "conflicts"):
            names: list[str] = getattr(self, what)
            if names:
                more = ", ..." if names[3:] else ""
                parts.append(f"{len(names)} {what} ({', '.join(names[:3])}{more})")
        return ", ".join(parts)


def shared_parameters(shapes: NetShapes) -> dict[Key, Key]:
    """Blob -> the blob that it shares memory with (net.cpp, AppendParam): the first of its name.

    Raises:
        CaffeImportError: two blobs of one name differ in shape (in size, if PERMISSIVE), or a
            layer has more ``param`` entries than blobs.
    """
    owners: dict[str, tuple[Key, Shape]] = {}
    shared: dict[Key, Key] = {}
    for item in shapes.layers:
        layer, params = item.layer, item.shapes.params
        for i, blob in enumerate(layer.blobs):
            if not blob.share_name:
                continue
            key, shape = owners.setdefault(blob.share_name, ((layer.name, i), params[i]))
            if key == (layer.name, i):
                continue
            if not same_shape(params[i], shape, count_only=blob.permissive):
                raise CaffeImportError(
                    f"shares parameter '{blob.share_name}' with layer '{key[0]}'",
                    layer=layer.name,
                    expected=f"shape {show(shape)}",
                    got=show(params[i]),
                )
            shared[layer.name, i] = key
    return shared


def match_weights(
    shapes: NetShapes, weights: Mapping[str, Sequence[np.ndarray[Any, Any]]]
) -> WeightMatch:
    """Hold a weights file against a network.

    Raises:
        CaffeImportError: the blobs of a layer do not match it in number or shape.
    """
    layers: dict[str, ShapedLayer] = {}
    for item in shapes.layers:
        layers.setdefault(item.layer.name, item)  # of several, Caffe fills the first
    return match_blobs(
        {name: item.shapes.params for name, item in layers.items()},
        weights,
        shared=shared_parameters(shapes),
        # strict_dim: false (v1 fork) asks for no more than the same number of values.
        by_count={name for name, item in layers.items() if not item.layer.strict_dim},
    )


def match_blobs(
    wanted: Mapping[str, Sequence[Shape]],
    weights: Mapping[str, Sequence[np.ndarray[Any, Any]]],
    *,
    shared: Mapping[Key, Key],
    by_count: Container[str] = (),
    strict: bool = True,
) -> WeightMatch:
    """Hold blobs against the layers that want them.

    Args:
        wanted: layer -> shapes of its blobs.
        weights: layer -> blobs.
        shared: blob -> the blob that it shares memory with.
        by_count: layers whose blobs need to have no more than the right number of values.
        strict: False leaves out layers that do not fit, and says so in ``unfit``.

    Raises:
        CaffeImportError: the blobs of a layer do not match it in number or shape.
    """
    match = WeightMatch()
    written: dict[Key, tuple[str, np.ndarray[Any, Any]]] = {}
    for name, blobs in weights.items():
        expected = wanted.get(name)
        if expected is None or not (blobs or expected):
            match.unused.append(name)
            continue
        try:
            _check_layer(name, expected, blobs, count_only=name in by_count)
        except CaffeImportError as error:
            if strict:
                raise
            match.unfit.append(str(error))
            continue
        match.copied.append(name)
        if any(blob.shape != tuple(shape) for shape, blob in zip(expected, blobs, strict=True)):
            match.reshaped.append(name)
        for i, blob in enumerate(blobs):
            key = shared.get((name, i), (name, i))
            other, first = written.setdefault(key, (name, blob))
            if first is not blob and not np.array_equal(
                first.ravel(), blob.ravel(), equal_nan=True
            ):
                match.conflicts.append(
                    f"layers '{other}' and '{name}' share blob {i}, but their copies in the file"
                    f" differ: that of '{name}' is used"
                )
            written[key] = name, blob
    match.missing = [
        name
        for name, expected in wanted.items()
        if any(shared.get((name, i), (name, i)) not in written for i in range(len(expected)))
    ]
    return match


def _check_layer(
    name: str,
    expected: Sequence[Shape],
    blobs: Sequence[np.ndarray[Any, Any]],
    *,
    count_only: bool,
) -> None:
    if len(expected) != len(blobs):
        raise CaffeImportError(
            "the weights have another number of blobs",
            layer=name,
            expected=len(expected),
            got=len(blobs),
        )
    for i, (shape, blob) in enumerate(zip(expected, blobs, strict=True)):
        if not same_shape(blob.shape, shape, count_only=count_only):
            raise CaffeImportError(
                f"blob {i} has another shape",
                layer=name,
                expected=show(shape),
                got=show(blob.shape),
            )


def same_shape(got: Shape, expected: Shape, *, count_only: bool = False) -> bool:
    """Whether Caffe takes a blob of one shape for one of another (blob.cpp, ShapeEquals).

    Old files give every blob four axes, biases as 1x1x1xN.

    Args:
        got: The shape that a file states; None for a size that is not known, which fits any.
        expected: The shape that is wanted.
        count_only: The same number of values is enough.
    """
    if count_only:
        known = None not in got and None not in expected
        return not known or prod(got) == prod(expected)  # type: ignore[arg-type]
    if 4 in (len(got), len(expected)):
        got, expected = ((1,) * (4 - len(shape)) + tuple(shape) for shape in (got, expected))
    return len(got) == len(expected) and all(
        a is None or b is None or a == b for a, b in zip(got, expected, strict=True)
    )
