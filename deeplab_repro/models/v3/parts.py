"""What the networks are made of, as TensorFlow computes it where it differs from Caffe and torch.

A unit is one of TensorFlow's variable scopes: a convolution, its batch normalization or its bias,
and an activation.  A module stands for some of the tensors that the original names; their names are
its attribute `endpoints` (see `mark`), and `DeepLabV3.endpoints` looks them up.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.ops import AtrousConv2d

__all__ = [
    "HEAD",
    "MOBILENET",
    "RESNET",
    "XCEPTION",
    "BatchNorm",
    "ConvUnit",
    "GraphNames",
    "Normalization",
    "QSigmoid",
    "Resize",
    "SameConv2d",
    "SeparableUnit",
    "Tap",
    "Times",
    "WindowMean",
    "mark",
    "nearest_positions",
    "same_padding",
    "scale_dimension",
]

Pair = tuple[int, int]
_Module = TypeVar("_Module", bound=nn.Module)


# ---------------------------------------------------------------------------------------- names


class GraphNames:
    """TensorFlow's names for the operations of a graph, in the order in which they are added.

    The second operation of one name gets "_1" behind it, and so on.

    Args:
        dynamic: Inputs may have any size, so that the graph computes sizes, too.

    >>> names = GraphNames()
    >>> names("mul"), names("mul")
    ('head/mul', 'head/mul_1')
    """

    def __init__(self, dynamic: bool = False) -> None:
        self._dynamic = dynamic
        self._used: Counter[str] = Counter()

    def __call__(self, operation: str) -> str:
        """The key of the next operation of this name among the reference's arrays."""
        count = self._used[operation]
        self._used[operation] += 1
        return f"head/{operation}_{count}" if count else f"head/{operation}"

    def sizes(self, scope: str = "") -> None:
        """Pass over the operations that work out a height and a width."""
        if self._dynamic:
            for operation in ("sub", "mul", "add") * 2:
                self._used[scope + operation] += 1


def mark(module: _Module, *endpoints: str) -> _Module:
    """The module, which from now on stands for the original's tensors of these names."""
    module.endpoints = (*getattr(module, "endpoints", ()), *endpoints)  # type: ignore[assignment]
    return module


class Tap(nn.Identity):
    """A place where the original names a tensor that no layer of ours gives by itself."""


# ------------------------------------------------------------------------------ sizes and paddings


def scale_dimension(size: int, scale: float, *, single: bool = False) -> int:
    """How many pixels `size` become at a scale (core/utils.py).

    Args:
        size: a height or a width.
        scale: its factor.
        single: in float32, as the original computes it where it learns the size at run time.
    """
    if single:
        one = np.float32(1)
        return int((np.float32(size) - one) * np.float32(scale) + one)
    return int((float(size) - 1.0) * scale + 1.0)


def same_padding(size: int, kernel: int, stride: int, rate: int) -> Pair:
    """Zeros before and after a row of pixels for TensorFlow's padding "SAME".

    The output has ceil(size / stride) pixels.  What cannot be shared evenly goes behind, so that
    at even sizes a stride of 2 samples other pixels than torch's padding does.  Behind, there may
    be more zeros than TensorFlow's, which no window reaches: the sum does not depend on the size,
    and programs for any size stay simple.
    """
    total = (kernel - 1) * rate
    needed = total - (size - 1) % stride if kernel >= stride else 0
    return needed // 2, total - needed // 2


def nearest_positions(size: int, out: int) -> Tensor:
    """Which of `size` pixels each of `out` shows: nearest, with aligned corners.

    Halves are rounded away from 0, as TensorFlow's kernel does it, in float32.

    Returns:
        (out,) int64.
    """
    step = torch.tensor((size - 1) / (out - 1) if out > 1 else 0.0, dtype=torch.float32)
    place = torch.arange(out, dtype=torch.float32) * step
    low = place.floor()
    return (low + (place - low >= 0.5)).long().clamp(max=size - 1)


