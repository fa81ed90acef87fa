"""A picture with its labels drawn over it, and their legend beside it."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro.pictures.palette import Classes, class_shares

__all__ = ["draw_before_after", "draw_borders", "draw_labels", "draw_overlay"]

Pixels = NDArray[np.uint8]
_INK: Final = (40, 40, 40)
_PAPER: Final = 250
_FONT: Final = cv2.FONT_HERSHEY_SIMPLEX
_FONT_SIZE: Final = 0.45
_LINE: Final = 20  # pixels between lines of the legend
_MAX_LINES: Final = 30
_SMALL: Final = 360  # pictures smaller than this are drawn larger, in whole steps
_BAND: Final = 256  # rows that are blended at a time
_LARGE: Final = 900  # beyond this the legend grows with the picture


def draw_overlay(picture: Pixels, labels: NDArray[Any], classes: Classes) -> Pixels:
    """Blend a picture with the colours of its labels and put the legend to its right.

    Class 0, the background, keeps the picture's own colours; the others have a light line along
    their border, since many of VOC's colours are too dark to stand out.  A small picture is
    enlarged by a whole factor.

    Args:
        picture: (H, W, 3) uint8, BGR.
        labels: (H, W) class ids.
        classes: names and colours of the ids.

    Returns:
        (H', W', 3) uint8, BGR; larger than the picture.
    """
    drawn = draw_labels(picture, labels, classes)
    legend = _legend(labels, classes, max(1, round(max(drawn.shape) / _LARGE)))
    height = max(len(drawn), len(legend))
    return np.concatenate([_on_paper(drawn, height), _on_paper(legend, height)], 1)


def draw_before_after(
    picture: Pixels, before: NDArray[Any], after: NDArray[Any], classes: Classes
) -> Pixels:
    """Two pictures beside each other with the labels and their borders before and after.

    Args:
        picture: (H, W, 3) uint8, BGR.
        before, after: (H, W) class ids.
        classes: names and colours of the ids.

    Returns:
        (H', W', 3) uint8, BGR.
    """
    panels = []
    for title, labels in (("before", before), ("after", after)):
        drawn = draw_labels(picture, labels, classes)
        zoom = max(1, round(max(drawn.shape) / _LARGE))
        width = max(drawn.shape[1], _text_width(title, zoom) + 20 * zoom)
        caption = np.full((_LINE * zoom, width, 3), _PAPER, np.uint8)
        _write(caption, title, (4 * zoom, 15 * zoom), zoom)
        room = width - drawn.shape[1]
        drawn = np.pad(drawn, ((0, 0), (0, room), (0, 0)), constant_values=_PAPER)
        panels.append(np.concatenate([caption, drawn]))
    gap = np.full((len(panels[0]), 8, 3), _PAPER, np.uint8)
    return np.concatenate([panels[0], gap, panels[1]], 1)


def draw_borders(picture: Pixels, labels: NDArray[Any], colour: tuple[int, int, int]) -> Pixels:
    """A picture with the pixels coloured beyond which, right or below, another label begins.

    Args:
        picture: (H, W, 3) uint8, BGR.
        labels: (H, W) class ids.
        colour: BGR.

    Returns:
        (H, W, 3) uint8, BGR.
    """
    border = np.zeros(labels.shape, np.bool_)
    border[:, :-1] |= labels[:, :-1] != labels[:, 1:]
    border[:-1] |= labels[:-1] != labels[1:]
    drawn = picture.copy()
    drawn[border] = colour
    return drawn


def draw_labels(picture: Pixels, labels: NDArray[Any], classes: Classes) -> Pixels:
    """Blend a picture with the colours of its labels, as `draw_overlay` does, without a legend.

    Args:
        picture: (H, W, 3) uint8, BGR.
        labels: (H, W) class ids.
        classes: names and colours of the ids.

    Returns:
        (H', W', 3) uint8, BGR, enlarged by a whole factor where the picture is small.
    """
    zoom = max(1, _SMALL // max(labels.shape))
    picture = picture.repeat(zoom, 0).repeat(zoom, 1)
    large = labels.repeat(zoom, 0).repeat(zoom, 1)
    drawn = picture.copy()
    for top in range(0, len(large), _BAND):  # blending makes float64 of all that it is given
        rows = slice(top, top + _BAND)
        there = large[rows] != 0
        colours = classes.colours[large[rows][there]][:, ::-1]
        drawn[rows][there] = _blend(drawn[rows][there], colours, 0.5)
    border = _border(large, max(1, round(max(large.shape) / 600)))
    drawn[border] = _blend(drawn[border], np.full(3, 255), 0.7)
    return drawn


def _blend(pixels: Pixels, colours: NDArray[Any], share: float) -> Pixels:
    return (pixels * (1 - share) + colours * share).astype(np.uint8)


def _border(labels: NDArray[Any], width: int) -> NDArray[np.bool_]:
    """Pixels of any class but 0 within ``width`` of another class."""
    values = labels if labels.dtype == np.uint8 else labels.astype(np.float32)
    kernel = np.ones((2 * width + 1,) * 2, np.uint8)
    changes = cv2.dilate(values, kernel) != cv2.erode(values, kernel)
    return np.asarray(changes & (labels != 0), np.bool_)


def _legend(labels: NDArray[Any], classes: Classes, zoom: int) -> Pixels:
    shares = class_shares(labels, classes.names)
    lines = [
        (classes.colours[i], _ascii(classes.names[i]), _percent(count / labels.size))
        for i, count in shares[:_MAX_LINES]
    ]
    if len(shares) > _MAX_LINES:
        rest = sum(count for _, count in shares[_MAX_LINES:])
        name = f"and {len(shares) - _MAX_LINES} more"
        lines.append((None, name, _percent(rest / labels.size)))
    names = max(_text_width(name, zoom) for _, name, _ in lines)
    numbers = max(_text_width(number, zoom) for _, _, number in lines)
    left, gap, line = 10 * zoom, 12 * zoom, _LINE * zoom
    text = left + line
    paper = np.full(
        (line * len(lines) + 2 * left, text + names + gap + numbers + left, 3), _PAPER, np.uint8
    )
    for i, (colour, name, number) in enumerate(lines):
        top = left + i * line
        if colour is not None:
            corners = (left, top + 3 * zoom), (left + 14 * zoom, top + 17 * zoom)
            cv2.rectangle(paper, *corners, tuple(map(int, colour[::-1])), cv2.FILLED)
            cv2.rectangle(paper, *corners, _INK, 1, cv2.LINE_AA)
        baseline = top + 15 * zoom
        right = text + names + gap + numbers - _text_width(number, zoom)
        _write(paper, name, (text + 2 * zoom, baseline), zoom)
        _write(paper, number, (right, baseline), zoom)
    return paper


def _write(paper: Pixels, text: str, at: tuple[int, int], zoom: int) -> None:
    cv2.putText(paper, text, at, _FONT, _FONT_SIZE * zoom, _INK, zoom, cv2.LINE_AA)


def _text_width(text: str, zoom: int) -> int:
    return int(cv2.getTextSize(text, _FONT, _FONT_SIZE * zoom, zoom)[0][0])


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %" if share >= 0.001 else "< 0.1 %"


def _ascii(text: str) -> str:
    """OpenCV's fonts have no other letters."""
    return text.encode("ascii", "replace").decode()


def _on_paper(pixels: Pixels, height: int) -> Pixels:
    """Fill up to a height."""
    return np.pad(
        pixels, ((0, height - len(pixels)), (0, 0), (0, 0)), constant_values=_PAPER
    ).astype(np.uint8)
