"""Layers that change every value by itself."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

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

    can_run_inplace = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.min, self.max = layer.spec.clip_param.min, layer.spec.clip_param.max

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        return x.clamp_(self.min, self.max) if inplace else x.clamp(self.min, self.max)


@register("Dropout")
class Dropout(CaffeLayer):
    """Zeros at random while training, the rest scaled up for it (dropout_layer.cpp)."""

    can_run_inplace = True
    shares_memory = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.ratio: float = layer.spec.dropout_param.dropout_ratio

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape; ``x`` itself when not training."""
        return F.dropout(x, self.ratio, training=True, inplace=inplace) if self.training else x


@register("ELU")
class ELU(CaffeLayer):
    """``x`` above 0, ``alpha * (exp(x) - 1)`` at and below (elu_layer.cpp)."""

    can_run_inplace = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.alpha: float = layer.spec.elu_param.alpha

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        return F.elu(x, self.alpha, inplace=inplace)


@register("Exp")
class Exp(CaffeLayer):
    """``base ** (scale * x + shift)``, base -1 standing for e (exp_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.exp_param
        log_base = 1.0 if spec.base == -1 else math.log(spec.base)
        self.inner = log_base * spec.scale
        # Infinity, not an error, if too large.
        self.outer = torch.tensor(log_base * spec.shift, dtype=torch.float64).exp().item()

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        y = torch.exp(x if self.inner == 1 else x * self.inner)
        return y if self.outer == 1 else y * self.outer


@register("Log")
class Log(CaffeLayer):
    """``log(scale * x + shift)`` to the base ``base``, -1 standing for e (log_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.log_param
        self.scale, self.shift = spec.scale, spec.shift
        self.factor = 1.0 if spec.base == -1 else 1 / math.log(spec.base)

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        y = torch.log(x * self.scale + self.shift)
        return y if self.factor == 1 else y * self.factor


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

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.power_param
        self.power, self.scale, self.shift = spec.power, spec.scale, spec.shift

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        if self.power == 1 and self.scale != 0:
            return x * self.scale + self.shift
        if self.power == 2:
            return (x * self.scale + self.shift).square()
        y: Tensor = _Power.apply(x, self.power, self.scale, self.shift)
        return y


@register("PReLU")
class PReLU(CaffeLayer):
    """``x`` above 0, a learned slope times ``x`` at and below (prelu_layer.cpp)."""

    def fillers(self) -> Sequence[Any]:
        """Slopes of 0.25 unless the file says otherwise."""
        spec = self.layer.spec.prelu_param
        filler = type(spec.filler)()
        filler.CopyFrom(spec.filler)
        if not spec.HasField("filler"):
            filler.value = 0.25
        return [filler]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...); slopes (C,) or none at all."""
        return F.prelu(x, self.blob(0).view(-1))


@register("ReLU")
class ReLU(CaffeLayer):
    """``x`` above 0, ``negative_slope * x`` at and below (relu_layer.cpp)."""

    can_run_inplace = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.slope: float = layer.spec.relu_param.negative_slope

    def forward(self, x: Tensor, inplace: bool = False) -> Tensor:
        """Any shape."""
        if self.slope == 0:
            return F.relu(x, inplace=inplace)
        return F.leaky_relu(x, self.slope, inplace=inplace)


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

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.beta: float = layer.spec.swish_param.beta

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * torch.sigmoid(x * self.beta)


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

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.threshold: float = layer.spec.threshold_param.threshold

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return (x > self.threshold).to(x.dtype)
