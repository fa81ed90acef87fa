"""Maps in the files of DeepLab's MATLAB scripts and programs: ``.mat`` and ``.bin``.

Both hold columns one after another, as MATLAB keeps matrices.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.data.mat5 import read_mat
from deeplab_repro.errors import InputError
from prototxt_import.files import open_file
from prototxt_import.limits import MAX_BLOB_BYTES, MAX_PIXELS

__all__ = ["MATLAB_ENDINGS", "read_matlab"]

#: Kinds of files that :func:`read_matlab` reads.
MATLAB_ENDINGS: Final = (".bin", ".mat")
#: Bytes of a value -> its type (SaveBinFile.m; the dense CRF programs write labels as int16).
_BIN_KINDS: Final = {1: "<u1", 2: "<i2", 4: "<i4", 8: "<f8"}
_BIN_HEADER: Final = 12


def read_matlab(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The map in a ``.mat`` or ``.bin`` of the original programs.

    ``.bin`` (SaveBinFile.m, dense_inference.cpp): rows, columns and channels as int32, then the
    values column by column.  Their type is that which fits the file's size.

    ``.mat``: SBD's ``GTcls.Segmentation``; ``data`` as Caffe's MatWrite layer saves a blob, with
    the axes width, height, channels, number (matio_io.cpp); or any one matrix of rows and columns.

    Args:
        path: the file.

    Returns:
        (H, W), or (C, H, W) where there are several channels, of the file's own number type.

    Raises:
        InputError: another kind of file, or one that holds no map.
    """
    values = _from_bin(path) if Path(path).suffix.lower() == ".bin" else _from_mat(path)
    if not values.size:
        raise InputError("holds no pixels", file=path, got=values.shape)
    MAX_PIXELS.check(values.shape[-2] * values.shape[-1], "has too many pixels", file=path)
    return values


def _from_bin(path: str | os.PathLike[str]) -> NDArray[Any]:
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        header = np.frombuffer(file.read(_BIN_HEADER), "<i4") if size >= _BIN_HEADER else None
        if header is None or header.min() < 1:
            raise InputError(
                "is no .bin of DeepLab",
                file=path,
                expected="rows, columns and channels as int32 and at least 1",
                got=f"{size} bytes" if header is None else header.tolist(),
            )
        rows, columns, channels = (int(number) for number in header)
        count = rows * columns * channels
        width, rest = divmod(size - _BIN_HEADER, count)
        if rest or width not in _BIN_KINDS:
            raise InputError(
                f"has another size than its header of {rows}x{columns}x{channels} says",
                file=path,
                expected=f"{count} values of 1, 2, 4 or 8 bytes",
                got=f"{size - _BIN_HEADER} bytes",
            )
        MAX_BLOB_BYTES.check(size, "is too large, in bytes", file=path)
        flat = np.frombuffer(file.read(), _BIN_KINDS[width])
    if width == 4 and not ((flat >= -1) & (flat < 1 << 16)).all():
        flat = flat.view("<f4")  # of the two types of 4 bytes, no float but 0 is a small integer
    values = flat.reshape(channels, columns, rows).transpose(0, 2, 1)
    return values[0] if channels == 1 else values


def _from_mat(path: str | os.PathLike[str]) -> NDArray[Any]:
    variables = read_mat(path)
    if "GTcls" in variables:
        struct = variables["GTcls"]
        values = struct.get("Segmentation") if isinstance(struct, dict) else None
        if values is None:
            raise InputError("GTcls is not SBD's", file=path, expected="a matrix Segmentation")
        return _matrix(values, "GTcls.Segmentation", path)
    matrices = {name: v for name, v in variables.items() if isinstance(v, np.ndarray)}
    if "data" in matrices:
        return _blob(matrices["data"], path)
    if len(matrices) != 1:
        raise InputError(
            "holds no label map",
            file=path,
            expected="GTcls.Segmentation, a blob `data` of MatWrite, or one matrix",
            got=", ".join(sorted(variables)) or "nothing",
        )
    name, matrix = matrices.popitem()
    return _matrix(matrix, name, path)


def _matrix(values: NDArray[Any], name: str, path: str | os.PathLike[str]) -> NDArray[Any]:
    if values.ndim != 2:
        raise InputError(f"{name} is no matrix", file=path, got=values.shape)
    return values


def _blob(values: NDArray[Any], path: str | os.PathLike[str]) -> NDArray[Any]:
    """MATLAB shows (width, height, channels, number) and drops axes of 1 at the end."""
    axes = values.shape + (1,) * (4 - values.ndim)
    if len(axes) != 4 or axes[3] != 1:
        raise InputError(
            "data is no blob of one picture", file=path, expected="(W, H, C, 1)", got=values.shape
        )
    blob = values.reshape(axes[:3]).transpose(2, 1, 0)
    return blob[0] if axes[2] == 1 else blob
