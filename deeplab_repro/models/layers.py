"""The layers of a network as modules: those that torch does not have as Caffe computes them.

Everything else is torch's own (`nn.ReLU`, `nn.Dropout`, `nn.BatchNorm2d`).  What is Caffe's::

    convolution  with holes by `deeplab_repro.ops.atrous_conv2d`; sizes rounded down, as torch does
    pooling      sizes rounded up, but the last window starts inside the map or the padding before
                 it; padding never wins a maximum, and counts as zeros in an average
    resizing     bilinear with aligned corners: n rows become (n - 1) * factor + 1, and the first
                 and the last one stay where they are
    BatchNorm    statistics that never change, and a scale and a shift that are not learned
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.caffe.layers.pooling import pool2d
from deeplab_repro.models.steps import Conv, Pool
from deeplab_repro.ops import AtrousConv2d, channel_affine
from prototxt_import import layers as kinds

__all__ = ["CaffePool2d", "Convolution", "FrozenBatchNorm2d", "resize"]


class Convolution(AtrousConv2d):
    """A convolution with holes that knows how the released files start it and teach it.

    Args:
        step: the layer with its numbers worked out.
        train_stride: in train mode, where it is another than in eval mode (the first convolution of
            DeepLab-MSc's side branches).

    Attributes:
        std: new weights are drawn from a Gaussian of this deviation; None: He's initialisation.
            New biases are 0.
        lr_mults: multipliers of the learning rate, of weights and of biases (Caffe's `lr_mult`).
            What is multiplied by 0 asks for no gradient; `requires_grad_()` thaws it.
    """

    std: float | None = None

    def __init__(self, step: Conv, train_stride: int | None = None) -> None:
        super().__init__(
            step.in_channels,
            step.out_channels,
            step.kernel,
            step.stride,
            step.pad,
            step.rate,
            step.groups,
            step.bias,
        )
        strides = step.stride, step.stride if train_stride is None else train_stride
        self._strides = [(stride, stride) for stride in strides]  # in eval and in train mode
        self.lr_mults = step.lr_mults
        for parameter, multiplier in zip(self.parameters(), step.lr_mults, strict=False):
            parameter.requires_grad_(multiplier > 0)
        self.train(self.training)
        self.start_from(step.std)

    def start_from(self, std: float | None) -> None:
        """Draw new weights so, now and at every `reset_parameters`."""
        if std != self.std:
            self.std = std
            self.reset_parameters()

    def reset_parameters(self) -> None:
        """New values: see `std`."""
        if self.std is None:
            nn.init.kaiming_normal_(self.weight, nonlinearity="relu")
        else:
            nn.init.normal_(self.weight, 0.0, self.std)
        if self.bias is not None:
            nn.init.zeros_(self.bias)

    def train(self, mode: bool = True) -> Convolution:
        """Take the stride of this mode, too."""
        self.stride = self._strides[mode]
        super().train(mode)
        return self


class FrozenBatchNorm2d(nn.Module):
    """Batch normalization whose statistics, scale and shift stay as they are in training, too.

    In Caffe these are two layers, BatchNorm (`use_global_stats: true`) and Scale, both with
    `lr_mult: 0`: the second paper trains with one picture per pass, which has no statistics worth
    following.  They are computed one after the other and round as there.  The tensors are those of
    `nn.BatchNorm2d`, under the same names, and the parameters can be thawed by `requires_grad_()`.

    Args:
        channels: of the map.
        eps: added to the variance.
    """

    running_mean: Tensor
    running_var: Tensor

    def __init__(self, channels: int, eps: float = 1e-5) -> None:
        super().__init__()
        self.eps = eps
        self.weight = nn.Parameter(torch.empty(channels), requires_grad=False)
        self.bias = nn.Parameter(torch.empty(channels), requires_grad=False)
        self.register_buffer("running_mean", torch.empty(channels))
        self.register_buffer("running_var", torch.empty(channels))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Mean and shift 0, variance and scale 1: the identity, but for `eps`."""
        for ones in (self.weight, self.running_var):
            nn.init.ones_(ones)
        for zeros in (self.bias, self.running_mean):
            nn.init.zeros_(zeros)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        scale = (self.running_var.double() + self.eps).rsqrt()
        x = _affine(x, scale, -self.running_mean.double() * scale)
        return _affine(x, self.weight, self.bias)

    def extra_repr(self) -> str:
        """Its channels and eps."""
        return f"{len(self.weight)}, eps={self.eps}"


def _affine(x: Tensor, scale: Tensor, shift: Tensor) -> Tensor:
    """x * scale + shift for each channel, in the type of x."""
    scale, shift = scale.to(x.dtype), shift.to(x.dtype)
    # The kernel is for float32 and float64; a compiler does better without it.
    if x.dtype in (torch.float32, torch.float64) and not torch.compiler.is_compiling():
        return channel_affine(x, scale, shift)
    return x * scale[:, None, None] + shift[:, None, None]


class CaffePool2d(nn.Module):
    """A pool as Caffe computes it (pooling_layer.cpp, by `deeplab_repro.caffe`).

    Args:
        step: the layer with its numbers worked out.
        train_pad: the padding in train mode, where it is another than in eval mode (pool4 of the
            first DeepLab).
    """

    def __init__(self, step: Pool, train_pad: int | None = None) -> None:
        super().__init__()
        self.step = step
        pads = step.pad, step.pad if train_pad is None else train_pad
        self._windows = [  # in eval and in train mode
            kinds.Pool(step.method, (step.kernel,) * 2, (step.stride,) * 2, (pad,) * 2)
            for pad in pads
        ]

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return pool2d(x, self._windows[self.training])[0]

    def extra_repr(self) -> str:
        """The window and how it moves, as ``print(model)`` shows them."""
        step, (_, train) = self.step, self._windows
        words = f"{step.method}, {step.kernel}, stride={step.stride}, padding={step.pad}"
        return words if train.pad[0] == step.pad else f"{words} (in training {train.pad[0]})"


def resize(x: Tensor, zoom: int = 1, shrink: int = 1, skip: int = 0) -> Tensor:
    """Bilinear with aligned corners: Caffe's Interp with a zoom and a shrink factor.

    Where n - 1 is a multiple of `shrink` and nothing is zoomed this picks every shrink-th value and
    mixes none, which is how the original decimates labels.

    Args:
        x: (N, C, H, W).
        zoom, shrink: n rows become (n - 1) // shrink * zoom + 1.
        skip: rows and columns at the top and left that are left out before.

    Returns:
        (N, C, H', W').
    """
    height, width = ((n - skip - 1) // shrink * zoom + 1 for n in x.shape[2:])
    return align_corners(x[..., skip:, skip:], height, width)
