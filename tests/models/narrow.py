"""Narrow networks whose every layer matters, for the tests of the modules."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from deeplab_repro.models import DeepLab, create_model, resnet101

# One unit in each stage, and one with an identity beside it.
_ROOT, _STAGE2, *_STAGES = resnet101.backbone()
SHORT_RESNET = replace(
    resnet101.ASPP_MSC, backbone=(_ROOT, _STAGE2[:2], *(stage[:1] for stage in _STAGES))
)


def narrow(name: str, num_classes: int = 4, **options: Any) -> DeepLab:
    """A network of the catalogue with few channels and random weights."""
    return randomize(create_model(name, num_classes, **{"width": 32, **options}))


def randomize(model: DeepLab) -> DeepLab:
    """Weights, biases and statistics that no layer leaves as it is."""
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            if not tensor.is_floating_point():  # nn.BatchNorm2d counts its batches
                continue
            # Convolutions that keep the size of the values that they read.
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.5)
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
    return model


def picture(size: tuple[int, int], batch: int = 1) -> Tensor:
    """Values as of pictures minus their mean."""
    return torch.randn(batch, 3, *size) * 50
