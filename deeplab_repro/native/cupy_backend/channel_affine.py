"""The ops channel_affine and channel_affine_backward through CuPy."""

from __future__ import annotations

import numpy as np
import torch

from deeplab_repro.native.cupy_backend import runtime
from deeplab_repro.native.memory import memory_format

KERNEL_FILE = "channel_affine/channel_affine_kernels.cuh"
# As in channel_affine_kernels.cuh; a test holds them together.
THREADS = 256

_GEOMETRY = np.dtype([("batch", "i8"), ("channels", "i8"), ("spatial", "i8")])


def channel_affine(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None = None, max_blocks: int = 0
) -> torch.Tensor:
    """The op deeplab_repro::channel_affine on CUDA tensors."""
    x, scale = x.contiguous(memory_format=memory_format(x)), scale.contiguous()
    shift = None if shift is None else shift.contiguous()
    y = torch.empty_like(x)
    if y.numel() > 0:
        blocks = runtime.grid_size(y.numel(), THREADS, max_blocks)
        _launch("channel_affine_kernel", x, blocks, (geometry(x), x, scale, shift, y))
    return y


def channel_affine_backward(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    need_x: bool,
    need_scale: bool,
    need_shift: bool,
    max_blocks: int = 0,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """The op deeplab_repro::channel_affine_backward on CUDA tensors."""
    channels = x.shape[1]
    grad_x = channel_affine(grad_y, scale, None, max_blocks) if need_x else x.new_empty(0)
    grad_scale = x.new_empty(channels if need_scale else 0)
    grad_shift = x.new_empty(channels if need_shift else 0)
    if (need_scale or need_shift) and channels > 0:
        # A block sums one channel, whose values are far apart where channels are last.
        grad_y = grad_y.contiguous()
        x = x.contiguous() if need_scale else grad_y
        outputs = (grad_scale if need_scale else None, grad_shift if need_shift else None)
        args = (geometry(x), grad_y, x, *outputs)
        _launch("channel_affine_reduce_kernel", x, runtime.grid_size(channels, 1, max_blocks), args)
    return grad_x, grad_scale, grad_shift


def geometry(x: torch.Tensor) -> np.ndarray:
    """struct ChannelAffineGeometry of x in its memory format.

    CuPy passes a one-element structured array by value.
    """
    batch, channels = x.shape[:2]
    spatial = int(np.prod(x.shape[2:], dtype=np.int64))
    if memory_format(x) == torch.channels_last:
        batch, spatial = batch * spatial, 1
    return np.array([(batch, channels, spatial)], dtype=_GEOMETRY)


def _launch(kernel: str, x: torch.Tensor, blocks: int, args: tuple) -> None:
    names = tuple(
        f"deeplab::{k}<{t}>"
        for k in ("channel_affine_kernel", "channel_affine_reduce_kernel")
        for t in ("float", "double")
    )
    name = f"deeplab::{kernel}<{runtime.TYPES[x.dtype]}>"
    runtime.launch(KERNEL_FILE, names, name, x.device, blocks, THREADS, args)
