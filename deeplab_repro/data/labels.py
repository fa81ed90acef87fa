"""Label maps out of files: the class id of each pixel.

Label pictures hold ids, whatever a viewer shows: VOC's PNGs carry a palette that gives each id a
colour.  A program that knows only colours, such as ``cv2.imread``, makes other numbers of them, in
which a network still trains and a score still comes out.  So whatever is no map of ids is refused
with its file and the values found.
"""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from deeplab_repro.data.matlab import MATLAB_ENDINGS, read_matlab
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.voc import IGNORE_LABEL, VOC_CLASSES, voc_palette
from prototxt_import.files import open_file
from prototxt_import.limits import MAX_PIXELS

__all__ = ["LABEL_ENDINGS", "decode_colours", "read_label"]

Labels = NDArray[np.uint8]
#: By which a folder's label files are known, the most usual first.
LABEL_ENDINGS: Final = (".png", *MATLAB_ENDINGS, ".bmp", ".gif", ".tif", ".tiff")
_MOST_SHOWN: Final = 8  # values or colours named in a message


def read_label(path: str | os.PathLike[str], num_classes: int = 21, *, void: bool = True) -> Labels:
    """The class ids of one picture's pixels.

    Args:
        path: a picture whose pixel values are ids, with a palette or grey, as PNG or in another
            form that keeps values; SBD's ``.mat``; or a label map in the ``.mat`` and ``.bin`` of
            the original programs (:func:`~deeplab_repro.data.matlab.read_matlab`).
        num_classes: ids are 0 to this number less one; at most 255.
        void: 255 is allowed too, for pixels that do not count.  A prediction has none.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: no label map, or values that are no ids; the message names the file and the
            values found.
    """
    if not 1 <= num_classes <= IGNORE_LABEL:
        raise InputError("num_classes", expected=f"1 to {IGNORE_LABEL}", got=num_classes)
    if Path(path).suffix.lower() in MATLAB_ENDINGS:
        values = read_matlab(path)
        if values.ndim != 2:
            raise InputError(
                "holds scores, not labels",
                file=path,
                expected="one channel of class ids",
                got=f"{len(values)} channels",
            )
    else:
        values = _from_picture(path, num_classes)
    return check_ids(values, num_classes, void=void, file=path)


def check_ids(
    values: NDArray[Any], num_classes: int, *, void: bool, file: object | None = None
) -> Labels:
    """Refuse values that are no class ids.

    Args:
        values: (H, W) of any number type.
        num_classes: ids are 0 to this number less one.
        void: 255 is allowed too.
        file: for the message.

    Returns:
        A copy of the values as uint8.

    Raises:
        InputError: other values, which the message names.
    """
    allowed = (values >= 0) & (values < num_classes)
    if void:
        allowed |= values == IGNORE_LABEL
    if values.dtype.kind == "f":
        allowed &= values == np.round(values)
    if not allowed.all():
        present, wrong = np.unique(values), np.unique(values[~allowed])
        raise InputError(
            f"holds values that are no class ids{_explanation(present, wrong)}",
            file=file,
            expected=f"0 to {num_classes - 1}" + (f" and {IGNORE_LABEL} for void" if void else ""),
            got=_listed([f"{value:g}" for value in wrong]),
        )
    return np.array(values, np.uint8, order="C")


def decode_colours(
    rgb: NDArray[np.uint8], num_classes: int = 21, palette: NDArray[np.uint8] | None = None
) -> Labels:
    """The ids of a colour-coded label picture.

    Args:
        rgb: (H, W, 3), red first.
        num_classes: colours of this many classes, and that of void, are known.
        palette: (classes or more, 3) their colours; VOC's by default.

    Returns:
        (H, W) uint8.

    Raises:
        InputError: other colours; the message names them.
    """
    ids = [*range(num_classes), IGNORE_LABEL]
    known = (
        voc_palette()
        if palette is None
        else np.concatenate([palette[:num_classes], voc_palette()[num_classes:]])
    )
    colours, places = np.unique(_packed(rgb), return_inverse=True)
    by_colour = dict(zip(_packed(known[ids]).tolist(), ids, strict=True))
    unknown = [colour for colour in colours.tolist() if colour not in by_colour]
    if unknown:
        raise InputError(
            "has colours of no class",
            expected=f"the colours of {num_classes} classes and of void",
            got=_listed([_shown_colour(colour) for colour in unknown]),
        )
    table = np.array([by_colour[colour] for colour in colours.tolist()], np.uint8)
    return table[places.reshape(rgb.shape[:2])]


