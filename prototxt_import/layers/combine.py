"""Layers that combine several bottoms value by value."""

from __future__ import annotations

from typing import ClassVar

from prototxt_import.layers.core import Layer, kind
from prototxt_import.layers.parts import Family, LayerShapes
from prototxt_import.layers.sizes import Shape, at_axis

__all__ = ["Eltwise", "SpatialProduct"]


@kind("Eltwise", "eltwise_param", bottoms=(2, None))
class Eltwise(Layer):
    """eltwise_layer.cpp.

    Attributes:
        operation: ``"SUM"``, ``"PROD"`` or ``"MAX"``.
        coeff: factors of a SUM; empty for ones.
    """

    family: ClassVar[Family] = "joining"
    operation: str
    coeff: tuple[float, ...]
    stable_prod_grad: bool

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """Bottoms of one shape."""
        if len(self.coeff) not in (0, len(bottoms)):
            self.fail(
                "needs one coeff per bottom, or none", expected=len(bottoms), got=len(self.coeff)
            )
        if self.coeff and self.operation == "PROD":
            self.fail("PROD takes no coeff")
        return LayerShapes([self.same_shape(bottoms)])

    @property
    def is_plain_sum(self) -> bool:
        """Whether it adds its bottoms up, and nothing else."""
        return self.operation == "SUM" and all(factor == 1 for factor in self.coeff)

    def describe(self) -> str:
        """The type and the operation, such as ``Eltwise SUM``."""
        return f"Eltwise {self.operation}"


@kind("SpatialProduct", bottoms=2, programs=())
class SpatialProduct(Layer):
    """spatial_product_layer.cpp: one weight per pixel times every channel."""

    def infer(self, bottoms: list[Shape]) -> LayerShapes:
        """(N, C, H, W) and (N, 1, H, W)."""
        bottom, weight = (self.four_axes(shape) for shape in bottoms)
        self.same_shape([at_axis(bottom, 1, 1), weight])
        return LayerShapes([bottoms[0]])
