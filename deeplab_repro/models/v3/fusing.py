"""Networks for inference, in which the convolutions do what stands around them."""

from __future__ import annotations

import copy
from typing import TypeVar

from torch import nn

from deeplab_repro.models.v3.backbone import Backbone
from deeplab_repro.models.v3.parts import ConvUnit, SeparableUnit
from deeplab_repro.ops import set_accuracy

__all__ = ["fused"]

_Net = TypeVar("_Net", bound=nn.Module)


def fused(net: _Net, accuracy: str | None = None) -> _Net:
    """A copy in evaluation mode whose units have folded themselves.

    Args:
        net: made of the units of :mod:`deeplab_repro.models.v3.parts`.
        accuracy: of the copy's convolutions; None leaves it.

    Raises:
        ValueError: another accuracy than "exact" and "fast".
    """
    result = copy.deepcopy(net).eval().requires_grad_(False)
    for module in result.modules():
        if isinstance(module, ConvUnit | SeparableUnit | Backbone):
            module.fold()
    if accuracy is not None:
        set_accuracy(result, accuracy)
    return result