def _from_picture(path: str | os.PathLike[str], num_classes: int) -> Labels:
    with open_file(path) as file:
        try:
            with Image.open(file) as picture:
                MAX_PIXELS.check(picture.width * picture.height, "has too many pixels", file=path)
                picture.load()
                _check_kind(picture, path, num_classes)
                return np.asarray(picture, np.uint8)
        except BadInput:
            raise
        except Exception:
            # Pillow's decoders raise OSError, SyntaxError, struct.error, EOFError and others.
            raise InputError(
                "is no label picture, or damaged", file=path, expected="a PNG"
            ) from None


def _check_kind(picture: Image.Image, path: str | os.PathLike[str], num_classes: int) -> None:
    """Refuse pictures whose pixel values cannot be ids."""
    if picture.format in ("JPEG", "WEBP"):
        raise InputError(f"is a {picture.format}, which changes values", file=path, expected="PNG")
    if picture.mode == "P" and num_classes == len(VOC_CLASSES):
        _check_palette(picture, path)
    if picture.mode in ("P", "L"):
        return
    if picture.mode == "1":
        if num_classes <= 2:
            return
        raise InputError(
            "has 1 bit a pixel, no room for class ids",
            file=path,
            expected=f"8 bits for {num_classes} classes",
        )
    if picture.mode.startswith(("I", "F")):
        raise InputError(
            "has more than 8 bits a pixel", file=path, expected="8 bits", got=picture.mode
        )
    rgb = np.asarray(picture.convert("RGB"))
    colours = np.unique(_packed(rgb))
    of_voc = set(_packed(voc_palette()[_voc_ids()]).tolist())
    hint = (
        " in VOC's colours; `deeplab-repro data decode` makes ids of them"
        if set(colours.tolist()) <= of_voc
        else ""
    )
    raise InputError(
        f"is colour-coded{hint}",
        file=path,
        expected="one channel of class ids, with a palette or grey",
        got=f"{picture.mode} with {_listed([_shown_colour(c) for c in colours.tolist()])}",
    )


def _check_palette(picture: Image.Image, path: str | os.PathLike[str]) -> None:
    """Refuse VOC's colours in another order, as programs save that make a palette of their own."""
    palette = np.array(picture.getpalette("RGB"), np.uint8).reshape(-1, 3)
    known = voc_palette()
    if np.array_equal(palette, known[: len(palette)]):
        return
    used = np.bincount(np.asarray(picture).ravel()).nonzero()[0]
    if used[-1] >= len(palette):
        return
    colours, of_ids = (_packed(table[used]).tolist() for table in (palette, known))
    if colours == of_ids or len(set(colours)) < max(2, len(colours)):
        return  # as they should be; or colours that tell nothing, as where all of them are black
    if set(colours) <= set(_packed(known[_voc_ids()]).tolist()):
        shown = [f"{i} as {_shown_colour(c)}" for i, c in zip(used, colours, strict=True)]
        raise InputError(
            "has VOC's colours in a palette of another order, so that its values are no class ids;"
            " `deeplab-repro data decode` makes them",
            file=path,
            got=_listed(shown),
        )


def _explanation(present: NDArray[Any], wrong: NDArray[Any]) -> str:
    """What is likely to have happened to the values."""
    if set(present.tolist()) <= _grey_levels():
        return (
            ": these are the grey levels of VOC's colours, which cv2.imread gives for a PNG with"
            " a palette"
        )
    if wrong.tolist() == [IGNORE_LABEL]:
        return ": 255 is for labels, every pixel of a prediction has a class"
    return ""


@functools.cache
def _grey_levels() -> frozenset[int]:
    """What OpenCV makes of the colours of VOC's 21 ids and of void."""
    red, green, blue = voc_palette()[_voc_ids()].T.astype(float)
    levels = np.round(0.299 * red + 0.587 * green + 0.114 * blue)
    return frozenset(levels.astype(int).tolist())


def _voc_ids() -> list[int]:
    return [*range(len(VOC_CLASSES)), IGNORE_LABEL]


def _packed(rgb: NDArray[np.uint8]) -> NDArray[np.int32]:
    """One number for each colour."""
    red, green, blue = np.moveaxis(rgb.astype(np.int32), -1, 0)
    return np.asarray(red << 16 | green << 8 | blue, np.int32)


def _shown_colour(packed: int) -> str:
    return f"#{packed:06x}"


def _listed(texts: Sequence[str]) -> str:
    rest = len(texts) - _MOST_SHOWN
    return ", ".join(texts[:_MOST_SHOWN]) + (f" and {rest} more" if rest > 0 else "")
