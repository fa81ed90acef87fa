"""Arrays in the two kinds of files of the released programs: ``.mat`` and ``.bin``.

Matlab lets the first axis run fastest, numpy and Caffe the last.  Every array here has its axes in
Caffe's order, so that a blob (N, C, H, W) is Matlab's W x H x C x N, with the same bytes.
"""

from __future__ import annotations

import os
import struct
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.pictures import mat5
from prototxt_import.files import open_file, replacing_file

__all__ = ["VARIABLE", "is_hdf5", "read_bin", "read_mat", "write_bin", "write_mat"]

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
    arrays = {n: v for n, v in mat5.read_mat(path).items() if isinstance(v, np.ndarray)}
    wanted = VARIABLE if key is None and VARIABLE in arrays else key
    return arrays[chosen(list(arrays), wanted, path)].T


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
    import scipy.io  # takes half a second

    description = b"MATLAB 5.0 MAT-file, Created by: deeplab-repro"
    with replacing_file(path) as out:
        scipy.io.savemat(out, {VARIABLE: values.T})
        out.seek(0)
        out.write(description.ljust(_DESCRIPTION))
        out.seek(0, os.SEEK_END)


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
