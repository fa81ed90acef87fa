"""Nearest-pixel resizing of label maps, as TensorFlow's legacy kernel does it."""

from __future__ import annotations

from torch import Tensor

from deeplab_repro.models.v3.parts import nearest_positions

__all__ = ["nearest"]


def nearest(x: Tensor, height: int, width: int) -> Tensor:
    """The nearest pixel of each position, with the corners held in place.

    Position i of the output takes pixel i * (in - 1) / (out - 1), a float32, rounded half away from
    zero (resize_nearest_neighbor_op.cc with ``align_corners``).

    Args:
        x: (..., H, W) of any type.
        height, width: of the result.

    Returns:
        (..., height, width) of the same type.
    """
    for axis, size in ((-2, height), (-1, width)):
        if x.shape[axis] != size:
            x = x.index_select(axis, nearest_positions(x.shape[axis], size).to(x.device))
    return x
