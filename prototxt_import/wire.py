"""The protobuf wire format, as far as finding the big arrays in a caffemodel takes.

A caffemodel is one message of hundreds of megabytes of weights and a few kilobytes of network.
Parsing it whole would hold the weights twice, and would have to know the dialect first.  The
functions here walk the bytes, note where each blob's numbers lie, and hand out the rest, which
the protobuf library then parses.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Final, NamedTuple, overload

from prototxt_import.limits import (
    INT_MAX,
    MAX_BLOB_AXES,
    MAX_BLOB_PIECES,
    MAX_FIELDS,
    MAX_LAYERS,
    MAX_NET_BYTES,
)

__all__ = [
    "BlobAt",
    "FieldBudget",
    "FileBytes",
    "LayerAt",
    "NetAt",
    "WireError",
    "WireField",
    "encode_varint",
    "scan_blob",
    "scan_net",
    "walk",
]

VARINT, FIXED64, LENGTH, FIXED32 = 0, 1, 2, 5
#: BlobProto: field numbers that all dialects agree on (dl1 knows the first six only).
_LEGACY_DIMS: Final = (1, 2, 3, 4)
_DATA, _SHAPE, _DOUBLE_DATA = 5, 7, 8
#: NetParameter field of the layers -> (field of the name, field of the blobs) in such a layer.
_LAYER_FIELDS: Final = {2: (4, 6), 100: (1, 7)}
_WINDOW: Final = 1 << 16


class WireError(ValueError):
    """Bytes that are not a protobuf message; the message says what and where."""


class FileBytes:
    """The bytes of an open file, read where they are asked for.

    A mapping would do the same until somebody shortens the file, and then kill the process.
    Bytes that have gone missing since the file was opened are a :class:`WireError`.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._descriptor = file.fileno()
        self._size = os.fstat(self._descriptor).st_size
        self._window = b""
        self._at = 0

    def __len__(self) -> int:
        return self._size

    @overload
    def __getitem__(self, where: int) -> int: ...

    @overload
    def __getitem__(self, where: slice) -> bytes: ...

    def __getitem__(self, where: int | slice) -> int | bytes:
        """One byte, or those of a slice without a step; positions count from the front."""
        if isinstance(where, slice):
            begin, end = where.start - self._at, where.stop - self._at
            if 0 <= begin <= end <= len(self._window):
                return self._window[begin:end]
            return self._read(where.start, where.stop - where.start)
        offset = where - self._at
        if not 0 <= offset < len(self._window):
            self._window = self._read(where, min(_WINDOW, self._size - where))
            self._at, offset = where, 0
        return self._window[offset]

    def _read(self, start: int, length: int) -> bytes:
        found = os.pread(self._descriptor, length, start)
        if len(found) != length:
            raise WireError(f"the file ends at byte {start + len(found)}: it was changed meanwhile")
        return found


Buffer = memoryview | FileBytes


class FieldBudget:
    """How many more fields may be looked at (``MAX_FIELDS``), one budget for each pass.

    Two bytes make a field, so that a file of a few megabytes could keep a reader busy for minutes.
    """

    def __init__(self) -> None:
        self._left = MAX_FIELDS.value

    def spend(self) -> None:
        """Count one field; CaffeImportError if it is one too many."""
        self._left -= 1
        if self._left < 0:
            MAX_FIELDS.check(MAX_FIELDS.value + 1, "too many fields")


class WireField(NamedTuple):
    """One field of a message: ``data[start:end]`` is its value, ``begin`` where its tag starts."""

    number: int
    wire_type: int
    begin: int
    start: int
    end: int
    value: int  # of a varint; 0 otherwise


@dataclass(slots=True)
class BlobAt:
    """A BlobProto whose numbers have been located, not read."""

    shape: tuple[int, ...]
    is_legacy: bool  # num/channels/height/width instead of a BlobShape
    is_double: bool
    chunks: list[tuple[int, int]]  # (start, end) of the little-endian numbers in the file
    has_shape: bool

    @property
    def count(self) -> int:
        """How many numbers the file holds for this blob."""
        return sum(end - start for start, end in self.chunks) // (8 if self.is_double else 4)


@dataclass(slots=True)
class LayerAt:
    """A layer message without its blobs."""

    is_v1: bool
    name: str
    message: bytes
    blobs: list[BlobAt] = field(default_factory=list)


@dataclass(slots=True)
class NetAt:
    """A NetParameter in pieces: its own fields, and its layers in file order."""

    message: bytes
    layers: list[LayerAt]


def read_varint(data: Buffer, at: int, end: int) -> tuple[int, int]:
    """The varint at ``at`` and the position behind it."""
    value = shift = 0
    while True:
        if at >= end:
            raise WireError(f"number cut off at byte {at}")
        byte = data[at]
        at += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFF_FFFF_FFFF_FFFF, at
        shift += 7
        if shift > 63:
            raise WireError(f"number of more than ten bytes at byte {at}")


