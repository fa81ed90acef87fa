"""Arithmetic of shapes, in which a size that nobody knows yet is ``None`` and stays ``None``.

So a network without its input size still tells the shapes of its parameters.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

__all__ = ["Shape", "at_axis", "canonical_axis", "count"]

#: None stands for a size that the file does not tell.
Shape: TypeAlias = tuple[int | None, ...]


def count(sizes: Sequence[int | None]) -> int | None:
    """The product of ``sizes``; None if any is unknown, 1 if there are none."""
    product = 1
    for size in sizes:
        if size is None:
            return None
        product *= size
    return product


def at_axis(shape: Shape, axis: int, size: int | None) -> Shape:
    """``shape`` with ``size`` at ``axis``."""
    return (*shape[:axis], size, *shape[axis + 1 :])


def canonical_axis(axis: int, axes: int) -> int | None:
    """``axis`` counted from the front; -1 is the last.  None if there is no such axis."""
    return axis % axes if -axes <= axis < axes else None
