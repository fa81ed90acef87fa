"""The algorithms of the atrous convolution, each a forward pass and its two gradients.

What they compute is the same; `atrous_conv2d` says what. Here tensors have been checked.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, Final

import torch
import torch.nn.functional as F

from deeplab_repro.native import backends
from deeplab_repro.native.memory import memory_format
from deeplab_repro.ops._atrous_filters import KeptFilters
from deeplab_repro.ops._atrous_interlace import How, Interlacing
from deeplab_repro.ops._atrous_native import behind_relu, out_size, sides, sum_per_channel
from deeplab_repro.ops._atrous_nonlinear import Nonlinear
from deeplab_repro.ops._atrous_rules import Problem, planar_grad_weight, suits_winograd
from deeplab_repro.ops._atrous_tuned import choose
from deeplab_repro.ops.reference.atrous_conv2d import torch_tf32

_OPS = torch.ops.deeplab_repro


def is_depthwise(weight: torch.Tensor, groups: int) -> bool:
    """Whether each channel has a filter (K, 1, R, S) of its own, and only one."""
    return weight.shape[0] == groups and weight.shape[1] == 1


class Algorithm(ABC):
    """forward without bias, and the gradients of that; in the memory format of the first tensor."""

    @abstractmethod
    def forward(self, x: torch.Tensor, weight: torch.Tensor, how: How) -> torch.Tensor:
        """y (N, K, H', W')."""

    @abstractmethod
    def grad_input(
        self, grad_y: torch.Tensor, weight: torch.Tensor, image_size: Sequence[int], how: How
    ) -> torch.Tensor:
        """(N, C, H, W); image_size: (H, W)."""

    @abstractmethod
    def grad_weight(
        self, grad_y: torch.Tensor, x: torch.Tensor, kernel_size: Sequence[int], how: How
    ) -> torch.Tensor:
        """(K, C / groups, R, S); kernel_size: (R, S)."""

    def run(
        self,
        x: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        how: How,
        nonlinear: Nonlinear,
        kept: KeptFilters | None = None,
    ) -> torch.Tensor:
        """forward, then bias (K), and the activations; kept: where the layer keeps its filters."""
        y = self.forward(nonlinear.read(x), weight, how)
        if bias is not None:
            y = y.add_(bias[:, None, None])
        return nonlinear.written(y)


class Direct(Algorithm):
    """The native kernels: no column buffer, no product with a tap outside the map.

    Those of single channels read x once and write y once, with both activations on the way.
    """

    def forward(self, x, weight, how):
        return self.run(x, weight, None, how, Nonlinear())

    def run(self, x, weight, bias, how, nonlinear, kept=None):
        if is_depthwise(weight, how.groups):
            relu_before, activation = nonlinear.before == "relu", nonlinear.after or "none"
            window = how.stride, sides(how.padding), how.rate
            return _OPS.atrous_depthwise(x, weight, bias, *window, relu_before, activation)
        relu = nonlinear.after is not None
        y = _OPS.atrous_conv2d_direct(nonlinear.read(x), weight, bias, *how[:5], relu)
        return y.clamp_(max=6) if nonlinear.after == "relu6" else y

    def grad_input(self, grad_y, weight, image_size, how):
        if is_depthwise(weight, how.groups):
            window = how.stride, sides(how.padding), how.rate
            return _OPS.atrous_depthwise_grad_input(grad_y, weight, image_size, *window)
        return _OPS.atrous_conv2d_direct_grad_input(grad_y, weight, image_size, *how[:5])

    def grad_weight(self, grad_y, x, kernel_size, how):
        if grad_y.shape[1] == x.shape[1] == how.groups:
            window = how.stride, sides(how.padding), how.rate
            return _OPS.atrous_depthwise_grad_weight(grad_y, x, kernel_size, *window)
        return _OPS.atrous_conv2d_direct_grad_weight(grad_y, x, kernel_size, *how[:5])


class Library(Algorithm):
    """torch's own convolution."""

    def forward(self, x, weight, how):
        return self.run(x, weight, None, how, Nonlinear())

    def run(self, x, weight, bias, how, nonlinear, kept=None):
        x = nonlinear.read(x)
        with torch_tf32(x, how.precision == "tf32"):
            y = F.conv2d(x, weight, bias, how.stride, how.padding, how.rate, how.groups)
        return nonlinear.written(y)

    def grad_input(self, grad_y, weight, image_size, how):
        shape = (grad_y.shape[0], weight.shape[1] * how.groups, *image_size)
        unread = torch.empty(
            shape, dtype=grad_y.dtype, device=grad_y.device, memory_format=memory_format(grad_y)
        )
        return self._backward(grad_y, unread, weight, how, 0)

    def grad_weight(self, grad_y, x, kernel_size, how):
        shape = (grad_y.shape[1], x.shape[1] // how.groups, *kernel_size)
        if how.groups == 1 and planar_grad_weight(grad_y, x, max(kernel_size), max(how.rate)):
            grad_y, x = grad_y.contiguous(), x.contiguous()
        return self._backward(grad_y, x, x.new_empty(shape), how, 1)

    @staticmethod
    def _backward(grad_y, x, weight, how, which):
        """The gradient of x (which = 0) or weight (1), whose own values are not read.

        `torch.nn.grad` passes one number for them, expanded, of which the library makes a whole
        map first.
        """
        with torch_tf32(grad_y, how.precision == "tf32"):
            return torch.ops.aten.convolution_backward(
                grad_y, x, weight, None, *how[:3], False, (0, 0), how.groups,
                (which == 0, which == 1, False),
            )[which]  # fmt: skip


class Im2col(Algorithm):
    """Caffe's form: the columns of one picture at a time, then a matrix product a group."""

    def forward(self, x, weight, how):
        size = out_size(x.shape[2:], weight.shape[2:], *how[:3])
        rows = weight.reshape(how.groups, weight.shape[0] // how.groups, -1)
        y = x.new_empty((x.shape[0], weight.shape[0], *size))
        for picture, out in zip(x.unbind(), y.unbind(), strict=True):
            columns = _columns(picture, weight.shape[2:], how)
            out.copy_(torch.matmul(rows, columns).view(out.shape))
        return y.contiguous(memory_format=memory_format(x))

    def grad_input(self, grad_y, weight, image_size, how):
        rows = weight.reshape(how.groups, weight.shape[0] // how.groups, -1).mT
        pictures = []
        for grad in grad_y.unbind():
            columns = torch.matmul(rows, grad.reshape(how.groups, -1, grad[0].numel()))
            columns = columns.reshape(1, -1, grad[0].numel())
            pictures.append(_OPS.atrous_col2im(columns, image_size, weight.shape[2:], *how[:3]))
        if not pictures:
            return grad_y.new_empty((0, weight.shape[1] * how.groups, *image_size))
        return torch.cat(pictures).contiguous(memory_format=memory_format(grad_y))

    def grad_weight(self, grad_y, x, kernel_size, how):
        shape = (grad_y.shape[1], x.shape[1] // how.groups, *kernel_size)
        total = x.new_zeros(shape).view(how.groups, shape[0] // how.groups, -1)
        for picture, grad in zip(x.unbind(), grad_y.unbind(), strict=True):
            columns = _columns(picture, kernel_size, how)
            rows = grad.reshape(how.groups, -1, columns.shape[2])
            total = torch.baddbmm(total, rows, columns.mT)
        return total.view(shape)


def _columns(picture: torch.Tensor, kernel_size: Sequence[int], how: How) -> torch.Tensor:
    """(groups, C / groups * R * S, H' * W') of one picture (C, H, W)."""
    columns = _OPS.atrous_im2col(picture[None], kernel_size, *how[:3])
    return columns.view(how.groups, -1, columns.shape[2])


class Interlace(Algorithm):
    """The second paper's form: maps of every rate-th pixel, convolved densely, woven together."""

    def forward(self, x, weight, how):
        plan = Interlacing.of(x.shape[2:], weight.shape[2:], how)
        maps = Library().forward(plan.split(x), weight, plan.dense(how))
        return plan.weave(maps).contiguous(memory_format=memory_format(x))

    def grad_input(self, grad_y, weight, image_size, how):
        plan = Interlacing.of(image_size, weight.shape[2:], how)
        maps = Library().grad_input(plan.unweave(grad_y), weight, plan.map_size, plan.dense(how))
        return plan.unsplit(maps).contiguous(memory_format=memory_format(grad_y))

    def grad_weight(self, grad_y, x, kernel_size, how):
        plan = Interlacing.of(x.shape[2:], kernel_size, how)
        return Library().grad_weight(
            plan.unweave(grad_y), plan.split(x), kernel_size, plan.dense(how)
        )


class Winograd(Algorithm):
    """Minimal filtering with holes: fewer products than taps, and none on the padding.

    Of 3x3 filters and stride 1 on the CPU, forward and back to the input; `direct` does the rest.
    """

    def forward(self, x, weight, how):
        return self.run(x, weight, None, how, Nonlinear())

    def run(self, x, weight, bias, how, nonlinear, kept=None):
        if not suits_winograd(x.device.type, weight.shape[2:], how.stride):
            return BY_NAME["direct"].run(x, weight, bias, how, nonlinear)
        x, relu = nonlinear.read(x), nonlinear.after is not None
        filters, filter_set = None, 0
        if kept is not None and backends.has_cpu():
            filters, filter_set = kept.find(weight, x.shape[2:], how)
        y = self._op(x, weight, filters, filter_set, bias, how.padding, how, False, relu)
        return y.clamp_(max=6) if nonlinear.after == "relu6" else y

    def grad_input(self, grad_y, weight, image_size, how):
        if not suits_winograd(grad_y.device.type, weight.shape[2:], how.stride):
            return BY_NAME["direct"].grad_input(grad_y, weight, image_size, how)
        padding = [2 * rate - pad for rate, pad in zip(how.rate, how.padding, strict=True)]
        return self._op(grad_y, weight, None, 0, None, padding, how, True, False)

    def grad_weight(self, grad_y, x, kernel_size, how):
        return BY_NAME["direct"].grad_weight(grad_y, x, kernel_size, how)

    @staticmethod
    def _op(x, weight, filters, filter_set, bias, padding, how, transposed, relu):
        tail = (padding, how.rate, how.fast, how.groups, transposed, relu)
        return _OPS.atrous_conv2d_winograd(x, weight, filters, filter_set, bias, *tail)


BY_NAME: Final[dict[str, Algorithm]] = {
    "direct": Direct(),
    "im2col": Im2col(),
    "interlace": Interlace(),
    "library": Library(),
    "winograd": Winograd(),
}


def chosen(
    asked: str,
    direction: str,
    like: torch.Tensor,
    channels: int,
    filters: int,
    image_size: Sequence[int],
    kernel_size: Sequence[int],
    how: How,
    kept: bool = False,
) -> str:
    """The algorithm's name: the one asked for, or for "auto" what was measured or the rules choose.

    like: the first operand of the direction, x or grad_y, whose values are not read. kept: whether
    the layer keeps transformed filters.
    """
    if asked != "auto":
        return asked
    if how.precision != "fp32" and like.dtype == torch.float32:
        return "direct"
    image, kernel = (image_size[0], image_size[1]), (kernel_size[0], kernel_size[1])
    padding = how.padding[0], how.padding[1]  # of four sides nothing is left to "auto"
    return choose(
        Problem(
            direction,
            like.device.type,
            like.dtype,
            like.is_contiguous(memory_format=torch.channels_last),
            like.shape[0],
            channels,
            filters,
            image,
            out_size(image, kernel, *how[:3]),
            kernel,
            how.stride,
            padding,
            how.rate,
            how.groups,
            kept,
            how.fast,
        )
    )


def convolve(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    how: How,
    asked: str,
    nonlinear: Nonlinear,
    kept: KeptFilters | None = None,
) -> torch.Tensor:
    """y without a gradient; kept: where the layer keeps its transformed filters."""
    if x.shape[1] > 1 and x.stride(1) == 1 and not x.is_contiguous():
        x = x.contiguous(memory_format=torch.channels_last)  # a part of a map stored so
    sizes = x.shape[2:], weight.shape[2:]
    room = (
        asked == "auto"
        and kept is not None
        and backends.has_cpu()
        and suits_winograd(x.device.type, sizes[1], how.stride)
        and kept.has_room(weight, sizes[0], how)
    )
    name = chosen(asked, "forward", x, x.shape[1], weight.shape[0], *sizes, how, room)
    return BY_NAME[name].run(x, weight, bias, how, nonlinear, kept)


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
