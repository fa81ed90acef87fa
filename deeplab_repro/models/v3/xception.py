"""The aligned Xception of DeepLab v3+ (arXiv 1802.02611, section 3.2; core/xception.py).

Every pool of Xception is a separable convolution with a stride, and batch normalization follows
each depthwise convolution, too.  Up to the last block a ReLU comes before each separable
convolution and none behind it; in the last block it is the other way round.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from torch import Tensor, nn

from deeplab_repro.models.atrous import AtrousRule
from deeplab_repro.models.v3.backbone import AddsInPlace, Backbone, UnitMaps
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import XCEPTION, ConvUnit, SeparableUnit, mark

__all__ = ["xception"]

#: What bounded activations are clipped to, on both sides.
_CAP = 6.0


@dataclass(frozen=True)
class _Block:
    """Modules of one kind.

    Attributes:
        scope: TensorFlow's name.
        depths: Channels behind each of the three separable convolutions.
        skip: What the shortcut is: a convolution, the input itself, or nothing.
        stride: Of the third convolution of each module.
        units: How many modules.
    """

    scope: str
    depths: tuple[int, int, int]
    skip: Literal["conv", "sum", "none"] = "conv"
    stride: int = 1
    units: int = 1


_ENTRY = {
    # depth and stride of each block
    "xception_41": ((128, 2), (256, 2), (728, 2)),
    "xception_65": ((128, 2), (256, 2), (728, 2)),
    "xception_71": ((128, 2), (256, 1), (256, 2), (728, 1), (728, 2)),
}
_MIDDLE_UNITS = {"xception_41": 8, "xception_65": 16, "xception_71": 16}
#: The entry blocks whose second separable convolution a decoder of stride 4 and of stride 8 reads.
_SOURCES = {"xception_41": (2, 3), "xception_65": (2, 3), "xception_71": (3, 5)}


class XceptionModule(AddsInPlace):
    """Three separable convolutions, and a shortcut beside them.

    Args:
        convolutions: the three.
        shortcut: None where there is none.
        is_bounded: both are clipped before the sum, and the sum goes through ReLU6.
    """

    def __init__(
        self, convolutions: list[SeparableUnit], shortcut: nn.Module | None, is_bounded: bool
    ) -> None:
        super().__init__()
        self.convolutions = nn.ModuleList(convolutions)
        self.shortcut = shortcut
        self.is_bounded = is_bounded
        self.inner_channels = convolutions[1].channels

    def forward(self, x: Tensor) -> UnitMaps:
        """(N, C, H, W) -> the sum (N, C', H', W'), and what the third convolution reads."""
        first, second, third = self.convolutions
        inner = second(first(x))
        residual = third(inner)
        if self.shortcut is None:
            return UnitMaps(residual, inner)
        shortcut = self.shortcut(x)
        if self.is_bounded:
            total = residual.clamp(-_CAP, _CAP) + shortcut.clamp(-_CAP, _CAP)
            return UnitMaps(total.clamp(0, _CAP), inner)
        return UnitMaps(self.added(residual, shortcut), inner)


def xception(options: ModelOptions) -> Backbone:
    """The Xception that the options name."""
    name, scope = options.model_variant, options.variant.scope
    is_bounded = options.use_bounded_activation
    rule = AtrousRule(options.output_stride)
    stride, _ = rule(2)
    root = nn.Sequential(
        _unit(f"{scope}/entry_flow/conv1_1", 3, 32, 3, stride, _activation(is_bounded)),
        _unit(f"{scope}/entry_flow/conv1_2", 32, 64, 3, 1, _activation(is_bounded)),
    )
    channels = 64
    units: dict[str, nn.Module] = {}
    for block in _blocks(name):
        is_last = block.skip == "none"
        multi_grid = (options.multi_grid if is_last else None) or (1, 1, 1)
        for j in range(1, block.units + 1):
            stride, rate = rule(block.stride)
            unit_scope = f"{scope}/{block.scope}/unit_{j}/xception_module"
            convolutions = []
            read = channels
            for k, (depth, factor) in enumerate(zip(block.depths, multi_grid, strict=True), 1):
                convolutions.append(
                    _separable(
                        f"{unit_scope}/separable_conv{k}",
                        read,
                        depth,
                        stride if k == 3 else 1,
                        rate * factor,
                        is_last,
                        is_bounded,
                    )
                )
                read = depth
            shortcut: nn.Module | None = None
            if block.skip == "conv":
                shortcut = _unit(f"{unit_scope}/shortcut", channels, read, 1, stride, None)
            elif block.skip == "sum":
                shortcut = nn.Identity()
            unit = XceptionModule(convolutions, shortcut, is_bounded)
            units[f"{block.scope.replace('/', '_')}_unit_{j}"] = mark(unit, f"ep/{unit_scope}")
            channels = read
        mark(unit, f"ep/{scope}/{block.scope}")
    fourth, eighth = _SOURCES[name]
    sources = {
        4: f"entry_flow_block{fourth}_unit_1",
        8: f"entry_flow_block{eighth}_unit_1",
        16: "exit_flow_block1_unit_1",
    }
    return Backbone(
        root,
        units,
        nn.Identity(),
        channels=channels,
        sources=sources,
        strides=options.decoder_strides,
    )


def _blocks(name: str) -> Iterator[_Block]:
    for i, (depth, stride) in enumerate(_ENTRY[name], 1):
        yield _Block(f"entry_flow/block{i}", (depth,) * 3, stride=stride)
    yield _Block("middle_flow/block1", (728, 728, 728), "sum", units=_MIDDLE_UNITS[name])
    yield _Block("exit_flow/block1", (728, 1024, 1024), stride=2)
    yield _Block("exit_flow/block2", (1536, 1536, 2048), "none")


def _separable(
    scope: str,
    channels: int,
    depth: int,
    stride: int,
    rate: int,
    activates: bool,
    is_bounded: bool,
) -> SeparableUnit:
    """A ReLU behind both convolutions, or one before them; bounded ones are clipped behind."""
    before, behind = None, None
    if activates:
        behind = _activation(is_bounded)
    else:
        # Not in place: the shortcut reads the same map.
        before = nn.ReLU6() if is_bounded else nn.ReLU()
        behind = nn.Hardtanh(-_CAP, _CAP, inplace=True) if is_bounded else None
    unit = SeparableUnit(
        scope,
        channels,
        depth,
        stride=stride,
        rate=rate,
        norm=XCEPTION,
        before=before,
        activations=(behind, behind),
        same=is_bounded,
    )
    for part in (unit.depthwise, unit.pointwise):
        mark(part, f"ep/{part.scope}")
    return unit


def _unit(
    scope: str,
    channels: int,
    out_channels: int,
    kernel: int,
    stride: int,
    activation: nn.Module | None,
) -> ConvUnit:
    unit = ConvUnit(
        scope,
        channels,
        out_channels,
        kernel,
        stride=stride,
        norm=XCEPTION,
        activation=activation,
        same=False,
    )
    return mark(unit, f"ep/{scope}")


def _activation(is_bounded: bool) -> nn.Module:
    return nn.ReLU6(inplace=True) if is_bounded else nn.ReLU(inplace=True)
