"""Label maps in the files of DeepLab's MATLAB scripts and programs, and of SBD."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.pictures.mat5 import read_mat
from deeplab_repro.pictures.matlab import VARIABLE, read_bin
from prototxt_import.limits import MAX_PIXELS

__all__ = ["MATLAB_ENDINGS", "read_matlab"]

#: Kinds of files that :func:`read_matlab` reads.
MATLAB_ENDINGS: Final = (".bin", ".mat")
#: The variable of SBD's files, a struct with the field Segmentation.
_SBD: Final = "GTcls"


def read_matlab(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The map in a ``.mat`` or ``.bin`` of the original programs.

    ``.bin``: see :func:`~deeplab_repro.pictures.matlab.read_bin`.

    ``.mat``: SBD's ``GTcls.Segmentation``; ``data`` as Caffe's MatWrite layer saves a blob, with
    the axes width, height, channels, number (matio_io.cpp); or any one matrix of rows and columns.

    Args:
        path: the file.

    Returns:
        (H, W), or (C, H, W) where there are several channels, of the file's own number type.

    Raises:
        InputError: another kind of file, or one that holds no map.
    """
    values = read_bin(path) if Path(path).suffix.lower() == ".bin" else _from_mat(path)
    if not values.size:
        raise InputError("holds no pixels", file=path, got=values.shape)
    MAX_PIXELS.check(values.shape[-2] * values.shape[-1], "has too many pixels", file=path)
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _from_mat(path: str | os.PathLike[str]) -> NDArray[Any]:
    variables = read_mat(path)
    if _SBD in variables:
        struct = variables[_SBD]
        values = struct.get("Segmentation") if isinstance(struct, dict) else None
        if values is None:
            raise InputError(f"{_SBD} is not SBD's", file=path, expected="a matrix Segmentation")
        return _matrix(values, f"{_SBD}.Segmentation", path)
    matrices = {name: v for name, v in variables.items() if isinstance(v, np.ndarray)}
    if VARIABLE in matrices:
        return _blob(matrices[VARIABLE], path)
    if len(matrices) != 1:
        raise InputError(
            "holds no label map",
            file=path,
            expected=f"{_SBD}.Segmentation, a blob `{VARIABLE}` of MatWrite, or one matrix",
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
            f"{VARIABLE} is no blob of one picture",
            file=path,
            expected="(W, H, C, 1)",
            got=values.shape,
        )
    return values.reshape(axes[:3]).transpose(2, 1, 0)
