"""The ImageNet networks, with the keys of torchvision's state dicts, in any width."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from deeplab_repro.models.resnet101 import BLOCKS

#: Channels and convolutions of VGG-16's stages.
STAGES = ((64, 2), (128, 2), (256, 3), (512, 3), (512, 3))


class VGG16(nn.Module):
    """Torchvision's vgg16 and vgg16_bn, without the dropout."""

    def __init__(self, width: int, classes: int = 7, *, norm: bool = False) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        inputs = 3
        for channels, count in STAGES:
            for _ in range(count):
                outputs = channels // width
                layers.append(nn.Conv2d(inputs, outputs, 3, padding=1))
                layers += [nn.BatchNorm2d(outputs)] * norm
                layers.append(nn.ReLU())
                inputs = outputs
            layers.append(nn.MaxPool2d(2, 2))
        self.features = nn.Sequential(*layers)
        hidden = 4096 // width
        self.classifier = nn.Sequential(
            nn.Linear(inputs * 49, hidden),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(hidden, hidden),
            nn.ReLU(),
            nn.Identity(),
            nn.Linear(hidden, classes),
        )

    def forward(self, x: Tensor) -> Tensor:
        return cast(Tensor, self.classifier(self.features(x).flatten(1)))


class _Bottleneck(nn.Module):
    def __init__(self, inputs: int, inside: int, stride: int, rate: int, *, first: bool) -> None:
        super().__init__()
        outputs = 4 * inside
        self.conv1 = nn.Conv2d(inputs, inside, 1, stride, bias=False)
        self.bn1 = nn.BatchNorm2d(inside)
        self.conv2 = nn.Conv2d(inside, inside, 3, padding=rate, dilation=rate, bias=False)
        self.bn2 = nn.BatchNorm2d(inside)
        self.conv3 = nn.Conv2d(inside, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        if first:
            self.downsample = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm2d(outputs)
            )

    def forward(self, x: Tensor) -> Tensor:
        y = functional.relu(self.bn1(self.conv1(x)))
        y = functional.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        return functional.relu(y + (self.downsample(x) if hasattr(self, "downsample") else x))


class ResNet101(nn.Module):
    """Torchvision's resnet101 up to its last map, but with strides and rates as in DeepLab.

    Torchvision has the stride of a block on the 3x3.
    """

    def __init__(self, width: int) -> None:
        super().__init__()
        inputs = 64 // width
        self.conv1 = nn.Conv2d(3, inputs, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(inputs)
        for number, (stage, blocks) in enumerate(BLOCKS.items()):
            inside = 64 * 2**number // width
            units = []
            for i in range(len(blocks)):
                stride = 2 if stage == 3 and i == 0 else 1
                rate = {4: 2, 5: 4}.get(stage, 1)
                units.append(_Bottleneck(inputs, inside, stride, rate, first=i == 0))
                inputs = 4 * inside
            self.add_module(f"layer{number + 1}", nn.Sequential(*units))
        self.fc = nn.Linear(inputs, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, 2, 1)
        for layer in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = layer(x)
        return x


def randomized(model: nn.Module) -> nn.Module:
    """Weights, biases and statistics that no layer leaves as it is, in eval mode."""
    with torch.no_grad():
        for module in model.modules():
            if isinstance(module, nn.Conv2d | nn.Linear):
                module.weight.normal_(0, (2 / module.weight[0].numel()) ** 0.5)
                if module.bias is not None:
                    module.bias.normal_(0, 0.3)
            elif isinstance(module, nn.BatchNorm2d):
                assert module.running_mean is not None
                assert module.running_var is not None
                module.weight.uniform_(0.3, 0.6)
                module.bias.normal_(0, 0.3)
                module.running_mean.normal_(0, 0.3)
                module.running_var.uniform_(0.5, 2)
    return model.eval()
