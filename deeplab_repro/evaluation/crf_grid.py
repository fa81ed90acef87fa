"""The settings that a search of the CRF's parameters tries, coarse steps first."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, NamedTuple

from deeplab_repro.errors import InputError

__all__ = ["PUBLISHED_GRIDS", "Grid", "Setting"]


class Setting(NamedTuple):
    """The parameters that are searched for: those of the bilateral kernel.

    Attributes:
        bi_w: its weight.
        bi_xy_std: its std in pixels.
        bi_rgb_std: its std in grey levels, 0..255.
    """

    bi_w: float
    bi_xy_std: float
    bi_rgb_std: float


@dataclass(frozen=True)
class Grid:
    """All combinations of some values of each parameter.

    Attributes:
        bi_w, bi_xy_std, bi_rgb_std: the values, ascending and positive; they are sorted here.

    Raises:
        InputError: no value, or one that is not positive.

    >>> Grid((3, 4), (50, 60, 70), (3,)).finer(Setting(4, 60, 3)).bi_xy_std
    (55.0, 60.0, 65.0)
    """

    bi_w: tuple[float, ...]
    bi_xy_std: tuple[float, ...]
    bi_rgb_std: tuple[float, ...]

    def __post_init__(self) -> None:
        for name in Setting._fields:
            values = tuple(sorted({float(value) for value in getattr(self, name)}))
            if not values or not all(0 < value < math.inf for value in values):
                raise InputError(name, expected="positive numbers", got=getattr(self, name))
            object.__setattr__(self, name, values)

    def settings(self) -> list[Setting]:
        """All combinations; those of the same stds, which share a lattice, are neighbours."""
        return [
            Setting(weight, xy_std, rgb_std)
            for xy_std in self.bi_xy_std
            for rgb_std in self.bi_rgb_std
            for weight in self.bi_w
        ]

    def finer(self, best: Setting) -> Grid:
        """The grid around a setting of this one, at half the steps.

        Where the setting lies at an end of the grid, the new grid reaches beyond it.  A parameter
        with one value keeps it.
        """
        return Grid(*(_around(getattr(self, name), getattr(best, name)) for name in best._fields))


#: The ranges of the first paper (arXiv 1412.7062), with the weights that its script tries, and
#: those of the second one (arXiv 1606.00915).
PUBLISHED_GRIDS: Final = {
    "v1": Grid((5, 10), tuple(range(50, 101, 10)), tuple(range(3, 11))),
    "v2": Grid((3, 4, 5, 6), tuple(range(30, 101, 10)), (3, 4, 5, 6)),
}


def _around(values: Sequence[float], centre: float) -> tuple[float, ...]:
    """The value, and those halfway to its neighbours; a neighbour that is missing is mirrored."""
    below = [centre - value for value in values if value < centre]
    above = [value - centre for value in values if value > centre]
    if not below and not above:
        return (centre,)
    down, up = min(below or above), min(above or below)
    return tuple(v for v in (centre - down / 2, centre, centre + up / 2) if v > 0)
