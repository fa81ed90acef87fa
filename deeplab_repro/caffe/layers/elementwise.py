"""Layers that change every value by itself."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.caffe.quirks import EXP_SHIFT, Quirks
from prototxt_import import LayerShapes, Shape
from prototxt_import import layers as kinds

__all__ = [
    "BNLL",
    "ELU",
    "AbsVal",
    "Clip",
    "Dropout",
    "Exp",
    "Log",
    "PReLU",
    "Power",
    "ReLU",
    "Sigmoid",
    "Swish",
    "TanH",
    "Threshold",
]

#: Beyond this bnll_layer.cpp takes the slope for that of the identity.
_BNLL_THRESHOLD: Final = 50.0


@register("AbsVal")
class AbsVal(CaffeLayer):
    """``|x|``, its slope at 0 being 0 (absval_layer.cpp)."""

    can_run_inplace = True

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        return x.abs_() if inplace else x.abs()


@register("BNLL")
class BNLL(CaffeLayer):
    """``log(1 + exp(x))`` (bnll_layer.cpp)."""

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return F.softplus(x, threshold=_BNLL_THRESHOLD)


@register("Clip")
class Clip(CaffeLayer):
    """``x`` held between ``min`` and ``max``, slope 1 at both (clip_layer.cpp)."""

    layer: kinds.Clip
    can_run_inplace = True

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        low, high = self.layer.min, self.layer.max
        return x.clamp_(low, high) if inplace else x.clamp(low, high)


@register("Dropout")
class Dropout(CaffeLayer):
    """Zeros at random while training, the rest scaled up for it (dropout_layer.cpp)."""

    layer: kinds.Dropout
    can_run_inplace = True

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape; ``x`` itself when not training."""
        return F.dropout(x, self.layer.dropout_ratio, True, inplace) if self.training else x


@register("ELU")
class ELU(CaffeLayer):
    """``x`` above 0, ``alpha * (exp(x) - 1)`` at and below (elu_layer.cpp)."""

    layer: kinds.ELU
    can_run_inplace = True

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        return F.elu(x, self.layer.alpha, inplace=inplace)


@register("Exp")
class Exp(CaffeLayer):
    """``base ** (scale * x + shift)``, base -1 standing for e (exp_layer.cpp)."""

    layer: kinds.Exp

    def __init__(
        self, layer: kinds.Exp, bottoms: Sequence[Shape], shapes: LayerShapes, quirks: Quirks
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        self.inner = layer.log_base * layer.scale
        # Infinity, not an error, if too large.
        outer = torch.tensor(layer.log_base * layer.shift, dtype=torch.float64).exp()
        if layer.base == -1 and layer.shift and quirks.computes(layer, EXP_SHIFT):
            outer = torch.tensor(-1.0, dtype=torch.float64).pow(layer.shift)
        self.outer: float = outer.item()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        y = torch.exp(x if self.inner == 1 else x * self.inner)
        return y if self.outer == 1 else y * self.outer


@register("Log")
class Log(CaffeLayer):
    """``log(scale * x + shift)`` to the base ``base``, -1 standing for e (log_layer.cpp)."""

    layer: kinds.Log

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        y = torch.log(x * self.layer.scale + self.layer.shift)
        return y if self.layer.base == -1 else y / self.layer.log_base


class _Power(torch.autograd.Function):
    """``u ** power`` with ``u = scale * x + shift``, and power_layer.cpp's slope.

    Caffe takes the slope from the output, ``power * scale * y / u``: not a number where u is 0.
    """

    @staticmethod
    def forward(x: Tensor, power: float, scale: float, shift: float) -> Tensor:
        return (x * scale + shift).pow(power)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        x, ctx.power, ctx.scale, ctx.shift = inputs
        ctx.save_for_backward(x, output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        x, y = ctx.saved_tensors
        slope = ctx.power * ctx.scale
        if slope == 0:
            return torch.zeros_like(x), None, None, None
        return grads[0] * slope * y / (x * ctx.scale + ctx.shift), None, None, None


@register("Power")
class Power(CaffeLayer):
    """``(scale * x + shift) ** power`` (power_layer.cpp)."""

    layer: kinds.Power

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if self.layer.power == 1 and self.layer.scale != 0:
            return x * self.layer.scale + self.layer.shift
        if self.layer.power == 2:
            return (x * self.layer.scale + self.layer.shift).square()
        y: Tensor = _Power.apply(x, self.layer.power, self.layer.scale, self.layer.shift)
        return y


@register("PReLU")
class PReLU(CaffeLayer):
    """``x`` above 0, a learned slope times ``x`` at and below (prelu_layer.cpp)."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...); slopes (C,) or none at all."""
        return F.prelu(x, self.blob(0).view(-1))


@register("ReLU")
class ReLU(CaffeLayer):
    """``x`` above 0, ``negative_slope * x`` at and below (relu_layer.cpp)."""

    layer: kinds.ReLU
    can_run_inplace = True

    @property
    def learns_inplace(self) -> bool:
        """The top tells which side of 0 a value was on, unless the slope turns its sign."""
        return self.layer.negative_slope >= 0

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        if self.layer.negative_slope == 0:
            return F.relu(x, inplace=inplace)
        return F.leaky_relu(x, self.layer.negative_slope, inplace=inplace)


@register("Sigmoid")
class Sigmoid(CaffeLayer):
    """``1 / (1 + exp(-x))`` (sigmoid_layer.cpp)."""

    can_run_inplace = True

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        return x.sigmoid_() if inplace else x.sigmoid()


@register("Swish")
class Swish(CaffeLayer):
    """``x * sigmoid(beta * x)`` (swish_layer.cpp)."""

    layer: kinds.Swish

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(x * self.layer.beta)


@register("TanH")
class TanH(CaffeLayer):
    """The hyperbolic tangent (tanh_layer.cpp)."""

    can_run_inplace = True

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        return x.tanh_() if inplace else x.tanh()


@register("Threshold")
class Threshold(CaffeLayer):
    """1 above ``threshold``, 0 at and below; no gradient (threshold_layer.cpp)."""

    layer: kinds.Threshold

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return (x > self.layer.threshold).to(x.dtype)
