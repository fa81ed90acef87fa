"""Torch twin of channel_affine."""

import torch

from deeplab_repro.native.memory import memory_format


def channel_affine(
    x: torch.Tensor, scale: torch.Tensor, shift: torch.Tensor | None = None
) -> torch.Tensor:
    """``x[n, c, ...] * scale[c] + shift[c]``; x is (N, C, ...), scale and shift are (C)."""
    per_channel = (-1,) + (1,) * (x.dim() - 2)
    y = x * scale.reshape(per_channel)
    y = y if shift is None else y + shift.reshape(per_channel)
    return y.contiguous(memory_format=memory_format(x))


def channel_affine_backward(
    grad_y: torch.Tensor,
    x: torch.Tensor,
    scale: torch.Tensor,
    need_x: bool,
    need_scale: bool,
    need_shift: bool,
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """Gradients of channel_affine, written out: grad_x (N, C, ...), grad_scale (C), grad_shift (C).

    One that is not needed is an empty tensor of shape (0).
    """
    others = [d for d in range(x.dim()) if d != 1]
    return (
        channel_affine(grad_y, scale) if need_x else x.new_empty(0),
        (grad_y * x).sum(others) if need_scale else x.new_empty(0),
        grad_y.sum(others) if need_shift else x.new_empty(0),
    )
