"""Layers that hold one matrix: InnerProduct, Embed."""

from __future__ import annotations

import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register
from prototxt_import import layers as kinds

__all__ = ["Embed", "InnerProduct"]


@register("InnerProduct")
class InnerProduct(CaffeLayer):
    """A matrix times everything from ``axis`` on (inner_product_layer.cpp).

    Blobs: weights (K, D), or (D, K) with ``transpose``, and biases (K,).  In the v1 fork these are
    (1, 1, K, D) and (1, 1, 1, K), and the top is (N, K, 1, 1).
    """

    layer: kinds.InnerProduct

    @property
    def forgets_top(self) -> bool:
        """A product's slopes are its factors."""
        return True

    def forward(self, x: Tensor) -> Tensor:
        """(N, ...) -> (N, K)."""
        weight = self.blob(0)
        weight = weight.t() if self.layer.transpose else weight.view(weight.shape[-2:])
        bias = self.blob(1).view(-1) if len(self.blob_shapes) > 1 else None
        y = F.linear(x.flatten(1 if self.is_legacy else self.layer.axis), weight, bias)
        return y[:, :, None, None] if self.is_legacy else y


@register("Embed")
class Embed(CaffeLayer):
    """The row of the weights that each value names (embed_layer.cpp).

    Blobs: weights (input_dim, K) and, with ``bias_term``, biases (K,).
    """

    def forward(self, x: Tensor) -> Tensor:
        """Whole numbers of any shape -> that shape and K more."""
        weight = self.blob(0)
        rows, _ = label_numbers(self, x, weight.shape[0])
        y = F.embedding(rows, weight)
        return y + self.blob(1) if len(self.blob_shapes) > 1 else y
