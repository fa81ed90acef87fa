"""Layers that scale and shift: BatchNorm, Scale, Bias, MVN, LRN."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.ops import channel_affine
from prototxt_import.shapes import enum_name

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

__all__ = ["LRN", "MVN", "BatchNorm", "Bias", "Scale"]

#: What the v1 fork's mvn_layer.cpp adds to the deviation; later ones read it from the file.
_LEGACY_MVN_EPS: Final = 1e-10


@register("BatchNorm")
class BatchNorm(CaffeLayer):
    """Normalisation by statistics of the batch, or by accumulated ones (batch_norm_layer.cpp).

    Blobs 0 and 1 hold decaying sums of means and of unbiased variances, blob 2 the sum of the
    weights that went into them: the statistics are blob / factor, and 0 where the factor is 0.

    Accumulated statistics are used where ``use_global_stats`` says so, or, if it says nothing,
    when not training.  ``update_global_stats`` of the v2 fork has them follow the batches of the
    training even where they are what normalises.
    """

    blobs_are_buffers = True

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.batch_norm_param
        self.use_global_stats: bool | None = (
            spec.use_global_stats if spec.HasField("use_global_stats") else None
        )
        self.update_global_stats = bool(spec.update_global_stats)
        self.fraction: float = spec.moving_average_fraction
        self.eps: float = spec.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, ...), or (N,) as a single channel."""
        if x.dim() == 1:
            y: Tensor = self.forward(x.unsqueeze(1)).squeeze(1)
            return y
        use_global = self.use_global_stats
        if use_global is None:
            use_global = not self.training
        if use_global:
            scale, shift = self.scale_and_shift()
            y = channel_affine(x, scale.to(x.dtype), shift.to(x.dtype))
            if self.update_global_stats and self.training:
                self._accumulate(x)
            return y
        mean = self._accumulate(x)
        # The mean goes first, as in Caffe: what it leaves of a channel that hardly varies would
        # drown in the rounding of ``x * scale + shift``.  The slope of the rest is that of the
        # whole, so that nothing needs to flow through the mean.
        x = x - mean.reshape(1, -1, *[1] * (x.dim() - 2))
        # Not through torch.nn.functional, which refuses a single value a channel.
        return torch.batch_norm(
            x, None, None, None, None, True, 0.0, self.eps, torch.backends.cudnn.enabled
        )

    def scale_and_shift(self) -> tuple[Tensor, Tensor]:
        """(C,) each, float64: what the accumulated statistics do to a channel."""
        total, squares, factor = (self.blob(i).double() for i in range(3))
        weight = torch.where(factor == 0, 0, 1 / factor)
        scale = (squares * weight + self.eps).rsqrt()
        return scale, -total * weight * scale

    @torch.no_grad()
    def _accumulate(self, x: Tensor) -> Tensor:
        """Let the statistics follow a batch; its mean (C,)."""
        axes = [axis for axis in range(x.dim()) if axis != 1]
        variance, mean = torch.var_mean(x, axes, correction=0)
        m = x.numel() // x.shape[1]
        unbiased = m / (m - 1) if m > 1 else 1.0
        for i, value in ((0, mean), (1, variance * unbiased), (2, torch.ones_like(self.blob(2)))):
            blob = self.blob(i)
            blob.mul_(self.fraction).add_(value.to(blob.dtype))
        return mean


def _along(factors: Tensor, axis: int, axes: int) -> Tensor:
    """``factors`` ready to be broadcast over a tensor of ``axes`` axes from ``axis`` on."""
    return factors.reshape((1,) * axis + factors.shape + (1,) * (axes - axis - factors.dim()))


def _default_filler(filler: Any, given: bool, value: float) -> Any:
    """``filler`` if the file gives one, else a constant."""
    if given:
        return filler
    constant = type(filler)()
    constant.value = value
    return constant


