"""Pictures as network inputs, prepared as the released DeepLab test nets do."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.voc import VOC_MEAN
from prototxt_import import CaffeImportError, Net
from prototxt_import.caffemodel import opened, read_blob
from prototxt_import.files import open_file
from prototxt_import.hdf5 import dataset_at, open_hdf5, read_dataset
from prototxt_import.limits import MAX_PIXELS
from prototxt_import.wire import WireError, WireField, scan_blob
from prototxt_import.words import show

__all__ = [
    "Preparation",
    "load_inputs",
    "load_npy",
    "load_npy_header",
    "read_mean",
    "read_picture",
    "resize_picture",
]

Array = NDArray[np.float32]


@dataclass(frozen=True)
class Preparation:
    """How a picture becomes an input blob.

    Attributes:
        mean: subtracted, in the order of the channels: three numbers (blue, green, red), a
            picture of the input's size (3, H, W), or None.
        scale: multiplied after the mean is subtracted (data_transformer.cpp).
        pad_to: pad right and bottom with the mean, to this height and width: one number, or (H, W).
        resize: (H, W) to resize to, before padding; bilinear as OpenCV does it, like Caffe.
    """

    mean: tuple[float, float, float] | Array | None = VOC_MEAN
    scale: float = 1.0
    pad_to: int | tuple[int, int] | None = None
    resize: tuple[int, int] | None = None

    def apply(self, picture: NDArray[np.uint8], file: object = None) -> Array:
        """(H, W, 3) uint8 BGR -> (1, 3, H', W') float32."""
        if self.resize:
            picture = resize_picture(picture, self.resize, file)
        blob = picture.astype(np.float32).transpose(2, 0, 1)
        if self.mean is not None:
            mean = np.asarray(self.mean, np.float32)
            if mean.ndim == 1:
                mean = mean[:, None, None]
            elif mean.shape != blob.shape:
                raise InputError(
                    "the mean picture has another size",
                    file=file,
                    expected=show(mean.shape),
                    got=show(blob.shape),
                )
            blob = blob - mean
        blob = blob * np.float32(self.scale)
        if self.pad_to is not None:
            rows, columns = (self.pad_to,) * 2 if isinstance(self.pad_to, int) else self.pad_to
            height, width = blob.shape[1:]
            if height > rows or width > columns:
                raise InputError(
                    "the picture is larger than the size to pad to",
                    file=file,
                    expected=f"at most {rows}x{columns}",
                    got=f"{height}x{width}",
                )
            # The mean, once subtracted, is zero (data_transformer.cpp of the forks pads doubles,
            # so that nothing is rounded).
            blob = np.pad(blob, ((0, 0), (0, rows - height), (0, columns - width)))
        return np.ascontiguousarray(blob[None])


def read_picture(
    path: str | os.PathLike[str], *, upright: bool = False, is_color: bool = True
) -> NDArray[np.uint8]:
    """Read a picture as Caffe's data layers do (io.cpp, ReadImageToCVMat).

    Grey pictures get three equal channels, transparency is dropped, 16 bits become 8.

    Args:
        path: any kind of picture that OpenCV reads.
        upright: turn it as its EXIF data say.  The OpenCV of Caffe's time did not know them, and
            label pictures belong to the pixels as they are stored.
        is_color: False makes it grey.

    Returns:
        (H, W, 3) uint8, BGR; or (H, W).

    Raises:
        BadInput: no such file, no picture, or more than ``MAX_PIXELS``.
    """
    with open_file(path) as file:
        content = np.frombuffer(file.read(), np.uint8)
    flags = cv2.IMREAD_COLOR if is_color else cv2.IMREAD_GRAYSCALE
    flags |= 0 if upright else cv2.IMREAD_IGNORE_ORIENTATION
    try:
        picture = cv2.imdecode(content, flags) if content.size else None
    except cv2.error as error:
        if "CV_IO_MAX_IMAGE" in str(error):  # OpenCV's own limits, held against the header
            raise InputError(
                "has too many pixels",
                file=path,
                expected=f"at most {MAX_PIXELS.value} ({MAX_PIXELS.variable} raises this limit)",
            ) from None
        picture = None
    if picture is None:
        raise InputError(
            "is no picture that OpenCV reads, or damaged", file=path, expected="a picture"
        )
    MAX_PIXELS.check(picture.shape[0] * picture.shape[1], "has too many pixels", file=path)
    return np.asarray(picture, np.uint8)


def resize_picture(
    picture: NDArray[np.uint8], size: tuple[int, int], file: object = None
) -> NDArray[np.uint8]:
    """Resize to (H, W) as OpenCV's bilinear does, like Caffe's data layers.

    Args:
        picture: with channels or without.
        size: the new height and width.
        file: for the message.

    Raises:
        InputError: OpenCV cannot make a picture of that size.
    """
    try:
        resized = cv2.resize(picture, size[::-1], interpolation=cv2.INTER_LINEAR)
    except cv2.error:
        raise InputError(
            "cannot be resized", file=file, expected="fewer rows and columns", got=size
        ) from None
    return np.asarray(resized, np.uint8)


def read_mean(path: str | os.PathLike[str]) -> Array:
    """A mean picture (3, H, W), BGR: a Caffe ``.binaryproto`` or an ``.npy``.

    Raises:
        BadInput: neither of the two.
    """
    if Path(path).suffix == ".npy":
        mean = load_npy(path)
    else:
        with opened(path) as (file, data):
            whole = WireField(0, 2, 0, 0, len(data), 0)
            try:
                mean = read_blob(file, scan_blob(data, whole), where="the mean", path=path)
            except WireError as error:
                raise CaffeImportError(f"is no mean picture ({error})", file=path) from None
    mean = np.asarray(mean, np.float32)
    if mean.ndim == 4 and mean.shape[0] == 1:
        mean = mean[0]
    if mean.ndim != 3 or mean.shape[0] != 3:
        raise InputError("is no mean picture", file=path, expected="3xHxW", got=show(mean.shape))
    if not np.isfinite(mean).all():
        raise InputError("is no mean picture", file=path, expected="finite numbers")
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
        BadInput: a file that is none of these, or lacks an input.
    """
    ending = Path(path).suffix.lower()
    if ending in (".h5", ".hdf5"):
        return _load_h5(path, net)
    if not net.inputs:
        raise CaffeImportError("the network has no inputs", file=net.file)
    first = next(iter(net.inputs))
    if ending == ".npy":
        array = np.asarray(load_npy(path), np.float32)
        return {first: array[None] if array.ndim == 3 else array}
    try:
        pixels = read_picture(path)
    except BadInput as error:
        error.expected = "a picture, .npy or .h5"
        raise
    inputs = {first: (preparation or Preparation()).apply(pixels, path)}
    if "data_dim" in net.inputs:
        height, width = inputs[first].shape[2:]
        if preparation and preparation.pad_to:
            height, width = preparation.resize or pixels.shape[:2]  # without the padding
        inputs["data_dim"] = np.array([height, width], np.float32).reshape(1, 1, 1, 2)
    return inputs


