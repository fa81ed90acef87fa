"""The DenseCRF layer of the DeepLab forks, and the same with parameters that are learned."""

from __future__ import annotations

from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.caffe.quirks import FIRST_PICTURE
from deeplab_repro.crf import Bilateral, CRFParams, dense_crf_features
from deeplab_repro.crf.features import learned_features
from prototxt_import import layers as kinds

__all__ = ["DenseCRF"]


@register("DenseCRF")
class DenseCRF(CaffeLayer):
    """Mean field inference in a fully connected CRF (densecrf_layer.cpp).

    Energies are the negative scores, every kernel is a Potts model normalised by its sums, and
    without a picture the bilateral kernels are left out.  The padding points of the SSE code are
    there, as in Caffe.  Caffe's layer has no backward pass; this one is differentiable in the
    scores.

    A layer with ``param`` entries, which Caffe refuses, has blobs and learns them (see
    :class:`prototxt_import.layers.DenseCRF`).  It refines each item on its own picture, and keeps
    probabilities below exp(-20) of the largest: a label of probability 0 would teach nothing.
    """

    layer: kinds.DenseCRF

    def initialise(self) -> None:
        """The blobs begin as what the file states, the compatibility as Potts."""
        for i, what in enumerate(self.layer.learns):
            if self.has_blob(i):
                with torch.no_grad():
                    self.registered(i).copy_(self._first(what))

    def _first(self, what: str) -> Tensor:
        """What a blob begins as."""
        if what == "compatibility":
            return -torch.eye(self.blob(2).shape[0])
        stated = {"weights": self.layer.weights, "stds": self.layer.stds}
        values = torch.tensor(stated[what])
        return values.log() if what == "stds" else values

    def crf_params(self) -> CRFParams:
        """The present iterations, weights and stds; a compatibility that was learned is blob 2.

        Raises:
            CaffeImportError: there are several spatial kernels, which ``CRFParams`` has no place
                for.
        """
        spatial = self.layer.kernels[0]
        if spatial > 1:
            self.refuse("cannot be told as CRFParams", expected="one spatial kernel", got=spatial)
        weights, stds = self._weights().tolist(), self._stds(torch.float64).tolist()
        pos_w, pos_xy_std = (weights[0], stds[0]) if spatial else (0, 1)
        pairs = zip(weights[spatial:], stds[spatial::2], stds[spatial + 1 :: 2], strict=True)
        bi, *extra = [Bilateral(*kernel) for kernel in pairs] or [Bilateral(0, 1, 1)]
        steps = self.layer.max_iter
        return CRFParams(steps, pos_w, pos_xy_std, bi.w, bi.xy_std, bi.rgb_std, extra=tuple(extra))

    def forward(self, scores: Tensor, data_dim: Tensor, image: Tensor | None = None) -> Tensor:
        """Scores (N, C, H, W), sizes (N, 1, 1, 2), picture (N, 3, H, W) -> (N, C, H, W).

        Marginals, or their logarithms; 0 beyond a picture's own height and width.
        """
        several = image is not None and len(scores) > 1 and not self.layer.learns
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
        crf, learns = self.layer, self.layer.learns
        weights = self._weights()
        try:
            q: Tensor = dense_crf_features(
                -scores,
                list(self._features(scores, image)),
                weights,
                self.blob(2) if "compatibility" in learns else None,
                output="marginals" if crf.output_probability else "log",
                iterations=crf.max_iter if len(weights) else 0,
                expnorm="exact" if learns else "deeplab",
                padding_points=True,
            )
        except (ValueError, MemoryError) as error:
            self.refuse(str(error))
        return q

    def _features(self, scores: Tensor, image: Tensor | None) -> Iterator[Tensor]:
        """Of each kernel: spatial ones, then bilateral ones."""
        height, width = scores.shape[2:]
        spatial, bilateral = self.layer.kernels
        stds = self._stds(torch.promote_types(scores.dtype, torch.float32)).to(scores.device)
        for std in stds[:spatial]:
            yield learned_features(None, std.expand(2), height, width)
        for xy_std, rgb_std in stds[spatial:].view(bilateral, 2):
            own = torch.cat([xy_std.expand(2), rgb_std.expand(3)])
            yield learned_features(image, own, height, width)

    def _weights(self) -> Tensor:
        """(kernels,), spatial ones first."""
        crf = self.layer
        return self.blob(0) if "weights" in crf.learns else torch.tensor(crf.weights)

    def _stds(self, dtype: torch.dtype) -> Tensor:
        """xy_std of each spatial kernel, then xy_std and rgb_std of each bilateral one."""
        crf = self.layer
        if "stds" in crf.learns:
            return self.blob(1).to(dtype).exp()
        return torch.tensor(crf.stds, dtype=dtype)
