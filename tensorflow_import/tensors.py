"""TensorProto, the form in which a graph holds the values of its constants.

A large constant is all of one field, ``tensor_content``, which is the memory of the array; small
ones may come as a list of values, of which a last one that repeats is written once (tensor.cc).
The numbers are located first and read later, so that a graph of hundreds of megabytes is never in
memory twice.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Final, cast

import numpy as np

from prototxt_import.wire import (
    FIXED32,
    FIXED64,
    LENGTH,
    VARINT,
    FieldBudget,
    FileBytes,
    WireField,
    read_varint,
    walk,
)
from tensorflow_import.dtypes import Array, DataType, check_shape, data_type, decoded
from tensorflow_import.errors import Damaged
from tensorflow_import.limits import MAX_ENTRY_BYTES, MAX_STRINGS, MAX_VARINT_BYTES
from tensorflow_import.schema import message_class

__all__ = ["TensorAt", "read_tensor", "scan_tensor"]

_DTYPE, _SHAPE, _CONTENT = 1, 2, 4
_QUANTISED: Final = ("qint8", "quint8", "qint32", "qint16", "quint16")
#: Field of a list of values -> (how one of them lies in it, names of the types that use it).
#: An ``O`` stands for bytes, no type for numbers of variable length.
_LISTS: Final[dict[int, tuple[str | None, tuple[str, ...]]]] = {
    5: ("<f4", ("float32",)),
    6: ("<f8", ("float64",)),
    7: (None, ("int32", "int16", "uint16", "int8", "uint8", *_QUANTISED)),
    8: ("O", ("string",)),
    9: ("<f4", ("complex64",)),
    10: (None, ("int64",)),
    11: (None, ("bool",)),
    12: ("<f8", ("complex128",)),
    13: (None, ("float16", "bfloat16")),
    16: (None, ("uint32",)),
    17: (None, ("uint64",)),
}
_LIST_OF: Final = {name: number for number, (_, names) in _LISTS.items() for name in names}


@dataclass(slots=True)
class TensorAt:
    """A constant whose values have been located, not read.

    Attributes:
        dtype: the type of its values.
        shape: sizes of its axes.
        count: the product of the sizes.
        content: where its memory lies in the file, if it is stored as such.
        chunks: otherwise, the fields that list its values.
    """

    dtype: DataType
    shape: tuple[int, ...]
    count: int
    content: tuple[int, int] | None = None
    chunks: list[WireField] = field(default_factory=list)

    @property
    def repeated_bytes(self) -> int:
        """Bytes of the array beyond those that the file holds."""
        width = self.dtype.stored.itemsize
        if self.content is not None:
            return 0
        return max(0, self.count * width - sum(c.end - c.start for c in self.chunks))


def scan_tensor(data: FileBytes, tensor: WireField, budget: FieldBudget, what: str) -> TensorAt:
    """Locate the values of the TensorProto in ``tensor``.

    Raises:
        Damaged, WireError: no such message, or an impossible shape.
        TensorFlowImportError: a type that cannot be read.
        CaffeImportError: more fields than the limits let through.
    """
    number = 0
    content: tuple[int, int] | None = None
    shape: tuple[int, ...] = ()
    lists: dict[int, list[WireField]] = {}
    for item in walk(data, tensor.start, tensor.end, budget):
        if item.number == _DTYPE and item.wire_type == VARINT:
            number = item.value
        elif item.number == _SHAPE and item.wire_type == LENGTH:
            shape = _shape(data, item, what)
        elif item.number == _CONTENT and item.wire_type == LENGTH:
            content = (item.start, item.end) if item.end > item.start else None
        elif item.number in _LISTS:
            lists.setdefault(item.number, []).append(item)
    dtype = data_type(number, what)
    count = check_shape(shape, what)
    chunks = [] if content else lists.get(_LIST_OF[dtype.name], [])
    return TensorAt(dtype, shape, count, content, chunks)


def _shape(data: FileBytes, item: WireField, what: str) -> tuple[int, ...]:
    MAX_ENTRY_BYTES.check(item.end - item.start, f"the shape of {what} takes too many bytes")
    stated = cast(Any, message_class("TensorShapeProto")).FromString(data[item.start : item.end])
    if stated.unknown_rank:
        raise Damaged(f"{what} has no shape")
    return tuple(dim.size for dim in stated.dim)


def read_tensor(data: FileBytes, tensor: TensorAt, what: str) -> Array:
    """The values of a located constant.

    Raises:
        Damaged, WireError: the file holds another number of bytes than the shape asks for, or
            what is no list of values.
        CaffeImportError: more whole numbers or strings than the limits let through.
    """
    if tensor.dtype.name == "string":
        return _strings(data, tensor, what)
    dtype = tensor.dtype.stored
    if tensor.content is not None:
        start, end = tensor.content
        if end - start != tensor.count * dtype.itemsize:
            raise Damaged(
                f"{what} holds {end - start} bytes, its shape asks for"
                f" {tensor.count * dtype.itemsize}"
            )
        stored = np.frombuffer(bytearray(data[start:end]), dtype)
    else:
        stored = _repeated(_listed(data, tensor, what), tensor.count, dtype)
    return decoded(stored.reshape(tensor.shape), tensor.dtype)


def _listed(data: FileBytes, tensor: TensorAt, what: str) -> Array:
    """The values that the file lists, in the type that they are stored as."""
    listed_as, _ = _LISTS[_LIST_OF[tensor.dtype.name]]
    is_complex = tensor.dtype.stored.kind == "c"
    if listed_as is None:
        return _whole_numbers(data, tensor, what)
    width = np.dtype(listed_as).itemsize
    single = FIXED32 if width == 4 else FIXED64
    for chunk in tensor.chunks:
        if chunk.wire_type not in (LENGTH, single) or (chunk.end - chunk.start) % width:
            raise Damaged(f"{what} holds what is no list of numbers, at byte {chunk.begin}")
    content = bytearray().join(data[chunk.start : chunk.end] for chunk in tensor.chunks)
    if is_complex and len(content) % (2 * width):
        raise Damaged(f"{what} lists an odd number of parts of complex numbers")
    return np.frombuffer(content, tensor.dtype.stored)


def _whole_numbers(data: FileBytes, tensor: TensorAt, what: str) -> Array:
    """Numbers of variable length, of which the type keeps the lowest bits."""
    pieces = []
    total = 0
    for chunk in tensor.chunks:
        if chunk.wire_type not in (LENGTH, VARINT):
            raise Damaged(f"{what} holds what is no list of numbers, at byte {chunk.begin}")
        total += chunk.end - chunk.start
        MAX_VARINT_BYTES.check(total, f"{what} lists too many whole numbers, in bytes")
        pieces.append(data[chunk.start : chunk.end])
    numbers = _varints(b"".join(pieces), what)
    dtype = tensor.dtype.stored
    if dtype.itemsize == 8:
        return numbers.view(dtype)
    if tensor.dtype.name == "bool":
        return (numbers != 0).astype(dtype)
    bits = numbers.astype(f"u{dtype.itemsize}")  # keeps the lowest bits
    return bits.view(dtype)


def _varints(content: bytes, what: str) -> Array:
    """All varints in ``content`` at once, as uint64."""
    octets = np.frombuffer(content, np.uint8)
    ends = np.flatnonzero(octets < 0x80)
    if len(octets) and (not len(ends) or ends[-1] != len(octets) - 1):
        raise Damaged(f"{what} lists a number that is cut off")
    starts = np.concatenate([[0], ends[:-1] + 1]).astype(np.int64)[: len(ends)]
    lengths = ends - starts + 1
    if len(lengths) and lengths.max() > 10:
        raise Damaged(f"{what} lists a number of more than ten bytes")
    numbers = np.zeros(len(ends), np.uint64)
    for place in range(int(lengths.max()) if len(lengths) else 0):
        has = lengths > place
        septets = (octets[starts[has] + place] & 0x7F).astype(np.uint64)
        numbers[has] |= septets << np.uint64(7 * place)
    return numbers


def _repeated(listed: Array, count: int, dtype: np.dtype[Any]) -> Array:
    """As many values as the shape asks for: the last one repeats, and no values are zeros."""
    stored = np.zeros(count, dtype)
    known = min(count, len(listed))
    stored[:known] = listed[:known]
    if known:
        stored[known:] = listed[known - 1]
    return stored


def _strings(data: FileBytes, tensor: TensorAt, what: str) -> Array:
    MAX_STRINGS.check(tensor.count, f"{what} holds too many strings")
    strings: list[bytes] = []
    if tensor.content is not None:
        # All lengths, then all strings.
        start, end = tensor.content
        content = memoryview(data[start:end])
        lengths, at = [], 0
        for _ in range(tensor.count):
            length, at = read_varint(content, at, len(content))
            lengths.append(length)
        if at + sum(lengths) != len(content):
            raise Damaged(f"{what}: the lengths of its strings do not add up")
        for length in lengths:
            strings.append(bytes(content[at : at + length]))
            at += length
    else:
        for chunk in tensor.chunks[: tensor.count]:
            if chunk.wire_type != LENGTH:
                raise Damaged(f"{what} holds what is no string, at byte {chunk.begin}")
            strings.append(data[chunk.start : chunk.end])
        strings += [strings[-1] if strings else b""] * (tensor.count - len(strings))
    result = np.empty(tensor.shape, object)
    for i, string in enumerate(strings):
        result.reshape(-1)[i] = string
    return result
