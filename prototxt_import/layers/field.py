"""Receptive fields."""

from __future__ import annotations

from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Field"]


@dataclass(frozen=True)
class Field:
    """What one value of a blob sees of the first input, along height and width.

    Attributes:
        size: receptive field in pixels.
        stride: input pixels between neighbouring values.
    """

    size: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))
    stride: tuple[Fraction, Fraction] = (Fraction(1), Fraction(1))

    def through(self, kernel: tuple[int, ...], stride: tuple[int, ...]) -> Field:
        """The field behind a window of ``kernel`` (holes included) that moves by ``stride``."""
        size = [f + (k - 1) * s for f, k, s in zip(self.size, kernel, self.stride, strict=True)]
        steps = [s * move for s, move in zip(self.stride, stride, strict=True)]
        return Field((size[0], size[1]), (steps[0], steps[1]))

    @staticmethod
    def joined(fields: list[Field]) -> Field:
        """The field of a value that is made of one value of each of several blobs."""
        return Field(
            size=(max(f.size[0] for f in fields), max(f.size[1] for f in fields)),
            stride=(max(f.stride[0] for f in fields), max(f.stride[1] for f in fields)),
        )
