"""Layers that hold one matrix: InnerProduct, Embed."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register
from prototxt_import.shapes import canonical_axis

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

__all__ = ["Embed", "InnerProduct"]


@register("InnerProduct")
class InnerProduct(CaffeLayer):
    """A matrix times everything from ``axis`` on (inner_product_layer.cpp).

    Blobs: weights (K, D), or (D, K) with ``transpose``, and biases (K,).  In the v1 fork these are
    (1, 1, K, D) and (1, 1, 1, K), and the top is (N, K, 1, 1).
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.inner_product_param
        self.axis = canonical_axis(layer, spec.axis, len(bottoms[0]))
        self.transpose = bool(spec.transpose)

    def fillers(self) -> Sequence[Any]:
        """Weights, biases."""
        spec = self.layer.spec.inner_product_param
        return [spec.weight_filler, spec.bias_filler]

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, K)."""
        weight = self.blob(0)
        weight = weight.t() if self.transpose else weight.view(weight.shape[-2:])
        bias = self.blob(1).view(-1) if len(self.blob_shapes) > 1 else None
        y = F.linear(x.flatten(self.axis), weight, bias)
        return y[:, :, None, None] if self.is_legacy else y


@register("Embed")
class Embed(CaffeLayer):
    """The row of the weights that each value names (embed_layer.cpp).

    Blobs: weights (input_dim, K) and, with ``bias_term``, biases (K,).
    """

    def fillers(self) -> Sequence[Any]:
        """Weights, biases."""
        spec = self.layer.spec.embed_param
        return [spec.weight_filler, spec.bias_filler]

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers of any shape -> that shape and K more."""
        weight = self.blob(0)
        rows, _ = label_numbers(self, x, weight.shape[0])
        y = F.embedding(rows, weight)
        return y + self.blob(1) if len(self.blob_shapes) > 1 else y
