"""Random choices that depend on a seed and on what they are for, and on nothing else.

Caffe draws one number after the other, so that its choices depend on all that came before.  Here
each item has a generator of its own: whichever process reads it, and wherever a resumed run begins,
the choices for it are the same.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

__all__ = ["Draws", "Purpose"]


class Purpose(IntEnum):
    """What a choice is for; a number of its own makes it independent of the others."""

    SKIP = 0
    LINES = 1
    FILES = 2
    ROWS = 3
    PICTURE = 4


@dataclass(frozen=True)
class Draws:
    """The random choices of one data layer.

    Attributes:
        seed: of the run; not negative.
        layer: the layer's number among the data layers.
    """

    seed: int
    layer: int = 0

    def generator(self, purpose: Purpose, *numbers: int) -> np.random.Generator:
        """A generator for one purpose and one item, epoch or file."""
        key = (self.layer, int(purpose), *numbers)
        return np.random.default_rng(np.random.SeedSequence(self.seed, spawn_key=key))

    def permutation(self, count: int, purpose: Purpose, *numbers: int) -> NDArray[np.int64]:
        """0 to ``count`` less one in random order."""
        return _permutation(self, count, purpose, *numbers)


@lru_cache(maxsize=8)  # items that follow each other ask for the same
def _permutation(draws: Draws, count: int, purpose: Purpose, *numbers: int) -> NDArray[np.int64]:
    return draws.generator(purpose, *numbers).permutation(count)