class Resize(nn.Module):
    """Bilinear with aligned corners, as every resize of the original's networks."""

    def forward(self, x: Tensor, size: Pair) -> Tensor:
        """(N, C, H, W) -> (N, C, height, width)."""
        return align_corners(x, *size)


class SameConv2d(AtrousConv2d):
    """A convolution with TensorFlow's padding "SAME", which depends on the input's size."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, ceil(H / stride), ceil(W / stride))."""
        windows = zip(x.shape[2:], self.kernel_size, self.stride, self.rate, strict=True)
        (top, bottom), (left, right) = (same_padding(*window) for window in windows)
        padding = top, bottom, left, right
        if torch.compiler.is_compiling():  # a program for any size does not ask whether it is even
            x, padding = F.pad(x, (left, right, top, bottom)), (0, 0, 0, 0)
        return self.padded_by(x, padding)


class WindowMean(nn.Module):
    """Means of windows that move over the map and lie wholly inside it.

    Args:
        crop_size: (height, width) of the picture that one window sees; None: all of it.
        shrink: pixels of the picture for a row and a column of the map, or, where a window is to
            see only a part of `crop_size`, that many times as much.
        stride: (height, width) from one window to the next.
        whole_at_own_scale: a picture at its own size is seen whole in spite of `crop_size`: what
            the original does where it learns sizes at run time.

    Attributes:
        scale: the factor by which the picture was resized; `crop_size` follows it.
    """

    def __init__(
        self,
        crop_size: Pair | None,
        shrink: Pair,
        stride: Pair = (1, 1),
        whole_at_own_scale: bool = False,
    ) -> None:
        super().__init__()
        self.crop_size, self.shrink, self.stride = crop_size, shrink, stride
        self.whole_at_own_scale = whole_at_own_scale
        self.scale = 1.0

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        if self.crop_size is None or (self.whole_at_own_scale and self.scale == 1.0):
            return x.mean((2, 3), keepdim=True)
        height, width = (
            scale_dimension(scale_dimension(side, self.scale), 1.0 / shrink)
            for side, shrink in zip(self.crop_size, self.shrink, strict=True)
        )
        if height > x.shape[2] or width > x.shape[3]:
            raise ValueError(
                f"image pooling: expected a map of at least {height}x{width}, the window that sees "
                f"{self.crop_size[0]}x{self.crop_size[1]} of the picture; "
                f"got {x.shape[2]}x{x.shape[3]}"
            )
        return F.avg_pool2d(x, (height, width), self.stride)

    def extra_repr(self) -> str:
        """What a window sees, as ``print(model)`` shows it."""
        return "whole map" if self.crop_size is None else f"{self.crop_size}, stride={self.stride}"


# ------------------------------------------------------------------------------- normalization


@dataclass(frozen=True)
class Normalization:
    """How a part of the network normalizes batches.

    Attributes:
        eps: Added to the variance.
        decay: Of the moving statistics, for which torch's momentum is 1 - decay.
    """

    eps: float
    decay: float


RESNET = Normalization(1e-5, 0.95)
XCEPTION = Normalization(1e-3, 0.9997)
MOBILENET = Normalization(1e-3, 0.997)
#: ASPP, dense prediction cell and decoder, whatever the backbone.
HEAD = Normalization(1e-5, 0.9997)


