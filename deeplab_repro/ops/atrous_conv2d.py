"""Convolution with holes (atrous, dilated), Caffe's Convolution layer with `dilation` or `hole`."""

from __future__ import annotations

import math
from typing import Any

import torch
import torch.nn.functional as F
from torch import nn

from deeplab_repro.ops._arrays import Array, takes_arrays
from deeplab_repro.ops._atrous_algorithms import Convolution, chosen, convolve
from deeplab_repro.ops._atrous_arguments import (
    Pair,
    as_padding,
    as_pair,
    check_groups,
    check_map,
    check_names,
    checked,
    checked_out_size,
    even_padding,
    in_autocast,
)
from deeplab_repro.ops._atrous_filters import KeepsFilters, KeptFilters, may_keep
from deeplab_repro.ops._atrous_nonlinear import Nonlinear
from deeplab_repro.ops._atrous_rules import ACCURACIES, DIRECTIONS
from deeplab_repro.ops.reference import atrous_im2col


@takes_arrays
def atrous_conv2d(
    x: torch.Tensor | Array,
    weight: torch.Tensor | Array,
    bias: torch.Tensor | Array | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    rate: Pair = 1,
    groups: int = 1,
    *,
    algorithm: str = "auto",
    accuracy: str = "exact",
    precision: str = "fp32",
    activation: str | None = None,
    pre_activation: str | None = None,
    kept: KeptFilters | None = None,
) -> torch.Tensor:
    """Return the cross-correlation of x with filters whose taps lie `rate` pixels apart.

    ::

        y[n, k, i, j] = bias[k] + sum over c, r, s of weight[k, c, r, s] *
            x[n, c, i * stride_h - top + r * rate_h, j * stride_w - left + s * rate_w]

    where x is 0 outside its map.

    Args:
        x: (N, C, H, W), any floating dtype; contiguous or channels last, and y is as x. Or an array
            that speaks DLPack (CuPy, numpy): it is not copied, and y is an array of its kind.
        weight: (K, C / groups, R, S), dtype and device of x.
        bias: (K), likewise.
        stride, rate: an int, or a pair (h, w), in pixels; rate 1 is the plain convolution.
        padding: the zeros around x in pixels: an int, a pair (h, w), or (top, bottom, left, right).
            Where opposite sides differ, all but "direct" of single channels copies x.
        groups: divides C and K.
        algorithm: the values differ by rounding only.

            - "auto": by measured rules; `choose_algorithm` says which.
            - "direct": the project's kernels, bias and ReLU in the same pass. CPU: float32,
              float64; CUDA: float16 and bfloat16 as well. Filters of single channels (groups =
              C = K) have a kernel of their own, which multiplies in full and has all activations
              in its pass.
            - "im2col": columns of one picture at a time, then a matrix product, as Caffe; dtypes as
              "direct".
            - "interlace": dense convolutions of every rate-th pixel, woven together (the second
              paper).
            - "library": torch.nn.functional.conv2d.
            - "winograd": minimal filtering, which needs fewer products than there are taps, of 3x3
              filters with stride 1 on the CPU, forward and back to the input; "direct" computes
              the rest. An infinity makes NaN of its neighbours' results.
        accuracy: what "auto" may choose and "winograd" may use, forward and back to the input.

            - "exact": what rounds about as the plain sum does, in float32 by about 4e-7 of the
              result's norm.
            - "fast": larger forms of "winograd", too, with fewer products still; about 1.5e-6.
        precision: how float32 is multiplied (sums are float32 always), whatever the accuracy:
            "fp32" in full, "tf32" (11 bits of mantissa), "bf16" (8) or "fp16" (11, and its small
            range). Other than "fp32" it needs algorithm "auto", which then takes "direct", or
            "direct"; on a GPU, "library" has "tf32" too. Other dtypes are multiplied as they are.
        activation: None, "relu" for max(y, 0), or "relu6" for min(max(y, 0), 6).
        pre_activation: None, or "relu" for max(x, 0) in place of x.
        kept: where a layer that does not learn keeps its filters transformed for "winograd". Read
            where no gradient is asked for.

    Returns:
        y (N, K, H', W') with H' = floor((H + top + bottom - rate_h (R - 1) - 1) / stride_h) + 1,
        W' likewise: Caffe's rule. Differentiable in x, weight and bias, any number of times; a
        tensor is kept for the backward pass only where that reads it.

    Raises:
        TypeError, ValueError: for a bad argument; the message names it and what it got.

    Under autocast x, weight and bias are cast as for conv2d. torch.vmap over x, weight and bias is
    one convolution of all examples, which "auto" chooses for as a whole. "direct" gives the same
    bits in every run and for every number of threads. torch.export writes down torch's own
    operations, whatever the algorithm; a graph of torch.compile keeps torch's setting of TF32 for
    "library".

    >>> x = torch.arange(5.0).reshape(1, 1, 1, 5)
    >>> atrous_conv2d(x, torch.ones(1, 1, 1, 3), padding=(0, 2), rate=2)
    tensor([[[[2., 4., 6., 4., 6.]]]])
    """
    x, weight, bias = in_autocast(x, weight, bias)
    how = checked(x, weight, bias, stride, padding, rate, groups, precision, accuracy)
    check_names(x, algorithm, accuracy, precision, activation, pre_activation)
    nonlinear = Nonlinear(pre_activation, activation)
    if len(how.padding) == 4:
        x, how, algorithm = even_padding(x, weight, how, algorithm)
    if torch.compiler.is_exporting():  # an exported program runs where this package is not
        y = F.conv2d(nonlinear.read(x), weight, bias, *how[:4])
        return nonlinear.written(y)
    operands = [tensor for tensor in (x, weight, bias) if tensor is not None]
    if (
        torch.compiler.is_compiling()
        or torch._C._are_functorch_transforms_active()
        or (torch.is_grad_enabled() and any(t.requires_grad for t in operands))
    ):
        return Convolution.apply(x, weight, bias, how, algorithm, nonlinear)
    # The same without what autograd asks for, which takes longer than a small convolution.
    return convolve(x, weight, bias, how, algorithm, nonlinear, kept if may_keep() else None)


