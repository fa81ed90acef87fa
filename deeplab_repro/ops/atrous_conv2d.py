"""Convolution with holes (atrous, dilated), Caffe's Convolution layer with `dilation` or `hole`."""

from __future__ import annotations

from collections.abc import Sequence

import torch

Pair = int | Sequence[int]


def atrous_conv2d(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None = None,
    stride: Pair = 1,
    padding: Pair = 0,
    rate: Pair = 1,
    groups: int = 1,
) -> torch.Tensor:
    """Return the cross-correlation of x with filters whose taps lie `rate` pixels apart.

    y[n, k, i, j] = bias[k] + sum over c, r, s of weight[k, c, r, s] *
        x[n, c, i * stride_h - padding_h + r * rate_h, j * stride_w - padding_w + s * rate_w],
    where x is 0 outside its map.

    x: (N, C, H, W), any floating dtype. weight: (K, C / groups, R, S), bias: (K), dtype and device
    of x. stride, padding, rate: an int, or a pair (h, w), in pixels; rate 1 is the plain
    convolution. groups divides C and K.

    Returns (N, K, H', W') with H' = floor((H + 2 padding_h - rate_h (R - 1) - 1) / stride_h) + 1,
    W' likewise: Caffe's rule. Differentiable in x, weight and bias. Raises TypeError or ValueError,
    naming the argument and what it got.

    >>> x = torch.arange(5.0).reshape(1, 1, 1, 5)
    >>> atrous_conv2d(x, torch.ones(1, 1, 1, 3), padding=(0, 2), rate=2)
    tensor([[[[2., 4., 6., 4., 6.]]]])
    """
    stride = _pair("stride", stride, 1)
    padding = _pair("padding", padding, 0)
    rate = _pair("rate", rate, 1)
    _check(x, weight, bias, groups)
    for axis, name in enumerate("HW"):
        reach = rate[axis] * (weight.shape[2 + axis] - 1) + 1
        size = x.shape[2 + axis] + 2 * padding[axis]
        if size < reach:
            raise ValueError(
                f"atrous_conv2d: the filter spans {reach} pixels in {name} at rate {rate[axis]}, "
                f"the padded input only {size}"
            )
    return torch.nn.functional.conv2d(x, weight, bias, stride, padding, rate, groups)


def _pair(name: str, value: Pair, least: int) -> tuple[int, int]:
    pair = (value, value) if isinstance(value, int) else tuple(value)
    if len(pair) != 2 or any(not isinstance(v, int) or v < least for v in pair):
        raise ValueError(
            f"atrous_conv2d: {name} must be an int >= {least} or a pair (h, w) of them, got {value}"
        )
    return pair


def _check(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, groups: int) -> None:
    op = "atrous_conv2d"
    if x.dim() != 4:
        raise ValueError(f"{op}: x must have shape (N, C, H, W), got {tuple(x.shape)}")
    if weight.dim() != 4 or 0 in weight.shape[2:]:
        raise ValueError(f"{op}: weight must have shape (K, C, R, S), got {tuple(weight.shape)}")
    if not x.is_floating_point():
        raise TypeError(f"{op}: x must be floating point, got {x.dtype}")
    filters, per_group = weight.shape[:2]
    if not isinstance(groups, int) or groups < 1 or x.shape[1] % groups or filters % groups:
        raise ValueError(
            f"{op}: groups must divide {x.shape[1]} channels and {filters} filters, got {groups}"
        )
    if per_group * groups != x.shape[1]:
        raise ValueError(
            f"{op}: weight {tuple(weight.shape)} with groups={groups} needs x with "
            f"{per_group * groups} channels, got {tuple(x.shape)}"
        )
    if bias is not None and bias.shape != (filters,):
        raise ValueError(f"{op}: bias must have shape ({filters},), got {tuple(bias.shape)}")
    for name, tensor in (("weight", weight), ("bias", bias)):
        if tensor is None:
            continue
        if tensor.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must have x's dtype {x.dtype}, got {tensor.dtype}")
        if tensor.device != x.device:
            raise ValueError(f"{op}: {name} must be on x's device {x.device}, got {tensor.device}")
