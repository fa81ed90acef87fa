"""``.caffemodel``: a serialized NetParameter, its weights neither parsed nor held twice."""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from prototxt_import import wire
from prototxt_import.dialect import RawNet, decide_binary
from prototxt_import.errors import CaffeImportError
from prototxt_import.files import open_file, replacing
from prototxt_import.limits import INT_MAX
from prototxt_import.schema import Dialect
from prototxt_import.words import show

__all__ = [
    "Array",
    "Weights",
    "blob_head",
    "opened",
    "read_blob",
    "read_caffemodel",
    "write_blob",
    "write_caffemodel",
    "write_values",
]

Array = NDArray[np.floating[Any]]
#: Layer name -> its blobs in Caffe's order and shapes.
Weights = dict[str, list[Array]]


@contextmanager
def opened(path: str | os.PathLike[str]) -> Iterator[tuple[BinaryIO, wire.FileBytes]]:
    """The open file and its bytes, none of them read yet.

    Raises:
        CaffeImportError: not a file that can be read, or an empty one.
    """
    with open_file(path) as file:
        data = wire.FileBytes(file)
        if not len(data):
            raise CaffeImportError("is empty", file=path)
        yield file, data


def read_caffemodel(
    path: str | os.PathLike[str],
    *,
    dialect: Dialect | None = None,
    want_net: bool = True,
    want_weights: bool = True,
) -> tuple[RawNet | None, Weights]:
    """The network that a caffemodel embeds, and its weights.

    The network is None where the file holds no more than names and blobs (or was not wanted).

    Raises:
        CaffeImportError: no caffemodel, cut off, blobs that do not have the size they state, or a
            network whose dialect can't be told.
    """
    try:
        with opened(path) as (file, data):
            net = wire.scan_net(data)
            if not net.layers:
                raise wire.WireError("it holds no layers")
            weights: Weights = {}
            if want_weights:
                for layer in net.layers:
                    if layer.blobs:
                        weights[layer.name] = [
                            read_blob(file, blob, where=f"blob {i}", layer=layer.name, path=path)
                            for i, blob in enumerate(layer.blobs)
                        ]
        if not want_net:
            return None, weights
        raw = decide_binary(net, dialect)
    except wire.WireError as error:
        raise CaffeImportError(f"is no caffemodel ({error})", file=path) from None
    except CaffeImportError as error:
        raise error.with_file(path) from None
    has_graph = any(layer.bottom or layer.top for layer in raw.layers)
    return (raw if has_graph else None), weights


def read_blob(
    file: BinaryIO,
    blob: wire.BlobAt,
    *,
    where: str,
    path: object,
    layer: str | None = None,
) -> Array:
    """Read one located blob into an array of its own.

    Raises:
        CaffeImportError: the file holds another number of values than the shape asks for.
    """
    expected = prod(blob.shape)
    # With a size of 0 among them, the others may still be more than an array can be told.
    if expected == 0 and prod(size for size in blob.shape if size) > INT_MAX:
        raise CaffeImportError(
            f"{where} has an impossible shape", file=path, layer=layer, got=blob.shape
        )
    if expected != blob.count:
        shape = show(blob.shape)
        raise CaffeImportError(
            f"{where} holds the wrong number of values",
            file=path,
            layer=layer,
            expected=f"{expected} ({shape})",
            got=blob.count,
        )
    array = np.empty(blob.shape, dtype="<f8" if blob.is_double else "<f4")
    if not array.size:  # its pieces, if there are any, are empty
        return array
    flat = array.reshape(-1).view(np.uint8).data
    filled = 0
    for start, end in blob.chunks:
        # Read rather than copied from the mapping, whose pages would count as memory in use.
        filled += os.preadv(file.fileno(), [flat[filled : filled + end - start]], start)
    if filled != len(flat):
        raise CaffeImportError(f"{where} is cut off", file=path, layer=layer)
    return array


def write_caffemodel(
    path: str | os.PathLike[str], weights: Mapping[str, Sequence[Array]], net: RawNet | None = None
) -> None:
    """Write a caffemodel that the program of ``net``'s dialect reads (BVLC Caffe if None).

    Layers keep the order of ``net``; those that it does not have follow, holding just their name
    and blobs, which is all that Caffe's loading looks at (net.cpp, CopyTrainedLayersFrom).
    """
    is_v1 = net is not None and net.is_v1
    layer_tag = _tag(2 if is_v1 else 100)
    blob_tag = _tag(6 if is_v1 else 7)
    name_tag = _tag(4 if is_v1 else 1)
    messages: list[tuple[str, bytes]] = []
    if net is not None:
        messages = [(m.name, m.SerializeToString()) for m in net.layers]
    known = {name for name, _ in messages}
    for name in weights:
        if name not in known:
            encoded = name.encode()
            messages.append((name, name_tag + wire.encode_varint(len(encoded)) + encoded))
    # Of several layers of one name (train and test data) only the last can have blobs.
    owner = {name: i for i, (name, _) in enumerate(messages)}
    with replacing(path) as temporary, temporary.open("wb") as out:
        if net is not None:
            out.write(net.header.SerializeToString())
        for i, (name, message) in enumerate(messages):
            blobs = weights.get(name, ()) if owner[name] == i else ()
            heads = [blob_head(np.asarray(blob), legacy=is_v1) for blob in blobs]
            sizes = [len(h) + np.asarray(b).nbytes for h, b in zip(heads, blobs, strict=True)]
            size = len(message) + sum(len(blob_tag) + len(wire.encode_varint(n)) + n for n in sizes)
            out.write(layer_tag + wire.encode_varint(size) + message)
            for head, blob, length in zip(heads, blobs, sizes, strict=True):
                out.write(blob_tag + wire.encode_varint(length))
                write_blob(out, head, blob)


def write_blob(out: BinaryIO, head: bytes, blob: Array) -> None:
    """Write the body of a BlobProto: what :func:`blob_head` made, then the numbers."""
    out.write(head)
    write_values(out, blob)


def write_values(out: BinaryIO, blob: Array) -> None:
    """Write the numbers of a blob, little-endian, without a copy of a contiguous one."""
    if blob.size:
        little = np.ascontiguousarray(blob, dtype=blob.dtype.newbyteorder("<"))
        out.write(little.reshape(-1).view(np.uint8).data)


def _tag(number: int) -> bytes:
    return wire.encode_varint(number << 3 | wire.LENGTH)


def blob_head(blob: Array, *, legacy: bool) -> bytes:
    """Everything of a BlobProto up to its numbers."""
    if blob.dtype not in (np.float32, np.float64):
        raise CaffeImportError("a blob of this type cannot be written", got=blob.dtype)
    if legacy:
        if blob.ndim > 4:
            raise CaffeImportError("a V1 file holds blobs of four axes", got=blob.shape)
        shape = (1,) * (4 - blob.ndim) + blob.shape
        dims = b"".join(
            wire.encode_varint(i << 3) + wire.encode_varint(n) for i, n in enumerate(shape, 1)
        )
    else:
        packed = b"".join(map(wire.encode_varint, blob.shape))
        body = _tag(1) + wire.encode_varint(len(packed)) + packed if packed else b""
        dims = _tag(7) + wire.encode_varint(len(body)) + body
    data = _tag(5 if blob.dtype == np.float32 else 8) + wire.encode_varint(blob.nbytes)
    return dims + (data if blob.size else b"")