def choose_algorithm(
    x: torch.Tensor,
    weight: torch.Tensor,
    stride: Pair = 1,
    padding: Pair = 0,
    rate: Pair = 1,
    groups: int = 1,
    *,
    accuracy: str = "exact",
    precision: str = "fp32",
    direction: str = "forward",
    kept: bool = False,
) -> str:
    """What `atrous_conv2d` takes for these arguments where algorithm is "auto".

    Values of x and weight are not read. The rules are in deeplab_repro/ops/_atrous_rules.py.

    Args:
        x, weight, stride, padding, rate, groups, accuracy, precision: as of :func:`atrous_conv2d`.
        direction: "forward", "grad_input" or "grad_weight": each has an algorithm of its own.
        kept: whether the layer keeps transformed filters, as one in evaluation mode does while
            the process has room for them.

    Returns:
        One of `ALGORITHMS`.

    Raises:
        TypeError, ValueError: as :func:`atrous_conv2d`.

    >>> choose_algorithm(torch.ones(1, 8, 9, 9), torch.ones(4, 8, 1, 1))
    'library'
    """
    x, weight, _ = in_autocast(x, weight, None)
    how = checked(x, weight, None, stride, padding, rate, groups, precision, accuracy)
    check_names(x, "auto", accuracy, precision)
    if len(how.padding) == 4:
        x, how, algorithm = even_padding(x, weight, how, "auto")
        if algorithm != "auto":
            return algorithm
    if direction not in DIRECTIONS:
        raise ValueError(
            f"choose_algorithm: direction must be one of {', '.join(DIRECTIONS)}, got {direction!r}"
        )
    sizes = x.shape[2:], weight.shape[2:]
    return chosen("auto", direction, x, x.shape[1], weight.shape[0], *sizes, how, kept)


