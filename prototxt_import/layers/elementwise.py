"""Layers that change every value by itself, and so leave the shape as it is."""

from __future__ import annotations

import math
from dataclasses import dataclass

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Filler, LayerShapes, Memory
from prototxt_import.layers.sizes import Shape
from prototxt_import.words import show

__all__ = [
    "BNLL", "ELU", "AbsVal", "Clip", "Dropout", "Elementwise", "Exp", "Log", "PReLU", "Power",
    "ReLU", "Sigmoid", "Swish", "TanH", "Threshold",
]  # fmt: skip


class Elementwise(Layer):
    """A layer whose top is shaped like its bottom (neuron_layer.cpp)."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The top has the shape of the first bottom, whatever that is."""
        return LayerShapes([bottoms[0]])


@kind("AbsVal", v1="ABSVAL")
class AbsVal(Elementwise):
    """absval_layer.cpp: the absolute value, `|x|`."""

    def check(self) -> None:
        """absval_layer.cpp, LayerSetUp."""
        self.refuse_in_place()


@kind("BNLL", v1="BNLL")
class BNLL(Elementwise):
    """bnll_layer.cpp: log(1 + exp(x)), the softplus."""


@kind("Clip", "clip_param", programs=("bvlc",))
class Clip(Elementwise):
    """clip_layer.cpp: values outside [min, max] become the nearer end."""

    min: float | None = None
    max: float | None = None

    def check(self) -> None:
        """Both ends are required."""
        for name in ("min", "max"):
            if getattr(self, name) is None:
                self.fail(f"clip_param has no {name}")


@kind("Dropout", "dropout_param")
class Dropout(Elementwise):
    """dropout_layer.cpp: in training a share ``dropout_ratio`` of the values becomes zero."""

    dropout_ratio: float

    def check(self) -> None:
        """What is kept is scaled up by 1 / (1 - ratio)."""
        if not 0 <= self.dropout_ratio < 1:
            self.fail(
                "bad dropout_ratio", expected="at least 0, less than 1", got=self.dropout_ratio
            )

    @property
    def memory(self) -> Memory:
        """In the TEST phase it passes its bottom on; Caffe makes a copy."""
        return Memory.VIEW if self.phase == "TEST" else Memory.FRESH


@kind("ELU", "elu_param")
class ELU(Elementwise):
    """elu_layer.cpp: x where it is positive, ``alpha * (exp(x) - 1)`` elsewhere."""

    alpha: float


@dataclass(frozen=True, kw_only=True, eq=False)
class _Based(Elementwise):
    """Exp and Log: to the base ``base``, of ``scale * x + shift``; base -1 stands for e."""

    base: float
    scale: float
    shift: float

    @property
    def log_base(self) -> float:
        """The natural logarithm of the base."""
        return 1.0 if self.base == -1 else math.log(self.base)

    def check(self) -> None:
        """exp_layer.cpp, log_layer.cpp."""
        if self.base != -1 and (self.base <= 0 or not math.isfinite(self.base)):
            self.fail("bad base", expected="-1 (for e) or more than 0", got=self.base)


@kind("Exp", "exp_param")
class Exp(_Based):
    """exp_layer.cpp: base ^ (scale * x + shift)."""


@kind("Log", "log_param")
class Log(_Based):
    """log_layer.cpp: the logarithm of scale * x + shift."""

    def check(self) -> None:
        """There is no logarithm to the base 1."""
        super().check()
        if self.base == 1:
            self.fail("bad base", expected="anything but 1", got=self.base)


@kind("Power", "power_param")
class Power(Elementwise):
    """power_layer.cpp: (scale * x + shift) ^ power."""

    power: float
    scale: float
    shift: float


@kind("PReLU", "prelu_param")
class PReLU(Elementwise):
    """prelu_layer.cpp: one slope per channel, or a single one without axes."""

    channel_shared: bool
    filler: Filler | None = None

    def fillers(self) -> tuple[Filler, ...]:
        """Slopes of 0.25 unless the file says otherwise."""
        return (self.filler or Filler(value=0.25),)

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """The bottom is (N, C, ...), the parameter (C,) or one number for all channels."""
        (bottom,) = bottoms
        if len(bottom) < 2:
            self.fail("bottom must have at least 2 axes", got=show(bottom))
        return LayerShapes([bottom], [() if self.channel_shared else (bottom[1],)])


@kind("ReLU", "relu_param", v1="RELU")
class ReLU(Elementwise):
    """relu_layer.cpp: x where it is positive, ``negative_slope * x`` elsewhere."""

    negative_slope: float


@kind("Sigmoid")
class Sigmoid(Elementwise):
    """sigmoid_layer.cpp: 1 / (1 + exp(-x))."""


@kind("Swish", "swish_param", programs=("bvlc",))
class Swish(Elementwise):
    """swish_layer.cpp: x * sigmoid(beta * x)."""

    beta: float


@kind("TanH", v1="TANH")
class TanH(Elementwise):
    """tanh_layer.cpp: the hyperbolic tangent."""


@kind("Threshold", "threshold_param")
class Threshold(Elementwise):
    """threshold_layer.cpp: 1 where x is above the threshold, 0 elsewhere."""

    threshold: float
