"""Convolutions: Convolution, Deconvolution, and Im2col, what Caffe makes of a map before it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final

import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.caffe.quirks import Quirks
from deeplab_repro.ops import atrous_conv2d, im2col
from deeplab_repro.ops._atrous_filters import KeepsFilters
from deeplab_repro.ops._atrous_rules import DIRECT_DTYPES
from prototxt_import import LayerShapes, Shape
from prototxt_import import layers as kinds

__all__ = ["Convolution", "Deconvolution", "Im2col"]

#: Most spatial axes that torch's convolutions take.
_MOST_AXES: Final = 3


class _Sliding(CaffeLayer):
    """A layer with a window over the axes behind its channel axis.

    Axes before the channel axis, usually one, are a batch (base_conv_layer.cpp).
    """

    layer: kinds.Sliding

    def __init__(
        self, layer: kinds.Sliding, bottoms: Sequence[Shape], shapes: LayerShapes, quirks: Quirks
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        axes = len(bottoms[0])
        self.axis = layer.channel_axis(axes)
        self.spatial_axes = axes - self.axis - 1
        self.window = layer.window_over(self.spatial_axes)
        if self.spatial_axes > _MOST_AXES:
            self.refuse(
                "too many spatial axes", expected=f"at most {_MOST_AXES}", got=self.spatial_axes
            )

    def _as_batch(self, x: Tensor) -> Tensor:
        """(..., C, spatial) -> (N, C, spatial)."""
        return x if self.axis == 1 else x.reshape(-1, *x.shape[self.axis :])

    def wide_enough(self, x: Tensor) -> Tensor:
        """``x`` with zeros behind, where the window exceeds it by less than a stride.

        Caffe has a window there too, and reads zeros (:func:`prototxt_import.layers.conv_output`).
        """
        window = self.window
        lacks: list[int] = []
        for n, kernel, stride, pad, rate in zip(
            x.shape[2:], window.kernel, window.stride, window.pad, window.dilation, strict=True
        ):
            reach = rate * (kernel - 1) + 1 - 2 * pad
            # Most windows cannot exceed a map, whatever its size, which compilers need not ask.
            lacks = [0, max(0, reach - n) if stride > 1 and reach > 1 else 0, *lacks]
        return F.pad(x, lacks) if any(lacks) else x

    def _as_given(self, y: Tensor, x: Tensor) -> Tensor:
        """(N, K, spatial) -> (..., K, spatial)."""
        return y if self.axis == 1 else y.reshape(*x.shape[: self.axis], *y.shape[1:])


@register("Convolution")
class Convolution(KeepsFilters, _Sliding):
    """Cross-correlation with holes, the same for every bottom (conv_layer.cpp).

    Blobs: weights (K, C / group, kernel) and, with ``bias_term``, biases (K,), which in the v1
    fork are (1, 1, 1, K).

    Attributes:
        algorithm: of a convolution with two spatial axes, as of
            :func:`~deeplab_repro.ops.atrous_conv2d`; torch computes the others.
        accuracy: of the same, ``"exact"`` or ``"fast"``.
        activation: ``"relu"`` where a fused network lets this layer compute the ReLU behind it.
    """

    algorithm: str = "auto"
    activation: str | None = None

    layer: kinds.Convolution

    @property
    def groups(self) -> int:
        """How many parts the channels fall into, each with filters of its own."""
        return self.layer.group

    @property
    def has_activation(self) -> bool:
        """Whether :attr:`activation` may be set."""
        return type(self) is Convolution and self.spatial_axes == 2

    @property
    def forgets_top(self) -> bool:
        """A ReLU of its own is the only thing that asks for the top."""
        return self.activation is None

    def forward(self, *bottoms: Tensor) -> Tensor | tuple[Tensor, ...]:
        """(N, C, H, W) each, or other spatial axes."""
        weight = self.blob(0)
        bias = self.blob(1).view(-1) if len(self.blob_shapes) > 1 else None
        tops = tuple(
            self._as_given(self._convolve(self._as_batch(x), weight, bias), x) for x in bottoms
        )
        return tops[0] if len(tops) == 1 else tops

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        window, x = self.window, self.wide_enough(x)
        if self.spatial_axes == 2:
            return atrous_conv2d(
                x,
                weight,
                bias,
                window.stride,
                window.pad,
                window.dilation,
                self.groups,
                algorithm=self.algorithm,
                accuracy=self.accuracy,
                activation=self.activation,
                kept=self.kept,
            )
        if self.spatial_axes == 0:
            y = F.conv1d(x.unsqueeze(-1), weight.unsqueeze(-1), bias, groups=self.groups)
            return y.squeeze(-1)
        convolve: Callable[..., Tensor] = F.conv1d if self.spatial_axes == 1 else F.conv3d
        return convolve(x, weight, bias, window.stride, window.pad, window.dilation, self.groups)


@register("Deconvolution")
class Deconvolution(Convolution):
    """What Convolution does to gradients, as a forward pass (deconv_layer.cpp).

    Blobs: weights (C, K / group, kernel) and, with ``bias_term``, biases (K,).
    """

    def _convolve(self, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        window = self.window
        if self.spatial_axes == 0:
            x, weight = x.unsqueeze(-1), weight.unsqueeze(-1)
            return F.conv_transpose1d(x, weight, bias, groups=self.groups).squeeze(-1)
        convolve: Callable[..., Tensor] = (
            F.conv_transpose1d,
            F.conv_transpose2d,
            F.conv_transpose3d,
        )[self.spatial_axes - 1]
        return convolve(x, weight, bias, window.stride, window.pad, 0, self.groups, window.dilation)


@register("Im2col")
class Im2col(_Sliding):
    """Every tap of the kernel as a channel of its own (im2col_layer.cpp).

    Channel (c, r, s) of the top is channel c of the bottom, seen through tap (r, s).
    """

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C * R * S, H', W'), or other spatial axes."""
        window, batch = self.window, self.wide_enough(self._as_batch(x))
        if self.spatial_axes == 2 and batch.dtype in DIRECT_DTYPES.get(batch.device.type, ()):
            columns = im2col(batch, window.kernel, window.stride, window.pad, window.dilation)
            return self._as_given(columns, x)
        pads = [pad for pad in reversed(window.pad) for _ in range(2)]
        taps = F.pad(batch, pads) if any(pads) else batch
        for i, (kernel, stride, rate) in enumerate(
            zip(window.kernel, window.stride, window.dilation, strict=True)
        ):
            # The window of an axis becomes the last axis, its taps ``rate`` apart.
            taps = taps.unfold(2 + i, rate * (kernel - 1) + 1, stride)[..., ::rate]
        n = self.spatial_axes
        # (N, C, H', W', R, S) -> (N, C, R, S, H', W')
        taps = taps.permute(0, 1, *range(2 + n, 2 + 2 * n), *range(2, 2 + n))
        return self._as_given(taps.flatten(1, 1 + n), x)
