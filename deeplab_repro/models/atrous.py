"""The atrous rule: what becomes of strides that would make a map too coarse.

A network for classification shrinks the picture 32 times.  DeepLab keeps the strides up to the
output stride, drops those behind it, and lets everything that follows have holes instead, so that
every filter sees what it saw in training (arXiv 1606.00915, section 3.1).  `Sampling` is the rule;
the tables of v1 and v2 (`deeplab_repro.models.walk`) and the networks of v3
(`deeplab_repro.models.v3`) both go by it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from fractions import Fraction

__all__ = ["AtrousRule", "Sampling", "StrideError", "rates_at"]


class StrideError(ValueError):
    """A network cannot have the output stride that was asked for."""


@dataclass(frozen=True)
class Sampling:
    """How a map samples the picture.

    Attributes:
        stride: Pixels of the network's input from one of its rows or columns to the next.
        rate: By which the rates of convolutions that read it are multiplied.
    """

    stride: Fraction = Fraction(1)
    rate: Fraction = Fraction(1)

    def strided(self, stride: int, largest: Fraction | int) -> tuple[int, Sampling]:
        """Which stride a layer keeps that has this one in the table, and what its map samples.

        A stride that would take the map past `largest` is dropped, and the rates of all that
        follows are multiplied by it instead.  The layer itself keeps the rate of what it reads.
        """
        if self.stride * stride <= largest:
            return stride, replace(self, stride=self.stride * stride)
        return 1, replace(self, rate=self.rate * stride)


class AtrousRule:
    """The rule along a chain of layers.

    Args:
        output_stride: of the chain's last map.

    >>> rule = AtrousRule(8)
    >>> [rule(stride) for stride in (2, 2, 2, 2, 2, 1)]
    [(2, 1), (2, 1), (2, 1), (1, 1), (1, 2), (1, 4)]
    """

    def __init__(self, output_stride: int) -> None:
        self.output_stride = output_stride
        self.sampling = Sampling()

    def __call__(self, stride: int = 1) -> tuple[int, int]:
        """The stride that the next layer keeps of its own, and its rate."""
        rate = int(self.sampling.rate)
        kept, self.sampling = self.sampling.strided(stride, self.output_stride)
        return kept, rate


def rates_at(output_stride: int, rates: tuple[int, ...], published: int = 16) -> tuple[int, ...]:
    """Rates of a head at another output stride than the published one, with the same field of view.

    Raises:
        StrideError: one of them is no whole number there.

    >>> rates_at(8, (6, 12, 18))
    (12, 24, 36)
    """
    scaled = [Fraction(rate * published, output_stride) for rate in rates]
    if any(rate.denominator != 1 for rate in scaled):
        raise StrideError(
            f"output stride {output_stride}: the head would have the rates "
            f"{', '.join(map(str, scaled))}, which are no whole numbers"
        )
    return tuple(int(rate) for rate in scaled)
