"""What every part must agree on about PASCAL VOC: classes, colours, void label, mean."""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray

__all__ = ["IGNORE_LABEL", "VOC_CLASSES", "VOC_MEAN", "voc_palette"]

#: The classes in the order of their ids.
VOC_CLASSES: Final = (
    "background",
    "aeroplane",
    "bicycle",
    "bird",
    "boat",
    "bottle",
    "bus",
    "car",
    "cat",
    "chair",
    "cow",
    "diningtable",
    "dog",
    "horse",
    "motorbike",
    "person",
    "pottedplant",
    "sheep",
    "sofa",
    "train",
    "tvmonitor",
)
#: The void label of label pictures, and ``ignore_label`` of every loss and accuracy of DeepLab.
IGNORE_LABEL: Final = 255
#: Mean of the training pictures in every VOC file of DeepLab: blue, green, red.
VOC_MEAN: Final = (104.008, 116.669, 122.675)


def voc_palette(count: int = 256) -> NDArray[np.uint8]:
    """The colours of VOC's label pictures (VOCdevkit, VOClabelcolormap.m).

    The bits of a class id go to red, green and blue in turns, the lowest ones to the highest bits
    of the colours.  No two of the first 256 are alike.

    Args:
        count: how many; colours repeat after 256.

    Returns:
        (count, 3) uint8, RGB.

    Example:
        >>> voc_palette()[15].tolist()  # person
        [192, 128, 128]
    """
    ids = np.arange(count) % 256
    palette = np.zeros((count, 3), np.uint8)
    for bit in range(8):
        palette[:, bit % 3] |= ((ids >> bit & 1) << (7 - bit // 3)).astype(np.uint8)
    return palette
