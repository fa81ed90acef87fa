"""The convolution of single channels through CuPy: what depthwise_launch.cuh does."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import numpy as np
import torch

from deeplab_repro.native.cupy_backend import runtime
from deeplab_repro.native.memory import memory_format

KERNEL_FILE = "atrous_conv2d/depthwise_kernels.cuh"
# As in the kernels' files; a test holds them together.
THREADS = 256
GRAD_THREADS = 128
GRAD_TAPS = 9
ROWS = 4
GRAD_PIXELS = 8192
MOST_PIECES = 64
ACTIVATIONS = ("none", "relu", "relu6")

Axis = tuple[int, ...]  # struct TapAxis


def depthwise(
    x: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    relu_before: bool,
    activation: str,
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_depthwise on CUDA tensors."""
    x = x.contiguous(memory_format=memory_format(x))
    kernel = weight.shape[2:]
    out = [
        (x.shape[2 + i] + sum(padding[2 * i : 2 * i + 2]) - rate[i] * (kernel[i] - 1) - 1)
        // stride[i]
        + 1
        for i in range(2)
    ]
    axes = _forward_axes(x.shape[2:], out, kernel, stride, padding, rate)
    shape = (*x.shape[:2], *out)
    y = torch.empty(shape, dtype=x.dtype, device=x.device, memory_format=memory_format(x))
    bias = None if bias is None else bias.contiguous()
    extra = int(relu_before), ACTIVATIONS.index(activation)
    _run_part(axes, x, weight.contiguous(), bias, y, extra, max_blocks)
    return y


def grad_input(
    grad_y: torch.Tensor,
    weight: torch.Tensor,
    image_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_depthwise_grad_input on CUDA tensors."""
    grad_y = grad_y.contiguous(memory_format=memory_format(grad_y))
    weight, kernel = weight.contiguous(), weight.shape[2:]
    grad_x = torch.empty(
        (*grad_y.shape[:2], *image_size),
        dtype=grad_y.dtype,
        device=grad_y.device,
        memory_format=memory_format(grad_y),
    )
    remainders = (range(min(s, size)) for s, size in zip(stride, image_size, strict=True))
    for pair in itertools.product(*remainders):
        axes = [
            _grad_input_axis(
                image_size[i],
                grad_y.shape[2 + i],
                kernel[i],
                stride[i],
                padding[2 * i],
                rate[i],
                pair[i],
            )
            for i in range(2)
        ]
        _run_part(axes, grad_y, weight, None, grad_x, (0, 0), max_blocks)
    return grad_x


def grad_weight(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    kernel_size: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
    max_blocks: int = 0,
) -> torch.Tensor:
    """The op deeplab_repro::atrous_depthwise_grad_weight on CUDA tensors."""
    grad_y, x = grad_y.contiguous(), x.contiguous()
    batch, channels = x.shape[:2]
    weight = x.new_empty((channels, 1, *kernel_size))
    if weight.numel() == 0 or grad_y.numel() == 0:
        return weight.zero_()
    axes = _forward_axes(x.shape[2:], grad_y.shape[2:], kernel_size, stride, padding, rate)
    pixels = batch * grad_y.shape[2] * grad_y.shape[3]
    pieces = min(-(-pixels // GRAD_PIXELS), MOST_PIECES)
    taps = kernel_size[0] * kernel_size[1]
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    partial = x.new_empty(weight.numel() * pieces, dtype=sums)
    plan, _ = _plan(axes, x, kernel_size, False, (0, 0))
    blocks = runtime.grid_size(channels * -(-taps // GRAD_TAPS) * pieces, 1, max_blocks)
    args = (plan, np.int64(pieces), grad_y, x, partial)
    _launch("depthwise_grad_weight_kernel", x, blocks, GRAD_THREADS, args)
    blocks = runtime.grid_size(weight.numel(), THREADS, max_blocks)
    to_sum = (np.int64(weight.numel()), np.int64(pieces), partial, weight)
    _launch("depthwise_grad_weight_sum_kernel", x, blocks, THREADS, to_sum)
    return weight


def _forward_axes(
    image_size: Sequence[int],
    out: Sequence[int],
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    rate: Sequence[int],
) -> list[Axis]:
    """forward_taps of rows and columns; padding: (top, bottom, left, right)."""
    return [
        (image_size[i], out[i], 0, out[i], 1, stride[i], -padding[2 * i], rate[i], kernel[i], 0, 1)
        for i in range(2)
    ]


def _grad_input_axis(
    size: int, out: int, kernel: int, stride: int, pad: int, rate: int, remainder: int
) -> Axis:
    """grad_input_taps."""
    divisor = math.gcd(stride, rate)
    period = stride // divisor
    taps = [k for k in range(kernel) if (remainder + pad - k * rate) % stride == 0]
    last = taps[-1] if taps else 0
    offset = (remainder + pad - last * rate) // stride if taps else 0
    count = -(-(size - remainder) // stride)
    spacing = rate // divisor
    return out, size, remainder, count, stride, 1, offset, spacing, len(taps), last, -period


def _plan(
    axes: Sequence[Axis],
    source: torch.Tensor,
    kernel: Sequence[int],
    channels_last: bool,
    extra: tuple[int, int],
) -> tuple[np.ndarray, int]:
    """struct DepthwisePlan, and the threads that it is for; source: (N, C, H, W)."""
    rows, columns = axes
    images, channels = source.shape[:2]
    chain = rows[7] // math.gcd(rows[7], rows[5])
    groups = -(-rows[3] // (chain * ROWS)) * chain
    sources, targets = rows[0] * columns[0], rows[1] * columns[1]
    step = channels if channels_last else 1

    def strides(pixels: int, width: int) -> tuple[int, ...]:
        return channels * pixels, 1 if channels_last else pixels, width * step, step

    fastest = (channels, columns[3]) if channels_last else (columns[3], groups)
    per_image = channels * columns[3] * groups
    if per_image >= 1 << 31:
        raise ValueError("atrous_depthwise: images on CUDA must have less than 2^31 elements")
    words = (
        *(*rows, *columns, channels, kernel[1], kernel[0] * kernel[1]),
        *strides(sources, columns[0]),
        *strides(targets, columns[1]),
        *(*runtime.divisor(chain), groups, images),
        *(word for value in fastest for word in runtime.divisor(value)),
        *(int(channels_last), *extra),
    )
    plan = np.array([(words,)], dtype=[("words", "i8", (len(words),))])
    return plan, images * per_image


def _run_part(
    axes: Sequence[Axis],
    source: torch.Tensor,
    weight: torch.Tensor,
    bias: torch.Tensor | None,
    target: torch.Tensor,
    extra: tuple[int, int],
    max_blocks: int,
) -> None:
    """launch_depthwise_part of the launchers."""
    if target.numel() == 0:
        return
    channels_last = memory_format(source) == torch.channels_last
    plan, threads = _plan(axes, source, weight.shape[2:], channels_last, extra)
    source_step, spacing, taps = axes[0][5], axes[0][7], axes[0][8]
    if spacing % source_step or taps not in (3, 5):
        taps = 0  # of any axis
    blocks = runtime.grid_size(threads, THREADS, max_blocks)
    args = (plan, source, weight, bias, target)
    _launch("depthwise_kernel", source, blocks, THREADS, args, f", {taps}")


def _launch(
    kernel: str, like: torch.Tensor, blocks: int, threads: int, args: tuple, parameters: str = ""
) -> None:
    name = f"deeplab::{kernel}<{runtime.TYPES[like.dtype]}{parameters}>"
    runtime.launch(KERNEL_FILE, (name,), name, like.device, blocks, threads, args)
