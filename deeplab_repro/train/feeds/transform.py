"""From a picture and its labels to a part of a batch (data_transformer.cpp)."""

from __future__ import annotations

from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.pictures.reading import read_mean, resize_picture
from prototxt_import import Phase
from prototxt_import.layers import Transformation
from prototxt_import.words import show

__all__ = ["Transformer"]

Pixels = NDArray[np.uint8]
Blob = NDArray[np.float32]


class Transformer:
    """Scale, pad, crop, mirror, subtract the mean, multiply: in this order.

    Args:
        settings: of the layer.
        phase: a crop is placed at random in TRAIN, and in the middle in TEST; scale factors and
            mirroring are drawn in both.
        channels: of the pictures.

    Raises:
        BadInput: another number of mean values than one or one per channel, or no mean picture.
    """

    def __init__(self, settings: Transformation, phase: Phase, channels: int) -> None:
        self._settings = settings
        self._is_random = phase == "TRAIN"
        self._mean: Blob | None = None
        if settings.mean_file:
            self._mean = read_mean(settings.mean_file)
        elif settings.mean_value:
            if len(settings.mean_value) not in (1, channels):
                raise InputError(
                    "has another number of mean values than channels",
                    expected=f"1 or {channels}",
                    got=len(settings.mean_value),
                )
            self._mean = np.array(settings.mean_value, np.float32).reshape(-1, 1, 1)

    def picture(self, pixels: Pixels, random: np.random.Generator) -> Blob:
        """A picture alone (DataTransformer::Transform), which a crop must fit into.

        Args:
            pixels: (H, W) or (H, W, C).
            random: for the choices.

        Returns:
            (C, height, width), those of the crop.

        Raises:
            InputError: the picture is smaller than the crop, or not of the mean picture's size.
        """
        size, crop = pixels.shape[:2], self._settings.crop
        if crop and (size[0] < crop[0] or size[1] < crop[1]):
            raise InputError(
                "is smaller than the crop", expected=f"at least {show(crop)}", got=show(size)
            )
        mirrored = self._mirrored(random)
        return self._finished(pixels, self._window(size, random), mirrored)

    def picture_and_labels(
        self, pixels: Pixels, labels: Pixels, ignore_label: int, random: np.random.Generator
    ) -> tuple[Blob, Blob]:
        """A picture and its label map (DataTransformer::TransformImgAndSeg).

        Pictures are scaled by OpenCV's INTER_LINEAR, labels by INTER_NEAREST.  What a crop lacks
        is added on the right and at the bottom: the mean, which is 0 once it is subtracted, and
        ``ignore_label``.

        Args:
            pixels: (H, W) or (H, W, C).
            labels: (H, W).
            ignore_label: the label of the padding.
            random: for the choices.

        Returns:
            (C, height, width) and (1, height, width), those of the crop.

        Raises:
            InputError: nothing is left of the picture, or it becomes too large.
        """
        mirrored = self._mirrored(random)
        if self._settings.scale_factors:
            factors = self._settings.scale_factors
            factor = factors[random.integers(len(factors))]
            pixels, labels = _scaled(pixels, factor), _scaled(labels, factor, is_label=True)
        window = self._window(pixels.shape[:2], random)
        top, left, height, width = window
        part = labels[top : top + height, left : left + width]
        target = np.full((1, height, width), ignore_label, np.float32)
        target[0, : part.shape[0], : part.shape[1]] = part
        return self._finished(pixels, window, mirrored), _mirrored(target, mirrored)

    def _mirrored(self, random: np.random.Generator) -> bool:
        return self._settings.mirror and bool(random.integers(2))

    def _window(
        self, size: tuple[int, ...], random: np.random.Generator
    ) -> tuple[int, int, int, int]:
        """Top, left, height and width of the crop in the picture that has been padded for it."""
        crop = self._settings.crop or (size[0], size[1])
        room = [max(0, have - want) for have, want in zip(size, crop, strict=True)]
        if self._is_random:
            top, left = (int(random.integers(n + 1)) for n in room)
        else:
            top, left = (n // 2 for n in room)
        return top, left, *crop

    def _finished(self, pixels: Pixels, window: tuple[int, int, int, int], mirrored: bool) -> Blob:
        """The window of the picture as numbers; 0 where the picture ends before the window."""
        planes = pixels.reshape(*pixels.shape[:2], -1).transpose(2, 0, 1)
        top, left, height, width = window
        place = (slice(None), slice(top, top + height), slice(left, left + width))
        part = planes[place]
        blob = np.zeros((len(planes), height, width), np.float32)
        inside = blob[:, : part.shape[1], : part.shape[2]]
        if self._mean is None:
            inside[:] = part
        elif not self._settings.mean_file:
            np.subtract(part, self._mean, out=inside)
        elif self._mean.shape == planes.shape:
            np.subtract(part, self._mean[place], out=inside)
        else:
            raise InputError(
                f"is not of the size of the mean picture {self._settings.mean_file}",
                expected=show(self._mean.shape),
                got=show(planes.shape),
            )
        if self._settings.scale != 1:
            inside *= np.float32(self._settings.scale)
        return _mirrored(blob, mirrored)


def _mirrored(blob: Blob, mirrored: bool) -> Blob:
    return blob[:, :, ::-1] if mirrored else blob


def _scaled(pixels: Pixels, factor: float, *, is_label: bool = False) -> Pixels:
    """Resized to the sizes times the factor, a product of float32, cut to whole numbers."""
    if factor == 1:
        return pixels
    height, width = (int(np.float32(n) * np.float32(factor)) for n in pixels.shape[:2])
    if min(height, width) < 1:
        raise InputError(
            f"has no pixel left when it is scaled by {factor:g}", got=show(pixels.shape[:2])
        )
    if not is_label:
        return resize_picture(pixels, (height, width))
    resized: Any = cv2.resize(pixels, (width, height), interpolation=cv2.INTER_NEAREST)
    return np.asarray(resized, np.uint8)
