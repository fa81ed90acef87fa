"""From pictures and label maps to what a network is given (input_preprocess.py and below).

Sizes are computed in float32 and pictures resized in float32 without rounding to bytes, as the
original's graph did.  A picture comes as image libraries give it, (H, W, 3) red, green, blue in
0..255; what goes out are tensors as networks take them, (3, H, W).  Values stay in 0..255: a
network normalizes them itself.

    >>> prepared = preprocess(picture, label, crop_size=(513, 513), model_variant="xception_65")
    >>> net(prepared.image[None])
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import ArrayLike, NDArray
from torch import Tensor

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.fields import check_types
from deeplab_repro.tensorflow.resizing import nearest
from prototxt_import.limits import MAX_PIXELS
from prototxt_import.words import show

__all__ = [
    "AS_PUBLISHED",
    "OWN_SIZE",
    "Augmentation",
    "Prepared",
    "Resizing",
    "check_image",
    "check_scales",
    "crop_of",
    "mean_pixel",
    "preprocess",
    "preprocess_for_training",
    "random_scale",
    "scale_image_and_label",
]

#: The mean of ImageNet's red, green and blue.
_MEAN_RGB: Final = (123.15, 115.90, 103.06)
#: The variants that are padded with it; ``resnet_v1_18`` subtracts it, but is not.
_MEAN_PADDED: Final = (None, "resnet_v1_50", "resnet_v1_101")


def mean_pixel(model_variant: str | None = None) -> tuple[float, float, float]:
    """Red, green and blue of the padding (core/feature_extractor.py).

    Args:
        model_variant: of the network; without one it is the mean of ImageNet.
    """
    return _MEAN_RGB if model_variant in _MEAN_PADDED else (127.5, 127.5, 127.5)


@dataclass(frozen=True)
class Resizing:
    """What size pictures are brought to before anything else.

    Attributes:
        min_resize_value: wanted size of the shorter side; None resizes nothing.
        max_resize_value: the longer side becomes no longer than that.
        resize_factor: both sides become a multiple of it plus one.
        keep_aspect_ratio: False makes pictures square, with sides of the longer one's size.

    Raises:
        InputError: a value of another type, a size below 1, or a greatest size without a wanted
            one, which the original program cannot do either.
    """

    min_resize_value: int | None = None
    max_resize_value: int | None = None
    resize_factor: int | None = None
    keep_aspect_ratio: bool = True

    def __post_init__(self) -> None:
        check_types(self)
        for name in ("min_resize_value", "max_resize_value", "resize_factor"):
            value = getattr(self, name)
            if value is not None and value < 1:
                raise InputError(name, expected="1 or more", got=value)
        if self.max_resize_value is not None and self.min_resize_value is None:
            raise InputError(
                "max_resize_value",
                expected="min_resize_value beside it",
                got=f"{self.max_resize_value} alone",
            )

    def size(self, height: int, width: int) -> tuple[int, int]:
        """Height and width of a resized picture (core/preprocess_utils.py, resize_to_range).

        Args:
            height, width: of the picture as it is.

        Raises:
            InputError: nothing would be left of it.
        """
        if self.min_resize_value is None:
            return height, width
        sides = np.array([height, width], np.float32)
        size = self._times(sides, np.float32(self.min_resize_value) / sides.min())
        factor = self.resize_factor
        if self.max_resize_value is not None:
            most = np.float32(self.max_resize_value)
            if factor is not None:
                most -= (most - 1) % np.float32(factor)
            if size.max() > most:
                size = self._times(sides, most / sides.max())
        if factor is not None:
            size = size + (factor - (size - 1) % factor) % factor
        if not self.keep_aspect_ratio:
            size[:] = size.max()
        if size.min() < 1:
            raise InputError("no pixel is left of a picture", got=show((height, width)))
        return int(size[0]), int(size[1])

    def _times(self, sides: Any, scale: np.float32) -> Any:
        return np.floor(sides * scale).astype(np.int64)


#: Pictures stay as they are.
OWN_SIZE: Final = Resizing()


@dataclass(frozen=True)
class Prepared:
    """A picture as a network gets it.

    Attributes:
        original: (3, h, w), the picture before it was scaled, cropped or padded: the bytes that
            were given, or float32 where the picture was resized.
        image: (3, H, W) float32, 0..255.
        label: (H, W) int32; None where none was given.
    """

    original: Tensor
    image: Tensor
    label: Tensor | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width that the network is given."""
        return self.image.shape[1], self.image.shape[2]


