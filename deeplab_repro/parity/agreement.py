"""How near an array of ours is to the one that Caffe computed."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike

from deeplab_repro.parity.tolerances import Tolerance

# Values looked at in one go: the float64 copies stay small whatever the blob's size.
_PIECE = 1 << 20


@dataclass(frozen=True)
class Agreement:
    """Distance of an array from its reference, in two measures.

    Attributes:
        rel: ||ours - reference|| / ||reference||, the 2-norm over all values.
        max: Largest |ours - reference| / max |reference|.
        note: Why no number could be given (shapes that differ, infinities that do not match).
    """

    rel: float
    max: float
    note: str = ""

    def within(self, tolerance: Tolerance) -> bool:
        """True if both measures keep to `tolerance`. NaN keeps to none."""
        # A measure may be numpy's, and then so is what a comparison gives: no bool, never `is`.
        return bool(self.rel <= tolerance.rel and self.max <= tolerance.max)

    def __str__(self) -> str:
        numbers = f"rel {self.rel:.2e}, max {self.max:.2e}"
        return f"{numbers} ({self.note})" if self.note else numbers


def agreement(ours: ArrayLike, reference: ArrayLike) -> Agreement:
    """Measure how far `ours` is from `reference`; numpy arrays or what numpy converts.

    A reference of zeros is met by zeros only (anything else is infinitely far). An array with a
    NaN agrees with nothing, not even with itself. Infinities must stand in the same places with
    the same signs; the measures are then taken over the finite values. Two empty arrays of one
    shape agree. Different shapes are infinitely far apart, and the note names them.
    """
    a, b = np.asarray(ours), np.asarray(reference)
    if a.shape != b.shape:
        return Agreement(math.inf, math.inf, f"shape {a.shape}, expected {b.shape}")
    a, b = a.reshape(-1), b.reshape(-1)
    difference = Norms()
    scale = Norms()
    for start in range(0, a.size, _PIECE):
        x = a[start : start + _PIECE].astype(np.float64)
        y = b[start : start + _PIECE].astype(np.float64)
        if np.isnan(x).any() or np.isnan(y).any():
            return Agreement(math.nan, math.nan, "holds NaN")
        finite = np.isfinite(x) & np.isfinite(y)
        if not finite.all():
            if not np.array_equal(x[~finite], y[~finite]):
                return Agreement(math.inf, math.inf, "infinite in different places")
            x, y = x[finite], y[finite]
        difference.add(x - y)
        scale.add(y)
    return relative(difference, scale)


class Norms:
    """2-norm and largest magnitude of values that come in pieces."""

    def __init__(self, l2: float = 0.0, largest: float = 0.0) -> None:
        self.squares = l2 * l2
        self.largest = largest

    def add(self, values: np.ndarray) -> None:
        if values.size:
            self.squares += float(np.dot(values, values))
            self.largest = max(self.largest, float(np.abs(values).max()))

    @property
    def l2(self) -> float:
        return math.sqrt(self.squares)


def relative(difference: Norms, scale: Norms) -> Agreement:
    """The two measures from the norms of the difference and of the reference."""
    return Agreement(
        _ratio(difference.l2, scale.l2),
        _ratio(difference.largest, scale.largest),
    )


def _ratio(difference: float, scale: float) -> float:
    if difference == 0.0:
        return 0.0
    return difference / scale if scale > 0.0 else math.inf
