"""Torch twins of the atrous convolution's kernels.

Pairs are (h, w), in pixels. x (N, C, H, W), weight (K, C / groups, R, S), y (N, K, H', W').
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch.nn.grad import conv2d_input, conv2d_weight

from deeplab_repro.native.memory import memory_format

#: (h, w); an op hands it over as a list, which some of torch's functions do not say they take.
Pair = Any


def atrous_conv2d_direct(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Pair,
    padding: Pair,
    rate: Pair,
    groups: int,
    precision: str,
    relu: bool,
) -> torch.Tensor:
    """y = x * weight + bias, then max(., 0) if relu; in x's memory format."""
    with torch_tf32(x, False):
        y = F.conv2d(
            rounded(x, precision), rounded(weight, precision), bias, stride, padding, rate, groups
        )
    y = y.relu() if relu else y
    return y.contiguous(memory_format=memory_format(x))


def atrous_conv2d_direct_grad_input(
    grad_y: torch.Tensor,
    weight: torch.Tensor,
    image_size: Pair,
    stride: Pair,
    padding: Pair,
    rate: Pair,
    groups: int,
    precision: str,
) -> torch.Tensor:
    """grad_x (N, C, H, W) without relu, in grad_y's memory format; image_size: (H, W)."""
    shape = (grad_y.shape[0], weight.shape[1] * groups, *image_size)
    with torch_tf32(grad_y, False):
        grad_x = conv2d_input(
            shape,
            rounded(weight, precision),
            rounded(grad_y, precision),
            stride,
            padding,
            rate,
            groups,
        )
    return grad_x.contiguous(memory_format=memory_format(grad_y))


def atrous_conv2d_winograd(
    x: torch.Tensor,
    weight: torch.Tensor,
    filters: torch.Tensor | None,
    filter_set: int,
    bias: torch.Tensor | None,
    padding: Pair,
    rate: Pair,
    fast: bool,
    groups: int,
    transposed: bool,
    relu: bool,
) -> torch.Tensor:
    """y = x * weight + bias, then max(., 0) if relu; in x's memory format.

    weight: (K, C / groups, 3, 3); transposed: of the convolution whose grad_x this is, for which
    its filters are turned round and their two ends exchanged. filters, filter_set, fast: not read.
    """
    if transposed:
        parts = weight.unflatten(0, (groups, -1)).transpose(1, 2)
        weight = parts.flatten(0, 1).flip((2, 3))
    around = [padding[1], padding[1], padding[0], padding[0]]  # F.pad's order; may be below 0
    y = F.conv2d(F.pad(x, around), weight, bias, 1, 0, rate, groups)
    y = y.relu() if relu else y
    return y.contiguous(memory_format=memory_format(x))


def atrous_conv2d_direct_grad_weight(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    rate: Pair,
    groups: int,
    precision: str,
) -> torch.Tensor:
    """grad_weight (K, C / groups, R, S), contiguous; kernel_size: (R, S)."""
    shape = (grad_y.shape[1], x.shape[1] // groups, *kernel_size)
    with torch_tf32(x, False):
        grad_weight = conv2d_weight(
            rounded(x, precision), shape, rounded(grad_y, precision), stride, padding, rate, groups
        )
    return grad_weight.contiguous()


def atrous_depthwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Pair,
    padding: Sequence[int],
    rate: Pair,
    relu_before: bool,
    activation: str,
) -> torch.Tensor:
    """y (N, C, H', W') of single channels, in x's memory format.

    weight: (C, 1, R, S); padding: (top, bottom, left, right); relu_before: of max(x, 0);
    activation: "none", "relu" or "relu6".
    """
    padded = _padded(x.relu() if relu_before else x, padding)
    with torch_tf32(x, False):
        y = F.conv2d(padded, weight, bias, stride, 0, rate, x.shape[1])
    y = {"none": y, "relu": y.relu(), "relu6": F.relu6(y)}[activation]
    return y.contiguous(memory_format=memory_format(x))


def atrous_depthwise_grad_input(
    grad_y: torch.Tensor,
    weight: torch.Tensor,
    image_size: Pair,
    stride: Pair,
    padding: Sequence[int],
    rate: Pair,
) -> torch.Tensor:
    """grad_x (N, C, H, W) without any ReLU, in grad_y's memory format; image_size: (H, W)."""
    top, bottom, left, right = padding
    height, width = image_size[0] + top + bottom, image_size[1] + left + right
    shape = (*grad_y.shape[:2], height, width)
    with torch_tf32(grad_y, False):
        padded = conv2d_input(shape, weight, grad_y, stride, 0, rate, grad_y.shape[1])
    grad_x = padded[:, :, top : height - bottom, left : width - right]
    return grad_x.contiguous(memory_format=memory_format(grad_y))


def atrous_depthwise_grad_weight(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Pair,
    stride: Pair,
    padding: Sequence[int],
    rate: Pair,
) -> torch.Tensor:
    """grad_weight (C, 1, R, S), contiguous; kernel_size: (R, S)."""
    shape = (x.shape[1], 1, *kernel_size)
    with torch_tf32(x, False):
        grad_weight = conv2d_weight(_padded(x, padding), shape, grad_y, stride, 0, rate, x.shape[1])
    return grad_weight.contiguous()


def _padded(x: torch.Tensor, padding: Sequence[int]) -> torch.Tensor:
    """x between zeros; padding: (top, bottom, left, right)."""
    return F.pad(x, [*padding[2:], *padding[:2]])


def atrous_im2col(
    x: torch.Tensor, kernel_size: Pair, stride: Pair, padding: Pair, rate: Pair
) -> torch.Tensor:
    """Columns (N, C * R * S, H' * W'): what each tap of each window sees, 0 outside the map."""
    return F.unfold(x, kernel_size, rate, padding, stride)


def atrous_col2im(
    columns: torch.Tensor,
    image_size: Pair,
    kernel_size: Pair,
    stride: Pair,
    padding: Pair,
    rate: Pair,
) -> torch.Tensor:
    """x (N, C, H, W), each pixel the sum of the columns that were read from it."""
    return F.fold(columns, image_size, kernel_size, rate, padding, stride)


def rounded(x: torch.Tensor, precision: str) -> torch.Tensor:
    """x as the multipliers of that precision read it; only float32 is rounded.

    Their products are exact and are added in float32.
    """
    if x.dtype != torch.float32 or precision == "fp32":
        return x
    if precision == "tf32":  # 10 of 23 bits of mantissa stay; to nearest, ties away from zero
        near = ((x.view(torch.int32) + 0x1000) & ~0x1FFF).view(torch.float32)
        return torch.where(x.isfinite(), near, x)
    return x.to({"bf16": torch.bfloat16, "fp16": torch.float16}[precision]).float()


@contextmanager
def torch_tf32(x: torch.Tensor, allowed: bool) -> Iterator[None]:
    """Whether torch's own convolutions may round x, if it is float32 on a GPU, to TF32.

    They may by default. A graph that torch.compile makes keeps torch's setting.
    """
    if not x.is_cuda or x.dtype != torch.float32 or torch.compiler.is_compiling():
        yield
        return
    before = torch.backends.cudnn.allow_tf32
    torch.backends.cudnn.allow_tf32 = allowed
    try:
        yield
    finally:
        torch.backends.cudnn.allow_tf32 = before