class BatchNorm(nn.BatchNorm2d):
    """torch's, but with digits kept in train mode, and one value a channel is no error.

    TensorFlow subtracts a channel's mean before it scales; torch scales first, and for maps in
    channels-last order its sum for the mean is one long float32 sum.  Where the mean is many times
    the deviation, as behind the first convolutions, that costs three digits, which the small
    batches of coarse maps make errors of a thousandth in the scores.  So the maps are centred by
    their mean before torch normalizes them, which changes neither the result nor the gradients.

    One value a channel is the batch of image pooling with one picture: the mean is the value, the
    variance 0, and the result the shift.
    """

    def __init__(self, channels: int, kind: Normalization) -> None:
        super().__init__(channels, eps=kind.eps, momentum=1 - kind.decay)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        if not self.training:
            return super().forward(x)
        assert self.running_mean is not None
        assert self.running_var is not None
        assert self.momentum is not None
        mean = x.detach().mean((0, 2, 3), dtype=self.running_mean.dtype)
        if x.numel() == x.shape[1]:
            with torch.no_grad():
                self.running_mean.lerp_(mean, self.momentum)
                self.running_var.mul_(1 - self.momentum)
            centred = x - x.mean((0, 2, 3), keepdim=True)  # 0, and so is its gradient
            scale = self.weight * self.eps**-0.5
            return centred * scale[:, None, None] + self.bias[:, None, None]
        mean = mean.to(x.dtype)  # rounded once: what is subtracted is what is added again
        moving = self.running_mean.clone()  # autograd keeps it as it is here
        y = F.batch_norm(
            x - mean[:, None, None],
            moving,
            self.running_var,
            self.weight,
            self.bias,
            True,
            self.momentum,
            self.eps,
        )
        with torch.no_grad():
            self.running_mean.copy_(moving)
            self.running_mean.add_(mean.to(moving.dtype), alpha=self.momentum)
        return y


# ----------------------------------------------------------------------------------- activations


class Plus(nn.Module):
    """x + addend."""

    def __init__(self, addend: float) -> None:
        super().__init__()
        self.addend = addend

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x + self.addend

    def extra_repr(self) -> str:
        """The addend."""
        return str(self.addend)


class Times(nn.Module):
    """x * factor."""

    def __init__(self, factor: float) -> None:
        super().__init__()
        self.factor = factor

    def forward(self, x: Tensor) -> Tensor:
        """Any shape."""
        return x * self.factor

    def extra_repr(self) -> str:
        """The factor."""
        return str(self.factor)


class QSigmoid(nn.Sequential):
    """relu6(x + 3) * 0.16667, the original's quantized sigmoid; the factor is not quite 1 / 6."""

    def __init__(self) -> None:
        super().__init__(Plus(3.0), nn.ReLU6(), Times(0.16667))


# ----------------------------------------------------------------------------------------- units


#: What a convolution can do itself, and what it calls that.
_ACTIVATIONS: dict[type[nn.Module], str] = {nn.ReLU: "relu", nn.ReLU6: "relu6"}


