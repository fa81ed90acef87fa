"""Bottles, potted plants and TV monitors."""

from __future__ import annotations

import numpy as np

from deeplab_repro.data.synthetic.canvas import Paint, Pen
from deeplab_repro.data.synthetic.colours import BRIGHT, CANVAS_WHITE, GLASS, LEAVES, POTS, one
from deeplab_repro.data.synthetic.outlines import box, ellipse, rounded, smooth

__all__ = ["bottle", "potted_plant", "tv_monitor"]


def bottle(pen: Pen) -> None:
    """A bottle that stands; its origin is the middle of its foot."""
    random = pen.random
    colour = one(random, GLASS)
    glass = Paint(colour, (colour[0] * 0.5, colour[1] * 0.5, colour[2] * 0.5), across=True, grain=3)
    half, neck = random.uniform(0.13, 0.17), random.uniform(0.035, 0.05)
    shoulder = random.uniform(-0.66, -0.56)
    left = [(-neck, -0.97), (-neck, shoulder - 0.12), (-half, shoulder + 0.05), (-half, 0.0)]
    right = [(-x, y) for x, y in reversed(left)]
    pen.fill(np.array([*left, *right]), glass)
    pen.fill(box(-neck - 0.012, -1.02, neck + 0.012, -0.94), Paint(one(random, BRIGHT), grain=2))
    label = Paint(one(random, CANVAS_WHITE), stripes=(one(random, BRIGHT), 8, 0.3), grain=2)
    pen.fill(box(-half, -0.42, half, -0.15), label)
    pen.line([(-half * 0.62, shoulder + 0.06), (-half * 0.62, -0.47)], 0.02, glass.lighter(1.7))


def potted_plant(pen: Pen) -> None:
    """A plant in a pot; its origin is the middle of the pot's foot."""
    random = pen.random
    pot = Paint(one(random, POTS), across=True, grain=4)
    leaf = Paint(one(random, LEAVES), grain=7)
    stem = Paint((72, 112, 42), (60, 92, 36), grain=2)
    flower = Paint(one(random, ((235, 70, 110), (250, 200, 50), (240, 240, 245), (200, 80, 200))))
    blooms = random.random() < 0.5
    for lean in np.linspace(-0.34, 0.34, int(random.integers(3, 6))):
        lean += random.uniform(-0.05, 0.05)
        top = random.uniform(-0.98, -0.78) + abs(lean) * 0.35
        path = smooth(
            [(lean * 0.15, -0.3), (lean * 0.5, (top - 0.3) / 2), (lean, top)], closed=False
        )
        pen.line(path, 0.022, stem)
        for share in (0.35, 0.6, 0.8):
            x, y = path[int(share * (len(path) - 1))]
            for side in (-1, 1):
                angle = side * random.uniform(0.3, 0.9) - (np.pi if side < 0 else 0)
                length = random.uniform(0.075, 0.115)
                centre = x + length * np.cos(angle), y + length * np.sin(angle)
                shade = leaf.lighter(random.uniform(0.8, 1.25))
                pen.fill(ellipse(*centre, length, length * 0.42, angle), shade)
        tip = flower if blooms else leaf
        pen.fill(ellipse(lean, top, 0.06, 0.06 if blooms else 0.09), tip)
    pen.fill(np.array([(-0.2, -0.3), (0.2, -0.3), (0.14, 0.0), (-0.14, 0.0)]), pot)
    pen.fill(box(-0.225, -0.34, 0.225, -0.26), pot.lighter(1.12))


def tv_monitor(pen: Pen) -> None:
    """A television set on its foot; its origin is the middle of the foot."""
    random = pen.random
    frame = Paint(one(random, ((38, 38, 42), (60, 60, 66), (25, 27, 34))), grain=2)
    shows = Paint(one(random, ((70, 165, 235), (250, 175, 80), (90, 215, 190))),
                  one(random, ((25, 60, 130), (200, 70, 120), (40, 110, 80))), grain=3)  # fmt: skip
    half, top = random.uniform(0.45, 0.5), random.uniform(-0.8, -0.7)
    if random.random() < 0.5:
        for side in (-1, 1):
            pen.line([(0.0, top), (side * random.uniform(0.12, 0.26), top - 0.22)], 0.012, frame)
    pen.line([(0.0, -0.15), (0.0, -0.02)], 0.07, frame)
    pen.fill(ellipse(0.0, -0.02, 0.24, 0.026), frame)
    pen.fill(rounded(-half, top, half, -0.12, 0.035), frame)
    left, right, upper, lower = -half + 0.045, half - 0.045, top + 0.045, -0.175
    pen.fill(box(left, upper, right, lower), shows)
    hills = [(left, lower), (left, lower - 0.15), (-0.1, lower - 0.28), (0.12, lower - 0.12)]
    pen.fill(np.array([*hills, (right, lower - 0.22), (right, lower)]), shows.lighter(0.55))
    pen.fill(ellipse(random.uniform(-0.25, 0.25), upper + 0.13, 0.06, 0.06),
             Paint((255, 240, 180), grain=2))  # fmt: skip
    pen.fill(ellipse(right, -0.145, 0.01, 0.01), Paint((220, 50, 50), grain=1))
