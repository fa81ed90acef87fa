"""A picture in overlapping tiles, each of which gives the pixels far from its cuts."""

from __future__ import annotations

from itertools import pairwise
from typing import NamedTuple

from deeplab_repro.errors import InputError

__all__ = ["Span", "Tile", "tiles"]


class Span(NamedTuple):
    """A tile along one side of a picture.

    Attributes:
        start, stop: what is computed.
        keep_start, keep_stop: what is taken of it: up to the middle of each overlap.
    """

    start: int
    stop: int
    keep_start: int
    keep_stop: int

    @property
    def computed(self) -> slice:
        """What is computed, of the picture."""
        return slice(self.start, self.stop)

    @property
    def kept(self) -> slice:
        """What is taken, of the picture."""
        return slice(self.keep_start, self.keep_stop)

    @property
    def inner(self) -> slice:
        """What is taken, of the tile."""
        return slice(self.keep_start - self.start, self.keep_stop - self.start)


class Tile(NamedTuple):
    """A part of a picture; each property has a slice of rows and one of columns.

    Attributes:
        rows, columns: where it lies.
    """

    rows: Span
    columns: Span

    @property
    def computed(self) -> tuple[slice, slice]:
        """What is computed, of the picture."""
        return self.rows.computed, self.columns.computed

    @property
    def kept(self) -> tuple[slice, slice]:
        """What is taken, of the picture; the tiles have every pixel once."""
        return self.rows.kept, self.columns.kept

    @property
    def inner(self) -> tuple[slice, slice]:
        """What is taken, of the tile."""
        return self.rows.inner, self.columns.inner


def tiles(size: tuple[int, int], sides: tuple[int, int], overlap: int, step: int = 1) -> list[Tile]:
    """Cover a picture with tiles, row by row.

    Args:
        size: height and width of the picture.
        sides: height and width of a tile; a smaller picture has smaller tiles.
        overlap: pixels that neighbours share at least.
        step: tiles begin at multiples of it; then size and sides must differ by multiples, too.

    Raises:
        InputError: the overlap leaves nothing of a tile.
    """
    rows, columns = (
        _spans(length, side, overlap, step) for length, side in zip(size, sides, strict=True)
    )
    return [Tile(row, column) for row in rows for column in columns]


def _spans(length: int, side: int, overlap: int, step: int) -> list[Span]:
    if length <= side:
        return [Span(0, length, 0, length)]
    stride = (side - overlap) // step * step
    if stride < 1:
        raise InputError(
            "a tile is not larger than its overlap",
            expected=f"a tile of at least {overlap + step}, or less overlap",
            got=side,
        )
    starts = [*range(0, length - side, stride), length - side]
    # Each pixel comes from the tile in which it lies farther from the cut.
    seams = [(left + side + right) // 2 for left, right in pairwise(starts)]
    keeps = [0, *seams, length]
    return [
        Span(start, start + side, *kept)
        for start, kept in zip(starts, pairwise(keeps), strict=True)
    ]
