"""The mistakes that re-implementations of Caffe networks are known to make, one detector each."""

from __future__ import annotations

# Imported for the detectors that they register.
from deeplab_repro.parity.traps import inputs, saving, values, weights, windows  # noqa: F401
from deeplab_repro.parity.traps.core import TRAPS, Look, Trap, Variant, detectors_for

__all__ = ["TRAPS", "Look", "Trap", "Variant", "detectors_for"]
