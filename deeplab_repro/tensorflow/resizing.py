"""How TensorFlow's legacy kernels resize, and which sizes the original program asks them for.

Bilinear resizing with aligned corners is Caffe's Interp, see
:func:`deeplab_repro.caffe.layers.interp.align_corners`: position i of the output lies at
i * (in - 1) / (out - 1), a float32, and nothing is averaged when a map shrinks.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

__all__ = ["nearest", "scale_dimension"]


def scale_dimension(size: int, scale: float, *, single: bool = False) -> int:
    """The size of a scaled map: (size - 1) * scale + 1, cut to a whole number (core/utils.py).

    Args:
        size: of the map.
        scale: what it is multiplied by.
        single: compute in float32, as the original does where a size is only known when the graph
            runs (a network without ``crop_size``); in float64 otherwise.
    """
    number = np.float32 if single else np.float64
    return int((number(size) - number(1)) * number(scale) + number(1))


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
            x = x.index_select(axis, _sources(x.shape[axis], size).to(x.device))
    return x


def _sources(size: int, out: int) -> Tensor:
    """(out,) which of ``size`` pixels each position takes."""
    step = np.float32(size - 1) / np.float32(max(out - 1, 1))
    place = np.arange(out, dtype=np.float32) * step
    below = np.floor(place)
    above = below + (place - below >= 0.5)
    return torch.from_numpy(np.minimum(above, size - 1).astype(np.int64))
