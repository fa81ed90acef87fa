"""``.safetensors``: the weights, shared copies once, and the network's text in the metadata.

=====================  ==========================================================
metadata key           holds
=====================  ==========================================================
``caffe.prototxt``     the network as prototxt, in the spelling of its dialect
``caffe.dialect``      ``bvlc``, ``dl2`` or ``dl1``
``caffe.alternatives`` JSON: further dialects in which the original read the same, if any
``caffe.filtered``     ``"true"`` if the phase rules have been applied (a caffemodel)
``caffe.layers``       JSON: ``[[layer, [tensor, ...]], ...]`` in file order
=====================  ==========================================================

The tensor of blob ``i`` of a layer is called ``LAYER.i``.  A layer whose blob is a copy of
another's, because the two share a parameter by name, points to the other's tensor.
"""

from __future__ import annotations

import json
import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from math import prod
from typing import Any, Final, cast

import numpy as np
import safetensors

from prototxt_import.caffemodel import Array, Weights, write_values
from prototxt_import.dialect import DialectReport, RawNet
from prototxt_import.errors import CaffeImportError
from prototxt_import.files import open_file, replacing
from prototxt_import.limits import MAX_LAYERS, MAX_SHARED_COPIES, MAX_TEXT_BYTES
from prototxt_import.schema import DIALECTS, Dialect
from prototxt_import.text import parse_text
from prototxt_import.upgrade import upgrade_layer

__all__ = ["DTYPES", "read_safetensors", "write_safetensors", "write_tensors"]

#: The types of tensors, by the names that the format has for them.
DTYPES: Final = {
    np.dtype(name): short
    for name, short in (
        ("bool", "BOOL"),
        ("int8", "I8"),
        ("uint8", "U8"),
        ("int16", "I16"),
        ("uint16", "U16"),
        ("int32", "I32"),
        ("uint32", "U32"),
        ("int64", "I64"),
        ("uint64", "U64"),
        ("float16", "F16"),
        ("float32", "F32"),
        ("float64", "F64"),
        ("complex64", "C64"),
    )
}
#: Those that a blob of Caffe's can have.
_BLOB_DTYPES: Final = {np.dtype(np.float32): "F32", np.dtype(np.float64): "F64"}


def read_safetensors(
    path: str | os.PathLike[str], *, dialect: Dialect | None = None, want_weights: bool = True
) -> tuple[RawNet | None, bool, Weights]:
    """(network or None, whether its phase rules have been applied, weights).

    Args:
        path: the file.
        dialect: read the network in this one, whatever was recorded.
        want_weights: leave the weights in the file if False.

    Raises:
        CaffeImportError: damaged, or metadata that does not fit the tensors.
    """
    open_file(path).close()
    try:
        # Backed by a mapping: a tensor is read when it is asked for.
        with safetensors.safe_open(path, framework="numpy") as file:
            metadata = file.metadata() or {}
            names = list(file.keys())
            MAX_LAYERS.check(len(names), "too many tensors", file=path)
            layers = _layers(metadata.get("caffe.layers"), names, path)
            _check_copies(layers, os.path.getsize(path), file, path)
            weights: Weights = {}
            if want_weights:
                tensors = {name: _tensor(file, name, path) for name in names}
                for layer, keys in layers:
                    weights[layer] = [tensors[key] for key in keys]
    except (safetensors.SafetensorError, OSError, TypeError) as error:
        raise CaffeImportError(f"cannot be read as safetensors ({error})", file=path) from None
    net = None
    if "caffe.prototxt" in metadata:
        report = _recorded(metadata, path)
        net = parse_text(metadata["caffe.prototxt"], forced=dialect or report.dialect, file=path)
        if dialect is None:
            net = replace(net, report=report)
    return net, metadata.get("caffe.filtered") == "true", weights


def _recorded(metadata: Mapping[str, str], path: object) -> DialectReport:
    """What the conversion found out about the dialect of its source."""
    dialect = metadata.get("caffe.dialect")
    try:
        alternatives = json.loads(metadata.get("caffe.alternatives", "[]"))
    except (ValueError, RecursionError):
        alternatives = None
    if not isinstance(alternatives, list):
        raise CaffeImportError("its list of dialects is damaged", file=path)
    for name in (dialect, *alternatives):
        if name not in DIALECTS:
            raise CaffeImportError("unknown dialect", file=path, expected=DIALECTS, got=name)
    evidence = ("recorded when it was converted",)
    return DialectReport(cast(Dialect, dialect), evidence, tuple(alternatives))


def _check_copies(layers: list[tuple[str, list[str]]], size: int, file: Any, path: object) -> None:
    """An index may name one tensor again and again; each is written out if converted."""
    named = Counter(key for _, keys in layers for key in keys)
    MAX_LAYERS.check(named.total(), "too many blobs in the layer index", file=path)
    total = sum(8 * prod(file.get_slice(key).get_shape()) * n for key, n in named.items() if n > 1)
    MAX_SHARED_COPIES.check(
        total // max(size, 1), "names its tensors again and again, so many times", file=path
    )


def _tensor(file: Any, name: str, path: object) -> Array:
    dtype = file.get_slice(name).get_dtype()
    if dtype not in _BLOB_DTYPES.values():
        raise CaffeImportError(
            f"tensor '{name}' has another type",
            file=path,
            expected=" or ".join(_BLOB_DTYPES.values()),
            got=dtype,
        )
    return cast(Array, file.get_tensor(name))


