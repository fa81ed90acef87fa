"""How sizes and numbers are written in the messages, tables and reports of both packages."""

from __future__ import annotations

import math
from collections.abc import Sequence
from fractions import Fraction

__all__ = ["finite_or_none", "megabytes", "number", "pair", "show"]


def show(shape: Sequence[int | None]) -> str:
    """A shape, with "?" for a size that is not known.

    Example:
        >>> show((1, 3, None, 321)), show(())
        ('1x3x?x321', 'scalar')
    """
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


def pair(values: Sequence[float | Fraction]) -> str:
    """A number for each axis, or one where all axes have the same; nothing for no axes.

    Example:
        >>> pair((3, 3)), pair((3, 5)), pair(())
        ('3', '3x5', '')
    """
    texts = [f"{float(value):g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


def megabytes(count: int | None) -> str:
    """A number of bytes, in millions of them; None is "unknown".

    Example:
        >>> megabytes(1_234_567_890)
        '1,234.6 MB'
    """
    return "unknown" if count is None else f"{count / 1e6:,.1f} MB"


def finite_or_none(value: float) -> float | None:
    """The value for JSON, which has no NaN and no infinity."""
    return value if math.isfinite(value) else None


def number(count: int, thing: str, things: str | None = None) -> str:
    """How many there are of something.

    Example:
        >>> number(1, "label"), number(1449, "label"), number(2, "class", "classes")
        ('1 label', '1,449 labels', '2 classes')
    """
    return f"{count:,} {thing if count == 1 else things or thing + 's'}"
