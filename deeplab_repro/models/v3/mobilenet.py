"""MobileNets v2 (arXiv 1801.04381), v3 (arXiv 1905.02244) and the EdgeTPU's (slim/nets/mobilenet).

Inverted residuals: a 1x1 convolution widens the map, a depthwise one looks around, another 1x1 one
narrows it again and has no activation.  v3 adds squeeze and excitation, and hard-swish in later
layers.  Layers are numbered from 1 as in the original's end points.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from torch import Tensor, nn

from deeplab_repro.models.atrous import AtrousRule
from deeplab_repro.models.v3.aspp import Gated
from deeplab_repro.models.v3.backbone import AddsInPlace, Backbone, UnitMaps
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import MOBILENET, ConvUnit, QSigmoid, WindowMean, mark

__all__ = ["mobilenet"]

_Activation = Literal["relu", "relu6", "hard_swish"]


@dataclass(frozen=True)
class _Plain:
    """A convolution by itself: the first layer, and the last of v3."""

    channels: int
    kernel: int
    stride: int = 1
    activation: _Activation = "relu"


@dataclass(frozen=True)
class _Inverted:
    """An inverted residual.

    Attributes:
        channels: Of what it writes.
        expansion: Factor of the channels that it reads.
        kernel: Of the depthwise convolution, or, with `fused`, of the one that widens the map.
        squeezes: Whether squeeze and excitation follows the depthwise convolution.
        fused: The convolution that widens the map looks around, too, and there is no depthwise one.
        residual: Whether the input is added where it has the same shape.
        divisor: What the channels of the widened map are a multiple of.
    """

    channels: int
    expansion: float
    kernel: int = 3
    stride: int = 1
    activation: _Activation = "relu"
    squeezes: bool = False
    fused: bool = False
    residual: bool = True
    divisor: int = 8


@dataclass(frozen=True)
class _Table:
    """A MobileNet up to the layer that DeepLab reads."""

    layers: tuple[_Plain | _Inverted, ...]
    #: Decoder's stride -> number of the layer whose depthwise map it reads.
    sources: Mapping[int, int]


def _v2() -> _Table:
    rows = (  # channels, stride, how many
        *((24, 2, 2), (32, 2, 3), (64, 2, 4), (96, 1, 3), (160, 2, 3), (320, 1, 1)),
    )
    layers: list[_Plain | _Inverted] = [
        _Plain(32, 3, 2, "relu6"),
        _Inverted(16, 1, activation="relu6", divisor=1),
    ]
    for channels, stride, count in rows:
        for i in range(count):
            step = stride if i == 0 else 1
            layers.append(_Inverted(channels, 6, stride=step, activation="relu6"))
    return _Table(tuple(layers), {4: 4, 8: 7, 16: 14})


def _v3_large() -> _Table:
    swish: _Activation = "hard_swish"
    last = _Inverted(80, 6, 5, 1, swish, squeezes=True)
    return _Table(
        (
            _Plain(16, 3, 2, swish),
            _Inverted(16, 1),
            _Inverted(24, 4, stride=2),
            _Inverted(24, 3),
            _Inverted(40, 3, 5, 2, squeezes=True),
            *[_Inverted(40, 3, 5, squeezes=True)] * 2,
            _Inverted(80, 6, stride=2, activation=swish),
            _Inverted(80, 2.5, activation=swish),
            *[_Inverted(80, 184 / 80, activation=swish)] * 2,
            *[_Inverted(112, 6, activation=swish, squeezes=True)] * 2,
            # From here on the network for segmentation has half the channels.
            replace(last, expansion=336 / 112, stride=2),
            *[last] * 2,
            _Plain(480, 1, 1, swish),
        ),
        {4: 4, 8: 7, 16: 13},
    )


def _v3_small() -> _Table:
    swish: _Activation = "hard_swish"
    middle = _Inverted(40, 6, 5, 1, swish, squeezes=True)
    last = _Inverted(48, 288 / 48, 5, 1, swish, squeezes=True)
    return _Table(
        (
            _Plain(16, 3, 2, swish),
            _Inverted(16, 1, stride=2, squeezes=True),
            _Inverted(24, 72 / 16, stride=2),
            _Inverted(24, 88 / 24),
            replace(middle, expansion=4, stride=2),
            *[middle] * 2,
            *[replace(middle, channels=48, expansion=3)] * 2,
            # From here on the network for segmentation has half the channels.
            replace(last, expansion=144 / 48, stride=2),
            *[last] * 2,
            _Plain(288, 1, 1, swish),
        ),
        {4: 2, 8: 4, 16: 9},
    )


def _edgetpu() -> _Table:
    fused = _Inverted(32, 4, fused=True)
    middle, late = _Inverted(96, 4), _Inverted(160, 4, 5)
    return _Table(
        (
            _Plain(32, 3, 2),
            replace(fused, channels=16, expansion=1),
            replace(fused, expansion=8, stride=2),
            *[fused] * 3,
            replace(fused, channels=48, expansion=8, stride=2),
            *[replace(fused, channels=48)] * 3,
            replace(middle, expansion=8, stride=2),
            *[middle] * 3,
            replace(middle, expansion=8, residual=False),
            *[middle] * 3,
            replace(late, expansion=8, stride=2),
            *[late] * 3,
            _Inverted(192, 8),
            _Plain(1280, 1),
        ),
        {},
    )


_TABLES = {
    "mobilenet_v2": _v2(),
    "mobilenet_v3_large_seg": _v3_large(),
    "mobilenet_v3_small_seg": _v3_small(),
    "mobilenet_edgetpu": _edgetpu(),
}


class InvertedResidual(AddsInPlace):
    """Widen, look around, narrow; plus the input where that has the same shape.

    Args:
        expand, depthwise: None where there is none.
        squeeze: what follows the depthwise convolution.
        project: makes the map that is written.
        adds_input: whether the input is added.
    """

    def __init__(
        self,
        expand: ConvUnit | None,
        depthwise: ConvUnit | None,
        squeeze: nn.Module,
        project: ConvUnit,
        adds_input: bool,
    ) -> None:
        super().__init__()
        self.expand, self.depthwise = expand, depthwise
        self.squeeze, self.project = squeeze, project
        self.adds_input = adds_input
        self.inner_channels = project.conv.in_channels

    def forward(self, x: Tensor) -> UnitMaps:
        """(N, C, H, W) -> the sum (N, C', H', W'), and the depthwise convolution's map."""
        inner = x if self.expand is None else self.expand(x)
        if self.depthwise is not None:
            inner = self.depthwise(inner)
        y = self.project(self.squeeze(inner))
        return UnitMaps(self.added(y, x) if self.adds_input else y, inner)


def mobilenet(options: ModelOptions) -> Backbone:
    """The MobileNet that the options name, at their width."""
    table = _TABLES[options.model_variant]
    scope, factor = options.variant.scope, options.depth_multiplier
    divisor, least = 8, 8
    if options.model_variant == "mobilenet_v2":
        least = 8 if factor == 1.0 else 1
        divisor = options.divisible_by or least
    rule = AtrousRule(options.output_stride)
    channels = 3
    blocks: dict[str, nn.Module] = {}
    plain: list[ConvUnit] = []
    for i, layer in enumerate(table.layers, 1):
        stride, rate = rule(layer.stride)
        depth = _divisible(layer.channels * factor, divisor, least)
        module: nn.Module
        if isinstance(layer, _Plain):
            name = f"{scope}/Conv" + (f"_{len(plain)}" if plain else "")
            module = _unit(name, channels, depth, layer.kernel, stride, 1, layer.activation)
            plain.append(module)
        else:
            count = f"_{len(blocks)}" if blocks else ""
            name = f"{scope}/expanded_conv{count}"
            module = _inverted(layer, name, f"ep/layer_{i}", channels, depth, stride, rate)
            mark(module, f"ep/layer_{i}/output")
            blocks[f"layer_{i}"] = module
        mark(module, f"ep/layer_{i}")
        channels = depth
    return Backbone(
        plain[0],
        blocks,
        plain[1] if plain[1:] else nn.Identity(),
        channels=channels,
        sources={stride: f"layer_{i}" for stride, i in table.sources.items()},
        strides=options.decoder_strides,
    )


def _inverted(
    layer: _Inverted,
    scope: str,
    endpoint: str,
    channels: int,
    depth: int,
    stride: int,
    rate: int,
) -> InvertedResidual:
    inner = _divisible(channels * layer.expansion, layer.divisor)
    expand = depthwise = None
    if inner > channels:
        # The original's fused convolution keeps its stride, whatever the atrous rule says.
        kernel, step = (layer.kernel, layer.stride) if layer.fused else (1, 1)
        expand = _unit(f"{scope}/expand", channels, inner, kernel, step, 1, layer.activation)
        mark(expand, f"{endpoint}/expansion_output")
    else:
        inner = channels
    if not layer.fused:
        name = f"{scope}/depthwise"
        depthwise = _unit(name, inner, None, layer.kernel, stride, rate, layer.activation)
        mark(depthwise, f"{endpoint}/depthwise_output")
    squeeze = _squeeze(f"{scope}/squeeze_excite", inner) if layer.squeezes else nn.Identity()
    project = _unit(f"{scope}/project", inner, depth)
    adds_input = layer.residual and stride == 1 and channels == depth
    return InvertedResidual(expand, depthwise, squeeze, project, adds_input)


def _squeeze(scope: str, channels: int) -> Gated:
    """Squeeze and excitation: a quarter of the channels, and neither is normalized."""
    narrow = _divisible(channels / 4, 8)
    parts: Sequence[nn.Module] = (
        WindowMean(None, (1, 1)),
        ConvUnit(f"{scope}/Conv", channels, narrow, norm=None, activation=nn.ReLU(inplace=True)),
        ConvUnit(f"{scope}/Conv_1", narrow, channels, norm=None, activation=QSigmoid()),
    )
    return Gated(nn.Identity(), nn.Sequential(*parts))


def _unit(
    scope: str,
    channels: int,
    depth: int | None,
    kernel: int = 1,
    stride: int = 1,
    rate: int = 1,
    activation: _Activation | None = None,
) -> ConvUnit:
    following: nn.Module | None = None
    match activation:
        case "relu":
            following = nn.ReLU(inplace=True)
        case "relu6":
            following = nn.ReLU6(inplace=True)
        case "hard_swish":
            following = nn.Hardswish()
    return ConvUnit(
        scope,
        channels,
        depth,
        kernel,
        stride=stride,
        rate=rate,
        norm=MOBILENET,
        activation=following,
    )


def _divisible(value: float, divisor: int, least: int | None = None) -> int:
    """The nearest multiple of `divisor` that is not more than a tenth below `value`."""
    rounded = max(least or divisor, int(value + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * value else rounded
