"""Layers that combine several bottoms value by value."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from prototxt_import import layers as kinds

__all__ = ["Eltwise", "SpatialProduct", "maximum"]


class _UnstableProduct(torch.autograd.Function):
    """A product whose slopes are the product divided by each factor (eltwise_layer.cpp).

    That is what ``stable_prod_grad: false`` asks for: not a number where a factor is 0.
    """

    @staticmethod
    def forward(*factors: Tensor) -> Tensor:
        product = factors[0] * factors[1]
        for factor in factors[2:]:
            product = product * factor
        return product

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, *inputs)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        product, *factors = ctx.saved_tensors
        return tuple(grads[0] * (product / factor) for factor in factors)


def maximum(bottoms: Sequence[Tensor]) -> Tensor:
    """The largest of two or more tensors of one shape, place by place (eltwise_layer.cpp).

    The gradient goes to one of them: of equal ones, to 1 before 0, else to the earlier.
    """
    top = torch.where(bottoms[0] > bottoms[1], bottoms[0], bottoms[1])
    for x in bottoms[2:]:
        top = torch.where(x > top, x, top)
    return top


@register("Eltwise")
class Eltwise(CaffeLayer):
    """Sum with coefficients, product or maximum of bottoms of one shape (eltwise_layer.cpp)."""

    layer: kinds.Eltwise

    @property
    def forgets_top(self) -> bool:
        """The slopes of a sum are its coefficients."""
        return self.layer.operation == "SUM"

    def forward(self, *bottoms: Tensor) -> Tensor:
        """Two or more of any shape."""
        if self.layer.operation == "SUM":
            return self._sum(bottoms)
        if self.layer.operation == "MAX":
            return maximum(bottoms)
        if not self.layer.stable_prod_grad:
            product: Tensor = _UnstableProduct.apply(*bottoms)
            return product
        top = bottoms[0] * bottoms[1]
        for x in bottoms[2:]:
            top = top * x
        return top

    def _sum(self, bottoms: tuple[Tensor, ...]) -> Tensor:
        first, *coeff = self.layer.coeff or (1.0,) * len(bottoms)
        top = bottoms[0] if first == 1 else bottoms[0] * first
        for x, factor in zip(bottoms[1:], coeff, strict=True):
            top = torch.add(top, x, alpha=factor)
        return top


@register("SpatialProduct")
class SpatialProduct(CaffeLayer):
    """Every channel times one weight per pixel (spatial_product_layer.cpp)."""

    def forward(self, x: Tensor, weight: Tensor) -> Tensor:
        """x (N, C, H, W), weight (N, 1, H, W)."""
        return x * weight
