"""Pictures as network inputs, prepared as the released DeepLab test nets do."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import h5py
import numpy as np
from numpy.typing import NDArray

from prototxt_import import CaffeImportError, Net
from prototxt_import.caffemodel import mapped, read_blob
from prototxt_import.wire import WireError, WireField, scan_blob

__all__ = ["VOC_MEAN", "Preparation", "load_inputs", "read_mean"]

#: Mean of the training pictures in every VOC file of DeepLab: blue, green, red.
VOC_MEAN: Final = (104.008, 116.669, 122.675)
Array = NDArray[np.float32]


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input blob.

    Attributes:
        mean: subtracted, in the order of the channels: three numbers (blue, green, red), a
            picture of the input's size (3, H, W), or None.
        scale: multiplied after the mean is subtracted (data_transformer.cpp).
        pad_to: pad right and bottom to this height and width with the mean.
        resize: (H, W) to resize to, before padding; bilinear as OpenCV does it, like Caffe.
    """

    mean: tuple[float, float, float] | Array | None = VOC_MEAN
    scale: float = 1.0
    pad_to: int | None = None
    resize: tuple[int, int] | None = None

    def apply(self, picture: NDArray[np.uint8], file: object = None) -> Array:
        """(H, W, 3) uint8 BGR -> (1, 3, H', W') float32."""
        if self.resize:
            picture = np.asarray(
                cv2.resize(picture, self.resize[::-1], interpolation=cv2.INTER_LINEAR), np.uint8
            )
        blob = picture.astype(np.float32).transpose(2, 0, 1)
        if self.mean is not None:
            mean = np.asarray(self.mean, np.float32)
            if mean.ndim == 1:
                mean = mean[:, None, None]
            elif mean.shape != blob.shape:
                raise CaffeImportError(
                    "the mean picture has another size",
                    file=file,
                    expected="x".join(map(str, mean.shape)),
                    got="x".join(map(str, blob.shape)),
                )
            blob = blob - mean
        blob = blob * np.float32(self.scale)
        if self.pad_to is not None:
            height, width = blob.shape[1:]
            if max(height, width) > self.pad_to:
                raise CaffeImportError(
                    "the picture is larger than the size to pad to",
                    file=file,
                    expected=f"at most {self.pad_to}x{self.pad_to}",
                    got=f"{height}x{width}",
                )
            # The mean, once subtracted, is zero.
            blob = np.pad(blob, ((0, 0), (0, self.pad_to - height), (0, self.pad_to - width)))
        return np.ascontiguousarray(blob[None])


def read_mean(path: str | os.PathLike[str]) -> Array:
    """A mean picture (3, H, W), BGR: a Caffe ``.binaryproto`` or an ``.npy``.

    Raises:
        CaffeImportError: neither of the two.
    """
    if Path(path).suffix == ".npy":
        mean = _load_npy(path)
    else:
        with mapped(path) as (file, data):
            whole = WireField(0, 2, 0, 0, len(data), 0)
            try:
                mean = read_blob(file, scan_blob(data, whole), where="the mean", path=path)
            except WireError as error:
                raise CaffeImportError(f"is no mean picture ({error})", file=path) from None
    mean = np.asarray(mean, np.float32)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise CaffeImportError("is no mean picture", file=path, expected="3xHxW", got=mean.shape)
    return mean


def load_inputs(
    path: str | os.PathLike[str], net: Net, preparation: Preparation | None = None
) -> dict[str, Array]:
    """The inputs of a network from a picture, an ``.npy`` or an ``.h5``.

    Args:
        path: a picture for the network's first input; an array for it (a missing batch axis is
            added); or an ``.h5`` with ``/blobs/INPUT`` for each.
        net: the network.
        preparation: for pictures.

    Returns:
        input blob -> float32 array.  A ``data_dim`` input of a data layer gets the picture's own
        height and width.

    Raises:
        CaffeImportError: a file that is none of these, or lacks an input.
    """
    ending = Path(path).suffix.lower()
    if ending in (".h5", ".hdf5"):
        return _load_h5(path, net)
    if not net.inputs:
        raise CaffeImportError("the network has no inputs", file=net.file)
    first = next(iter(net.inputs))
    if ending == ".npy":
        array = np.asarray(_load_npy(path), np.float32)
        return {first: array[None] if array.ndim == 3 else array}
    picture = cv2.imread(os.fspath(path), cv2.IMREAD_COLOR) if Path(path).is_file() else None
    if picture is None:
        what = "is no picture that OpenCV reads" if Path(path).is_file() else "no such file"
        raise CaffeImportError(what, file=path, expected="a picture, .npy or .h5")
    pixels: NDArray[np.uint8] = np.asarray(picture, np.uint8)
    inputs = {first: (preparation or Preparation()).apply(pixels, path)}
    if "data_dim" in net.inputs:
        height, width = inputs[first].shape[2:]
        if preparation and preparation.pad_to:
            height, width = preparation.resize or pixels.shape[:2]
        inputs["data_dim"] = np.array([height, width], np.float32).reshape(1, 1, 1, 2)
    return inputs


def _load_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    try:
        array = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        raise CaffeImportError(f"is no .npy ({error})", file=path) from None
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "fiu":
        raise CaffeImportError("holds no numbers", file=path)
    return array


def _load_h5(path: str | os.PathLike[str], net: Net) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    try:
        with h5py.File(path) as file:
            blobs: Mapping[str, Any] = file.get("blobs", {})
            for name, declared in net.inputs.items():
                item = blobs.get(name)
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                    inputs[name] = np.asarray(item[()], np.float32)
                elif declared.required:
                    raise CaffeImportError(
                        "lacks an input of the network", file=path, expected=f"/blobs/{name}"
                    )
    except OSError as error:
        raise CaffeImportError(f"cannot be read as HDF5 ({error})", file=path) from None
    return inputs
