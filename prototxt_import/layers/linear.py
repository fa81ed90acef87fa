"""Layers that hold one matrix: InnerProduct, Embed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Family, Filler, LayerShapes
from prototxt_import.layers.sizes import Shape, count

__all__ = ["Embed", "InnerProduct"]


@dataclass(frozen=True, kw_only=True, eq=False)
class _Matrix(Layer):
    """Weights and, with ``bias_term``, biases."""

    num_output: int
    bias_term: bool
    weight_filler: Filler
    bias_filler: Filler

    def fillers(self) -> tuple[Filler, ...]:
        """The filler of the weights and, where there is a bias, that of the bias."""
        return (self.weight_filler, self.bias_filler)[: 1 + self.bias_term]


@kind("InnerProduct", "inner_product_param")
class InnerProduct(_Matrix):
    """inner_product_layer.cpp: the axes from ``axis`` on become num_output values."""

    family: ClassVar[Family] = "weights"
    keeps_places: ClassVar[bool] = False
    axis: int
    transpose: bool

    def check(self) -> None:
        """Without outputs there is nothing to compute."""
        if self.num_output < 1:
            self.fail("num_output is missing or zero")

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, ...) -> (N, num_output)."""
        (bottom,) = bottoms
        outputs = self.num_output
        if self.is_legacy:
            params: list[Shape] = [(1, 1, outputs, count(bottom[1:])), (1, 1, 1, outputs)]
            return LayerShapes([(bottom[0], outputs, 1, 1)], params[: 1 + self.bias_term])
        axis = self.axis_of(self.axis, len(bottom))
        inputs = count(bottom[axis:])
        params = [(inputs, outputs) if self.transpose else (outputs, inputs), (outputs,)]
        return LayerShapes([(*bottom[:axis], outputs)], params[: 1 + self.bias_term])

    def multiply_adds(self, bottoms: list[Shape], shapes: LayerShapes) -> int | None:
        """Every weight meets every item once."""
        items = 1 if self.is_legacy else self.axis_of(self.axis, len(bottoms[0]))
        return count([count(shapes.params[0]), *shapes.tops[0][:items]])

    def describe(self) -> str:
        """With its number of outputs."""
        return f"InnerProduct, {self.num_output}"


@kind("Embed", "embed_param")
class Embed(_Matrix):
    """embed_layer.cpp: every value of the bottom is the number of a row of the weights."""

    input_dim: int

    def check(self) -> None:
        """A table has rows and columns."""
        if self.num_output < 1 or self.input_dim < 1:
            self.fail(
                "num_output and input_dim must be positive",
                got=f"{self.num_output}, {self.input_dim}",
            )

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Any shape, and one axis more."""
        params: list[Shape] = [(self.input_dim, self.num_output), (self.num_output,)]
        return LayerShapes([(*bottoms[0], self.num_output)], params[: 1 + self.bias_term])
