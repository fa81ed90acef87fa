"""What is told of a training while it runs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final, Protocol

from torch import Tensor

__all__ = ["Journal", "small", "told"]

#: Output blobs of more values, such as scores that nobody reads, are not told.
_MOST_VALUES: Final = 1000


class Journal(Protocol):
    """What is told of a training, see :class:`deeplab_repro.train.log.Log`."""

    def train(
        self, iteration: int, lr: float, loss: float, outputs: Mapping[str, float | Sequence[float]]
    ) -> None:
        """The smoothed loss before an update, its rate, and the outputs of the last pass."""

    def test(
        self, iteration: int, net: int, outputs: Mapping[str, float | Sequence[float]]
    ) -> None:
        """The mean outputs of a test net."""


def small(outputs: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The outputs that are few enough values to be told, detached."""
    return {
        name: value.detach() for name, value in outputs.items() if value.numel() <= _MOST_VALUES
    }


def told(value: Tensor) -> float | list[float]:
    """A number, or a list of them where there are several."""
    values: list[float] = value.flatten().tolist()
    return values[0] if len(values) == 1 else values
