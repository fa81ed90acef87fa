"""Outlines of shapes, as polygons."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Points", "box", "ellipse", "limb", "rounded", "smooth"]

#: (points, 2): x to the right and y downwards, in the unit of whoever draws.
Points = NDArray[np.float64]


def smooth(corners: ArrayLike, steps: int = 6, *, closed: bool = True) -> Points:
    """A curve through points (Catmull-Rom).

    Args:
        corners: (points, 2), in their order.
        steps: pieces between two of the points.
        closed: whether it goes back to the first point.

    Returns:
        (pieces, 2), and the last point too where the curve is open.
    """
    p1 = np.asarray(corners, np.float64)
    if closed:
        p0, p2, p3 = np.roll(p1, 1, 0), np.roll(p1, -1, 0), np.roll(p1, -2, 0)
    else:
        padded = np.concatenate([p1[:1], p1, p1[-1:]])
        p0, p1, p2, p3 = padded[:-3], padded[1:-2], padded[2:-1], padded[3:]
    t = np.linspace(0, 1, steps, endpoint=False)[None, :, None]
    p0, p1, p2, p3 = (p[:, None] for p in (p0, p1, p2, p3))
    curve = p1 + t / 2 * (
        p2 - p0 + t * (2 * p0 - 5 * p1 + 4 * p2 - p3 + t * (3 * (p1 - p2) + p3 - p0))
    )
    points = curve.reshape(-1, 2)
    return points if closed else np.concatenate([points, p2[-1]])


def ellipse(
    x: float, y: float, half_width: float, half_height: float, angle: float = 0.0
) -> Points:
    """An ellipse around (x, y), turned by an angle in radians."""
    turns = np.linspace(0, 2 * np.pi, 28, endpoint=False)
    along, across = np.cos(turns) * half_width, np.sin(turns) * half_height
    cos, sin = np.cos(angle), np.sin(angle)
    return np.stack([x + along * cos - across * sin, y + along * sin + across * cos], 1)


def box(left: float, top: float, right: float, bottom: float) -> Points:
    """A rectangle."""
    return np.array([(left, top), (right, top), (right, bottom), (left, bottom)], np.float64)


def rounded(left: float, top: float, right: float, bottom: float, radius: float) -> Points:
    """A rectangle with round corners."""
    turns = np.linspace(0, np.pi / 2, 5)
    corners = (
        (right - radius, bottom - radius, 0.0),
        (left + radius, bottom - radius, np.pi / 2),
        (left + radius, top + radius, np.pi),
        (right - radius, top + radius, 3 * np.pi / 2),
    )
    arcs = [
        np.stack([x + radius * np.cos(start + turns), y + radius * np.sin(start + turns)], 1)
        for x, y, start in corners
    ]
    return np.concatenate(arcs)


def limb(path: ArrayLike, widths: Sequence[float]) -> Points:
    """A line with a width, such as a leg, a tail or a mast.

    Args:
        path: (points, 2), from one end to the other.
        widths: at the points, or at both ends with equal steps between them.
    """
    middle = np.asarray(path, np.float64)
    places = np.linspace(0, 1, len(middle))
    half = np.interp(places, np.linspace(0, 1, len(widths)), widths)[:, None] / 2
    along = np.gradient(middle, axis=0)
    along /= np.maximum(np.hypot(along[:, :1], along[:, 1:]), 1e-9)
    aside = along[:, ::-1] * (-1, 1) * half
    return np.concatenate([middle + aside, (middle - aside)[::-1]])
