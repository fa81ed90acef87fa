"""The DenseCRF layer of the DeepLab forks."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.caffe.quirks import FIRST_PICTURE
from deeplab_repro.crf import dense_crf_features
from deeplab_repro.crf.features import bilateral_features, spatial_features
from prototxt_import import layers as kinds

__all__ = ["DenseCRF"]


@register("DenseCRF")
class DenseCRF(CaffeLayer):
    """Mean field inference in a fully connected CRF (densecrf_layer.cpp).

    Energies are the negative scores, every kernel is a Potts model normalised by its sums, and
    without a picture the bilateral kernels are left out.  The padding points of the SSE code are
    there, as in Caffe.  Caffe's layer has no backward pass; this one is differentiable in the
    scores.
    """

    layer: kinds.DenseCRF

    def forward(self, scores: Tensor, data_dim: Tensor, image: Tensor | None = None) -> Tensor:
        """Scores (N, C, H, W), sizes (N, 1, 1, 2), picture (N, 3, H, W) -> (N, C, H, W).

        Marginals, or their logarithms; 0 beyond a picture's own height and width.
        """
        several = image is not None and len(scores) > 1
        if several and self.quirks.computes(self.layer, FIRST_PICTURE):
            assert image is not None
            image = image[:1].expand(len(scores), -1, -1, -1)
        sizes = [tuple(map(int, size)) for size in data_dim.reshape(len(scores), 2).tolist()]
        padded = scores.shape[2:]
        results = []
        for n, (height, width) in enumerate(sizes):
            height, width = min(height, padded[0]), min(width, padded[1])
            if min(height, width) < 1:
                self.refuse("a picture without pixels", got=f"{height}x{width}")
            part = None if image is None else image[n : n + 1, :, :height, :width]
            q = self._infer(scores[n : n + 1, :, :height, :width], part)
            results.append(F.pad(q, (0, padded[1] - width, 0, padded[0] - height)))
        return torch.cat(results) if results else scores.clone()

    def _infer(self, scores: Tensor, image: Tensor | None) -> Tensor:
        crf = self.layer
        height, width = scores.shape[2:]
        features = [spatial_features(height, width, std, like=scores) for std in crf.pos_xy_std]
        weights = list(crf.pos_w)
        if image is not None:
            stds = zip(crf.bi_xy_std, crf.bi_rgb_std, strict=True)
            features += [bilateral_features(image, *std, dtype=scores.dtype) for std in stds]
            weights += crf.bi_w
        try:
            q: Tensor = dense_crf_features(
                -scores,
                features,
                weights,
                output="marginals" if crf.output_probability else "log",
                iterations=crf.max_iter if weights else 0,
                padding_points=True,
            )
        except (ValueError, MemoryError) as error:
            self.refuse(str(error))
        return q
