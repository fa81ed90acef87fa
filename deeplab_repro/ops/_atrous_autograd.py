"""The gradients of the atrous convolution, of any order, by whatever algorithm.

Here tensors have been checked.
"""

from __future__ import annotations

from typing import Any

import torch

from deeplab_repro.ops._atrous_algorithms import BY_NAME, chosen, convolve
from deeplab_repro.ops._atrous_native import behind_relu, sum_per_channel
from deeplab_repro.ops._atrous_nonlinear import Nonlinear


class Convolution(torch.autograd.Function):
    """y of x, weight and bias, between activations.

    Its gradients are functions of the same kind, and theirs are these again: any order of
    derivative is there.  torch.vmap of each is one call with more pictures or more groups.
    """

    @staticmethod
    def forward(x, weight, bias, how, asked, nonlinear):
        return convolve(x, weight, bias, how, asked, nonlinear)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        x, weight, _, ctx.how, ctx.asked, ctx.nonlinear = inputs
        ctx.image_size, ctx.kernel_size = tuple(x.shape[2:]), tuple(weight.shape[2:])
        needs = ctx.needs_input_grad
        # Only what the backward pass reads: a frozen weight keeps no activation alive.
        before, after = ctx.nonlinear
        ctx.save_for_backward(
            x if needs[1] or (needs[0] and before) else None,
            weight if needs[0] else None,
            output if after else None,
        )

    @staticmethod
    def backward(ctx: Any, grad_y: torch.Tensor) -> tuple:
        x, weight, y = ctx.saved_tensors
        if y is not None:
            grad_y = ctx.nonlinear.behind(grad_y, y)
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        tail = (ctx.how, ctx.asked)
        grad_x = GradInput.apply(grad_y, weight, ctx.image_size, *tail) if need_x else None
        if grad_x is not None and ctx.nonlinear.before:
            grad_x = behind_relu(grad_x, x)
        if need_weight:
            x = ctx.nonlinear.read(x)
        return (
            grad_x,
            GradWeight.apply(grad_y, x, ctx.kernel_size, *tail) if need_weight else None,
            GradBias.apply(grad_y) if need_bias else None,
            None,
            None,
            None,
        )

    @staticmethod
    def vmap(info, dims, x, weight, bias, how, asked, nonlinear):
        count = info.batch_size
        if dims[1] is None and dims[2] is None:
            y = Convolution.apply(_into(x, dims[0], 0, count), weight, bias, how, asked, nonlinear)
            return y.unflatten(0, (count, -1)), 0
        x, weight = _into(x, dims[0], 1, count), _into(weight, dims[1], 0, count)
        bias = None if bias is None else _into(bias, dims[2], 0, count)
        how = how._replace(groups=how.groups * count)
        y = Convolution.apply(x, weight, bias, how, asked, nonlinear)
        return y.unflatten(1, (count, -1)), 1


class GradInput(torch.autograd.Function):
    """grad_x of grad_y and weight."""

    @staticmethod
    def forward(grad_y, weight, image_size, how, asked):
        channels = weight.shape[1] * how.groups
        name = chosen(
            asked,
            "grad_input",
            grad_y,
            channels,
            weight.shape[0],
            image_size,
            weight.shape[2:],
            how,
        )
        return BY_NAME[name].grad_input(grad_y, weight, image_size, how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        grad_y, weight, _, ctx.how, ctx.asked = inputs
        ctx.kernel_size = tuple(weight.shape[2:])
        needs = ctx.needs_input_grad
        ctx.save_for_backward(grad_y if needs[1] else None, weight if needs[0] else None)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        grad_y, weight = ctx.saved_tensors
        need_grad_y, need_weight = ctx.needs_input_grad[:2]
        tail = (ctx.how, ctx.asked)
        return (
            Convolution.apply(grad, weight, None, *tail, Nonlinear()) if need_grad_y else None,
            GradWeight.apply(grad_y, grad, ctx.kernel_size, *tail) if need_weight else None,
            None,
            None,
            None,
        )

    @staticmethod
    def vmap(info, dims, grad_y, weight, image_size, how, asked):
        count = info.batch_size
        if dims[1] is None:
            grad_y = _into(grad_y, dims[0], 0, count)
            grad_x = GradInput.apply(grad_y, weight, image_size, how, asked)
            return grad_x.unflatten(0, (count, -1)), 0
        grad_y, weight = _into(grad_y, dims[0], 1, count), _into(weight, dims[1], 0, count)
        how = how._replace(groups=how.groups * count)
        grad_x = GradInput.apply(grad_y, weight, image_size, how, asked)
        return grad_x.unflatten(1, (count, -1)), 1


class GradWeight(torch.autograd.Function):
    """grad_weight of grad_y and x."""

    @staticmethod
    def forward(grad_y, x, kernel_size, how, asked):
        name = chosen(
            asked, "grad_weight", x, x.shape[1], grad_y.shape[1], x.shape[2:], kernel_size, how
        )
        return BY_NAME[name].grad_weight(grad_y, x, kernel_size, how)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        grad_y, x, _, ctx.how, ctx.asked = inputs
        ctx.image_size = tuple(x.shape[2:])
        needs = ctx.needs_input_grad
        ctx.save_for_backward(grad_y if needs[1] else None, x if needs[0] else None)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple:
        grad_y, x = ctx.saved_tensors
        need_grad_y, need_x = ctx.needs_input_grad[:2]
        tail = (ctx.how, ctx.asked)
        return (
            Convolution.apply(x, grad, None, *tail, Nonlinear()) if need_grad_y else None,
            GradInput.apply(grad_y, grad, ctx.image_size, *tail) if need_x else None,
            None,
            None,
            None,
        )

    @staticmethod
    def vmap(info, dims, grad_y, x, kernel_size, how, asked):
        count = info.batch_size
        grad_y, x = _into(grad_y, dims[0], 1, count), _into(x, dims[1], 1, count)
        how = how._replace(groups=how.groups * count)
        grad_weight = GradWeight.apply(grad_y, x, kernel_size, how, asked)
        return grad_weight.unflatten(0, (count, -1)), 0


class GradBias(torch.autograd.Function):
    """The sum of each channel of grad_y."""

    @staticmethod
    def forward(grad_y):
        return sum_per_channel(grad_y)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: torch.Tensor) -> None:
        ctx.shape = inputs[0].shape

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        return grad[:, None, None].expand(ctx.shape)

    @staticmethod
    def vmap(info, dims, grad_y):
        return GradBias.apply(_into(grad_y, dims[0], 1, info.batch_size)).unflatten(
            0, (info.batch_size, -1)
        ), 0


def _into(tensor: torch.Tensor, dim: int | None, axis: int, count: int) -> torch.Tensor:
    """The `count` examples of torch.vmap, side by side in `axis`; dim None: all are this tensor."""
    if dim is None:
        return torch.cat([tensor] * count, axis)
    return tensor.movedim(dim, axis).flatten(axis, axis + 1)
