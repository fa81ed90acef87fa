"""ResNet-v1 of the original program (core/resnet_v1_beta.py): 18, 50 and 101 layers.

It differs from torchvision's in that the stride of a block sits in its last unit, on the 3x3
convolution, and the shortcut beside it picks every second pixel.  The "beta" variants have three
3x3 convolutions in place of the 7x7 one.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch.nn.functional as F
from torch import Tensor, nn

from deeplab_repro.models.atrous import AtrousRule
from deeplab_repro.models.v3.backbone import AddsInPlace, Backbone, UnitMaps
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import RESNET, ConvUnit, mark, same_padding

__all__ = ["resnet"]

#: Decoder's stride -> the unit whose residual, before the sum, it reads.
_SOURCES = {
    18: {4: "block1_unit_1", 8: "block2_unit_1", 16: "block3_unit_1"},
    50: {4: "block1_unit_2", 8: "block2_unit_3", 16: "block3_unit_5"},
    101: {4: "block1_unit_2", 8: "block2_unit_3", 16: "block3_unit_22"},
}
#: Units of the first three blocks.
_UNITS = {18: (2, 2, 2), 50: (3, 4, 6), 101: (3, 4, 23)}


@dataclass(frozen=True)
class _Block:
    """Units of one width; the stride is the last one's.

    Attributes:
        width: Channels of the 3x3 convolutions.
        multi_grid: A factor of the rate for each unit.
    """

    width: int
    stride: int
    multi_grid: tuple[int, ...]


class Subsample(nn.Module):
    """Every stride-th row and column."""

    def __init__(self, stride: int) -> None:
        super().__init__()
        self.stride = stride

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / stride), ceil(W / stride))."""
        return x[..., :: self.stride, :: self.stride]

    def extra_repr(self) -> str:
        """The stride."""
        return str(self.stride)


class SamePool(nn.Module):
    """The maximum of 3x3 windows with stride 2 and TensorFlow's padding "SAME".

    At even sizes nothing is padded before the first pixel.
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, ceil(H / 2), ceil(W / 2))."""
        (top, bottom), (left, right) = (same_padding(size, 3, 2, 1) for size in x.shape[2:])
        x = F.pad(x, (left, right, top, bottom), value=-math.inf)
        return F.max_pool2d(x, 3, 2)


class ResidualUnit(AddsInPlace):
    """relu(shortcut(x) + residual(x)) (arXiv 1512.03385)."""

    def __init__(self, shortcut: nn.Module, convolutions: Iterable[ConvUnit]) -> None:
        super().__init__()
        self.shortcut = shortcut
        self.residual = nn.Sequential(*convolutions)
        self.inner_channels: int = self.residual[-1].channels  # type: ignore[assignment]

    def forward(self, x: Tensor) -> UnitMaps:
        """(N, C, H, W) -> the sum and the residual, both (N, C', H', W')."""
        residual = self.residual(x)
        return UnitMaps(self.added(residual, self.shortcut(x), relu=True), residual)


def resnet(options: ModelOptions) -> Backbone:
    """The ResNet that the options name, with multi-grid and, where wanted, the cascade."""
    name = options.model_variant
    depth = int(name.split("_")[2])
    scope = options.variant.scope
    rule = AtrousRule(options.output_stride)
    root = list(_root(scope, depth, name.endswith("_beta"), rule))
    channels = root[-1].channels
    rule(2)  # the pool
    units: dict[str, nn.Module] = {}
    for i, block in enumerate(_blocks(depth, options), 1):
        last = len(block.multi_grid)
        for j, factor in enumerate(block.multi_grid, 1):
            stride, rate = rule(block.stride if j == last else 1)
            unit_scope = f"{scope}/block{i}/unit_{j}/"
            unit_scope += "bottleneck_v1" if depth > 18 else "lite_bottleneck_v1"
            convolutions = list(
                _convolutions(unit_scope, channels, block.width, stride, rate * factor, depth > 18)
            )
            unit = ResidualUnit(
                _shortcut(unit_scope, channels, convolutions[-1].channels, stride), convolutions
            )
            channels = convolutions[-1].channels
            units[f"block{i}_unit_{j}"] = mark(unit, f"ep/{unit_scope}")
        mark(unit, f"ep/{scope}/block{i}")
    return Backbone(
        nn.Sequential(*root, SamePool()),
        units,
        nn.Identity(),
        channels=channels,
        sources=_SOURCES[depth],
        strides=options.decoder_strides,
    )


def _blocks(depth: int, options: ModelOptions) -> Iterator[_Block]:
    widths = (64, 128, 256)
    for width, units in zip(widths, _UNITS[depth], strict=True):
        yield _Block(width, 2, (1,) * units)
    multi_grid = options.multi_grid or (1,) * options.variant.multi_grid
    for _ in range(3 if options.cascade else 0):
        yield _Block(512, 2, multi_grid)
    yield _Block(512, 1, multi_grid)


def _root(scope: str, depth: int, is_beta: bool, rule: AtrousRule) -> Iterator[ConvUnit]:
    stride, _ = rule(2)
    if not is_beta:
        yield _unit(f"{scope}/conv1", 3, 64, 7, stride)
        return
    width = 16 if depth == 18 else 64
    yield _unit(f"{scope}/conv1_1", 3, width, 3, stride)
    yield _unit(f"{scope}/conv1_2", width, width, 3)
    yield _unit(f"{scope}/conv1_3", width, 2 * width, 3)


def _convolutions(
    scope: str, channels: int, width: int, stride: int, rate: int, is_bottleneck: bool
) -> Iterator[ConvUnit]:
    if is_bottleneck:
        yield _unit(f"{scope}/conv1", channels, width)
        yield _unit(f"{scope}/conv2", width, width, 3, stride, rate)
        yield _unit(f"{scope}/conv3", width, 4 * width, relu=False)
    else:
        yield _unit(f"{scope}/conv1", channels, width, 3, 1, rate)
        yield _unit(f"{scope}/conv2", width, width, 3, stride, rate, relu=False)


def _shortcut(scope: str, channels: int, out_channels: int, stride: int) -> nn.Module:
    if channels != out_channels:
        return _unit(f"{scope}/shortcut", channels, out_channels, 1, stride, relu=False)
    return Subsample(stride) if stride > 1 else nn.Identity()


def _unit(
    scope: str,
    channels: int,
    out_channels: int,
    kernel: int = 1,
    stride: int = 1,
    rate: int = 1,
    relu: bool = True,
) -> ConvUnit:
    unit = ConvUnit(
        scope,
        channels,
        out_channels,
        kernel,
        stride=stride,
        rate=rate,
        norm=RESNET,
        activation=nn.ReLU(inplace=True) if relu else None,
        same=False,
    )
    return mark(unit, f"ep/{scope}")
