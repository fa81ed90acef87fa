"""Layers that scale and shift: BatchNorm, Scale, Bias, MVN, LRN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register, straight_through
from deeplab_repro.caffe.quirks import BATCH_STATISTICS, UPDATED_STATISTICS, Quirks
from deeplab_repro.ops import channel_affine
from prototxt_import import LayerShapes, Shape
from prototxt_import import layers as kinds

__all__ = ["LRN", "MVN", "BatchNorm", "Bias", "Scale"]


class _FixedDivisor(torch.autograd.Function):
    """``(x - mean) / divisor``, with the gradient that goes with a variance.

    So it is in the v2 fork, whatever the divisor is (batch_norm_layer.cpp, Backward_cpu).
    """

    @staticmethod
    def forward(x: Tensor, divisor: Tensor) -> Tensor:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        return (x - x.mean(axes, keepdim=True)) / divisor

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output, inputs[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        y, divisor = ctx.saved_tensors
        axes = [axis for axis in range(y.dim()) if axis != 1]
        grad = grads[0]
        along = y * (grad * y).mean(axes, keepdim=True)
        return (grad - grad.mean(axes, keepdim=True) - along) / divisor, None


@register("BatchNorm")
class BatchNorm(CaffeLayer):
    """Normalisation by statistics of the batch, or by accumulated ones (batch_norm_layer.cpp).

    Blobs 0 and 1 hold decaying sums of means and of unbiased variances, blob 2 the sum of the
    weights that went into them: the statistics are blob / factor, and 0 where the factor is 0.

    Accumulated statistics are used where ``use_global_stats`` says so, or, if it says nothing,
    when not training.  ``update_global_stats`` of the v2 fork has them follow the batches of the
    training even where they are what normalises.

    Attributes:
        divisor: (), of the v2 fork's passes with statistics of the batch, see
            :data:`~deeplab_repro.caffe.quirks.BATCH_STATISTICS`.
    """

    layer: kinds.BatchNorm
    blobs_are_buffers = True
    divisor: Tensor

    def __init__(
        self,
        layer: kinds.BatchNorm,
        bottoms: Sequence[Shape],
        shapes: LayerShapes,
        quirks: Quirks,
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        follows_batch = layer.use_global_stats is False
        trains = layer.phase == "TRAIN"
        if layer.use_global_stats is None:
            follows_batch = trains
        self.lacks_variance = quirks.computes(layer, BATCH_STATISTICS, tell=follows_batch)
        updates = layer.update_global_stats and trains and not follows_batch
        self.mixes_statistics = updates and quirks.computes(layer, UPDATED_STATISTICS)
        self.register_buffer("divisor", torch.zeros(()), persistent=False)

    @property
    def uses_global_stats(self) -> bool:
        """Whether the accumulated statistics normalise."""
        if self.layer.use_global_stats is None:
            return not self.training
        return self.layer.use_global_stats

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...), or (N,) as a single channel."""
        if x.dim() == 1:
            y: Tensor = self.forward(x.unsqueeze(1)).squeeze(1)
            return y
        if not self.uses_global_stats:
            return self._by_batch(x)
        updates = self.layer.update_global_stats and self.training
        if updates and self.mixes_statistics:
            return self._mixed(x)
        scale, shift = self.scale_and_shift()
        y = channel_affine(x, scale.to(x.dtype), shift.to(x.dtype))
        if updates:
            self._accumulate(x)
        return y

    def _by_batch(self, x: Tensor) -> Tensor:
        if self.lacks_variance:
            self.divisor = (self.divisor + self.layer.eps).sqrt()
            y: Tensor = _FixedDivisor.apply(x, self.divisor.to(x.dtype))
            return y
        mean = self._accumulate(x)
        # The mean goes first, as in Caffe: what it leaves of a channel that hardly varies would
        # drown in the rounding of ``x * scale + shift``.  The slope of the rest is that of the
        # whole, so that nothing needs to flow through the mean.
        x = x - mean.reshape(1, -1, *[1] * (x.dim() - 2))
        # Not through torch.nn.functional, which refuses a single value a channel.
        return torch.batch_norm(
            x, None, None, None, None, True, 0.0, self.layer.eps, torch.backends.cudnn.enabled
        )

    def _mixed(self, x: Tensor) -> Tensor:
        """Of the v2 fork: the global mean, and the batch's deviation from that."""
        with torch.no_grad():
            factor = self.blob(2)
            mean = torch.where(factor == 0, 0, self.blob(0) / factor)
            along = [1, -1, *[1] * (x.dim() - 2)]
            axes = [axis for axis in range(x.dim()) if axis != 1]
            variance = (x - mean.reshape(along)).square().mean(axes)
            scale = (variance + self.layer.eps).rsqrt()
            self._follow(mean, variance, x.numel() // x.shape[1])
        return channel_affine(x, scale.to(x.dtype), (-mean * scale).to(x.dtype))

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) each, float64: what the accumulated statistics do to a channel."""
        total, squares, factor = (self.blob(i).double() for i in range(3))
        weight = torch.where(factor == 0, 0, 1 / factor)
        scale = (squares * weight + self.layer.eps).rsqrt()
        return scale, -total * weight * scale

    @torch.no_grad()
    def _accumulate(self, x: Tensor) -> Tensor:
        """Let the statistics follow a batch; its mean (C,)."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        self._follow(mean, variance, x.numel() // x.shape[1])
        return mean

    def _follow(self, mean: Tensor, variance: Tensor, m: int) -> None:
        """Let the three sums decay and take in statistics of ``m`` values a channel."""
        unbiased = m / (m - 1) if m > 1 else 1.0
        for i, value in ((0, mean), (1, variance * unbiased), (2, torch.ones_like(self.blob(2)))):
            blob = self.blob(i)
            blob.mul_(self.layer.moving_average_fraction).add_(value.to(blob.dtype))


