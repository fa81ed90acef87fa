"""torchvision's `deeplabv3_resnet50`, `_resnet101` and `_mobilenet_v3_large`, from their weights.

They are DeepLab v3 by name, and differ from the original's in where a block's stride sits, in their
root, head, resizing and input:

- A stride sits in the first unit of a block, on its 3x3 convolution, and in the projection beside
  it; in the original it sits in the last one.  The atrous rule is the same: the unit that loses its
  stride keeps the rate of what it reads (`previous_dilation` there).  So block 3 has the rates
  1, 2, 2, ... where the original's has 2 throughout, and block 4 has 2, 4, 4.
- Their MobileNetV3 is of another rule: the unit that loses its stride has the new rate at once.
- ASPP always has the rates 12, 24, 36; a 3x3 convolution follows the projection.
- Scores are resized with pixel centres held in place, not corners.
- Pictures are red, green, blue in 0..1, minus the mean, divided by the deviation of ImageNet.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab_repro.errors import InputError
from deeplab_repro.models.atrous import AtrousRule
from deeplab_repro.models.modules import ImageLevel, ParallelBranches
from deeplab_repro.models.v3.aspp import Gated
from deeplab_repro.models.v3.backbone import AddsInPlace, UnitMaps
from deeplab_repro.models.v3.fusing import fused
from deeplab_repro.models.v3.parts import ConvUnit, Normalization
from deeplab_repro.models.v3.resnet import ResidualUnit

__all__ = ["TorchvisionDeepLab", "is_of_torchvision", "load_torchvision"]

_NORM: Final = Normalization(1e-5, 0.9)
_MOBILE_NORM: Final = Normalization(1e-3, 0.99)
_RATES: Final = (12, 24, 36)
_COUNTER: Final = "num_batches_tracked"
_OUT, _AUX = "out", "aux"


class _Unit(NamedTuple):
    """A unit of the large MobileNetV3: kernel, expanded and written channels, and the rest."""

    kernel: int
    expanded: int
    channels: int
    squeezes: bool
    hard: bool
    stride: int


_LARGE: Final = tuple(
    _Unit(*unit)
    for unit in (
        (3, 16, 16, False, False, 1),
        (3, 64, 24, False, False, 2),
        (3, 72, 24, False, False, 1),
        (5, 72, 40, True, False, 2),
        (5, 120, 40, True, False, 1),
        (5, 120, 40, True, False, 1),
        (3, 240, 80, False, True, 2),
        (3, 200, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 184, 80, False, True, 1),
        (3, 480, 112, True, True, 1),
        (3, 672, 112, True, True, 1),
        (5, 672, 160, True, True, 2),
        (5, 960, 160, True, True, 1),
        (5, 960, 160, True, True, 1),
    )
)
#: Which unit the auxiliary classifier of each kind of network reads, counted with the root as 0.
_AUX_OF_MOBILENET: Final = 4


class TorchvisionDeepLab(nn.Module):
    """A network that computes what torchvision's of the same weights computes.

    Args:
        depths: units of the four blocks of a ResNet; None: the large MobileNetV3.
        num_classes: channels of the scores.
        aux: whether there is an auxiliary classifier.

    Attributes:
        places: torchvision's names of a convolution and of its normalization, for every unit.
    """

    def __init__(
        self, depths: tuple[int, ...] | None, num_classes: int, *, aux: bool = False
    ) -> None:
        super().__init__()
        self.places: dict[str, tuple[ConvUnit, str | None]] = {}
        if depths is None:
            self.units, channels, self.aux_after, aux_channels = self._mobilenet()
        else:
            self.units, channels, self.aux_after, aux_channels = self._resnet(depths)
        self.head = self._head(channels, num_classes)
        self.aux_head = self._fcn(aux_channels, num_classes) if aux else None

    def forward(self, x: Tensor) -> Tensor:
        """Scores at the input's size.

        Args:
            x: (N, 3, H, W), red, green, blue as torchvision normalizes them.

        Returns:
            (N, num_classes, H, W): what torchvision's forward has under "out".
        """
        return self.outputs(x)[_OUT]

    def outputs(self, x: Tensor) -> dict[str, Tensor]:
        """Scores under "out" and, where there is an auxiliary classifier, under "aux"."""
        size = x.shape[2], x.shape[3]
        found: dict[str, Tensor] = {}
        for i, unit in enumerate(self.units):
            maps = unit(x)
            x = maps.output if isinstance(maps, UnitMaps) else maps
            if i == self.aux_after and self.aux_head is not None:
                found[_AUX] = self._resized(self.aux_head(x), size)
        return {_OUT: self._resized(self.head(x), size), **found}

    def fuse(self, accuracy: str | None = None) -> TorchvisionDeepLab:
        """A network for inference: normalization and ReLU are computed by the convolutions.

        Args:
            accuracy: of its convolutions, "exact" or "fast" as of
                :func:`deeplab_repro.ops.atrous_conv2d`; None leaves it.

        Returns:
            A network with weights of its own, in evaluation mode. Its values differ by rounding.

        Raises:
            ValueError: another accuracy.
        """
        result = fused(self, accuracy)
        for module in result.modules():
            if isinstance(module, AddsInPlace):
                module.adds_in_place = True
        return result

    @staticmethod
    def _resized(scores: Tensor, size: tuple[int, int]) -> Tensor:
        return F.interpolate(scores, size=size, mode="bilinear", align_corners=False)

    def _unit(
        self,
        conv: str,
        norm: str | None,
        channels: int,
        out_channels: int | None,
        kernel: int = 1,
        *,
        stride: int = 1,
        rate: int = 1,
        kind: Normalization = _NORM,
        activation: nn.Module | None = None,
    ) -> ConvUnit:
        unit = ConvUnit(
            conv,
            channels,
            out_channels,
            kernel,
            stride=stride,
            rate=rate,
            norm=None if norm is None else kind,
            activation=activation,
            same=False,
        )
        self.places[conv] = unit, norm
        return unit

    def _resnet(self, depths: tuple[int, ...]) -> tuple[nn.Sequential, int, int, int]:
        rule = AtrousRule(8)
        stride, _ = rule(2)
        relu = nn.ReLU(inplace=True)
        root = self._unit(
            *("backbone.conv1", "backbone.bn1", 3, 64, 7), stride=stride, activation=relu
        )
        rule(2)
        units: list[nn.Module] = [nn.Sequential(root, nn.MaxPool2d(3, 2, 1))]
        channels, ends = 64, []
        for i, depth in enumerate(depths, 1):
            width = 32 << i
            for j in range(depth):
                stride, rate = rule(2 if i > 1 and j == 0 else 1)
                name = f"backbone.layer{i}.{j}"
                units.append(self._bottleneck(name, channels, width, stride, rate, j == 0))
                channels = 4 * width
            ends.append(len(units) - 1)
        return nn.Sequential(*units), channels, ends[2], 1024

    def _bottleneck(
        self, name: str, channels: int, width: int, stride: int, rate: int, projects: bool
    ) -> ResidualUnit:
        shortcut: nn.Module = nn.Identity()
        if projects:
            place = f"{name}.downsample"
            shortcut = self._unit(f"{place}.0", f"{place}.1", channels, 4 * width, stride=stride)
        convolutions = [
            self._unit(
                *(f"{name}.conv{i}", f"{name}.bn{i}", read, written, kernel),
                stride=stride if i == 2 else 1,
                rate=rate if i == 2 else 1,
                activation=nn.ReLU(inplace=True) if i < 3 else None,
            )
            for i, read, written, kernel in (
                (1, channels, width, 1),
                (2, width, width, 3),
                (3, width, 4 * width, 1),
            )
        ]
        return ResidualUnit(shortcut, convolutions)

    def _mobilenet(self) -> tuple[nn.Sequential, int, int, int]:
        rule = AtrousRule(16)
        stride, _ = rule(2)
        units: list[nn.Module] = [self._mobile("backbone.0", 3, 16, 3, stride, 1, True)]
        channels = 16
        for i, unit in enumerate(_LARGE, 1):
            units.append(self._inverted(f"backbone.{i}.block", channels, unit, rule))
            channels = unit.channels
        units.append(self._mobile(f"backbone.{len(units)}", channels, 960, 1, 1, 1, True))
        return nn.Sequential(*units), 960, _AUX_OF_MOBILENET, 40

    def _mobile(
        self,
        name: str,
        channels: int,
        out_channels: int | None,
        kernel: int,
        stride: int,
        rate: int,
        hard: bool | None,
    ) -> ConvUnit:
        """A convolution of MobileNetV3; `hard`: hard-swish, or ReLU; None: no activation."""
        activation: nn.Module | None = None
        if hard is not None:
            activation = nn.Hardswish(inplace=True) if hard else nn.ReLU(inplace=True)
        return self._unit(
            *(f"{name}.0", f"{name}.1", channels, out_channels, kernel),
            stride=stride,
            rate=rate,
            kind=_MOBILE_NORM,
            activation=activation,
        )

    def _inverted(self, name: str, channels: int, unit: _Unit, rule: AtrousRule) -> nn.Module:
        layers: list[nn.Module] = []

        def place() -> str:
            return f"{name}.{len(layers)}"

        if unit.expanded != channels:
            layers.append(self._mobile(place(), channels, unit.expanded, 1, 1, 1, unit.hard))
        stride, _ = rule(unit.stride)
        _, rate = rule()  # at once, where the stride was dropped
        layers.append(
            self._mobile(place(), unit.expanded, None, unit.kernel, stride, rate, unit.hard)
        )
        if unit.squeezes:
            layers.append(self._squeeze(place(), unit.expanded))
        layers.append(self._mobile(place(), unit.expanded, unit.channels, 1, 1, 1, None))
        body = nn.Sequential(*layers)
        return Sum(body) if unit.stride == 1 and channels == unit.channels else body

    def _squeeze(self, name: str, channels: int) -> Gated:
        squeezed = _divisible(channels // 4)
        gate = nn.Sequential(
            nn.AdaptiveAvgPool2d(1),
            self._unit(f"{name}.fc1", None, channels, squeezed, activation=nn.ReLU()),
            self._unit(f"{name}.fc2", None, squeezed, channels, activation=nn.Hardsigmoid()),
        )
        return Gated(nn.Identity(), gate)

    def _head(self, channels: int, num_classes: int) -> nn.Sequential:
        name = "classifier.0.convs"

        def branch(i: int, conv: int, kernel: int, rate: int) -> ConvUnit:
            place = f"{name}.{i}.{conv}", f"{name}.{i}.{conv + 1}"
            relu = nn.ReLU(inplace=True)
            return self._unit(*place, channels, 256, kernel, rate=rate, activation=relu)

        image = len(_RATES) + 1
        branches: list[nn.Module] = [branch(0, 0, 1, 1)]
        branches += [branch(i, 0, 3, rate) for i, rate in enumerate(_RATES, 1)]
        branches.append(ImageLevel(nn.AdaptiveAvgPool2d(1), branch(image, 1, 1, 1)))
        project = self._unit(
            *("classifier.0.project.0", "classifier.0.project.1", 256 * len(branches), 256),
            activation=nn.ReLU(inplace=True),
        )
        return nn.Sequential(
            ParallelBranches(branches, "CONCAT", nn.Sequential(project, nn.Dropout(0.5))),
            self._unit(
                *("classifier.1", "classifier.2", 256, 256, 3), activation=nn.ReLU(inplace=True)
            ),
            self._unit("classifier.4", None, 256, num_classes),
        )

    def _fcn(self, channels: int, num_classes: int) -> nn.Sequential:
        inner = channels // 4
        return nn.Sequential(
            self._unit(
                *("aux_classifier.0", "aux_classifier.1", channels, inner, 3),
                activation=nn.ReLU(inplace=True),
            ),
            nn.Dropout(0.1),
            self._unit("aux_classifier.4", None, inner, num_classes),
        )

    def tensors(self) -> dict[str, Tensor]:
        """torchvision's names -> parameters and moving statistics."""
        found: dict[str, Tensor] = {}
        for conv, (unit, norm) in self.places.items():
            found[f"{conv}.weight"] = unit.conv.weight
            if unit.conv.bias is not None:
                found[f"{conv}.bias"] = unit.conv.bias
            if norm is not None and unit.norm is not None:
                for name, tensor in unit.norm.state_dict().items():
                    if name != _COUNTER:
                        found[f"{norm}.{name}"] = tensor
        return found


