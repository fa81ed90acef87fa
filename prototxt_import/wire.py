"""The protobuf wire format, as far as finding the big arrays in a caffemodel takes.

A caffemodel is one message of hundreds of megabytes of weights and a few kilobytes of network.
Parsing it whole would hold the weights twice, and would have to know the dialect first.  The
functions here walk the bytes, note where each blob's numbers lie, and hand out the rest, which
the protobuf library then parses.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Final

__all__ = [
    "BlobAt",
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
#: More axes than this no Caffe blob has (blob.hpp, kMaxBlobAxes).
MAX_BLOB_AXES: Final = 32

Buffer = memoryview


class WireError(ValueError):
    """Bytes that are not a protobuf message; the message says what and where."""


@dataclass(frozen=True, slots=True)
class WireField:
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


def walk(data: Buffer, start: int, end: int) -> Iterator[WireField]:
    """The fields of the message in ``data[start:end]``, checked to lie inside it."""
    at = start
    while at < end:
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
    """
    own = bytearray()
    layers = []
    for item in walk(data, 0, len(data)):
        if item.wire_type == LENGTH and item.number in _LAYER_FIELDS:
            layers.append(_scan_layer(data, item))
        else:
            own += data[item.begin : item.end]
    return NetAt(bytes(own), layers)


def _scan_layer(data: Buffer, layer: WireField) -> LayerAt:
    name_field, blob_field = _LAYER_FIELDS[layer.number]
    rest = bytearray()
    found = LayerAt(is_v1=layer.number == 2, name="", message=b"")
    for item in walk(data, layer.start, layer.end):
        if item.number == blob_field and item.wire_type == LENGTH:
            found.blobs.append(scan_blob(data, item))
            continue
        if item.number == name_field and item.wire_type == LENGTH:
            found.name = bytes(data[item.start : item.end]).decode("utf-8", "replace")
        rest += data[item.begin : item.end]
    found.message = bytes(rest)
    return found


def scan_blob(data: Buffer, blob: WireField) -> BlobAt:
    """Locate the numbers of a BlobProto."""
    legacy: dict[int, int] = {}
    dims: list[int] | None = None
    chunks: dict[int, list[tuple[int, int]]] = {_DATA: [], _DOUBLE_DATA: []}
    for item in walk(data, blob.start, blob.end):
        if item.number in _LEGACY_DIMS and item.wire_type == VARINT:
            legacy[item.number] = item.value
        elif item.number == _SHAPE and item.wire_type == LENGTH:
            dims = (dims or []) + _scan_shape(data, item)
        elif item.number in chunks:
            width, single = (4, FIXED32) if item.number == _DATA else (8, FIXED64)
            if item.wire_type not in (LENGTH, single) or (item.end - item.start) % width:
                raise WireError(f"blob data at byte {item.begin} is not a list of numbers")
            chunks[item.number].append((item.start, item.end))
    is_double = bool(chunks[_DOUBLE_DATA])
    # blob.cpp, Blob::FromProto: any of the old four fields means four axes.
    shape = tuple(legacy.get(number, 0) for number in _LEGACY_DIMS) if legacy else tuple(dims or ())
    if len(shape) > MAX_BLOB_AXES:
        raise WireError(f"blob of {len(shape)} axes at byte {blob.begin}")
    if any(dim >= 1 << 31 for dim in shape):
        raise WireError(f"blob of shape {shape} at byte {blob.begin}")
    return BlobAt(
        shape,
        is_legacy=bool(legacy),
        is_double=is_double,
        chunks=chunks[_DOUBLE_DATA if is_double else _DATA],
        has_shape=bool(legacy) or dims is not None,
    )


def _scan_shape(data: Buffer, shape: WireField) -> list[int]:
    dims = []
    for item in walk(data, shape.start, shape.end):
        if item.number != 1:
            continue
        if item.wire_type == VARINT:
            dims.append(item.value)
        elif item.wire_type == LENGTH:
            at = item.start
            while at < item.end:
                value, at = read_varint(data, at, item.end)
                dims.append(value)
                if len(dims) > MAX_BLOB_AXES:
                    raise WireError(f"blob of more than {MAX_BLOB_AXES} axes at byte {shape.begin}")
    return dims
