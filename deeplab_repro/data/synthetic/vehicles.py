"""Aeroplanes, boats and cars."""

from __future__ import annotations

import numpy as np

from deeplab_repro.data.synthetic.canvas import Paint, Pen
from deeplab_repro.data.synthetic.colours import BRIGHT, CANVAS_WHITE, HULLS, PLANES, one
from deeplab_repro.data.synthetic.outlines import box, ellipse, smooth

__all__ = ["aeroplane", "boat", "car"]

_GLASS = Paint((90, 130, 165), (40, 60, 85), grain=3)
_TYRE = Paint((48, 48, 52), (25, 25, 28), grain=3)
_METAL = Paint((205, 208, 214), (140, 144, 152), grain=3)


def aeroplane(pen: Pen) -> None:
    """An airliner from the side; its origin is the middle of the fuselage."""
    random = pen.random
    body = Paint(one(random, PLANES), grain=3)
    accent = Paint(one(random, BRIGHT), grain=3)
    shadow = body.lighter(0.72)
    sweep = random.uniform(0.02, 0.12)
    # The far wing and the far half of the tailplane first, since the fuselage covers their roots.
    far = [(0.1, -0.02), (-0.06, -0.02), (-0.2 - sweep, -0.25), (-0.13 - sweep, -0.26)]
    pen.fill(np.array(far), shadow)
    pen.fill(np.array([(-0.34, -0.03), (-0.5, -0.22), (-0.41, -0.22), (-0.25, -0.04)]), accent)
    fuselage = [(0.5, 0.015), (0.42, -0.045), (0.28, -0.07), (-0.2, -0.07), (-0.4, -0.05)]
    fuselage += [(-0.5, -0.03), (-0.4, 0.02), (-0.2, 0.065), (0.25, 0.075), (0.42, 0.055)]
    pen.fill(smooth(fuselage), body)
    pen.fill(box(-0.42, 0.005, 0.47, 0.028), accent)
    pen.fill(smooth([(0.43, -0.035), (0.37, -0.045), (0.36, -0.02), (0.45, -0.015)]), _GLASS)
    for x in np.linspace(-0.28, 0.3, 9):
        pen.fill(ellipse(x, -0.025, 0.014, 0.014), _GLASS)
    tip = 0.27 + random.uniform(0, 0.08)
    wing = np.array(
        [(0.13, 0.02), (-0.09, 0.03), (-0.27 - sweep, tip), (-0.19 - sweep, tip + 0.01)]
    )
    pen.fill(wing, shadow.lighter(1.15))
    pen.fill(ellipse(-0.01, 0.13, 0.075, 0.034), accent.lighter(0.9))
    pen.fill(np.array([(-0.34, 0.0), (-0.43, 0.01), (-0.55, 0.09), (-0.49, 0.1)]), shadow)


def boat(pen: Pen) -> None:
    """A sailing boat; its origin is the waterline below the mast."""
    random = pen.random
    hull = Paint(one(random, HULLS), grain=4)
    sail = Paint(one(random, CANVAS_WHITE), grain=4)
    if random.random() < 0.4:
        sail = Paint(one(random, CANVAS_WHITE), stripes=(one(random, BRIGHT), 9, 0.45), grain=4)
    wood = Paint((120, 82, 50), (92, 60, 36))
    height = random.uniform(0.75, 0.95)
    pen.line([(0.0, -0.08), (0.0, -height)], 0.026, wood)
    pen.fill(np.array([(-0.035, -height + 0.05), (-0.4, -0.2), (-0.035, -0.19)]), sail)
    if random.random() < 0.8:
        jib = [(0.035, -height + 0.12), (0.2, -0.42), (0.43, -0.17), (0.03, -0.17)]
        pen.fill(np.array(jib), sail.lighter(0.92))
    pen.line([(-0.44, -0.16), (0.05, -0.16)], 0.024, wood)
    pen.fill(np.array([(0.0, -height), (-0.12, -height + 0.03), (0.0, -height + 0.07)]),
             Paint(one(random, BRIGHT)))  # fmt: skip
    side = [(-0.46, -0.12), (0.56, -0.14), (0.44, -0.02), (0.34, 0.04), (-0.34, 0.04), (-0.42, 0.0)]
    pen.fill(np.array(side), hull)
    pen.fill(np.array([(-0.455, -0.085), (0.525, -0.1), (0.5, -0.07), (-0.44, -0.055)]),
             Paint(one(random, CANVAS_WHITE), grain=3))  # fmt: skip


def car(pen: Pen) -> None:
    """A car from the side; its origin is on the road below its middle."""
    random = pen.random
    body = Paint(one(random, BRIGHT), grain=3)
    roof = -random.uniform(0.36, 0.44)
    back = random.uniform(-0.36, -0.24)
    # An antenna, bumpers and wheels are what a coarse score map loses.
    pen.line([(back + 0.05, roof + 0.05), (back - 0.05, roof - 0.12)], 0.014, _TYRE)
    cabin = [(back - 0.08, -0.23), (back, roof + 0.02), (back + 0.12, roof), (0.1, roof)]
    cabin += [(0.2, roof + 0.05), (0.32, -0.23)]
    pen.fill(np.array(cabin), body.lighter(0.95))
    lower = [
        (-0.5, -0.21),
        (-0.42, -0.255),
        (0.3, -0.25),
        (0.46, -0.21),
        (0.51, -0.12),
        (0.5, -0.06),
    ]
    pen.fill(np.array([*lower, (-0.5, -0.06)]), body)
    glass = [
        (back + 0.0, -0.235),
        (back + 0.05, roof + 0.045),
        (-0.045, roof + 0.045),
        (-0.045, -0.235),
    ]
    pen.fill(np.array(glass), _GLASS)
    glass = [(-0.015, -0.235), (-0.015, roof + 0.045), (0.1, roof + 0.045), (0.245, -0.235)]
    pen.fill(np.array(glass), _GLASS)
    pen.fill(box(-0.5, -0.105, 0.5, -0.07), body.lighter(0.6))
    for x in (-0.29, 0.3):
        pen.fill(ellipse(x, -0.085, 0.108, 0.108), _TYRE)
        pen.fill(ellipse(x, -0.085, 0.055, 0.055), _METAL)
    pen.fill(ellipse(0.475, -0.165, 0.022, 0.03), Paint((255, 244, 190), grain=2))
    pen.fill(box(-0.505, -0.2, -0.475, -0.13), Paint((190, 30, 30), grain=2))
    pen.fill(box(-0.02, -0.185, 0.04, -0.17), body.lighter(0.6))
