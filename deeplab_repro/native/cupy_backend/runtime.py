"""What every op needs of CuPy: one source text, compiled modules, launches."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import torch

from deeplab_repro.native import build

# As in cuda_launch.cuh; a test holds them together.
AUTOMATIC_MAX_BLOCKS = 4096
# Dynamic shared memory, in bytes, that a kernel has without asking.
GRANTED_UNASKED = 48 * 1024
OPTIONS = ("--std=c++17",)

_INCLUDE = re.compile(r'^\s*#include "([^"]+)"', re.MULTILINE)
TYPES = {
    torch.float32: "float",
    torch.float64: "double",
    torch.float16: "deeplab::Half",
    torch.bfloat16: "deeplab::BFloat16",
}


def assemble(kernel_file: str) -> str:
    """One translation unit out of csrc/`kernel_file` and all that it includes with quotes.

    CuPy caches what it compiled under the text it was given, so that text must hold the headers:
    with include paths instead, an edited header would find the old machine code.
    The host harness (*_on_host.h) stays out; no CUDA compiler reads it.
    """
    seen: set[Path] = set()

    def read(path: Path) -> str:
        path = path.resolve()
        if path in seen or path.name.endswith("_on_host.h"):
            return ""
        seen.add(path)
        text = path.read_text().replace("#pragma once\n", "")
        return _INCLUDE.sub(lambda match: read(path.parent / match[1]), text)

    return read(build.source_dir() / kernel_file)


def grid_size(items: int, per_block: int, max_blocks: int) -> int:
    """As grid_size in cuda_launch.cuh."""
    return min(-(-items // per_block), max_blocks if max_blocks > 0 else AUTOMATIC_MAX_BLOCKS)


def divisor(value: int) -> tuple[int, int, int]:
    """struct Divisor: (value, factor, shift)."""
    shift = 31 + (value - 1).bit_length()
    return value, -(-(1 << shift) // value), shift


@functools.cache
def _module(kernel_file: str, names: tuple[str, ...], device: int) -> Any:
    """The compiled module; one per device, because a module belongs to one context."""
    import cupy

    return cupy.RawModule(code=assemble(kernel_file), options=OPTIONS, name_expressions=names)


def launch(
    kernel_file: str,
    names: tuple[str, ...],
    name: str,
    device: torch.device,
    blocks: int,
    threads: int | tuple[int, int],
    args: tuple,
    shared_bytes: int = 0,
) -> None:
    """Run one kernel of csrc/`kernel_file` on torch's current stream of `device`.

    names: every template instance to compile. args: tensors and None are passed as pointers, numpy
    structures and scalars by value. shared_bytes: of DYNAMIC_SHARED.
    """
    import cupy

    index = device.index if device.index is not None else torch.cuda.current_device()
    # torch frees memory in the order of its streams, so tensors may die before the kernel has run.
    stream = torch.cuda.current_stream(index).cuda_stream
    with cupy.cuda.Device(index), cupy.cuda.ExternalStream(stream, index):
        function = _module(kernel_file, names, index).get_function(name)
        if shared_bytes > GRANTED_UNASKED:
            function.max_dynamic_shared_size_bytes = shared_bytes
        block = (threads,) if isinstance(threads, int) else threads
        function((blocks,), block, tuple(map(_argument, args)), shared_mem=shared_bytes)


def _argument(value: Any) -> Any:
    if value is None:
        return 0
    return value.data_ptr() if isinstance(value, torch.Tensor) else value
