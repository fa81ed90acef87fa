"""``.caffemodel.h5``: ``/data/LAYER/0``, ``/data/LAYER/1``, ... (net.cpp, ToHDF5)."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence

import h5py
import numpy as np

from prototxt_import.caffemodel import Array, Weights
from prototxt_import.errors import CaffeImportError
from prototxt_import.files import replacing

__all__ = ["numbered_arrays", "open_hdf5", "read_hdf5", "write_hdf5"]


def open_hdf5(path: str | os.PathLike[str]) -> h5py.File:
    """Open for reading; a damaged file is one clear error."""
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CaffeImportError(f"cannot be read as HDF5 ({error})", file=path) from None


def numbered_arrays(group: h5py.Group, path: object, layer: str | None = None) -> list[Array]:
    """The data sets ``0``, ``1``, ... of a group, none left out.

    Raises:
        CaffeImportError: a number is missing, or something that is no float array.
    """
    names = [name for name, item in group.items() if isinstance(item, h5py.Dataset)]
    arrays: list[Array] = []
    for i in range(len(names)):
        if str(i) not in group or not isinstance(group[str(i)], h5py.Dataset):
            raise CaffeImportError(
                f"{group.name} lacks data set {i}", file=path, layer=layer, got=sorted(names)
            )
        data = group[str(i)]
        if data.dtype.kind != "f":
            raise CaffeImportError(
                f"blob {i} holds no floats", file=path, layer=layer, got=data.dtype
            )
        dtype = np.float64 if data.dtype.itemsize > 4 else np.float32
        arrays.append(data.astype(dtype)[()])
    return arrays


def read_hdf5(path: str | os.PathLike[str]) -> Weights:
    """The weights of a ``.caffemodel.h5``, layers in the file's order.

    Raises:
        CaffeImportError: no ``/data`` group, or blobs that are not numbered from 0.
    """
    with open_hdf5(path) as file:
        data = file.get("data")
        if not isinstance(data, h5py.Group):
            raise CaffeImportError(
                "is no .caffemodel.h5", file=path, expected="a group /data", got=sorted(file)
            )
        weights: Weights = {}

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            # A "/" in a layer's name makes nested groups, so a layer is any group with data sets.
            if isinstance(item, h5py.Group):
                arrays = numbered_arrays(item, path, layer=name)
                if arrays:
                    weights[name] = arrays

        data.visititems(visit)
    return weights


def write_hdf5(path: str | os.PathLike[str], weights: Mapping[str, Sequence[Array]]) -> None:
    """Write a ``.caffemodel.h5``."""
    with replacing(path) as temporary, h5py.File(temporary, "w", track_order=True) as file:
        data = file.create_group("data", track_order=True)
        for layer, blobs in weights.items():
            group = data.require_group(layer)
            for i, blob in enumerate(blobs):
                group.create_dataset(str(i), data=blob)