def crop_of(crop_size: Sequence[int]) -> tuple[int, int]:
    """Height and width that a network is given, checked before memory is taken.

    Raises:
        BadInput: no two sizes of at least 1, or more pixels than `MAX_PIXELS`.
    """
    if len(crop_size) != 2 or min(crop_size) < 1:
        raise InputError("crop_size", expected="height and width", got=list(crop_size))
    height, width = crop_size
    MAX_PIXELS.check(height * width, "crop_size: too many pixels")
    return height, width


def check_scales(size: tuple[int, int], scales: Sequence[float]) -> None:
    """Refuse scales at which a picture would have more pixels than `MAX_PIXELS`.

    Args:
        size: (height, width) at scale 1.
        scales: factors of it.

    Raises:
        CaffeImportError: the largest has too many pixels.
    """
    largest = max(scales, default=1.0)
    height, width = (int(min(side * largest, 1e18)) for side in size)
    MAX_PIXELS.check(height * width, f"too many pixels at the scale {largest:g}")


def check_image(picture: ArrayLike) -> NDArray[Any]:
    """The picture as an array.

    Raises:
        InputError: it is not (H, W, 3), or has no pixels.
    """
    pixels = np.asarray(picture)
    if pixels.ndim != 3 or pixels.shape[2] != 3 or not pixels.size:
        raise InputError("is no picture", expected="(H, W, 3)", got=pixels.shape)
    return pixels


def preprocess(
    picture: ArrayLike,
    label: ArrayLike | None = None,
    *,
    crop_size: Sequence[int],
    model_variant: str | None = None,
    resizing: Resizing = OWN_SIZE,
    ignore_label: int = 255,
) -> Prepared:
    """Prepare a picture for evaluation: resized, then padded at the right and the bottom.

    Args:
        picture: (H, W, 3) red, green, blue in 0..255, of any type.
        label: (H, W) or (H, W, 1) whole numbers.
        crop_size: height and width that the network is given.
        model_variant: which network it is for, see :func:`mean_pixel`.
        resizing: what is done first.
        ignore_label: the label of the padding.

    Raises:
        BadInput: no picture, a label map of another size, a picture that does not fit in the crop
            after it was resized, or a crop of too many pixels.
    """
    original, image, labels = _resized(picture, label, resizing)
    height, width = crop_of(crop_size)
    if image.shape[1] > height or image.shape[2] > width:
        raise InputError(
            "the picture does not fit in the crop",
            expected=f"at most {show((height, width))}",
            got=show(tuple(image.shape[1:])),
        )
    image, labels = _padded(image, labels, height, width, model_variant, ignore_label)
    return Prepared(original, image, labels)


@dataclass(frozen=True)
class Augmentation:
    """How training pictures are varied.

    Attributes:
        min_scale_factor: least scale.
        max_scale_factor: greatest scale.
        scale_factor_step_size: distance of the scales that are drawn from; 0 draws any.
        flip_probability: how often a picture is mirrored.

    Raises:
        InputError: a value of another type, or scales or a probability that make no sense.
    """

    min_scale_factor: float = 0.5
    max_scale_factor: float = 2.0
    scale_factor_step_size: float = 0.25
    flip_probability: float = 0.5

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.min_scale_factor <= self.max_scale_factor < float("inf"):
            raise InputError(
                "min_scale_factor",
                expected=f"0 to max_scale_factor, {self.max_scale_factor}",
                got=self.min_scale_factor,
            )
        if not self.scale_factor_step_size >= 0:
            raise InputError(
                "scale_factor_step_size", expected="0 or more", got=self.scale_factor_step_size
            )
        if not 0 <= self.flip_probability <= 1:
            raise InputError("flip_probability", expected="0 to 1", got=self.flip_probability)


#: How the published networks were trained.
AS_PUBLISHED: Final = Augmentation()


def random_scale(augmentation: Augmentation, random: np.random.Generator) -> float:
    """One of the scales, or any between the least and the greatest (get_random_scale).

    Args:
        augmentation: says which.
        random: for the choice.

    Returns:
        a float32's value.
    """
    least, most = augmentation.min_scale_factor, augmentation.max_scale_factor
    step = augmentation.scale_factor_step_size
    if least == most:
        return float(np.float32(least))
    if step == 0:
        return float(np.float32(random.uniform(least, most)))
    count = int((most - least) / step + 1)
    return float(np.float32(random.choice(np.linspace(least, most, count))))


