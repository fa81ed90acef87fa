"""Units one after the other, and the maps within them that a decoder reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from deeplab_repro.ops._residual import add_relu_

__all__ = ["AddsInPlace", "Backbone", "UnitMaps"]


class UnitMaps(NamedTuple):
    """What a unit gives.

    Attributes:
        output: (N, C, H, W), what the next unit reads.
        inner: A map from within, for a decoder.
    """

    output: Tensor
    inner: Tensor


class AddsInPlace(nn.Module):
    """A unit that can write its sum over its residual.

    Attributes:
        adds_in_place: Whether it does, which gradients and whoever looks at the residual forbid.
    """

    adds_in_place = False

    def added(self, residual: Tensor, shortcut: Tensor, relu: bool = False) -> Tensor:
        """Their sum, or max(sum, 0)."""
        if self.adds_in_place:
            return add_relu_(residual, shortcut) if relu else residual.add_(shortcut)
        total = shortcut + residual
        return total.relu_() if relu else total


class Backbone(nn.Module):
    """A root, units that give :class:`UnitMaps`, and what comes behind them.

    Args:
        root: layers before the first unit.
        units: by name, in order.
        tail: layers behind the last one.
        channels: of the last map.
        sources: stride of a decoder's stage -> name of the unit whose inner map it reads.
        strides: those of `sources` that are wanted.

    Attributes:
        low_level: channels of the wanted inner maps by stride.
    """

    def __init__(
        self,
        root: nn.Module,
        units: Mapping[str, nn.Module],
        tail: nn.Module,
        *,
        channels: int,
        sources: Mapping[int, str],
        strides: Collection[int],
    ) -> None:
        super().__init__()
        self.root, self.units, self.tail = root, nn.ModuleDict(units), tail
        self.channels = channels
        self._taps: dict[str, int] = {sources[stride]: stride for stride in strides}
        self.low_level: dict[int, int] = {
            stride: units[name].inner_channels  # type: ignore[misc]
            for name, stride in self._taps.items()
        }

    def fold(self) -> None:
        """Let units whose inner map nobody reads add up in the place of their residual."""
        for name, unit in self.units.items():
            if isinstance(unit, AddsInPlace) and name not in self._taps:
                unit.adds_in_place = True

    def forward(self, x: Tensor) -> tuple[Tensor, dict[int, Tensor]]:
        """(N, 3, H, W) -> the last map (N, C, h, w), and inner maps by stride."""
        x = self.root(x)
        inner = {}
        for name, unit in self.units.items():
            maps = unit(x)
            x = maps.output
            if name in self._taps:
                inner[self._taps[name]] = maps.inner
            del maps
        return self.tail(x), inner
