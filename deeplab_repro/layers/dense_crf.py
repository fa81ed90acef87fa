"""The DenseCRF layer of the DeepLab forks."""

from __future__ import annotations

from torch import Tensor

from deeplab_repro.layers.base import CaffeLayer, register

__all__ = ["DenseCRF"]


@register("DenseCRF")
class DenseCRF(CaffeLayer):
    """Mean field inference in a fully connected CRF (densecrf_layer.cpp): not available yet."""

    def forward(self, scores: Tensor, data_dim: Tensor, image: Tensor | None = None) -> Tensor:
        """Scores (N, C, H, W), sizes (N, 1, 1, 2), picture (N, 3, H, W)."""
        self.refuse("inference is not available in this version")
