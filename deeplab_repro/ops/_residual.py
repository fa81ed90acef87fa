"""The end of a residual unit: the sum with the shortcut and the ReLU on it."""

from __future__ import annotations

import torch

from deeplab_repro.native import backends
from deeplab_repro.native.memory import memory_format


def add_relu_(y: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """max(y + other, 0), written over y; other has y's shape.

    On the CPU it is one pass over the memory where both are maps of one memory format.
    """
    traced = torch.compiler.is_compiling() or torch.compiler.is_exporting()
    if not traced and not torch._C._are_functorch_transforms_active() and _suits(y, other):
        torch.ops.deeplab_repro.add_relu_(y, other)
        return y
    return y.add_(other).relu_()


def _suits(y: torch.Tensor, other: torch.Tensor) -> bool:
    form = memory_format(y)
    return (
        y.device.type == other.device.type == "cpu"
        and backends.has_cpu()
        and y.dtype == other.dtype
        and y.dtype in (torch.float32, torch.float64)
        and y.shape == other.shape
        and y.is_contiguous(memory_format=form)
        and other.is_contiguous(memory_format=form)
        and not (torch.is_grad_enabled() and (y.requires_grad or other.requires_grad))
    )


@torch.library.register_fake("deeplab_repro::add_relu_")
def _fake(y, other):
    return None
