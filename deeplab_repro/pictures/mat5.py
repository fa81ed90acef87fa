"""Matrices out of MATLAB's files of version 5 to 7.2 ("MAT-File Level 5", The MathWorks).

scipy reads them too, but a damaged one can end the process there.  Besides, SBD's files hold twenty
sparse matrices beside the one that is wanted, and here those cost nothing.
"""

from __future__ import annotations

import os
import struct
import zlib
from collections.abc import Iterator
from math import prod
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from prototxt_import.files import open_file
from prototxt_import.limits import MAX_BLOB_BYTES, MAX_HDF5_EXPANSION, MAX_HDF5_OBJECTS, SMALL_BYTES

__all__ = ["Variable", "read_mat"]

#: A matrix, the fields of a struct, or None for what is neither (cells, texts, sparse matrices).
Variable = NDArray[Any] | dict[str, NDArray[Any] | None] | None

_HEADER: Final = 128
_ORDERS: Final = {b"IM": "<", b"MI": ">"}
#: Types of elements, by their numbers in the file, and those of the numbers in a matrix.
_INT8, _INT32, _UINT32, _MATRIX, _COMPRESSED = 1, 5, 6, 14, 15
_NUMBERS: Final = {
    **{1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4"},
    **{7: "f4", 9: "f8", 12: "i8", 13: "u8"},
}
#: Classes of matrices: struct, and double to uint64.
_STRUCT: Final = 2
_NUMERIC: Final = range(6, 16)
_COMPLEX: Final = 0x0800


class _Damaged(ValueError):
    """The file does not hold what it states."""


def read_mat(path: str | os.PathLike[str]) -> dict[str, Variable]:
    """The variables of a file by name.

    Args:
        path: a ``.mat`` of MATLAB 5 to 7.2, compressed or not.

    Returns:
        Matrices in the number type that they are stored in, which can be smaller than the one they
        have in MATLAB; of a struct of size 1x1 its fields.

    Raises:
        InputError: another kind of file, or a damaged one.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        MAX_BLOB_BYTES.check(size, "is too large, in bytes", file=path)
        data = file.read()
    order = _ORDERS.get(data[126:_HEADER])
    version = struct.unpack(f"{order}H", data[124:126])[0] if order else 0
    if order is None or version != 0x0100:
        raise InputError(
            "is no .mat",
            file=path,
            expected="a file of MATLAB 5 to 7.2",
            got="HDF5, as MATLAB 7.3 writes" if version == 0x0200 else None,
        )
    try:
        variables: dict[str, Variable] = {}
        for name, value in _variables(memoryview(data)[_HEADER:], order, path):
            if name in variables:
                raise _Damaged(f"two variables are called {name}")
            variables[name] = value
        return variables
    except (_Damaged, struct.error, zlib.error) as error:
        raise InputError(f"is a damaged .mat ({error})", file=path) from None


def _variables(data: memoryview, order: str, path: object) -> Iterator[tuple[str, Variable]]:
    left = max(SMALL_BYTES, MAX_HDF5_EXPANSION.value * len(data))
    for number, (kind, content) in enumerate(_elements(data, order), 1):
        MAX_HDF5_OBJECTS.check(number, "too many variables", file=path)
        if kind == _COMPRESSED:
            inside = zlib.decompressobj().decompress(content, left + 1)
            left -= len(inside)
            if left < 0:
                times = MAX_HDF5_EXPANSION.value + 1
                MAX_HDF5_EXPANSION.check(
                    times, "holds more than its size, so many times", file=path
                )
            if len(inside) < 8 or len(inside) != 8 + struct.unpack_from(f"{order}I", inside, 4)[0]:
                raise _Damaged("an element of another size than it states")
            kind, content = _next(_elements(memoryview(inside), order))
        if kind == _MATRIX:
            yield _matrix(content, order)


def _elements(data: memoryview, order: str) -> Iterator[tuple[int, memoryview]]:
    """Type and content of each element."""
    at = 0
    while at + 8 <= len(data):
        kind, size = struct.unpack_from(f"{order}II", data, at)
        if kind >> 16:  # up to four bytes, in place of the size
            kind, size = kind & 0xFFFF, kind >> 16
            start, behind = at + 4, at + 8
        else:
            start = at + 8
            behind = start + size + (0 if kind == _COMPRESSED else -size % 8)
        if start + size > min(len(data), behind):
            raise _Damaged("it ends within an element")
        yield kind, data[start : start + size]
        at = behind


def _next(elements: Iterator[tuple[int, memoryview]], kind: int = 0) -> tuple[int, memoryview]:
    found = next(elements, None)
    if found is None or kind not in (0, found[0]):
        raise _Damaged("a part of a variable is missing")
    return found


def _matrix(data: memoryview, order: str, within: bool = False) -> tuple[str, Variable]:
    """Name and value of a variable, or of a field within a struct."""
    elements = _elements(data, order)
    flags = struct.unpack_from(f"{order}I", _next(elements, _UINT32)[1])[0]
    sizes = _next(elements, _INT32)[1]
    shape = struct.unpack(f"{order}{len(sizes) // 4}i", sizes)
    if not 2 <= len(shape) <= 32 or min(shape) < 0:
        raise _Damaged(f"a matrix of size {shape[:4]}")
    name = bytes(_next(elements, _INT8)[1]).decode("latin-1")
    if flags & 0xFF in _NUMERIC and not flags & _COMPLEX:
        return name, _values(*_next(elements), shape, order)
    if flags & 0xFF == _STRUCT and prod(shape) == 1 and not within:
        return name, dict(_fields(elements, order))
    return name, None


def _values(kind: int, content: memoryview, shape: tuple[int, ...], order: str) -> NDArray[Any]:
    if kind not in _NUMBERS:
        raise _Damaged(f"numbers of type {kind}")
    numbers = np.dtype(order + _NUMBERS[kind])
    if prod(shape) * numbers.itemsize != len(content):
        raise _Damaged(f"{len(content)} bytes for a matrix of size {shape[:4]}")
    return np.frombuffer(content, numbers).reshape(shape, order="F")


def _fields(
    elements: Iterator[tuple[int, memoryview]], order: str
) -> Iterator[tuple[str, NDArray[Any] | None]]:
    length = struct.unpack_from(f"{order}i", _next(elements, _INT32)[1])[0]
    names = bytes(_next(elements, _INT8)[1])
    if length < 1:
        raise _Damaged("a struct without names")
    for start in range(0, len(names), length):
        name = names[start : start + length].split(b"\0")[0].decode("latin-1")
        content = _next(elements, _MATRIX)[1]
        value = _matrix(content, order, within=True)[1] if len(content) else None
        yield name, value if isinstance(value, np.ndarray) else None