def _along(factors: Tensor, axis: int, axes: int) -> Tensor:
    """``factors`` ready to be broadcast over a tensor of ``axes`` axes from ``axis`` on."""
    return factors.reshape((1,) * axis + factors.shape + (1,) * (axes - axis - factors.dim()))


@register("Scale")
class Scale(CaffeLayer):
    """Factors, and biases with ``bias_term``, along some axes (scale_layer.cpp).

    The factors are blob 0, or the second bottom; the biases are the last blob.
    """

    layer: kinds.Scale

    @property
    def bias(self) -> Tensor | None:
        """The biases, if there are any."""
        return self.blob(len(self.blob_shapes) - 1) if self.layer.bias_term else None

    @property
    def forgets_top(self) -> bool:
        """A product's slopes are its factors."""
        return True

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """x of any shape, factors shaped like some axes of it."""
        scale = self.blob(0) if factors is None else factors
        bias = self.bias
        axis = self.layer.axis % x.dim() if scale.dim() else 0
        if factors is None and axis == 1 and scale.dim() == 1:
            return channel_affine(x, scale, bias)
        y = x * _along(scale, axis, x.dim())
        return y if bias is None else y + _along(bias, axis, x.dim())


@register("Bias")
class Bias(CaffeLayer):
    """Biases along some axes: blob 0, or the second bottom (bias_layer.cpp)."""

    layer: kinds.Bias

    def forward(self, x: Tensor, biases: Tensor | None = None) -> Tensor:
        """x of any shape, biases shaped like some axes of it."""
        bias = self.blob(0) if biases is None else biases
        axis = self.layer.axis % x.dim() if bias.dim() else 0
        return x + _along(bias, axis, x.dim())


class _MVN(torch.autograd.Function):
    """``(x - mean) / (deviation + eps)`` over ``axes``, with mvn_layer.cpp's own gradient.

    Caffe takes ``deviation + eps`` for the deviation there, which is what makes the gradient
    finite for a constant input.
    """

    @staticmethod
    def forward(x: Tensor, axes: list[int], eps: float) -> tuple[Tensor, Tensor]:
        centred = x - x.mean(axes, keepdim=True)
        deviation = centred.square().mean(axes, keepdim=True).sqrt() + eps
        return centred / deviation, deviation

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.axes = inputs[1]
        ctx.save_for_backward(*output)
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        y, deviation = ctx.saved_tensors
        grad = grads[0]
        along = y * (grad * y).mean(ctx.axes, keepdim=True)
        return (grad - grad.mean(ctx.axes, keepdim=True) - along) / deviation, None, None


@register("MVN")
class MVN(CaffeLayer):
    """Zero mean and, unless told otherwise, unit variance per map or per item (mvn_layer.cpp)."""

    layer: kinds.MVN

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), absent axes being 1; the top always has four."""
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        axes = [1, 2, 3] if self.layer.across_channels else [2, 3]
        if self.layer.normalize_variance:
            y: Tensor = _MVN.apply(x, axes, self.layer.eps)[0]
        elif self.is_legacy:
            # As if the mean were fixed (the v1 fork's Backward_cpu).
            y = straight_through(x, x - x.mean(axes, keepdim=True))
        else:
            y = x - x.mean(axes, keepdim=True)
        return y


@register("LRN")
class LRN(CaffeLayer):
    """``x / (k + alpha * mean of squares) ** beta`` (lrn_layer.cpp).

    The mean is over ``local_size`` neighbouring channels, or over a square of that side within
    the channel; there ``k`` is not read and stands at 1.  Neighbours outside count as zeros.
    """

    layer: kinds.LRN

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W)."""
        squares = x.square()
        # A window wider than twice the map sees nothing more: do not pad with that many zeros.
        lrn, across = self.layer, self.layer.across
        pad = min(lrn.local_size // 2, max(1, *(x.shape[1:2] if across else x.shape[2:])) - 1)
        size = 2 * pad + 1
        alpha = lrn.alpha * (size / lrn.local_size) ** (1 if across else 2)
        if across:
            volumes = F.pad(squares, (0, 0, 0, 0, pad, pad)).unsqueeze(1)
            means = F.avg_pool3d(volumes, (size, 1, 1), 1).squeeze(1)
        else:
            means = F.avg_pool2d(F.pad(squares, (pad,) * 4), size, 1)
        return x * ((lrn.k if across else 1.0) + alpha * means).pow(-lrn.beta)
