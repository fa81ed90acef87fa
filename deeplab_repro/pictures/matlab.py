"""Arrays in the two kinds of files of the released programs: ``.mat`` and ``.bin``.

Matlab lets the first axis run fastest, numpy and Caffe the last.  Every array here has its axes in
Caffe's order, so that a blob (N, C, H, W) is Matlab's W x H x C x N, with the same bytes.
"""

from __future__ import annotations

import io
import os
import struct
import zlib
from collections.abc import Callable, Mapping
from typing import Any, BinaryIO, Final

import numpy as np
import scipy.io
from numpy.typing import NDArray

from deeplab_repro.errors import BadInput, InputError
from prototxt_import.files import open_file, replacing_file
from prototxt_import.limits import MAX_HDF5_EXPANSION, MAX_HDF5_OBJECTS, SMALL_BYTES

__all__ = ["VARIABLE", "is_hdf5", "load_variable", "read_bin", "read_mat", "write_bin", "write_mat"]

#: What Caffe calls the blob that it writes (matio_io.cpp, WriteBlobToMat).
VARIABLE: Final = "data"
_NUMBERS: Final = frozenset(
    ["single", "double", "logical"]
    + [f"{sign}int{bits}" for sign in ("", "u") for bits in (8, 16, 32, 64)]
)
_HEADER: Final = 128  # bytes before the first element of a .mat
_DESCRIPTION: Final = 116  # of these, bytes of free text
_COMPRESSED: Final = 15  # miCOMPRESSED, a kind of element
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
_BIN_HEADER: Final = struct.Struct("<3i")
#: Bytes of a number in a .bin -> what it is; the file itself does not say.
_BIN_NUMBERS: Final = {1: np.uint8, 2: np.int16, 4: np.float32, 8: np.float64}


# ---------------------------------------------------------------- .mat


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Whether a ``.mat`` is one of version 7.3, which is HDF5 behind 512 bytes of Matlab's own."""
    with open_file(path) as file:
        head = file.read(512 + len(_HDF5))
    return head.startswith(_HDF5) or head[512:] == _HDF5


def read_mat(path: str | os.PathLike[str], key: str | None = None) -> NDArray[Any]:
    """An array of numbers from a Matlab file of version 5, compressed or not, in any byte order.

    Args:
        path: the file.
        key: the variable.  By default ``data``, as Caffe writes it, or the only array of numbers.

    Returns:
        The array with its axes in Caffe's order: the reverse of Matlab's.

    Raises:
        BadInput: another kind of file, a damaged one, none or several arrays, or a file whose
            compressed part is larger than ``MAX_HDF5_EXPANSION`` allows.
    """

    def choose(kinds: Mapping[str, str]) -> str:
        names = [name for name, kind in kinds.items() if kind in _NUMBERS]
        return chosen(names, VARIABLE if key is None and VARIABLE in names else key, path)

    name, values = load_variable(path, choose)
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiu":
        raise InputError(f"{name} holds no real numbers", file=path)
    return values.T


def load_variable(
    path: str | os.PathLike[str], choose: Callable[[Mapping[str, str]], str]
) -> tuple[str, Any]:
    """One variable of a Matlab file of version 5, as scipy gives it, with Matlab's axes.

    Args:
        path: the file.
        choose: {name: Matlab's word for the kind} -> the name to load.

    Returns:
        Its name and value.

    Raises:
        BadInput: another kind of file, a damaged one, two variables of this name, or a file whose
            compressed part is larger than ``MAX_HDF5_EXPANSION`` allows.
    """
    try:
        with open_file(path) as file:
            source = _inflated(file, path)
            entries = [(name, kind) for name, _, kind in scipy.io.whosmat(source)]
            name = choose(dict(entries))
            if sum(name == each for each, _ in entries) > 1:
                raise InputError(f"holds several variables {name}", file=path)
            source.seek(0)
            return name, scipy.io.loadmat(source, variable_names=[name])[name]
    except BadInput:
        raise
    except Exception as error:  # scipy raises whatever fits the place where a damaged file shows
        raise InputError(f"is no .mat file, or damaged ({error})", file=path) from None


def chosen(names: list[str], key: str | None, path: object) -> str:
    """The one of several arrays in a file that ``key`` names, or the only one.

    Raises:
        InputError: no such array, or several and no key.
    """
    if key in names or (key is None and len(names) == 1):
        return key or names[0]
    listed = ", ".join(names[:20]) + (", ..." if len(names) > 20 else "")
    raise InputError(
        "which array holds the scores?" if key is None else f"holds no array {key}",
        file=path,
        expected=f"--key with one of {listed}" if names else "an array",
        got=key,
    )


def write_mat(path: str | os.PathLike[str], values: NDArray[np.float32]) -> None:
    """Write a blob as Caffe's MatWrite layer does: version 5, not compressed, variable ``data``.

    The same blob gives the same bytes: where others put the date there is none.

    Args:
        path: replaced in one step when all is written.
        values: (N, C, H, W); in the file W x H x C x N.

    Raises:
        BadInput: the file cannot be written.
    """
    description = b"MATLAB 5.0 MAT-file, Created by: deeplab-repro"
    with replacing_file(path) as out:
        scipy.io.savemat(out, {VARIABLE: values.T})
        out.seek(0)
        out.write(description.ljust(_DESCRIPTION))
        out.seek(0, os.SEEK_END)


