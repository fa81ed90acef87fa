"""The native ops of the atrous convolution for torch: twins, shapes without values, gradients.

All of them are linear in each tensor, so each one's gradients are the others again, and any order
of derivative is there; those of single channels leave that to `Convolution`. Their checks are the
callers' (`atrous_conv2d`) and the kernels' own.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from deeplab_repro.native import backends
from deeplab_repro.native.memory import memory_format
from deeplab_repro.ops import reference

_OPS = torch.ops.deeplab_repro
_DIRECT = "deeplab_repro::atrous_conv2d_direct"

for _name in (
    "atrous_conv2d_direct",
    "atrous_conv2d_direct_grad_input",
    "atrous_conv2d_direct_grad_weight",
    "atrous_conv2d_winograd",
    "atrous_depthwise",
    "atrous_depthwise_grad_input",
    "atrous_depthwise_grad_weight",
    "atrous_im2col",
    "atrous_col2im",
):
    backends.provide(_name, getattr(reference, _name))


def out_size(
    image_size: Sequence[int],
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
) -> tuple[int, int]:
    """(H', W') by Caffe's rule: floor((H + padding - rate (R - 1) - 1) / stride) + 1.

    padding: (h, w), of each side, or (top, bottom, left, right).
    """
    top, bottom, left, right = sides(padding)
    padded = image_size[0] + top + bottom, image_size[1] + left + right
    height, width = (
        (padded[i] - rate[i] * (kernel_size[i] - 1) - 1) // stride[i] + 1 for i in range(2)
    )
    return height, width


def sides(padding: Sequence[int]) -> tuple[int, int, int, int]:
    """(top, bottom, left, right) of that or of (h, w)."""
    if len(padding) == 2:
        return padding[0], padding[0], padding[1], padding[1]
    top, bottom, left, right = padding
    return top, bottom, left, right


def sum_per_channel(x: torch.Tensor) -> torch.Tensor:
    """(C): the sum of each channel of x (N, C, H, W), the same for every number of threads."""
    wide = x if x.dtype == torch.float64 else x.float()
    unread = wide.new_empty(x.shape[1])
    _, _, total = _OPS.channel_affine_backward(wide, wide, unread, False, False, True)
    return total.to(x.dtype)


def behind_relu(grad_y: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """grad_y where y = relu(...) is above 0, else 0."""
    return torch.ops.aten.threshold_backward(grad_y, y, 0)


# -------------------------------------------------------------------- y = x * weight + bias


@torch.library.register_fake(_DIRECT)
def _direct_fake(
    x, weight, bias, stride, padding, rate, groups, precision, relu, max_blocks=0
) -> torch.Tensor:
    size = out_size(x.shape[2:], weight.shape[2:], stride, padding, rate)
    shape = (x.shape[0], weight.shape[0], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


def _direct_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, weight, _, *ctx.how, ctx.relu, ctx.max_blocks = inputs
    needs = ctx.needs_input_grad
    ctx.image_size, ctx.kernel_size = x.shape[2:], weight.shape[2:]
    # Only what the backward pass reads: a frozen weight keeps no activation alive.
    ctx.save_for_backward(
        x if needs[1] else None,
        weight if needs[0] else None,
        output if ctx.relu and any(needs[:3]) else None,
    )


def _direct_backward(ctx: Any, grad_y: torch.Tensor) -> tuple:
    x, weight, y = ctx.saved_tensors
    if y is not None:
        grad_y = behind_relu(grad_y, y)
    need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
    tail = (*ctx.how, ctx.max_blocks)
    grads = (
        _OPS.atrous_conv2d_direct_grad_input(grad_y, weight, ctx.image_size, *tail)
        if need_x
        else None,
        _OPS.atrous_conv2d_direct_grad_weight(grad_y, x, ctx.kernel_size, *tail)
        if need_weight
        else None,
        sum_per_channel(grad_y) if need_bias else None,
    )
    return *grads, *(None for _ in range(7))


torch.library.register_autograd(_DIRECT, _direct_backward, setup_context=_direct_context)


# -------------------------------------------------------------------- by minimal filtering


@torch.library.register_fake("deeplab_repro::atrous_conv2d_winograd")
def _winograd_fake(
    x,
    weight,
    filters,
    filter_set,
    bias,
    padding,
    rate,
    fast,
    groups,
    transposed,
    relu,
    max_blocks=0,
) -> torch.Tensor:
    size = out_size(x.shape[2:], (3, 3), (1, 1), padding, rate)
    channels = weight.shape[1] * groups if transposed else weight.shape[0]
    shape = (x.shape[0], channels, *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


# -------------------------------------------------------------------- grad_x of grad_y and weight


@torch.library.register_fake(f"{_DIRECT}_grad_input")
def _grad_input_fake(
    grad_y, weight, image_size, stride, padding, rate, groups, precision, max_blocks=0
) -> torch.Tensor:
    shape = (grad_y.shape[0], weight.shape[1] * groups, *image_size)
    return torch.empty(
        shape, dtype=grad_y.dtype, device=grad_y.device, memory_format=memory_format(grad_y)
    )


def _grad_input_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    grad_y, weight, _, *ctx.how, ctx.max_blocks = inputs
    needs = ctx.needs_input_grad
    ctx.kernel_size = weight.shape[2:]
    ctx.save_for_backward(grad_y if needs[1] else None, weight if needs[0] else None)


def _grad_input_backward(ctx: Any, grad: torch.Tensor) -> tuple:
    grad_y, weight = ctx.saved_tensors
    grads = (
        _OPS.atrous_conv2d_direct(grad, weight, None, *ctx.how, False, ctx.max_blocks)
        if ctx.needs_input_grad[0]
        else None,
        _OPS.atrous_conv2d_direct_grad_weight(
            grad_y, grad, ctx.kernel_size, *ctx.how, ctx.max_blocks
        )
        if ctx.needs_input_grad[1]
        else None,
    )
    return *grads, *(None for _ in range(7))


torch.library.register_autograd(
    f"{_DIRECT}_grad_input", _grad_input_backward, setup_context=_grad_input_context
)


# -------------------------------------------------------------------- grad_weight of grad_y and x


@torch.library.register_fake(f"{_DIRECT}_grad_weight")
def _grad_weight_fake(
    grad_y, x, kernel_size, stride, padding, rate, groups, precision, max_blocks=0
) -> torch.Tensor:
    return grad_y.new_empty((grad_y.shape[1], x.shape[1] // groups, *kernel_size))


def _grad_weight_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    grad_y, x, _, *ctx.how, ctx.max_blocks = inputs
    needs = ctx.needs_input_grad
    ctx.image_size = x.shape[2:]
    ctx.save_for_backward(grad_y if needs[1] else None, x if needs[0] else None)


def _grad_weight_backward(ctx: Any, grad: torch.Tensor) -> tuple:
    grad_y, x = ctx.saved_tensors
    grads = (
        _OPS.atrous_conv2d_direct(x, grad, None, *ctx.how, False, ctx.max_blocks)
        if ctx.needs_input_grad[0]
        else None,
        _OPS.atrous_conv2d_direct_grad_input(grad_y, grad, ctx.image_size, *ctx.how, ctx.max_blocks)
        if ctx.needs_input_grad[1]
        else None,
    )
    return *grads, *(None for _ in range(7))


torch.library.register_autograd(
    f"{_DIRECT}_grad_weight", _grad_weight_backward, setup_context=_grad_weight_context
)


# -------------------------------------------------------------------- of single channels

_DEPTHWISE = "deeplab_repro::atrous_depthwise"


@torch.library.register_fake(_DEPTHWISE)
def _depthwise_fake(
    x, weight, bias, stride, padding, rate, relu_before, activation, max_blocks=0
) -> torch.Tensor:
    size = out_size(x.shape[2:], weight.shape[2:], stride, padding, rate)
    shape = (*x.shape[:2], *size)
    return torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


@torch.library.register_fake(f"{_DEPTHWISE}_grad_input")
def _depthwise_grad_input_fake(
    grad_y, weight, image_size, stride, padding, rate, max_blocks=0
) -> torch.Tensor:
    shape = (*grad_y.shape[:2], *image_size)
    return torch.empty(
        shape, dtype=grad_y.dtype, device=grad_y.device, memory_format=memory_format(grad_y)
    )


@torch.library.register_fake(f"{_DEPTHWISE}_grad_weight")
def _depthwise_grad_weight_fake(
    grad_y, x, kernel_size, stride, padding, rate, max_blocks=0
) -> torch.Tensor:
    return grad_y.new_empty((x.shape[1], 1, *kernel_size))


# -------------------------------------------------------------------- columns


@torch.library.register_fake("deeplab_repro::atrous_im2col")
def _im2col_fake(x, kernel_size, stride, padding, rate, max_blocks=0) -> torch.Tensor:
    height, width = out_size(x.shape[2:], kernel_size, stride, padding, rate)
    taps = kernel_size[0] * kernel_size[1]
    return x.new_empty((x.shape[0], x.shape[1] * taps, height * width))


@torch.library.register_fake("deeplab_repro::atrous_col2im")
def _col2im_fake(
    columns, image_size, kernel_size, stride, padding, rate, max_blocks=0
) -> torch.Tensor:
    taps = kernel_size[0] * kernel_size[1]
    return columns.new_empty((columns.shape[0], columns.shape[1] // taps, *image_size))


def _im2col_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, *ctx.how = inputs
    ctx.image_size = x.shape[2:]


def _im2col_backward(ctx: Any, grad: torch.Tensor) -> tuple:
    return _OPS.atrous_col2im(grad, ctx.image_size, *ctx.how), *(None for _ in ctx.how)


def _col2im_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    _, _, *ctx.how = inputs


def _col2im_backward(ctx: Any, grad: torch.Tensor) -> tuple:
    return _OPS.atrous_im2col(grad, *ctx.how), None, *(None for _ in ctx.how)


torch.library.register_autograd(
    "deeplab_repro::atrous_im2col", _im2col_backward, setup_context=_im2col_context
)
torch.library.register_autograd(
    "deeplab_repro::atrous_col2im", _col2im_backward, setup_context=_col2im_context
)
