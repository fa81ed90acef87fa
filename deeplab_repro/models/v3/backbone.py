"""Units one after the other, and the maps within them that a decoder reads."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import NamedTuple

from torch import Tensor, nn

from deeplab_repro.models.v3.parts import ConvUnit

__all__ = ["AddsShortcut", "Backbone", "UnitMaps"]


class UnitMaps(NamedTuple):
    """What a unit gives.

    Attributes:
        output: (N, C, H, W), what the next unit reads.
        inner: A map from within, for a decoder.
    """

    output: Tensor
    inner: Tensor


class AddsShortcut(nn.Module):
    """A unit whose last convolution can add the shortcut itself, so that no residual is written.

    Attributes:
        relu: Whether the sum goes through a ReLU.
        is_folded: Whether the convolution adds the shortcut.
    """

    relu = False
    is_folded = False

    @property
    def last(self) -> ConvUnit:
        """What gives the residual."""
        raise NotImplementedError

    def fold_shortcut(self) -> None:
        """Fold the last convolution and let it add the shortcut, if no activation is between."""
        if self.last.activation is None and self.last.conv.activation is None:
            self.last.fold()
            self.last.conv.activation = "relu" if self.relu else None
            self.is_folded = True

    def show_residual(self) -> None:
        """Take that back: the last convolution gives the residual again."""
        self.last.conv.activation = None
        self.is_folded = False

    def added(self, x: Tensor, shortcut: Tensor) -> tuple[Tensor, Tensor]:
        """shortcut + last(x), and last(x) itself: where the unit is folded, the sum again.

        Args:
            x: (N, C, H, W), what the last convolution reads.
            shortcut: (N, K, H', W').
        """
        if self.is_folded:
            total: Tensor = self.last.conv(x, shortcut)
            return total, total
        residual = self.last(x)
        total = shortcut + residual
        return total.relu_() if self.relu else total, residual


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
        """Let units whose inner map nobody reads add their shortcut within a convolution."""
        for name, unit in self.units.items():
            if isinstance(unit, AddsShortcut) and name not in self._taps:
                unit.fold_shortcut()

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
