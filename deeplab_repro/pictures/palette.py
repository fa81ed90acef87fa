"""Class names and colours of label pictures, and the PNGs that hold them."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.voc import VOC_CLASSES, voc_palette
from prototxt_import.files import read_text, replacing

__all__ = [
    "Classes",
    "class_shares",
    "read_classes",
    "write_label_png",
]

_COLOUR: Final = re.compile(r"\s#([0-9a-fA-F]{6})$")


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
        BadInput: no text, or another number of lines.
    """
    try:
        lines = read_text(path).rstrip().split("\n")
    except BadInput as error:
        error.expected = "a text file in UTF-8, one class a line"
        raise
    if len(lines) != count:
        raise InputError(
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
        picture = Image.fromarray(labels.astype(np.uint16))
    else:
        palette = voc_palette()
        if colours is not None:
            palette[: len(colours)] = colours[:256]
        picture = Image.fromarray(labels.astype(np.uint8))
        picture.putpalette(palette.tobytes())
    with replacing(path) as temporary:
        picture.save(temporary, "PNG")


def class_shares(labels: NDArray[Any], classes: Sequence[str]) -> list[tuple[int, int]]:
    """(class id, pixels) of the classes that occur, the largest first."""
    counts = np.bincount(labels.ravel(), minlength=len(classes))
    return [(int(i), int(counts[i])) for i in np.argsort(-counts, kind="stable") if counts[i]]
