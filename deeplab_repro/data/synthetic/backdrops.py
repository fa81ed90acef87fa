"""What stands behind, below and in front of the things: all of it is background."""

from __future__ import annotations

from typing import Final

import numpy as np

from deeplab_repro.data.synthetic.canvas import Canvas, Colour, Paint, Pen
from deeplab_repro.data.synthetic.colours import BRIGHT, CANVAS_WHITE, Colours, one
from deeplab_repro.data.synthetic.outlines import box, ellipse, rounded, smooth

__all__ = [
    "balloon",
    "buoy",
    "fence",
    "grass",
    "hills",
    "houses",
    "lamp_post",
    "meadow",
    "mug",
    "road",
    "rock",
    "room",
    "sea",
    "sky",
    "tree",
]

# Above and at the horizon: day, morning, evening, clouds.
_SKIES: Final = (
    ((70, 140, 215), (190, 222, 240)),
    ((120, 165, 210), (245, 222, 195)),
    ((85, 90, 150), (245, 165, 115)),
    ((140, 155, 172), (205, 212, 218)),
)
_GREENS: Final[Colours] = ((112, 160, 70), (140, 172, 82), (92, 140, 72), (172, 176, 92))
_WATERS: Final = (((60, 135, 175), (25, 75, 125)), ((75, 150, 150), (30, 90, 105)))
_WALLS: Final[Colours] = ((222, 208, 182), (182, 202, 212), (212, 186, 176), (196, 208, 178))
_WOODS: Final[Colours] = ((150, 104, 66), (178, 136, 92), (112, 78, 56))
_ROPE: Final = Paint((110, 90, 70), grain=2)
_HOUSES: Final[Colours] = ((186, 150, 128), (166, 168, 172), (205, 190, 160), (150, 120, 118))


def sky(canvas: Canvas, horizon: float) -> None:
    """Sky down to the horizon, with clouds and at times a sun."""
    random, (_, width) = canvas.random, canvas.size
    above, below = _SKIES[random.integers(len(_SKIES))]
    canvas.fill(box(0, 0, width, horizon), Paint(above, below, grain=1.5))
    if random.random() < 0.4:
        sun = random.uniform(0, width), random.uniform(0.1, 0.8) * horizon
        canvas.fill(ellipse(*sun, 9, 9), Paint((255, 246, 205), (255, 236, 170), grain=1))
    rows = round(2 * horizon)
    density = (canvas.noise((14, 32)) + 0.5 * canvas.noise((5, 10)))[:rows]
    cover = (density - random.uniform(0.3, 1.2)).clip(0, 0.8)[..., None]
    part = canvas.pixels[:rows].astype(np.float32)
    canvas.pixels[:rows] = part + cover * (250 - part)


def hills(canvas: Canvas, horizon: float) -> None:
    """Two rows of hills in the distance."""
    random, (_, width) = canvas.random, canvas.size
    for colour, height in (((120, 145, 165), 0.13), ((98, 132, 112), 0.07)):
        crest = horizon - canvas.size[0] * height * random.uniform(0.3, 1, 8)
        places = np.linspace(-10, width + 10, 8)
        line = smooth(np.stack([places, crest], 1), closed=False)
        ends = [(width + 10, horizon + 1), (-10, horizon + 1)]
        canvas.fill(np.concatenate([line, ends]), Paint(_near(random, colour), grain=4))


def houses(canvas: Canvas, horizon: float) -> None:
    """A row of houses with windows."""
    random, (height, width) = canvas.random, canvas.size
    left = -random.uniform(0, 20)
    while left < width:
        right = left + random.uniform(26, 52)
        top = horizon - height * random.uniform(0.2, 0.5)
        wall = one(random, _HOUSES)
        canvas.fill(box(left, top, right, horizon + 1), Paint(wall, grain=5))
        pane = Paint((92, 106, 122) if random.random() < 0.7 else (235, 210, 140), grain=3)
        for x in np.arange(left + 5, right - 7, 10):
            for y in np.arange(top + 6, horizon - 12, 13):
                canvas.fill(box(x, y, x + 5, y + 7), pane)
        left = right