def _inflated(file: BinaryIO, path: object) -> BinaryIO:
    """The file itself, or in memory what it is without compression.

    scipy would inflate whatever a file claims; here it is as much as the limits allow.
    """
    header = file.read(_HEADER)
    order = {b"IM": "<", b"MI": ">"}.get(header[126:])
    if order is None or struct.unpack(f"{order}H", header[124:126]) != (0x0100,):
        raise InputError("is no .mat file", file=path, expected="Matlab's version 5 or 7.3")
    size = os.fstat(file.fileno()).st_size
    allowed = max(SMALL_BYTES, MAX_HDF5_EXPANSION.value * size)
    tag = struct.Struct(f"{order}2I")
    found: list[tuple[int, int, int]] = []  # kind, where it starts, bytes with the tag
    at = _HEADER
    while at + tag.size <= size:
        file.seek(at)
        kind, count = tag.unpack(file.read(tag.size))
        found.append((kind, at, tag.size + count))
        MAX_HDF5_OBJECTS.check(len(found), "too many variables", file=path)
        at += tag.size + count
    if at > size:
        raise InputError("is cut off", file=path, expected=f"{at} bytes", got=size)
    if all(kind != _COMPRESSED for kind, _, _ in found):
        file.seek(0)
        return file
    whole = io.BytesIO(header)
    whole.seek(0, os.SEEK_END)
    for kind, start, count in found:
        file.seek(start)
        if kind != _COMPRESSED:
            whole.write(file.read(count))
            continue
        packed = file.read(count)[tag.size :]
        left = allowed - whole.tell()
        element = zlib.decompressobj().decompress(packed, max(1, left))
        if len(element) >= left:
            MAX_HDF5_EXPANSION.check(
                MAX_HDF5_EXPANSION.value + 1, "holds more than its size, so many times", file=path
            )
        if len(element) < tag.size or len(element) != tag.size + tag.unpack_from(element)[1]:
            raise InputError("is no .mat file, or damaged (an element of another size)", file=path)
        whole.write(element)
    whole.seek(0)
    return whole


# ---------------------------------------------------------------- .bin


def read_bin(path: str | os.PathLike[str]) -> NDArray[Any]:
    """An array from a ``.bin`` of DeepLab's Matlab scripts and of its densecrf programs.

    int32 rows, columns and channels, then the numbers, rows running fastest, all little-endian
    (matlab/my_script/SaveBinFile.m).  What numbers they are follows from the file's size.

    Returns:
        (channels, rows, columns): uint8, int16 or int32 (label maps), float32 (scores) or float64.

    Raises:
        BadInput: a file that is not as long as its header says.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = file.read(_BIN_HEADER.size)
        sizes = _BIN_HEADER.unpack(header) if len(header) == _BIN_HEADER.size else ()
        if not sizes or min(sizes) < 1:
            raise InputError(
                "is no .bin of an array",
                file=path,
                expected="rows, columns and channels as int32, at least 1",
                got=list(sizes) or f"{size} bytes",
            )
        rows, columns, channels = sizes
        count = rows * columns * channels
        width, rest = divmod(size - _BIN_HEADER.size, count)
        if rest or width not in _BIN_NUMBERS:
            raise InputError(
                f"has another size than its header of {rows}x{columns}x{channels} says",
                file=path,
                expected=f"{count} numbers of 1, 2, 4 or 8 bytes",
                got=f"{size - _BIN_HEADER.size} bytes",
            )
        flat = np.frombuffer(file.read(), np.dtype(_BIN_NUMBERS[width]).newbyteorder("<"))
    if width == 4:
        # Of the two kinds of four bytes, no float but 0 is a small whole number.
        numbers = flat.view("<i4")
        if ((numbers >= -1) & (numbers < 1 << 16)).all() and numbers.any():
            flat = numbers
    return flat.reshape(channels, columns, rows).transpose(0, 2, 1)


def write_bin(path: str | os.PathLike[str], values: NDArray[Any]) -> None:
    """Write scores as DeepLab's Matlab scripts do, or labels as its densecrf programs do.

    Args:
        path: replaced in one step when all is written.
        values: (C, H, W) of floats, written as float32; or (H, W) labels, written as int16.

    Raises:
        BadInput: labels beyond 32767, or the file cannot be written.
    """
    kind = "<f4"
    if values.ndim == 2:
        if values.size and not -(2**15) <= values.min() <= values.max() < 2**15:
            raise InputError(
                "labels do not fit", file=path, expected="at most 32767", got=values.max()
            )
        values, kind = values[None], "<i2"
    channels, rows, columns = values.shape
    with replacing_file(path) as out:
        out.write(_BIN_HEADER.pack(rows, columns, channels))
        out.write(np.ascontiguousarray(values.transpose(0, 2, 1), kind).data)