class AtrousConv2d(KeepsFilters):
    """`atrous_conv2d` with a weight and a bias of its own, initialised as torch.nn.Conv2d does.

    The arguments are those of torch.nn.Conv2d, with `rate` for its `dilation` (its state dict fits,
    too), and padding, algorithm, accuracy, precision and the activations as of
    :func:`atrous_conv2d`.

    >>> AtrousConv2d(512, 1024, 3, padding=12, rate=12, activation="relu")
    AtrousConv2d(512, 1024, kernel_size=(3, 3), padding=(12, 12), rate=(12, 12), activation=relu)
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel_size: Pair,
        stride: Pair = 1,
        padding: Pair = 0,
        rate: Pair = 1,
        groups: int = 1,
        bias: bool = True,
        *,
        algorithm: str = "auto",
        accuracy: str = "exact",
        precision: str = "fp32",
        activation: str | None = None,
        pre_activation: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        self.in_channels, self.out_channels = in_channels, out_channels
        self.kernel_size = as_pair("kernel_size", kernel_size, 1)
        self.stride = as_pair("stride", stride, 1)
        self.padding = as_padding(padding)
        self.rate = as_pair("rate", rate, 1)
        check_groups(groups, in_channels, out_channels)
        self.groups = groups
        self.algorithm, self.accuracy = algorithm, accuracy
        self.precision = precision
        self.activation, self.pre_activation = activation, pre_activation
        shape = (out_channels, in_channels // groups, *self.kernel_size)
        self.weight = nn.Parameter(torch.empty(shape, device=device, dtype=dtype))
        if bias:
            self.bias = nn.Parameter(torch.empty(out_channels, device=device, dtype=dtype))
        else:
            self.register_parameter("bias", None)
        check_names(self.weight, algorithm, accuracy, precision, activation, pre_activation)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """New random values: uniform within 1 / sqrt(C / groups * R * S) of 0."""
        bound = 1 / math.sqrt(max(1, self.weight[0].numel()))
        for parameter in self.parameters():
            nn.init.uniform_(parameter, -bound, bound)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, K, H', W')."""
        return self.padded_by(x, self.padding)

    def padded_by(self, x: torch.Tensor, padding: Pair) -> torch.Tensor:
        """:meth:`forward` with another padding, for a layer in which it follows from x."""
        return atrous_conv2d(
            x,
            self.weight,
            self.bias,
            self.stride,
            padding,
            self.rate,
            self.groups,
            algorithm=self.algorithm,
            accuracy=self.accuracy,
            precision=self.precision,
            activation=self.activation,
            pre_activation=self.pre_activation,
            kept=self.kept,
        )

    def extra_repr(self) -> str:
        """The arguments that are not the default ones."""
        parts = [f"{self.in_channels}, {self.out_channels}, kernel_size={self.kernel_size}"]
        defaults: dict[str, Any] = {
            "stride": (1, 1),
            "padding": (0, 0),
            "rate": (1, 1),
            "groups": 1,
            "algorithm": "auto",
            "accuracy": "exact",
            "precision": "fp32",
            "activation": None,
            "pre_activation": None,
        }
        for name, default in defaults.items():
            if getattr(self, name) != default:
                parts.append(f"{name}={getattr(self, name)}")
        return ", ".join(parts if self.bias is not None else [*parts, "bias=False"])


def im2col(
    x: torch.Tensor, kernel_size: Pair, stride: Pair = 1, padding: Pair = 0, rate: Pair = 1
) -> torch.Tensor:
    """Caffe's columns (N, C * R * S, H', W') of x (N, C, H, W): every tap as a channel of its own.

    The arguments, H' and W' are those of :func:`atrous_conv2d`; dtypes as of its "direct".
    Differentiable.

    >>> im2col(torch.arange(4.0).reshape(1, 1, 1, 4), (1, 2), rate=2)
    tensor([[[[0., 1.]],
    <BLANKLINE>
             [[2., 3.]]]])
    """
    kernel_size = as_pair("kernel_size", kernel_size, 1)
    window = as_pair("stride", stride, 1), as_pair("padding", padding, 0), as_pair("rate", rate, 1)
    check_map(x)
    size = checked_out_size(x, kernel_size, *window)
    if torch.compiler.is_exporting():
        columns = atrous_im2col(x, kernel_size, *window)
    else:
        check_names(x, "im2col", "exact", "fp32")
        columns = torch.ops.deeplab_repro.atrous_im2col(x, kernel_size, *window)
    return columns.view(x.shape[0], x.shape[1] * kernel_size[0] * kernel_size[1], *size)


def set_accuracy(net: nn.Module, accuracy: str) -> None:
    """Let every convolution with holes in a network be computed so accurately.

    Args:
        net: with any number of :class:`AtrousConv2d`, or of the layers of a Caffe network.
        accuracy: "exact" or "fast", as of :func:`atrous_conv2d`.

    Raises:
        ValueError: another accuracy.

    >>> net = torch.nn.Sequential(AtrousConv2d(3, 8, 3), torch.nn.ReLU())
    >>> set_accuracy(net, "fast")
    >>> net[0]
    AtrousConv2d(3, 8, kernel_size=(3, 3), accuracy=fast)
    """
    if accuracy not in ACCURACIES:
        raise ValueError(f"accuracy: expected {' or '.join(ACCURACIES)}, got {accuracy!r}")
    for module in net.modules():
        if isinstance(module, KeepsFilters):
            module.accuracy = accuracy