class ConvUnit(nn.Module):
    """A convolution, its batch normalization or its bias, and an activation.

    Args:
        scope: TensorFlow's name of it, in which its variables lie.
        in_channels: of the map that it reads.
        out_channels: of the map that it writes; None: as many as it reads, each with a filter of
            its own (depthwise).
        kernel, stride, rate: ints or pairs (height, width).
        norm: how it normalizes; None: it has biases instead.
        activation: what follows.
        same: TensorFlow's padding "SAME" where that depends on the input's size; False: the
            original pads strided convolutions itself, evenly.
        std: standard deviation of new weights; None: He's.
    """

    def __init__(
        self,
        scope: str,
        in_channels: int,
        out_channels: int | None,
        kernel: int | Pair = 1,
        *,
        stride: int = 1,
        rate: int | Pair = 1,
        norm: Normalization | None,
        activation: nn.Module | None = None,
        same: bool = True,
        std: float | None = None,
    ) -> None:
        super().__init__()
        self.scope = scope
        self.std = std
        self.is_depthwise = out_channels is None
        self.channels = in_channels if out_channels is None else out_channels
        kernels, rates = _pair(kernel), _pair(rate)
        # Without a stride the padding of an odd kernel is even at every size.
        uneven = same and (stride > 1 or any(side % 2 == 0 for side in kernels))
        kind = SameConv2d if uneven else AtrousConv2d
        pads = [(side - 1) * step // 2 for side, step in zip(kernels, rates, strict=True)]
        self.conv = kind(
            in_channels,
            self.channels,
            kernels,
            stride,
            (0, 0) if uneven else pads,
            rates,
            groups=in_channels if self.is_depthwise else 1,
            bias=norm is None,
        )
        self.norm: BatchNorm | None = None if norm is None else BatchNorm(self.channels, norm)
        self.activation = activation
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Weights of a normal distribution; biases 0, scales 1."""
        if self.conv.weight.is_meta:  # there torch draws nothing, and takes its time over it
            return
        if self.std is None:
            nn.init.kaiming_normal_(self.conv.weight, nonlinearity="relu")
        else:
            nn.init.normal_(self.conv.weight, 0.0, self.std)
        if self.conv.bias is not None:
            nn.init.zeros_(self.conv.bias)
        if self.norm is not None:
            self.norm.reset_parameters()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')."""
        x = self.conv(x)
        if self.norm is not None:
            x = self.norm(x)
        return x if self.activation is None else self.activation(x)

    def variables(self) -> dict[str, nn.Parameter | Tensor]:
        """TensorFlow's names -> parameters and buffers."""
        leaf = "depthwise_weights" if self.is_depthwise else "weights"
        found: dict[str, nn.Parameter | Tensor] = {f"{self.scope}/{leaf}": self.conv.weight}
        if self.conv.bias is not None:
            found[f"{self.scope}/biases"] = self.conv.bias
        if self.norm is not None:
            assert self.norm.running_mean is not None
            assert self.norm.running_var is not None
            found[f"{self.scope}/BatchNorm/gamma"] = self.norm.weight
            found[f"{self.scope}/BatchNorm/beta"] = self.norm.bias
            found[f"{self.scope}/BatchNorm/moving_mean"] = self.norm.running_mean
            found[f"{self.scope}/BatchNorm/moving_variance"] = self.norm.running_var
        return found

    @torch.no_grad()
    def fold(self) -> None:
        """Let the convolution do what follows it: the normalization's statistics, and a ReLU.

        Filters are stored channels last, and so the convolution's results are.
        """
        if self.norm is not None:
            norm, conv = self.norm, self.conv
            assert norm.running_mean is not None
            assert norm.running_var is not None
            scale = norm.weight.double() * (norm.running_var.double() + norm.eps).rsqrt()
            shift = norm.bias.double() - norm.running_mean.double() * scale
            weight = conv.weight
            conv.weight = nn.Parameter((weight * scale[:, None, None, None]).to(weight.dtype))
            conv.bias = nn.Parameter(shift.to(weight.dtype))
            self.norm = None
        self.conv.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        for kind, name in _ACTIVATIONS.items():
            if isinstance(self.activation, kind):
                self.conv.activation, self.activation = name, None


class SeparableUnit(nn.Module):
    """A depthwise convolution and a 1x1 one, each with its normalization and activation.

    Args:
        scope: TensorFlow's name; the two add "_depthwise" and "_pointwise" to it.
        before: what is done to the input, on the way into the depthwise convolution.
        activations: what follows each of the two; None: nothing.
        **options: the other arguments of :class:`ConvUnit`, of the depthwise convolution.
    """

    def __init__(
        self,
        scope: str,
        in_channels: int,
        out_channels: int,
        kernel: int | Pair = 3,
        *,
        stride: int = 1,
        rate: int | Pair = 1,
        norm: Normalization,
        before: nn.Module | None = None,
        activations: tuple[nn.Module | None, nn.Module | None] = (None, None),
        same: bool = True,
    ) -> None:
        super().__init__()
        self.before = before
        self.channels = out_channels
        self.depthwise = ConvUnit(
            f"{scope}_depthwise",
            in_channels,
            None,
            kernel,
            stride=stride,
            rate=rate,
            norm=norm,
            activation=activations[0],
            same=same,
        )
        self.pointwise = ConvUnit(
            f"{scope}_pointwise", in_channels, out_channels, norm=norm, activation=activations[1]
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, K, H', W')."""
        if self.before is not None:
            x = self.before(x)
        y: Tensor = self.pointwise(self.depthwise(x))
        return y

    def fold(self) -> None:
        """Let the depthwise convolution do the ReLU before it; its units fold themselves."""
        if isinstance(self.before, nn.ReLU):
            self.depthwise.conv.pre_activation, self.before = "relu", None


def _pair(value: int | Pair) -> Pair:
    return (value, value) if isinstance(value, int) else (value[0], value[1])
