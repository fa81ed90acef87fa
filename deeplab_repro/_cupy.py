"""The CUDA kernels through CuPy: the sources that nvcc takes, compiled at run time by NVRTC.

For machines with a GPU and without nvcc. Works on torch tensors: their memory is passed as it is,
on torch's current stream. Importing this module does not import CuPy.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from deeplab_repro import _build

# As in channel_affine_kernels.cuh and cuda_launch.cuh; a test holds them together.
CHANNEL_AFFINE_THREADS = 256
AUTOMATIC_MAX_BLOCKS = 4096
OPTIONS = ("--std=c++17",)

_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)
_TYPES = {torch.float32: "float", torch.float64: "double"}
_CHANNEL_AFFINE_GEOMETRY = np.dtype([("batch", "i8"), ("channels", "i8"), ("spatial", "i8")])


def assemble(kernel_file: str) -> str:
    """One translation unit out of csrc/`kernel_file` and all that it includes with quotes.

    CuPy caches what it compiled under the text it was given, so that text must hold the headers:
    with include paths instead, an edited header would find the old machine code.
    cuda_on_host.h stays out; no CUDA compiler reads it.
    """
    seen: set[Path] = set()

    def read(path: Path) -> str:
        path = path.resolve()
        if path in seen or path.name == "cuda_on_host.h":
            return ""
        seen.add(path)
        text = path.read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: read(path.parent / match[1]), text)

    return read(_build.source_dir() / kernel_file)


def channel_affine(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None = None, max_blocks: int = 0
) -> torch.Tensor:
    """The op deeplab_repro::channel_affine on CUDA tensors."""
    x, scale = x.contiguous(), scale.contiguous()
    shift = None if shift is None else shift.contiguous()
    y = torch.empty_like(x)
    if y.numel() > 0:
        blocks = grid_size(y.numel(), CHANNEL_AFFINE_THREADS, max_blocks)
        args = (_channel_affine_geometry(x), x, scale, shift, y)
        _launch_channel_affine("channel_affine_kernel", x, blocks, args)
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
    grad_y, x = grad_y.contiguous(), x.contiguous()
    channels = x.shape[1]
    grad_x = channel_affine(grad_y, scale, None, max_blocks) if need_x else x.new_empty(0)
    grad_scale = x.new_empty(channels if need_scale else 0)
    grad_shift = x.new_empty(channels if need_shift else 0)
    if (need_scale or need_shift) and channels > 0:
        outputs = (grad_scale if need_scale else None, grad_shift if need_shift else None)
        args = (_channel_affine_geometry(x), grad_y, x, *outputs)
        blocks = grid_size(channels, 1, max_blocks)
        _launch_channel_affine("channel_affine_reduce_kernel", x, blocks, args)
    return grad_x, grad_scale, grad_shift


KERNELS: dict[str, Callable[..., Any]] = {
    "channel_affine": channel_affine,
    "channel_affine_backward": channel_affine_backward,
}


def grid_size(items: int, per_block: int, max_blocks: int) -> int:
    """As grid_size in cuda_launch.cuh."""
    return min(-(-items // per_block), max_blocks if max_blocks > 0 else AUTOMATIC_MAX_BLOCKS)


def _channel_affine_geometry(x: torch.Tensor) -> np.ndarray:
    """struct ChannelAffineGeometry; CuPy passes a one-element structured array by value."""
    batch, channels = x.shape[:2]
    spatial = int(np.prod(x.shape[2:], dtype=np.int64))
    return np.array([(batch, channels, spatial)], dtype=_CHANNEL_AFFINE_GEOMETRY)


@functools.cache
def _module(kernel_file: str, names: tuple[str, ...], device: int) -> Any:
    """The compiled module; one per device, because a module belongs to one context."""
    import cupy

    return cupy.RawModule(code=assemble(kernel_file), options=OPTIONS, name_expressions=names)


def _launch_channel_affine(kernel: str, x: torch.Tensor, blocks: int, args: tuple) -> None:
    names = tuple(
        f"deeplab::{k}<{t}>"
        for k in ("channel_affine_kernel", "channel_affine_reduce_kernel")
        for t in _TYPES.values()
    )
    file = "channel_affine/channel_affine_kernels.cuh"
    name = f"deeplab::{kernel}<{_TYPES[x.dtype]}>"
    launch(file, names, name, x.device, blocks, CHANNEL_AFFINE_THREADS, args)


def launch(
    kernel_file: str,
    names: tuple[str, ...],
    name: str,
    device: torch.device,
    blocks: int,
    threads: int,
    args: tuple,
) -> None:
    """Run one kernel of csrc/`kernel_file` on torch's current stream of `device`.

    names: every template instance to compile. args: tensors and None are passed as pointers, numpy
    structures and scalars by value.
    """
    import cupy

    index = device.index if device.index is not None else torch.cuda.current_device()
    # torch frees memory in the order of its streams, so tensors may die before the kernel has run.
    stream = torch.cuda.current_stream(index).cuda_stream
    with cupy.cuda.Device(index), cupy.cuda.ExternalStream(stream, index):
        function = _module(kernel_file, names, index).get_function(name)
        function((blocks,), (threads,), tuple(map(_argument, args)))


def _argument(value: Any) -> Any:
    if value is None:
        return 0
    return value.data_ptr() if isinstance(value, torch.Tensor) else value