def write_safetensors(
    path: str | os.PathLike[str],
    weights: Mapping[str, Sequence[Array]],
    net: RawNet | None = None,
    *,
    filtered: bool = False,
) -> None:
    """Write weights and network; blobs that the network shares by name are stored once."""
    shared_name = _shared_names(net)
    owners: dict[str, tuple[str, Array]] = {}
    tensors: dict[str, np.ndarray[Any, Any]] = {}
    layers = []
    for layer, blobs in weights.items():
        keys = []
        for i, blob in enumerate(blobs):
            key = f"{layer}.{i}"
            name = shared_name.get((layer, i))
            owner = owners.get(name) if name else None
            # Copies that differ are all kept: it is for whoever loads them to choose.
            if owner and _same_bits(owner[1], blob):
                key = owner[0]
            else:
                if blob.dtype not in _BLOB_DTYPES:
                    raise CaffeImportError(
                        "a blob of this type cannot be written",
                        file=path,
                        layer=layer,
                        expected=" or ".join(_BLOB_DTYPES.values()),
                        got=blob.dtype,
                    )
                tensors[key] = blob
                if name and not owner:
                    owners[name] = key, blob
            keys.append(key)
        layers.append([layer, keys])
    metadata = {"caffe.layers": json.dumps(layers)}
    if net is not None:
        metadata |= {
            "caffe.prototxt": net.text(),
            "caffe.dialect": net.dialect,
            "caffe.filtered": "true" if filtered else "false",
        }
        if net.report.alternatives:
            metadata["caffe.alternatives"] = json.dumps(net.report.alternatives)
    write_tensors(path, tensors, metadata)


def write_tensors(
    path: str | os.PathLike[str],
    tensors: Mapping[str, np.ndarray[Any, Any]],
    metadata: Mapping[str, str],
) -> None:
    """Write a ``.safetensors``: the length of a JSON header, that header, and the values.

    The library writes the metadata in another order each time; here equal contents make equal
    files.

    Args:
        path: the file.
        tensors: name -> array, of one of the types in ``DTYPES``.
        metadata: key -> text.
    """
    header: dict[str, Any] = {"__metadata__": dict(metadata)}
    # The widest type first, as the library does: so each value lies at a multiple of its size.
    order = sorted(tensors, key=lambda name: (-tensors[name].itemsize, name))
    end = 0
    for name in order:
        tensor = tensors[name]
        header[name] = {
            "dtype": DTYPES[tensor.dtype],
            "shape": tensor.shape,
            "data_offsets": [end, end + tensor.nbytes],
        }
        end += tensor.nbytes
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(len(text).to_bytes(8, "little") + text)
        for name in order:
            write_values(out, tensors[name])


def _same_bits(one: Array, other: Array) -> bool:
    if one.shape != other.shape or one.dtype != other.dtype:
        return False
    bits = np.uint32 if one.dtype == np.float32 else np.uint64
    return bool(np.array_equal(one.view(bits), other.view(bits)))


def _shared_names(net: RawNet | None) -> dict[tuple[str, int], str]:
    """(layer, blob) -> name of the parameter that several layers share."""
    if net is None:
        return {}
    return {
        (spec.name, i): param.name
        for spec in (upgrade_layer(layer, net.dialect) for layer in net.layers)
        for i, param in enumerate(spec.param)
        if param.name
    }


def _layers(index: str | None, names: Sequence[str], path: object) -> list[tuple[str, list[str]]]:
    """The layer index, checked against the tensors; made from their names where there is none."""
    if index is None:
        found: dict[str, list[str]] = {}
        for name in names:
            layer, _, number = name.rpartition(".")
            if not layer or not (number.isascii() and number.isdecimal() and len(number) < 10):
                raise CaffeImportError(
                    "holds a tensor that is no blob of a layer",
                    file=path,
                    expected="LAYER.0, LAYER.1, ...",
                    got=name,
                )
            found.setdefault(layer, []).append(name)
        for layer, keys in found.items():
            keys.sort(key=lambda key: int(key.rpartition(".")[2]))
            if keys != [f"{layer}.{i}" for i in range(len(keys))]:
                raise CaffeImportError(
                    "its blobs are not numbered from 0", file=path, layer=layer, got=keys[:10]
                )
        return list(found.items())
    MAX_TEXT_BYTES.check(len(index), "too large a layer index, in characters", file=path)
    try:
        entries = json.loads(index)
        layers = [(_name(layer), [_name(key) for key in keys]) for layer, keys in entries]
    except (ValueError, TypeError, RecursionError):
        raise CaffeImportError("its layer index is damaged", file=path) from None
    if len({layer for layer, _ in layers}) != len(layers):
        raise CaffeImportError("its layer index names a layer twice", file=path)
    missing = {key for _, keys in layers for key in keys} - set(names)
    if missing:
        raise CaffeImportError(
            "its layer index names a missing tensor", file=path, got=min(missing)
        )
    return layers


def _name(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError("no name")
    value.encode("utf-8")  # UnicodeEncodeError, a ValueError, for halves of surrogate pairs
    return value
