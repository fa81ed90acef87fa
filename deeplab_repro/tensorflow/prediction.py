"""From a picture to its labels, as the original's eval.py and export_model.py get them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from numpy.typing import ArrayLike
from torch import Tensor

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.evaluation.confusion import Confusion
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.pictures.voc import IGNORE_LABEL
from deeplab_repro.tensorflow.preprocessing import (
    OWN_SIZE,
    Prepared,
    Resizing,
    check_image,
    check_scales,
    preprocess,
)
from deeplab_repro.tensorflow.resizing import nearest

__all__ = ["evaluate_crops", "predict_picture"]


@torch.no_grad()
def predict_picture(
    net: DeepLabV3,
    picture: ArrayLike,
    *,
    crop_size: Sequence[int] | None = None,
    resizing: Resizing = OWN_SIZE,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    quirks: bool = True,
) -> tuple[Tensor, Tensor]:
    """A picture's labels at its own size, as an exported graph gives them (export_model.py).

    The picture is resized and padded to the crop, what is predicted of the padding is cut off, and
    the rest is resized back: labels by the nearest pixel, probabilities bilinearly.

    Args:
        net: in eval mode.
        picture: (H, W, 3) red, green, blue in 0..255.
        crop_size: height and width that the network is given; by default those that it was made
            for, or the resized picture's own where it was made for any.
        resizing: what is done first.
        scales, flip, quirks: see :meth:`DeepLabV3.predict`.

    Returns:
        (H, W) int64 and (C, H, W) float32.

    Raises:
        BadInput: no picture, one that does not fit in the crop, or too many pixels at a scale.
    """
    size = check_image(picture).shape[:2]
    prepared = _prepared(net, picture, None, crop_size, resizing, IGNORE_LABEL)
    check_scales(prepared.size, scales)
    labels, probabilities = net.predict(
        prepared.image[None].to(_device(net)), scales=scales, flip=flip, quirks=quirks
    )
    valid = (..., slice(prepared.original.shape[1]), slice(prepared.original.shape[2]))
    return (
        nearest(labels[valid], *size)[0],
        align_corners(probabilities[valid], *size)[0],
    )


@torch.no_grad()
def evaluate_crops(
    net: DeepLabV3,
    pairs: Iterable[tuple[ArrayLike, ArrayLike]],
    *,
    crop_size: Sequence[int] | None = None,
    resizing: Resizing = OWN_SIZE,
    scales: Sequence[float] = (1.0,),
    flip: bool = False,
    ignore_label: int = IGNORE_LABEL,
) -> Confusion:
    """Count a network's labels against the truth as eval.py does.

    The whole padded crop is predicted and compared at its size: where ``resizing`` asks for
    another size than a picture's own, its labels are resized too.  ``Confusion.mean_iou`` of the
    result is ``tf.metrics.mean_iou``, the mean over the classes that occur.

    Args:
        net: in eval mode.
        pairs: pictures, (H, W, 3) red, green, blue in 0..255, and their labels, (H, W).
        crop_size, resizing, scales, flip: as for :func:`predict_picture`.
        ignore_label: label of pixels that do not count.

    Raises:
        BadInput: a picture or labels that cannot be used, or too many pixels at a scale.
    """
    confusion = Confusion(net.options.num_classes)
    for picture, label in pairs:
        prepared = _prepared(net, picture, label, crop_size, resizing, ignore_label)
        check_scales(prepared.size, scales)
        labels, _ = net.predict(prepared.image[None].to(_device(net)), scales=scales, flip=flip)
        assert prepared.label is not None  # it was given
        truth = prepared.label.where(prepared.label != ignore_label, IGNORE_LABEL)
        confusion.add(labels[0].cpu().numpy(), truth.numpy())
    return confusion


def _prepared(
    net: DeepLabV3,
    picture: ArrayLike,
    label: ArrayLike | None,
    crop_size: Sequence[int] | None,
    resizing: Resizing,
    ignore_label: int,
) -> Prepared:
    crop = crop_size or net.options.crop_size
    if crop is None:
        height, width, _ = check_image(picture).shape
        crop = resizing.size(height, width)
    return preprocess(
        picture,
        label,
        crop_size=crop,
        model_variant=net.options.model_variant,
        resizing=resizing,
        ignore_label=ignore_label,
    )


def _device(net: DeepLabV3) -> torch.device:
    return next(net.parameters()).device