def load_npy(path: str | os.PathLike[str]) -> NDArray[Any]:
    """The array of an ``.npy``.

    Raises:
        BadInput: no such file, no ``.npy``, or none of numbers.
    """
    return np.array(_mapped_npy(path))


def load_npy_header(
    path: str | os.PathLike[str],
) -> tuple[tuple[int, ...], np.dtype[Any], int] | None:
    """Shape and dtype of an ``.npy``, and the bytes before its first number.

    Returns:
        None where the array is not stored row by row.

    Raises:
        BadInput: as :func:`load_npy`.
    """
    array = _mapped_npy(path)
    return (array.shape, array.dtype, array.offset) if array.flags.c_contiguous else None


def _mapped_npy(path: str | os.PathLike[str]) -> np.memmap[Any, Any]:
    open_file(path).close()  # numpy would wait for ever at a pipe
    try:
        # Mapped, so that a header which promises more than the file holds is seen at once.
        array = np.lib.format.open_memmap(path, mode="r")
    except Exception as error:
        # numpy reads the header as a Python literal; bad ones raise whatever Python's parser does.
        raise InputError(f"is no .npy ({error})", file=path) from None
    if array.dtype.kind not in "fiu":
        raise InputError("is no .npy of numbers", file=path, got=array.dtype)
    return array


def _load_h5(path: str | os.PathLike[str], net: Net) -> dict[str, Array]:
    inputs: dict[str, Array] = {}
    with open_hdf5(path) as file:
        for name, declared in net.inputs.items():
            try:
                item = dataset_at(file, f"blobs/{name}", path)
            except CaffeImportError:
                if declared.required:
                    raise InputError(
                        "lacks an input of the network", file=path, expected=f"/blobs/{name}"
                    ) from None
                continue
            inputs[name] = np.asarray(read_dataset(item, path, kinds="fiu"), np.float32)
    return inputs
