"""Class names and colours of label pictures, and the PNGs that hold them."""

from __future__ import annotations

import os
import re
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from prototxt_import import CaffeImportError
from prototxt_import.files import read_text, replacing

__all__ = [
    "VOC_CLASSES",
    "Classes",
    "class_shares",
    "read_classes",
    "voc_palette",
    "write_label_png",
]

#: The classes of PASCAL VOC in the order of their ids; 255 is void.
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
_COLOUR: Final = re.compile(r"\s#([0-9a-fA-F]{6})$")


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


@dataclass(frozen=True)
class Classes:
    """What the class ids of a network mean.

    Attributes:
        names: one per class.
        colours: (classes, 3) uint8, RGB.
    """

    names: tuple[str, ...]
    colours: NDArray[np.uint8]

    @classmethod
    def default(cls, count: int) -> Classes:
        """VOC's names for 21 classes, numbers for any other count; VOC's colours."""
        names = VOC_CLASSES if count == len(VOC_CLASSES) else map(str, range(count))
        return cls(tuple(names), voc_palette(count))


def read_classes(path: str | os.PathLike[str], count: int) -> Classes:
    """Class names from a text file, one a line in the order of their ids.

    A line may end in its colour, as in ``road #804080``; else the class has VOC's colour.

    Args:
        path: the file, UTF-8.  Empty lines at its end do not count.
        count: classes of the network.

    Raises:
        CaffeImportError: no text, or another number of lines.
    """
    try:
        lines = read_text(path).rstrip().split("\n")
    except CaffeImportError as error:
        error.expected = "a text file in UTF-8, one class a line"
        raise
    if len(lines) != count:
        raise CaffeImportError(
            "names another number of classes than the network has",
            file=path,
            expected=f"{count} lines",
            got=len(lines),
        )
    names, colours = [], voc_palette(count)
    for i, line in enumerate(lines):
        colour = _COLOUR.search(line.rstrip())
        if colour:
            colours[i] = list(bytes.fromhex(colour[1]))
        name = line.rstrip()[: colour.start()] if colour else line
        names.append(name.strip() or str(i))
    return Classes(tuple(names), colours)


def write_label_png(
    path: str | os.PathLike[str], labels: NDArray[Any], colours: NDArray[np.uint8] | None = None
) -> None:
    """Write a label picture as VOC's are: 8 bits a pixel, the class id, with a palette.

    Whoever reads pixel values has the ids (PIL's mode "P", Matlab); whoever reads colours
    (OpenCV, every viewer) has those of the palette.  Ids beyond 255 do not fit: then it is a 16-bit
    grey picture without a palette.

    Args:
        path: replaced in one step when all is written.
        labels: (H, W) of integers from 0 to 65535.
        colours: (classes, 3) uint8 RGB of the first ids; VOC's by default, and for the others.
    """
    if labels.max() > 255:
        _, encoded = cv2.imencode(".png", labels.astype(np.uint16))
        content = encoded.tobytes()
    else:
        palette = voc_palette()
        if colours is not None:
            palette[: len(colours)] = colours[:256]
        content = _indexed_png(labels.astype(np.uint8), palette)
    with replacing(path) as temporary:
        temporary.write_bytes(content)


def _indexed_png(pixels: NDArray[np.uint8], palette: NDArray[np.uint8]) -> bytes:
    """PNG of colour type 3 (RFC 2083); OpenCV cannot write one."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checksum = zlib.crc32(kind + content)
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", checksum)

    height, width = pixels.shape
    # Before each row the number of its filter: none, as is best for palettes.
    rows = np.pad(pixels, ((0, 0), (1, 0)))
    return b"".join(
        [
            b"\x89PNG\r\n\x1a\n",
            chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)),
            chunk(b"PLTE", palette.tobytes()),
            chunk(b"IDAT", zlib.compress(rows.tobytes(), 6)),
            chunk(b"IEND", b""),
        ]
    )


def class_shares(labels: NDArray[Any], classes: Sequence[str]) -> list[tuple[int, int]]:
    """(class id, pixels) of the classes that occur, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    return [(int(i), int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]