def scale_image_and_label(
    image: Tensor, label: Tensor | None, scale: float
) -> tuple[Tensor, Tensor | None]:
    """Both resized to their sides times a scale, a product of float32 cut to whole numbers.

    Args:
        image: (3, H, W) float32.
        label: (H, W).
        scale: the factor.

    Raises:
        InputError: nothing would be left.
    """
    if scale == 1:
        return image, label
    height, width = (int(np.float32(side) * np.float32(scale)) for side in image.shape[1:])
    if min(height, width) < 1:
        raise InputError(
            f"has no pixel left when it is scaled by {scale:g}", got=show(tuple(image.shape[1:]))
        )
    return _both(image, label, height, width)


def preprocess_for_training(
    picture: ArrayLike,
    label: ArrayLike,
    *,
    crop_size: Sequence[int],
    random: np.random.Generator,
    model_variant: str | None = None,
    resizing: Resizing = OWN_SIZE,
    augmentation: Augmentation = AS_PUBLISHED,
    ignore_label: int = 255,
) -> Prepared:
    """Prepare a picture for training: resized, scaled at random, padded, cropped, mirrored.

    Args:
        picture, label: as for :func:`preprocess`.
        crop_size: height and width of what comes out.
        random: for the scale, the place of the crop and the mirroring, drawn in this order.
        model_variant, resizing, ignore_label: as for :func:`preprocess`.
        augmentation: what is drawn.

    Raises:
        BadInput: no picture, a label map of another size, or a crop of too many pixels.
    """
    original, image, labels = _resized(picture, label, resizing)
    image, labels = scale_image_and_label(image, labels, random_scale(augmentation, random))
    height, width = crop_of(crop_size)
    image, labels = _padded(image, labels, height, width, model_variant, ignore_label)
    top, left = (
        int(random.integers(side - part + 1))
        for side, part in zip(image.shape[1:], (height, width), strict=True)
    )
    window = (..., slice(top, top + height), slice(left, left + width))
    assert labels is not None  # it was given
    image, labels = image[window], labels[window]
    if random.random() < augmentation.flip_probability:
        image, labels = image.flip(-1), labels.flip(-1)
    return Prepared(original, image.contiguous(), labels.contiguous())


def _resized(
    picture: ArrayLike, label: ArrayLike | None, resizing: Resizing
) -> tuple[Tensor, Tensor, Tensor | None]:
    """The picture before anything random, as a network's numbers, and its labels."""
    pixels = torch.as_tensor(np.ascontiguousarray(check_image(picture)))
    original = pixels.permute(2, 0, 1)
    labels = None if label is None else _labels(label, tuple(pixels.shape[:2]))
    image = original.to(torch.float32).contiguous()
    if resizing.min_resize_value is None:
        return original, image, labels
    image, labels = _both(image, labels, *resizing.size(image.shape[1], image.shape[2]))
    return image, image, labels


def _labels(label: ArrayLike, size: tuple[int, ...]) -> Tensor:
    numbers = np.asarray(label)
    if numbers.ndim == 3 and numbers.shape[2] == 1:
        numbers = numbers[..., 0]
    if numbers.shape != size or numbers.dtype.kind not in "iu":
        raise InputError(
            "the labels do not fit the picture",
            expected=f"{show(size)} whole numbers",
            got=f"{show(numbers.shape)} {numbers.dtype}",
        )
    return torch.from_numpy(numbers.astype(np.int32))


def _both(
    image: Tensor, label: Tensor | None, height: int, width: int
) -> tuple[Tensor, Tensor | None]:
    resized = align_corners(image[None], height, width)[0]
    return resized, None if label is None else nearest(label, height, width)


def _padded(
    image: Tensor,
    label: Tensor | None,
    height: int,
    width: int,
    model_variant: str | None,
    ignore_label: int,
) -> tuple[Tensor, Tensor | None]:
    """Both, at least of the crop's size."""
    missing = max(0, width - image.shape[2]), max(0, height - image.shape[1])
    pads = (0, missing[0], 0, missing[1])
    # The original pads what is left of the colour with zeros and adds the colour again, which moves
    # a value by a float32's rounding; where nothing is missing as well.
    colour = torch.tensor(mean_pixel(model_variant), dtype=image.dtype)[:, None, None]
    image = torch.nn.functional.pad(image - colour, pads) + colour
    if label is not None:
        label = torch.nn.functional.pad(label, pads, value=ignore_label)
    return image, label
