"""Atrous spatial pyramid pooling of DeepLab v3 (arXiv 1706.05587, section 3.3; model.py).

Image pooling, a 1x1 convolution and 3x3 ones with the given rates look at the backbone's map side
by side; their maps are joined and projected.  v3+ makes the 3x3 ones separable.  MobileNetV3's
head (arXiv 1905.02244, section 6.4) multiplies image pooling onto the others' map instead.
"""

from __future__ import annotations

from torch import Tensor, nn

from deeplab_repro.models.modules import ImageLevel, ParallelBranches
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import (
    HEAD,
    ConvUnit,
    GraphNames,
    Normalization,
    QSigmoid,
    SeparableUnit,
    Tap,
    WindowMean,
    mark,
)

__all__ = ["DROPOUT", "Gated", "aspp", "head_separable", "head_unit", "relu"]

#: Probability that training drops a value behind the projection.
DROPOUT = 0.1


class Gated(nn.Module):
    """body(x) * gate(x): squeeze and excitation (arXiv 1709.01507)."""

    def __init__(self, body: nn.Module, gate: nn.Module) -> None:
        super().__init__()
        self.body, self.gate = body, gate

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H, W)."""
        gate = self.gate(x)
        y: Tensor = self.body(x) * gate
        return y


def aspp(options: ModelOptions, channels: int, names: GraphNames) -> tuple[nn.Module, int]:
    """The module and the channels of what it writes.

    Args:
        options: of the network.
        channels: of the backbone's map.
        names: of the operations up to here.
    """
    depth = options.aspp_convs_filters
    bounded = options.use_bounded_activation
    gates = options.aspp_with_squeeze_and_excitation
    image = _image_pooling(options, channels, names) if options.add_image_level_feature else None
    branches: list[nn.Module] = []
    if image is not None and not gates:
        branches.append(image)
    branches.append(head_unit(names, "aspp0", channels, depth, activation=relu(bounded)))
    for i, rate in enumerate(options.atrous_rates or (), 1):
        make = head_separable if options.aspp_with_separable_conv else head_unit
        branches.append(
            make(names, f"aspp{i}", channels, depth, 3, rate=rate, activation=relu(bounded))
        )
    # TensorFlow joins a single map in a scope of its own.
    joined = names("concat") if len(branches) > 1 else names("concat") + "/concat"
    out_channels = len(branches) * depth
    after = nn.Sequential()
    after.add_module("concat", mark(Tap(), joined))
    if options.aspp_with_concat_projection:
        scope = "concat_projection"
        projection = head_unit(names, scope, out_channels, depth, activation=relu(bounded))
        after.add_module("projection", projection)
        dropped = names(f"{scope}_dropout/Identity")
        after.add_module("dropout", mark(nn.Dropout(DROPOUT), dropped))
        out_channels = depth
    pyramid = ParallelBranches(branches, "CONCAT", after)
    if image is None or not gates:
        return pyramid, out_channels
    return mark(Gated(pyramid, image), names("mul")), out_channels


def _image_pooling(options: ModelOptions, channels: int, names: GraphNames) -> ImageLevel:
    """The mean of the whole map, or of windows of it, and a 1x1 convolution on that."""
    depth, stride = options.aspp_convs_filters, options.output_stride
    pool = WindowMean(
        options.image_pooling_crop_size,
        (stride, stride),
        options.image_pooling_stride,
        whole_at_own_scale=options.crop_size is None,
    )
    mark(pool, names("Mean" if options.crop_size is None else "AvgPool2D/AvgPool"))
    scope = "image_pooling"
    if options.aspp_with_squeeze_and_excitation:
        gate = QSigmoid() if options.image_se_uses_qsigmoid else nn.Sigmoid()
        unit = head_unit(names, scope, channels, depth, norm=None, activation=gate)
    else:
        unit = head_unit(names, scope, channels, depth, activation=nn.ReLU(inplace=True))
    return mark(ImageLevel(pool, unit), names("ResizeBilinear"))


def relu(bounded: bool) -> nn.Module:
    """ReLU, or ReLU6 where activations are bounded."""
    return nn.ReLU6(inplace=True) if bounded else nn.ReLU(inplace=True)


def head_unit(
    names: GraphNames,
    scope: str,
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int] = 1,
    *,
    rate: int | tuple[int, int] = 1,
    norm: Normalization | None = HEAD,
    activation: nn.Module | None,
) -> ConvUnit:
    """A unit of the head, which the reference knows by the name of its last operation."""
    unit = ConvUnit(
        scope,
        in_channels,
        out_channels,
        kernel,
        rate=rate,
        norm=norm,
        activation=activation,
    )
    return _marked(unit, names)


def head_separable(
    names: GraphNames,
    scope: str,
    in_channels: int,
    out_channels: int,
    kernel: int | tuple[int, int] = 3,
    *,
    rate: int | tuple[int, int] = 1,
    activation: nn.Module,
) -> SeparableUnit:
    """A separable unit of the head: the activation follows each of its two convolutions."""
    unit = SeparableUnit(
        scope,
        in_channels,
        out_channels,
        kernel,
        rate=rate,
        norm=HEAD,
        activations=(activation, activation),
    )
    _marked(unit.depthwise, names)
    _marked(unit.pointwise, names)
    return unit


_OPERATIONS = {nn.ReLU: "Relu", nn.ReLU6: "Relu6", nn.Sigmoid: "Sigmoid"}


def _marked(unit: ConvUnit, names: GraphNames) -> ConvUnit:
    """The unit, with the names of its operations behind the convolution."""
    scope, activation = unit.scope, unit.activation
    bias = names(f"{scope}/BiasAdd") if unit.norm is None else None
    if activation is None:
        return unit if bias is None else mark(unit, bias)
    if bias is not None:
        mark(unit.conv, bias)
    if isinstance(activation, QSigmoid):
        for part, operation in zip(activation, ("add", "Relu6", "mul"), strict=True):
            mark(part, names(f"{scope}/{operation}"))
        return unit
    return mark(unit, names(f"{scope}/{_OPERATIONS[type(activation)]}"))
