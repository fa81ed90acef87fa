"""Scale and shift of each channel: Caffe's Scale, and BatchNorm with fixed statistics."""

from __future__ import annotations

from typing import Any

import torch

from deeplab_repro.native import backends
from deeplab_repro.native.memory import memory_format
from deeplab_repro.ops import reference
from deeplab_repro.ops._arrays import Array, takes_arrays

_OP = "deeplab_repro::channel_affine"


@takes_arrays
def channel_affine(
    x: torch.Tensor | Array,
    scale: torch.Tensor | Array,
    shift: torch.Tensor | Array | None = None,
    *,
    max_blocks: int = 0,
) -> torch.Tensor:
    """Return y with ``y[n, c, ...] = x[n, c, ...] * scale[c] + shift[c]``.

    Args:
        x: (N, C, ...), float32 or float64; any strides, though only x that is contiguous, or maps
            that are channels last, are not copied. Or an array that speaks DLPack (CuPy, numpy),
            and so are the others; the result is of its kind.
        scale: (C), dtype and device of x.
        shift: (C), likewise; None = 0.
        max_blocks: for tests, caps the CUDA grid; 0 = automatic.

    Returns:
        A new tensor of x's shape and dtype, channels last where x is and else contiguous.
        Differentiable in x, scale and shift, twice; the sums over a channel are added in the same
        order in every run.

    Raises:
        TypeError, ValueError: for a bad argument; the message names it and what it got.

    >>> channel_affine(torch.ones(1, 2, 3), torch.tensor([2.0, 3.0]), torch.tensor([0.0, 1.0]))
    tensor([[[2., 2., 2.],
             [4., 4., 4.]]])
    """
    _check(x, scale, shift)
    if torch.compiler.is_exporting():  # an exported program runs where this package is not
        return reference.channel_affine(x, scale, shift)
    return torch.ops.deeplab_repro.channel_affine(x, scale, shift, max_blocks)


def _check(x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None) -> None:
    op = "channel_affine"
    if x.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: x must be float32 or float64, got {x.dtype}")
    if x.dim() < 2:
        raise ValueError(f"{op}: x must have shape (N, C, ...), got {tuple(x.shape)}")
    for name, vector in (("scale", scale), ("shift", shift)):
        if vector is None:
            continue
        if vector.dtype != x.dtype:
            raise TypeError(f"{op}: {name} must have x's dtype {x.dtype}, got {vector.dtype}")
        if vector.device != x.device:
            raise ValueError(f"{op}: {name} must be on x's device {x.device}, got {vector.device}")
        if vector.shape != (x.shape[1],):
            raise ValueError(
                f"{op}: {name} must have shape ({x.shape[1]},), one per channel of "
                f"x {tuple(x.shape)}, got {tuple(vector.shape)}"
            )


backends.provide("channel_affine", reference.channel_affine)
backends.provide("channel_affine_backward", reference.channel_affine_backward)


@torch.library.register_fake(_OP)
def _fake(x, scale, shift, max_blocks=0):
    return torch.empty(x.shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))


@torch.library.register_fake(f"{_OP}_backward")
def _backward_fake(grad_y, x, scale, need_x, need_scale, need_shift, max_blocks=0):
    channels = x.shape[1]
    return (
        _fake(grad_y, scale, None) if need_x else x.new_empty(0),
        x.new_empty(channels if need_scale else 0),
        x.new_empty(channels if need_shift else 0),
    )


def _setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
    x, scale, _, ctx.max_blocks = inputs
    need_x, need_scale = ctx.needs_input_grad[:2]
    # Only what the backward pass reads: a frozen scale keeps no activation alive.
    ctx.save_for_backward(x if need_scale else None, scale if need_x or need_scale else None)


def _backward(ctx: Any, grad_y: torch.Tensor) -> tuple:
    x, scale = ctx.saved_tensors
    need_x, need_scale, need_shift = ctx.needs_input_grad[:3]
    # The kernel wants operands it will not read; grad_y has their shapes.
    x = grad_y if x is None else x
    scale = grad_y.new_empty(grad_y.shape[1]) if scale is None else scale
    grads = torch.ops.deeplab_repro.channel_affine_backward(
        grad_y, x, scale, need_x, need_scale, need_shift, ctx.max_blocks
    )
    needs = (need_x, need_scale, need_shift)
    return *(g if need else None for g, need in zip(grads, needs, strict=True)), None


torch.library.register_autograd(_OP, _backward, setup_context=_setup_context)


def _setup_backward_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    grad_y, x, scale, *ctx.needs, ctx.max_blocks = inputs
    ctx.save_for_backward(grad_y, x, scale)


def _backward_backward(ctx: Any, *grads: torch.Tensor) -> tuple:
    """Of grad_x = grad_y * scale, grad_scale = sum(grad_y * x) and grad_shift = sum(grad_y)."""
    grad_y, x, scale = ctx.saved_tensors
    to_x, to_scale, to_shift = (
        grad if need else None for grad, need in zip(grads, ctx.needs, strict=True)
    )
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    to_grad_y = torch.zeros_like(grad_y)
    if to_x is not None:
        to_grad_y = to_grad_y + to_x * scale.reshape(per_channel)
    if to_scale is not None:
        to_grad_y = to_grad_y + to_scale.reshape(per_channel) * x
    if to_shift is not None:
        to_grad_y = to_grad_y + to_shift.reshape(per_channel)
    others = [d for d in range(x.dim()) if d != 1]
    return (
        to_grad_y,
        None if to_scale is None else to_scale.reshape(per_channel) * grad_y,
        None if to_x is None else (to_x * grad_y).sum(others),
        *(None for _ in range(4)),
    )


torch.library.register_autograd(
    f"{_OP}_backward", _backward_backward, setup_context=_setup_backward_context
)
