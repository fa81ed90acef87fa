"""Whole pictures: a place, and things where such things are."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

import numpy as np

from deeplab_repro.data.synthetic import backdrops
from deeplab_repro.data.synthetic.animals import bird, horse
from deeplab_repro.data.synthetic.canvas import Canvas, Pen, Pixels
from deeplab_repro.data.synthetic.indoors import bottle, potted_plant, tv_monitor
from deeplab_repro.data.synthetic.vehicles import aeroplane, boat, car

__all__ = ["CLASSES", "draw"]

#: The classes of VOC that occur, apart from background.
CLASSES: Final = (
    "aeroplane", "bird", "boat", "bottle", "car", "horse", "pottedplant", "tvmonitor",
)  # fmt: skip
_LONG, _SHORT = (184, 216), (140, 168)  # sides of a picture, in pixels
#: What stands in rooms, and its size as a share of the picture's mean side.
_IN_ROOMS: Final[dict[str, tuple[Callable[[Pen], None], tuple[float, float]]]] = {
    "bottle": (bottle, (0.35, 0.55)),
    "pottedplant": (potted_plant, (0.4, 0.62)),
    "tvmonitor": (tv_monitor, (0.45, 0.7)),
}


def draw(random: np.random.Generator) -> tuple[Pixels, Pixels]:
    """A picture and its labels.

    Args:
        random: decides everything; the same numbers make the same picture.

    Returns:
        (H, W, 3) uint8 RGB, and (H, W) uint8 with ids of VOC's classes and 255 for void.  A picture
        is 184 to 216 pixels long and 140 to 168 wide; one in five is upright.
    """
    size = int(random.integers(*_SHORT)), int(random.integers(*_LONG))
    canvas = Canvas(size[::-1] if random.random() < 0.2 else size, random)
    _SCENES[random.integers(len(_SCENES))](canvas)
    picture, labels = canvas.finished()
    light = np.float32(random.uniform(0.88, 1.08))
    noisy = light * picture + 2.5 * random.standard_normal(picture.shape, np.float32)
    return noisy.clip(0, 255).astype(np.uint8), labels


def _in_the_air(canvas: Canvas) -> None:
    random, (height, _) = canvas.random, canvas.size
    horizon = height * random.uniform(0.8, 1.0)
    backdrops.sky(canvas, horizon)
    backdrops.hills(canvas, horizon)
    backdrops.meadow(canvas, horizon)
    if random.random() < 0.4:
        place = random.uniform(0, canvas.size[1]), random.uniform(0.3, 0.6) * horizon
        backdrops.balloon(canvas, place)
    for x in _places(canvas, int(random.integers(1, 3))):
        place = x, random.uniform(0.25, 0.65) * horizon
        if random.random() < 0.65:
            pen = _pen(canvas, "aeroplane", place, (0.5, 0.85), random.uniform(-0.35, 0.2))
            aeroplane(pen)
        else:
            pen = _pen(canvas, "bird", place, (0.35, 0.6), random.uniform(-0.3, 0.3))
            bird(pen, flying=True)


def _at_sea(canvas: Canvas) -> None:
    random, (height, _) = canvas.random, canvas.size
    horizon = height * random.uniform(0.35, 0.6)
    backdrops.sky(canvas, horizon)
    if random.random() < 0.5:
        backdrops.hills(canvas, horizon)
    backdrops.sea(canvas, horizon)
    if random.random() < 0.35:
        place = random.uniform(0, canvas.size[1]), horizon * random.uniform(0.2, 0.6)
        bird(_pen(canvas, "bird", place, (0.25, 0.4)), flying=True)
    for _ in range(int(random.integers(0, 3))):
        place = random.uniform(0, canvas.size[1]), random.uniform(horizon + 8, height)
        (backdrops.buoy if random.random() < 0.5 else backdrops.rock)(canvas, place)
    for x in _places(canvas, int(random.integers(1, 3))):
        ground = horizon + (height - horizon) * random.uniform(0.2, 0.75)
        boat(_pen(canvas, "boat", (x, ground), (0.4, 0.75), random.uniform(-0.06, 0.06)))


def _in_the_street(canvas: Canvas) -> None:
    random, (height, width) = canvas.random, canvas.size
    horizon = height * random.uniform(0.4, 0.6)
    backdrops.sky(canvas, horizon)
    backdrops.houses(canvas, horizon)
    backdrops.road(canvas, horizon)
    if random.random() < 0.5:
        backdrops.tree(canvas, random.uniform(0, width), horizon + 4)
    if random.random() < 0.5:
        place = random.uniform(0, width), horizon + 0.2 * (height - horizon)
        potted_plant(_pen(canvas, "pottedplant", place, (0.3, 0.45)))
    if random.random() < 0.3:
        place = random.uniform(0, width), horizon + 0.2 * (height - horizon)
        bird(_pen(canvas, "bird", place, (0.25, 0.35)))
    for x in _places(canvas, int(random.integers(1, 3))):
        ground = horizon + (height - horizon) * random.uniform(0.35, 0.9)
        car(_pen(canvas, "car", (x, ground), (0.45, 0.8)))
    if random.random() < 0.4:
        backdrops.lamp_post(canvas, (random.uniform(0, width), 0.97 * height))


def _on_the_meadow(canvas: Canvas) -> None:
    random, (height, width) = canvas.random, canvas.size
    horizon = height * random.uniform(0.35, 0.6)
    backdrops.sky(canvas, horizon)
    backdrops.hills(canvas, horizon)
    backdrops.meadow(canvas, horizon)
    for _ in range(int(random.integers(0, 3))):
        backdrops.tree(canvas, random.uniform(0, width), horizon + random.uniform(1, 12))
    ground = float(height)
    for x in _places(canvas, int(random.integers(1, 3))):
        ground = horizon + (height - horizon) * random.uniform(0.5, 0.92)
        if random.random() < 0.7:
            horse(_pen(canvas, "horse", (x, ground), (0.4, 0.65)))
        else:
            bird(_pen(canvas, "bird", (x, ground), (0.35, 0.6)))
    if random.random() < 0.3:
        backdrops.fence(canvas, ground + 2)
    if random.random() < 0.5:
        backdrops.grass(canvas, ground)


def _in_the_room(canvas: Canvas) -> None:
    random, (height, _) = canvas.random, canvas.size
    table = height * random.uniform(0.62, 0.78)
    backdrops.room(canvas, table)
    if random.random() < 0.5:
        backdrops.mug(canvas, (random.uniform(0, canvas.size[1]), table + 6))
    for x in _places(canvas, int(random.integers(1, 4))):
        kind = str(random.choice(list(_IN_ROOMS)))
        figure, sizes = _IN_ROOMS[kind]
        ground = table + (height - table) * random.uniform(0.1, 0.7)
        figure(_pen(canvas, kind, (x, ground), sizes))


# Things in rooms are of three classes, those of any other place mostly of one.
_SCENES: Final = (
    _in_the_air, _at_sea, _in_the_street, _on_the_meadow, _in_the_room, _in_the_room,
)  # fmt: skip


def _places(canvas: Canvas, count: int) -> list[float]:
    """Columns for some things beside each other, which may overlap, in any order."""
    width = canvas.size[1]
    slots = (np.arange(count) + 0.5 + canvas.random.uniform(-0.3, 0.3, count)) / count
    places: list[float] = (width * canvas.random.permutation(slots)).tolist()
    return places


def _pen(
    canvas: Canvas,
    kind: str,
    place: tuple[float, float],
    sizes: tuple[float, float],
    angle: float = 0.0,
) -> Pen:
    """A pen for a thing whose size is a share of the picture's mean side."""
    random = canvas.random
    size = random.uniform(*sizes) * sum(canvas.size) / 2
    return Pen(canvas, kind, place, size, angle, bool(random.integers(2)))
