"""Birds and horses."""

from __future__ import annotations

import numpy as np

from deeplab_repro.data.synthetic.canvas import Paint, Pen
from deeplab_repro.data.synthetic.colours import COATS, FEATHERS, one
from deeplab_repro.data.synthetic.outlines import ellipse, smooth

__all__ = ["bird", "horse"]

_BEAK = Paint((240, 165, 40), (215, 125, 20), grain=2)
_EYE = Paint((20, 20, 22), grain=1)


def bird(pen: Pen, *, flying: bool = False) -> None:
    """A bird from the side; its origin is below its feet, or the middle of its body if it flies."""
    random = pen.random
    coat = Paint(one(random, FEATHERS), grain=7)
    belly, wing = coat.lighter(1.3), coat.lighter(0.7)
    y = 0.0 if flying else -0.37
    if flying:
        lift = random.uniform(0.3, 0.46)
        far = [(0.12, -0.05), (0.14, -lift * 0.7), (0.02, -lift), (-0.04, -lift * 0.5), (-0.06, 0)]
        pen.fill(smooth(far), wing.lighter(0.85))
    else:
        for x, foot in ((-0.03, -0.05), (0.06, 0.05)):
            pen.line([(x, y + 0.12), (foot, -0.02)], 0.022, _BEAK)
            pen.line([(foot - 0.02, -0.01), (foot + 0.07, -0.01)], 0.02, _BEAK)
    pen.fill(np.array([(-0.22, y - 0.04), (-0.52, y + 0.03), (-0.5, y + 0.12), (-0.2, y + 0.08)]),
             wing)  # fmt: skip
    body = [(0.3, y - 0.13), (0.16, y - 0.17), (-0.1, y - 0.12), (-0.3, y), (-0.22, y + 0.1)]
    body += [(0.0, y + 0.17), (0.2, y + 0.12), (0.31, y - 0.01)]
    pen.fill(smooth(body), coat)
    pen.fill(ellipse(0.1, y + 0.06, 0.16, 0.08, -0.3), belly)
    pen.fill(ellipse(0.29, y - 0.15, 0.115, 0.105), coat)
    pen.fill(np.array([(0.385, y - 0.19), (0.385, y - 0.11), (0.54, y - 0.125)]), _BEAK)
    pen.fill(ellipse(0.325, y - 0.175, 0.02, 0.02), _EYE)
    if flying:
        near = [(0.14, -0.03), (0.03, -lift), (-0.22, -lift - 0.1), (-0.2, -0.18), (-0.1, 0.04)]
        pen.fill(smooth(near), wing)
    else:
        pen.fill(smooth([(0.12, y - 0.07), (-0.08, y - 0.06), (-0.36, y + 0.06), (0.0, y + 0.08)]),
                 wing)  # fmt: skip


def horse(pen: Pen) -> None:
    """A horse from the side; its origin is on the ground below its belly."""
    random = pen.random
    coat = Paint(one(random, COATS), grain=5)
    far = coat.lighter(0.7)
    hair = Paint(one(random, ((40, 28, 22), (70, 45, 30), (225, 205, 160))), grain=8)
    hoof = Paint((50, 44, 40), grain=2)
    step = random.uniform(-0.08, 0.08, 4)
    legs = ((-0.2, far), (0.25, far), (-0.29, coat), (0.17, coat))
    tail = [(-0.34, -0.6), (-0.44, -0.52), (-0.47, -0.36), (-0.45, -0.2)]
    pen.line(smooth(tail, closed=False), 0.055, hair, 0.03)
    grazing = random.random() < 0.3
    for (x, paint), move in zip(legs, step, strict=True):
        foot = x + move
        pen.line([(x, -0.42), (x + move * 0.3, -0.24), (foot, -0.03)], 0.088, paint, 0.036)
        pen.line([(foot, -0.045), (foot + 0.015, 0.0)], 0.05, hoof)
    body = [
        (-0.36, -0.58),
        (-0.2, -0.66),
        (0.02, -0.62),
        (0.22, -0.66),
        (0.32, -0.56),
        (0.27, -0.4),
    ]
    pen.fill(smooth([*body, (0.0, -0.34), (-0.28, -0.38)]), coat)
    if grazing:
        neck = [
            (0.14, -0.64),
            (0.26, -0.66),
            (0.46, -0.38),
            (0.5, -0.2),
            (0.4, -0.2),
            (0.28, -0.42),
        ]
        head = [(0.38, -0.26), (0.5, -0.29), (0.56, -0.12), (0.53, -0.05), (0.46, -0.06)]
        mane, ear, eye = [(0.2, -0.66), (0.36, -0.54), (0.49, -0.3)], (0.48, -0.3), (0.51, -0.2)
    else:
        neck = [
            (0.1, -0.63),
            (0.26, -0.76),
            (0.34, -0.92),
            (0.44, -0.92),
            (0.42, -0.72),
            (0.3, -0.46),
        ]
        head = [
            (0.32, -0.98),
            (0.42, -1.0),
            (0.6, -0.84),
            (0.61, -0.77),
            (0.53, -0.76),
            (0.38, -0.84),
        ]
        mane, ear, eye = [(0.1, -0.66), (0.23, -0.79), (0.33, -1.0)], (0.37, -0.96), (0.44, -0.92)
    pen.fill(smooth(neck), coat)
    pen.fill(smooth(head), coat)
    pen.line(smooth(mane, closed=False), 0.06, hair, 0.05)
    pen.line([ear, (ear[0] - 0.02, ear[1] - 0.1)], 0.05, coat, 0.0)
    pen.fill(ellipse(*eye, 0.016, 0.016), _EYE)
    if random.random() < 0.3:
        for _ in range(6):
            x, y = random.uniform(-0.28, 0.2), random.uniform(-0.58, -0.42)
            pen.fill(ellipse(x, y, 0.05, 0.035), Paint((232, 226, 214), grain=4))
