"""TensorFlow's data types: numbers, names, and how their values lie in a file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from prototxt_import.words import show
from tensorflow_import.errors import Damaged, TensorFlowImportError
from tensorflow_import.limits import INT64_MAX, MAX_AXES

__all__ = [
    "BY_NAME",
    "Array",
    "DataType",
    "bfloat16_bits",
    "check_shape",
    "data_type",
    "decoded",
    "type_of",
]

Array = NDArray[Any]


@dataclass(frozen=True)
class DataType:
    """A type that variables and constants can have.

    Attributes:
        number: DT_... in types.proto.
        name: TensorFlow's name for it.
        stored: how one value lies in a file; of object type for strings, which have no fixed size.
    """

    number: int
    name: str
    stored: np.dtype[Any]


#: Quantised numbers are read as the whole numbers that they are stored as.
_STORED: Final = {
    1: ("float32", "<f4"),
    2: ("float64", "<f8"),
    3: ("int32", "<i4"),
    4: ("uint8", "u1"),
    5: ("int16", "<i2"),
    6: ("int8", "i1"),
    7: ("string", "O"),
    8: ("complex64", "<c8"),
    9: ("int64", "<i8"),
    10: ("bool", "u1"),
    11: ("qint8", "i1"),
    12: ("quint8", "u1"),
    13: ("qint32", "<i4"),
    14: ("bfloat16", "<u2"),
    15: ("qint16", "<i2"),
    16: ("quint16", "<u2"),
    17: ("uint16", "<u2"),
    18: ("complex128", "<c16"),
    19: ("float16", "<f2"),
    22: ("uint32", "<u4"),
    23: ("uint64", "<u8"),
}
#: Types that no array of numpy can hold.
_REFUSED: Final = {20: "resource", 21: "variant", 24: "float8_e5m2", 25: "float8_e4m3fn"}
_REFUSED_MORE: Final = {29: "int4", 30: "uint4"}

_BY_NUMBER: Final = {n: DataType(n, name, np.dtype(s)) for n, (name, s) in _STORED.items()}
#: TensorFlow's name -> type.
BY_NAME: Final = {dtype.name: dtype for dtype in _BY_NUMBER.values()}


def data_type(number: int, what: str) -> DataType:
    """The type of this number; ``what`` has it, for the message.

    Raises:
        TensorFlowImportError: there is no such type, or no array can hold it.
    """
    if number in _BY_NUMBER:
        return _BY_NUMBER[number]
    name = (_REFUSED | _REFUSED_MORE).get(number, f"number {number}")
    raise TensorFlowImportError(f"{what} is of a type that cannot be read", got=name)


def type_of(array: Array) -> DataType | None:
    """The type that an array is written as; None if TensorFlow has none for it.

    An array of objects or of bytes holds strings.  ``bfloat16`` is the type of that name from the
    package ml_dtypes, where the array has it.
    """
    kind = array.dtype.kind
    name = "string" if kind in "OSU" else array.dtype.name
    return BY_NAME.get(name)


def decoded(stored: Array, dtype: DataType) -> Array:
    """The array that stored values stand for: bfloat16 as exact float32, bool as numpy's bool."""
    if dtype.name == "bfloat16":
        wide: Array = np.left_shift(stored, 16, dtype=np.uint32).view(np.float32)
        return wide
    return stored != 0 if dtype.name == "bool" else stored


def bfloat16_bits(array: Array, what: str) -> Array:
    """The 16 bits of each value, as uint16; the inverse of :func:`decoded`.

    Args:
        array: float32 values that bfloat16 holds exactly, or an array of ml_dtypes' bfloat16.
        what: for the message.

    Raises:
        TensorFlowImportError: another type, or values that would have to be rounded.
    """
    if array.dtype.name == "bfloat16":
        return array.view(np.uint16)
    if array.dtype != np.float32:
        raise TensorFlowImportError(
            f"{what} cannot become bfloat16", expected="float32", got=array.dtype
        )
    bits = np.ascontiguousarray(array).view(np.uint32)
    if np.any(bits & 0xFFFF):
        raise TensorFlowImportError(f"{what} would have to be rounded to become bfloat16")
    return (bits >> 16).astype(np.uint16)


def check_shape(shape: Sequence[int], what: str) -> int:
    """The number of values of this shape.

    Raises:
        Damaged: too many axes, a negative size, or more values than 64 bits count.
    """
    is_plain = len(shape) <= MAX_AXES and min(shape, default=0) >= 0
    # With a size of 0 among them, the others may still be more than an array can be told.
    if is_plain and prod(size for size in shape if size) <= INT64_MAX // 16:
        return prod(shape)
    raise Damaged(f"{what} has the impossible shape {show(shape[: MAX_AXES + 1])}")
