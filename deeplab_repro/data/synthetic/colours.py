"""The colours that things are chosen from: red, green, blue."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from deeplab_repro.data.synthetic.canvas import Colour

__all__ = [
    "BRIGHT",
    "CANVAS_WHITE",
    "COATS",
    "FEATHERS",
    "GLASS",
    "HULLS",
    "LEAVES",
    "PLANES",
    "POTS",
    "one",
]

Colours = Sequence[Colour]

#: Paint of cars, flags and labels.
BRIGHT: Final[Colours] = (
    (205, 40, 38), (235, 165, 30), (35, 85, 175), (30, 130, 95), (225, 95, 35), (130, 45, 120),
)  # fmt: skip
PLANES: Final[Colours] = ((240, 242, 246), (250, 225, 120), (226, 110, 90), (190, 198, 212))
HULLS: Final[Colours] = ((165, 40, 40), (110, 68, 40), (28, 50, 95), (240, 240, 236), (40, 40, 46))
CANVAS_WHITE: Final[Colours] = ((250, 246, 236), (242, 226, 190), (255, 255, 255))
FEATHERS: Final[Colours] = (
    (200, 50, 45), (235, 185, 45), (45, 50, 60), (120, 78, 48), (175, 60, 120),
)  # fmt: skip
COATS: Final[Colours] = (
    (130, 74, 40),
    (92, 52, 32),
    (58, 46, 44),
    (205, 170, 125),
    (222, 216, 208),
)
GLASS: Final[Colours] = ((45, 125, 60), (130, 70, 25), (60, 120, 150), (125, 25, 45))
LEAVES: Final[Colours] = ((62, 140, 52), (88, 158, 60), (42, 112, 62))
POTS: Final[Colours] = ((192, 98, 60), (226, 220, 208), (70, 110, 170), (150, 80, 50))


def one(random: np.random.Generator, colours: Colours, spread: float = 10.0) -> Colour:
    """One of the colours, a little changed.

    Args:
        random: draws it.
        colours: to choose from.
        spread: standard deviation of the change, of each of the three parts.
    """
    red, green, blue = np.clip(
        colours[int(random.integers(len(colours)))] + random.normal(0, spread, 3), 0, 255
    ).tolist()
    return red, green, blue