class Sum(nn.Module):
    """x + body(x)."""

    def __init__(self, body: nn.Module) -> None:
        super().__init__()
        self.body = body

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> likewise."""
        y: Tensor = x + self.body(x)
        return y


def _divisible(channels: int) -> int:
    """The multiple of 8 next to a number of channels, at most a tenth below it."""
    rounded = max(8, (channels + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * channels else rounded


def is_of_torchvision(state: Mapping[str, Any]) -> bool:
    """Whether a state dict is that of one of torchvision's networks of DeepLab v3."""
    return "classifier.0.convs.0.0.weight" in state and (
        "backbone.layer4.2.conv3.weight" in state or "backbone.16.0.weight" in state
    )


def load_torchvision(state: Mapping[str, Tensor], file: str | None = None) -> TorchvisionDeepLab:
    """The network of a state dict of torchvision's, in train mode.

    Args:
        state: of `deeplabv3_resnet50`, `_resnet101` or `_mobilenet_v3_large`, with or without the
            auxiliary classifier.
        file: where it comes from, for messages.

    Raises:
        InputError: a tensor is missing, is not known, or has another shape.
    """
    depths = None
    if "backbone.layer1.0.conv1.weight" in state:
        depths = tuple(
            sum(f"backbone.layer{i}.{j}.conv1.weight" in state for j in range(64))
            for i in range(1, 5)
        )
    scores = state.get("classifier.4.weight")
    if scores is None or scores.dim() != 4:
        raise InputError("lacks its classifier", file=file, expected="classifier.4.weight")
    aux = any(key.startswith("aux_classifier.") for key in state)
    net = TorchvisionDeepLab(depths, scores.shape[0], aux=aux)
    own = net.tensors()
    given = {key: tensor for key, tensor in state.items() if not key.endswith(f".{_COUNTER}")}
    for key in sorted(own.keys() | given.keys()):
        have, want = given.get(key), own.get(key)
        if have is None or want is None or have.shape != want.shape:
            raise InputError(
                f"is not the state dict of a DeepLab of torchvision's: {key} does not fit",
                file=file,
                expected="no such tensor" if want is None else str(tuple(want.shape)),
                got="none" if have is None else str(tuple(have.shape)),
            )
    with torch.no_grad():
        for key, tensor in own.items():
            tensor.copy_(given[key])
    return net