@register("Scale")
class Scale(CaffeLayer):
    """Factors, and biases with ``bias_term``, along some axes (scale_layer.cpp).

    The factors are blob 0, or the second bottom; the biases are the last blob.
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.scale_param
        self.axis: int = spec.axis
        self.bias_blob = len(shapes.params) - 1 if spec.bias_term else None

    def fillers(self) -> Sequence[Any]:
        """Factors 1 and biases 0 unless the file says otherwise."""
        spec = self.layer.spec.scale_param
        fillers = [_default_filler(spec.filler, spec.HasField("filler"), 1.0)]
        if spec.bias_term:
            fillers.append(spec.bias_filler)
        return fillers[-len(self.blob_shapes) :] if self.blob_shapes else []

    def forward(self, x: Tensor, factors: Tensor | None = None) -> Tensor:
        """x of any shape, factors shaped like some axes of it."""
        scale = self.blob(0) if factors is None else factors
        bias = None if self.bias_blob is None else self.blob(self.bias_blob)
        axis = self.axis % x.dim() if scale.dim() else 0
        if factors is None and axis == 1 and scale.dim() == 1:
            return channel_affine(x, scale, bias)
        y = x * _along(scale, axis, x.dim())
        return y if bias is None else y + _along(bias, axis, x.dim())


@register("Bias")
class Bias(CaffeLayer):
    """Biases along some axes: blob 0, or the second bottom (bias_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.axis: int = layer.spec.bias_param.axis

    def fillers(self) -> Sequence[Any]:
        """As the file says."""
        return [self.layer.spec.bias_param.filler]

    def forward(self, x: Tensor, biases: Tensor | None = None) -> Tensor:
        """x of any shape, biases shaped like some axes of it."""
        bias = self.blob(0) if biases is None else biases
        axis = self.axis % x.dim() if bias.dim() else 0
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


class _Centre(torch.autograd.Function):
    """``x - mean`` whose gradient passes as if the mean were fixed (the v1 fork's MVN)."""

    @staticmethod
    def forward(x: Tensor, axes: list[int]) -> Tensor:
        return x - x.mean(axes, keepdim=True)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        pass

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        return grads[0], None


@register("MVN")
class MVN(CaffeLayer):
    """Zero mean and, unless told otherwise, unit variance per map or per item (mvn_layer.cpp)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.mvn_param
        self.axes = [1, 2, 3] if spec.across_channels else [2, 3]
        self.normalize_variance = bool(spec.normalize_variance)
        self.eps: float = _LEGACY_MVN_EPS if self.is_legacy else spec.eps

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W), absent axes being 1; the top always has four."""
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        if self.normalize_variance:
            y: Tensor = _MVN.apply(x, self.axes, self.eps)[0]
        elif self.is_legacy:
            y = _Centre.apply(x, self.axes)
        else:
            y = x - x.mean(self.axes, keepdim=True)
        return y


@register("LRN")
class LRN(CaffeLayer):
    """``x / (k + alpha * mean of squares) ** beta`` (lrn_layer.cpp).

    The mean is over ``local_size`` neighbouring channels, or over a square of that side within
    the channel; there ``k`` is not read and stands at 1.  Neighbours outside count as zeros.
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.lrn_param
        self.size, self.alpha, self.beta = spec.local_size, spec.alpha, spec.beta
        self.across = enum_name(spec, "norm_region") == "ACROSS_CHANNELS"
        self.k: float = spec.k if self.across else 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W)."""
        squares = x.square()
        # A window wider than twice the map sees nothing more: do not pad with that many zeros.
        pad = min(self.size // 2, max(1, *(x.shape[1:2] if self.across else x.shape[2:])) - 1)
        size = 2 * pad + 1
        alpha = self.alpha * (size / self.size) ** (1 if self.across else 2)
        if self.across:
            volumes = F.pad(squares, (0, 0, 0, 0, pad, pad)).unsqueeze(1)
            means = F.avg_pool3d(volumes, (size, 1, 1), 1).squeeze(1)
        else:
            means = F.avg_pool2d(F.pad(squares, (pad,) * 4), size, 1)
        return x * (self.k + alpha * means).pow(-self.beta)
