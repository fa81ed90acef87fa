"""Label maps in the files of DeepLab's MATLAB scripts and programs, and of SBD."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from prototxt_import.limits import MAX_PIXELS

__all__ = ["MATLAB_ENDINGS", "read_matlab"]

#: Kinds of files that :func:`read_matlab` reads.
MATLAB_ENDINGS: Final = (".bin", ".mat")
#: The variable of SBD's files, a struct with the field Segmentation.
_SBD: Final = "GTcls"
_KINDS: Final = "buif"


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
    # Its import takes half a second, and most labels are PNGs.
    from deeplab_repro.pictures.matlab import read_bin

    values = read_bin(path) if Path(path).suffix.lower() == ".bin" else _from_mat(path)
    if not values.size:
        raise InputError("holds no pixels", file=path, got=values.shape)
    MAX_PIXELS.check(values.shape[-2] * values.shape[-1], "has too many pixels", file=path)
    return values[0] if values.ndim == 3 and len(values) == 1 else values


def _from_mat(path: str | os.PathLike[str]) -> NDArray[Any]:
    from deeplab_repro.pictures.matlab import VARIABLE, load_variable

    def choose(kinds: Mapping[str, str]) -> str:
        for known in (_SBD, VARIABLE):
            if known in kinds:
                return known
        numbers = [name for name, kind in kinds.items() if kind not in ("struct", "cell", "char")]
        if len(numbers) != 1:
            raise InputError(
                "holds no label map",
                file=path,
                expected=f"{_SBD}.Segmentation, a blob `{VARIABLE}` of MatWrite, or one matrix",
                got=", ".join(sorted(kinds)) or "nothing",
            )
        return numbers[0]

    name, values = load_variable(path, choose)
    if name == _SBD:
        return _matrix(_segmentation(values, path), f"{_SBD}.Segmentation", path)
    values = np.asarray(values)
    return _blob(values, path) if name == VARIABLE else _matrix(values, name, path)


def _segmentation(struct: NDArray[Any], path: str | os.PathLike[str]) -> NDArray[Any]:
    names = struct.dtype.names or ()
    if "Segmentation" not in names or struct.size != 1:
        raise InputError(f"{_SBD} is not SBD's", file=path, expected="a field Segmentation")
    return np.asarray(struct["Segmentation"].item())


def _matrix(values: NDArray[Any], name: str, path: str | os.PathLike[str]) -> NDArray[Any]:
    if values.ndim != 2 or values.dtype.kind not in _KINDS:
        raise InputError(f"{name} is no matrix of numbers", file=path, got=values.shape)
    return values


def _blob(values: NDArray[Any], path: str | os.PathLike[str]) -> NDArray[Any]:
    """MATLAB shows (width, height, channels, number) and drops axes of 1 at the end."""
    axes = values.shape + (1,) * (4 - values.ndim)
    if len(axes) != 4 or axes[3] != 1 or values.dtype.kind not in _KINDS:
        raise InputError(
            "data is no blob of one picture", file=path, expected="(W, H, C, 1)", got=values.shape
        )
    return values.reshape(axes[:3]).transpose(2, 1, 0)