def encode_varint(value: int) -> bytes:
    """The wire form of a non-negative integer."""
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def walk(
    data: Buffer, start: int, end: int, budget: FieldBudget | None = None
) -> Iterator[WireField]:
    """The fields of the message in ``data[start:end]``, checked to lie inside it.

    Raises:
        WireError: no message.
        CaffeImportError: more fields than ``budget`` has left.
    """
    at = start
    while at < end:
        if budget is not None:
            budget.spend()
        begin = at
        tag, at = read_varint(data, at, end)
        number, wire_type = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(f"impossible field number {number} at byte {begin}")
        value = 0
        if wire_type == VARINT:
            value_at = at
            value, at = read_varint(data, at, end)
        elif wire_type == FIXED64:
            value_at, at = at, at + 8
        elif wire_type == FIXED32:
            value_at, at = at, at + 4
        elif wire_type == LENGTH:
            length, value_at = read_varint(data, at, end)
            at = value_at + length
        else:
            raise WireError(f"wire type {wire_type} of field {number} at byte {begin}")
        if at > end:
            raise WireError(
                f"field {number} at byte {begin} reaches to byte {at}, its message ends at {end}"
            )
        yield WireField(number, wire_type, begin, value_at, at, value)


def scan_net(data: Buffer) -> NetAt:
    """Take a serialized NetParameter apart.

    Raises:
        WireError: the bytes are not such a message, or a blob states an impossible shape.
        CaffeImportError: more fields, layers or bytes outside blobs than the limits let through.
    """
    return _Scanner(data).net()


class _Scanner:
    def __init__(self, data: Buffer) -> None:
        self.data = data
        self.budget = FieldBudget()
        self.copied = 0  # bytes outside blobs, which are kept in memory

    def net(self) -> NetAt:
        own = bytearray()
        layers: list[LayerAt] = []
        for item in walk(self.data, 0, len(self.data), self.budget):
            if item.wire_type == LENGTH and item.number in _LAYER_FIELDS:
                layers.append(self._layer(item))
                MAX_LAYERS.check(len(layers), "too many layers")
            else:
                own += self._copy(item)
        return NetAt(bytes(own), layers)

    def _layer(self, layer: WireField) -> LayerAt:
        name_field, blob_field = _LAYER_FIELDS[layer.number]
        rest = bytearray()
        found = LayerAt(is_v1=layer.number == 2, name="", message=b"")
        for item in walk(self.data, layer.start, layer.end, self.budget):
            if item.number == blob_field and item.wire_type == LENGTH:
                found.blobs.append(scan_blob(self.data, item, self.budget))
                continue
            piece = self._copy(item)
            if item.number == name_field and item.wire_type == LENGTH:
                found.name = piece[item.start - item.begin :].decode("utf-8", "replace")
            rest += piece
        found.message = bytes(rest)
        return found

    def _copy(self, item: WireField) -> bytes:
        self.copied += item.end - item.begin
        MAX_NET_BYTES.check(self.copied, "too large a network, in bytes outside blobs")
        return bytes(self.data[item.begin : item.end])


def scan_blob(data: Buffer, blob: WireField, budget: FieldBudget | None = None) -> BlobAt:
    """Locate the numbers of a BlobProto.

    Raises:
        WireError: no BlobProto, or a shape that no blob can have.
        CaffeImportError: numbers in more pieces than the limit lets through.
    """
    legacy: dict[int, int] = {}
    dims: list[int] | None = None
    chunks: dict[int, list[tuple[int, int]]] = {_DATA: [], _DOUBLE_DATA: []}
    budget = budget or FieldBudget()
    for item in walk(data, blob.start, blob.end, budget):
        if item.number in _LEGACY_DIMS and item.wire_type == VARINT:
            legacy[item.number] = item.value
        elif item.number == _SHAPE and item.wire_type == LENGTH:
            dims = (dims or []) + _scan_shape(data, item, budget)
            if len(dims) > MAX_BLOB_AXES:
                raise WireError(f"blob of more than {MAX_BLOB_AXES} axes at byte {blob.begin}")
        elif item.number in chunks:
            width, single = (4, FIXED32) if item.number == _DATA else (8, FIXED64)
            if item.wire_type not in (LENGTH, single) or (item.end - item.start) % width:
                raise WireError(f"blob data at byte {item.begin} is not a list of numbers")
            pieces = chunks[item.number]
            pieces.append((item.start, item.end))
            MAX_BLOB_PIECES.check(len(pieces), f"blob at byte {blob.begin} in too many pieces")
    is_double = bool(chunks[_DOUBLE_DATA])
    # blob.cpp, Blob::FromProto: any of the old four fields means four axes.
    shape = tuple(legacy.get(number, 0) for number in _LEGACY_DIMS) if legacy else tuple(dims or ())
    if any(dim > INT_MAX for dim in shape):
        raise WireError(f"blob of shape {shape} at byte {blob.begin}")
    return BlobAt(
        shape,
        is_legacy=bool(legacy),
        is_double=is_double,
        chunks=chunks[_DOUBLE_DATA if is_double else _DATA],
        has_shape=bool(legacy) or dims is not None,
    )


def _scan_shape(data: Buffer, shape: WireField, budget: FieldBudget) -> list[int]:
    dims: list[int] = []
    for item in walk(data, shape.start, shape.end, budget):
        if item.number != 1:
            continue
        if item.wire_type == VARINT:
            dims.append(item.value)
        elif item.wire_type == LENGTH:
            at = item.start
            while at < item.end and len(dims) <= MAX_BLOB_AXES:
                value, at = read_varint(data, at, item.end)
                dims.append(value)
    return dims