def meadow(canvas: Canvas, horizon: float) -> None:
    """Grass from the horizon to the front."""
    random, (height, width) = canvas.random, canvas.size
    canvas.fill(box(0, horizon, width, height), Paint(one(random, _GREENS), grain=5))
    _roughen(canvas, horizon, (4, 1.5), 7)


def road(canvas: Canvas, horizon: float) -> None:
    """A pavement, and a road with a dashed line."""
    random, (height, width) = canvas.random, canvas.size
    canvas.fill(box(0, horizon, width, height), Paint(_near(random, (176, 172, 164)), grain=4))
    kerb = horizon + 0.18 * (height - horizon)
    canvas.fill(box(0, kerb, width, height), Paint(_near(random, (112, 112, 116)), grain=7))
    middle = (kerb + height) / 2 + 4
    for x in np.arange(random.uniform(-20, 0), width, 34):
        canvas.fill(box(x, middle, x + 18, middle + 2.5), Paint((226, 222, 206), grain=4))


def sea(canvas: Canvas, horizon: float) -> None:
    """Water with waves."""
    random, (height, width) = canvas.random, canvas.size
    far, near = _WATERS[random.integers(len(_WATERS))]
    canvas.fill(box(0, horizon, width, height), Paint(far, near, grain=2))
    _roughen(canvas, horizon, (1.6, 14), 9)


def room(canvas: Canvas, table: float) -> None:
    """A wall with a pattern, something on it, and a table from the row `table` on."""
    random, (height, width) = canvas.random, canvas.size
    wall = one(random, _WALLS)
    second: Colour = (wall[0] * 0.9, wall[1] * 0.9, wall[2] * 0.9)
    pattern = (second, random.uniform(8, 22), 0.4) if random.random() < 0.6 else None
    canvas.fill(box(0, 0, width, height), Paint(wall, wall, across=True, grain=2, stripes=pattern))
    if random.random() < 0.7:
        x, y = random.uniform(0, width - 50), random.uniform(6, 0.25 * height)
        wide, high = random.uniform(30, 52), random.uniform(24, 38)
        canvas.fill(box(x, y, x + wide, y + high), Paint(one(random, _WOODS), grain=3))
        inside = box(x + 3, y + 3, x + wide - 3, y + high - 3)
        canvas.fill(inside, Paint(one(random, CANVAS_WHITE), one(random, BRIGHT, 25), grain=5))
    canvas.fill(box(0, table, width, height), Paint(one(random, _WOODS), grain=3))
    _roughen(canvas, table, (1.5, 30), 7)
    canvas.fill(box(0, table, width, table + 2), Paint((90, 66, 46), grain=3))
    if random.random() < 0.5:
        _books(canvas, random.uniform(0, 0.8 * width), table + 4)


def tree(canvas: Canvas, x: float, ground: float) -> None:
    """A tree, from its foot."""
    random = canvas.random
    pen = Pen(canvas, "background", (x, ground), random.uniform(40, 75))
    pen.line([(0, 0), (0, -0.5)], 0.1, Paint((102, 76, 54), grain=6), 0.07)
    leaf = Paint(_near(random, (70, 112, 60)), grain=12)
    for _ in range(5):
        centre = random.uniform(-0.16, 0.16), random.uniform(-0.85, -0.5)
        pen.fill(ellipse(*centre, 0.2, 0.17), leaf.lighter(random.uniform(0.85, 1.15)))


def fence(canvas: Canvas, ground: float) -> None:
    """A wooden fence through the whole picture, in front of what was drawn before."""
    random, width = canvas.random, canvas.size[1]
    wood = Paint(one(random, _WOODS), grain=6)
    high = random.uniform(14, 22)
    for rail in (0.45, 0.85):
        y = ground - high * rail
        canvas.fill(box(0, y, width, y + 2.6), wood)
    for x in np.arange(random.uniform(0, 20), width, random.uniform(24, 40)):
        canvas.fill(box(x, ground - high, x + 3.4, ground + 1), wood.lighter(0.85))


