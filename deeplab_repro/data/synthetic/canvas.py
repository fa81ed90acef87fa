"""What the pictures are drawn on: colours and, with every stroke, the labels below them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.data.synthetic.outlines import Points, limb
from deeplab_repro.pictures.voc import IGNORE_LABEL, VOC_CLASSES

__all__ = ["BACKGROUND", "Canvas", "Colour", "Paint", "Pen", "noise"]

Colour = tuple[float, float, float]  # red, green, blue, 0 to 255
Pixels = NDArray[np.uint8]
Values = NDArray[np.float32]

BACKGROUND: Final = 0
_FINE: Final = 2  # rows and columns of the drawing for one of the picture
_SHIFT: Final = 4  # binary digits behind the point that cv2.fillPoly gets
_THINNEST: Final = 2.6  # pixels: a line of less would be nothing but border


def noise(random: np.random.Generator, size: tuple[int, int], cell: tuple[float, float]) -> Values:
    """Smooth noise with a standard deviation of about 1.

    Args:
        random: draws it.
        size: (height, width).
        cell: rows and columns from one random value to the next.

    Returns:
        (height, width) float32.
    """
    coarse = [max(2, round(n / c) + 1) for n, c in zip(size, cell, strict=True)]
    values = random.standard_normal(coarse, dtype=np.float32)
    return np.asarray(cv2.resize(values, size[::-1], interpolation=cv2.INTER_CUBIC), np.float32)


@dataclass(frozen=True)
class Paint:
    """How an area is coloured: from one colour to another, with grain and stripes.

    Attributes:
        first: at the top, or at the left.
        second: at the bottom, or at the right; None for the first one, a little darker.
        across: from left to right rather than downwards.
        grain: standard deviation of the texture.
        stripes: (colour, period in pixels, share of the period) of bands across the direction of
            the colours.
    """

    first: Colour
    second: Colour | None = None
    across: bool = False
    grain: float = 4.0
    stripes: tuple[Colour, float, float] | None = None

    def lighter(self, factor: float) -> Paint:
        """The same with all its light multiplied."""
        second = None if self.second is None else _times(self.second, factor)
        return replace(self, first=_times(self.first, factor), second=second)

    def on(self, texture: Values) -> Pixels:
        """The colours of an area: (height, width, 3) uint8.

        Args:
            texture: (height, width), of a standard deviation of about 1.
        """
        length = texture.shape[1 if self.across else 0]
        share = np.linspace(0, 1, length, dtype=np.float32)[:, None]
        first = np.asarray(self.first, np.float32)
        last = np.asarray(self.second or _times(self.first, 0.75), np.float32)
        line = first + share * (last - first)
        if self.stripes is not None:
            colour, period, part = self.stripes
            line[np.arange(length) % (period * _FINE) < part * period * _FINE] = colour
        colours = np.float32(self.grain) * texture[..., None] + (
            line[None] if self.across else line[:, None]
        )
        return np.clip(colours, 0, 255, out=colours).astype(np.uint8)


class Canvas:
    """A picture and its labels in the making; what is drawn later covers what is there.

    Args:
        size: (height, width) of the picture.
        random: draws the grain of all paints.
    """

    def __init__(self, size: tuple[int, int], random: np.random.Generator) -> None:
        self.size = size
        self.random = random
        fine = size[0] * _FINE, size[1] * _FINE
        #: Red, green and blue, finer than the picture.
        self.pixels: Pixels = np.zeros((*fine, 3), np.uint8)
        self._labels: Pixels = np.zeros(fine, np.uint8)
        self._texture = 0.6 * noise(random, fine, (2, 2)) + 0.8 * noise(random, fine, (9, 9))

    def noise(self, cell: tuple[float, float]) -> Values:
        """`noise` of the size of `pixels`, with its cell in pixels of the picture."""
        return noise(self.random, self._labels.shape, (cell[0] * _FINE, cell[1] * _FINE))

    def fill(self, outline: Points, paint: Paint, label: int = BACKGROUND) -> None:
        """Draw an area.

        Args:
            outline: in pixels of the picture; what lies outside is cut off.
            paint: its colours, spread over the whole of the area.
            label: its class.
        """
        corners = outline * _FINE
        height, width = self._labels.shape
        left, top = np.floor(corners.min(0)).astype(int) - 1
        right, bottom = np.ceil(corners.max(0)).astype(int) + 2
        seen = slice(max(top, 0), min(bottom, height)), slice(max(left, 0), min(right, width))
        labels = self._labels[seen]
        if not labels.size:
            return
        inside = np.zeros(labels.shape, np.uint8)
        shifted = (corners - (seen[1].start, seen[0].start) - 0.5) * (1 << _SHIFT)
        polygon = [shifted.round().astype(np.int32)]
        cv2.fillPoly(inside, polygon, 1, cv2.LINE_8, _SHIFT)
        cv2.fillPoly(labels, polygon, label, cv2.LINE_8, _SHIFT)
        cv2.copyTo(np.full_like(inside, label), inside, labels)
        painted = paint.on(self._texture[seen])
        cv2.copyTo(painted, inside, self.pixels[seen])

    def finished(self) -> tuple[Pixels, Pixels]:
        """The picture and its labels.

        Returns:
            (height, width, 3) uint8 RGB, and (height, width) uint8, which is 255 (void) in a line
            one pixel wide between two classes.
        """
        height, width = self._labels.shape
        # A pixel and the beginning of its neighbours: each border is within exactly one of these.
        around = np.pad(self._labels, ((0, 1), (0, 1)), mode="edge")
        parts = [
            around[y : y + height : _FINE, x : x + width : _FINE]
            for y in range(_FINE + 1)
            for x in range(_FINE + 1)
        ]
        alike = np.logical_and.reduce([part == parts[0] for part in parts])
        labels = np.where(alike, parts[0], np.uint8(IGNORE_LABEL))
        picture = cv2.resize(self.pixels, self.size[::-1], interpolation=cv2.INTER_AREA)
        return np.asarray(picture, np.uint8), labels


class Pen:
    """Draws one thing in its own coordinates, in which it is about 1 long.

    Args:
        canvas: to draw on.
        kind: a class of VOC, or "background".
        place: (x, y) of the thing's origin, in pixels of the picture.
        size: pixels for a length of 1.
        angle: radians by which it is turned.
        mirrored: left and right change places.
    """

    def __init__(
        self,
        canvas: Canvas,
        kind: str,
        place: tuple[float, float],
        size: float,
        angle: float = 0.0,
        mirrored: bool = False,
    ) -> None:
        self.random = canvas.random
        self.size = size
        self._canvas = canvas
        self._label = VOC_CLASSES.index(kind)
        self._place = np.asarray(place, np.float64)
        cos, sin = np.cos(angle), np.sin(angle)
        sign = -1 if mirrored else 1
        self._turn = size * np.array([[cos * sign, sin * sign], [-sin, cos]])

    def fill(self, outline: Points, paint: Paint) -> None:
        """Draw an area, in the thing's coordinates."""
        self._canvas.fill(outline @ self._turn + self._place, paint, self._label)

    def line(self, path: Points | Sequence[tuple[float, float]], width: float, paint: Paint,
             end: float | None = None) -> None:  # fmt: skip
        """Draw a line, such as a leg, which is never so thin that it vanishes.

        Args:
            path: in the thing's coordinates.
            width: at its beginning, in the unit of the coordinates.
            paint: its colours.
            end: the width at its end, the same by default.
        """
        thinnest = _THINNEST / self.size
        widths = [max(thinnest, width), max(thinnest, width if end is None else end)]
        self.fill(limb(path, widths), paint)


def _times(colour: Colour, factor: float) -> Colour:
    red, green, blue = (min(255.0, part * factor) for part in colour)
    return red, green, blue