def grass(canvas: Canvas, ground: float) -> None:
    """Tufts of grass in front of what was drawn before."""
    random, width = canvas.random, canvas.size[1]
    paint = Paint((92, 138, 58), (70, 112, 48), grain=6)
    for x in random.uniform(0, width, 7):
        pen = Pen(canvas, "background", (x, ground + random.uniform(0, 6)), random.uniform(8, 15))
        for lean in (-0.35, -0.1, 0.15, 0.4):
            pen.fill(np.array([(lean / 3 - 0.09, 0), (lean / 3 + 0.09, 0), (lean, -1)]), paint)


def balloon(canvas: Canvas, place: tuple[float, float]) -> None:
    """A hot-air balloon."""
    random = canvas.random
    pen = Pen(canvas, "background", place, random.uniform(28, 44))
    pen.line([(-0.2, 0.3), (-0.06, 0.62)], 0.02, _ROPE)
    pen.line([(0.2, 0.3), (0.06, 0.62)], 0.02, _ROPE)
    stripes = (one(random, CANVAS_WHITE), 9, 0.5)
    cloth = Paint(one(random, BRIGHT), across=True, stripes=stripes)
    pen.fill(smooth([(0, -0.42), (0.36, -0.1), (0.22, 0.28), (-0.22, 0.28), (-0.36, -0.1)]), cloth)
    pen.fill(box(-0.09, 0.58, 0.09, 0.74), Paint(one(random, _WOODS)))


def buoy(canvas: Canvas, place: tuple[float, float]) -> None:
    """A buoy on the water."""
    pen = Pen(canvas, "background", place, canvas.random.uniform(14, 22))
    red = Paint((215, 60, 45), stripes=((245, 240, 230), 7, 0.45), grain=3)
    pen.fill(np.array([(-0.12, -0.8), (0.12, -0.8), (0.34, 0), (-0.34, 0)]), red)
    pen.fill(ellipse(0, -0.85, 0.13, 0.13), Paint((250, 225, 120), grain=2))


def rock(canvas: Canvas, place: tuple[float, float]) -> None:
    """A rock, from its foot."""
    random = canvas.random
    pen = Pen(canvas, "background", place, random.uniform(16, 36))
    crest = random.uniform(-0.75, -0.35, 3)
    edge = [(-0.6, 0), (-0.42, crest[0]), (0, crest[1]), (0.38, crest[2]), (0.62, 0)]
    pen.fill(np.array(edge), Paint(_near(random, (142, 136, 128)), (88, 84, 82), grain=10))


def lamp_post(canvas: Canvas, place: tuple[float, float]) -> None:
    """A street lamp, from its foot."""
    pen = Pen(canvas, "background", place, 0.75 * canvas.size[0])
    iron = Paint((70, 78, 76), (46, 52, 52), grain=3)
    pen.line([(0, 0), (0, -0.95)], 0.028, iron)
    pen.fill(box(-0.06, -0.99, 0.06, -0.96), iron)
    pen.fill(ellipse(0, -0.92, 0.042, 0.055), Paint((255, 240, 190), grain=2))


def mug(canvas: Canvas, place: tuple[float, float]) -> None:
    """A mug, from its foot."""
    random = canvas.random
    pen = Pen(canvas, "background", place, random.uniform(17, 26))
    clay = Paint(one(random, BRIGHT, 30), across=True, grain=3)
    pen.line(smooth([(0.3, -0.7), (0.62, -0.5), (0.3, -0.2)], closed=False), 0.11, clay)
    pen.fill(rounded(-0.4, -0.9, 0.4, 0, 0.08), clay)


def _books(canvas: Canvas, left: float, ground: float) -> None:
    random = canvas.random
    for _ in range(int(random.integers(2, 6))):
        wide, high = random.uniform(4, 8), random.uniform(20, 32)
        paint = Paint(one(random, BRIGHT, 30), grain=4, stripes=((230, 220, 190), 16, 0.12))
        canvas.fill(box(left, ground - high, left + wide, ground), paint)
        left += wide


def _roughen(canvas: Canvas, top: float, cell: tuple[float, float], strength: float) -> None:
    """Add a texture to everything from the row `top` on."""
    rows = round(2 * top)
    part = canvas.pixels[rows:]
    rough = part + strength * canvas.noise(cell)[rows:, :, None]
    canvas.pixels[rows:] = rough.clip(0, 255)


def _near(random: np.random.Generator, colour: Colour) -> Colour:
    return one(random, (colour,))
