"""Initial values of parameters, as Caffe's filler.hpp draws them.

The random numbers are torch's own, so that only their distribution is Caffe's.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from prototxt_import.errors import CaffeImportError
from prototxt_import.layers import Filler

__all__ = ["fill"]


def fill(value: Tensor, filler: Filler, *, is_legacy: bool = False) -> Tensor:
    """Fill ``value`` in place.

    Args:
        value: a parameter in Caffe's shape.
        filler: how.
        is_legacy: the v1 fork, whose matrices are 1x1xNxK.

    Raises:
        CaffeImportError: an unknown type, one that cannot fill this shape, or numbers that make no
            distribution.
    """
    kind = filler.type
    if filler.sparse != -1 and kind != "gaussian":
        raise CaffeImportError(f"the {kind} filler cannot be sparse", got=filler.sparse)
    if kind == "constant":
        return value.fill_(filler.value)
    if kind == "uniform":
        if not filler.min <= filler.max or math.isinf(filler.max - filler.min):
            raise CaffeImportError(
                "the uniform filler has no range", got=f"{filler.min:g}..{filler.max:g}"
            )
        return value.uniform_(filler.min, filler.max)
    if kind == "gaussian":
        return _gaussian(value, filler, is_legacy)
    if kind == "positive_unitball":
        value.uniform_(0, 1)
        rows = value.view(value.shape[0], -1)
        rows /= rows.sum(1, keepdim=True)
        return value
    if kind == "xavier":
        limit = math.sqrt(3 / _fan(value, filler))
        return value.uniform_(-limit, limit)
    if kind == "msra":
        return value.normal_(0, math.sqrt(2 / _fan(value, filler)))
    if kind == "bilinear":
        return _bilinear(value)
    raise CaffeImportError("unknown filler", got=kind)


def _gaussian(value: Tensor, filler: Filler, is_legacy: bool) -> Tensor:
    """Normal; with ``sparse``, that many weights per output on average and zeros elsewhere."""
    if not filler.std >= 0:
        raise CaffeImportError(
            "the gaussian filler has a bad std", expected="0 or more", got=filler.std
        )
    value.normal_(filler.mean, filler.std)
    if filler.sparse >= 0:
        outputs = value.shape[2] if is_legacy else value.shape[0]
        value *= torch.bernoulli(torch.full_like(value, min(1.0, filler.sparse / outputs)))
    return value


def _fan(value: Tensor, filler: Filler) -> float:
    """Values per item of the first axis, of the second, or their mean (filler.hpp)."""
    count = value.numel()
    fan_in = count / (value.shape[0] if value.dim() else 1)
    fan_out = count / (value.shape[1] if value.dim() > 1 else 1)
    fans = {"FAN_IN": fan_in, "FAN_OUT": fan_out, "AVERAGE": (fan_in + fan_out) / 2}
    return fans[filler.variance_norm]


def _bilinear(value: Tensor) -> Tensor:
    """Weights with which a Deconvolution interpolates bilinearly; the same for every channel."""
    if value.dim() != 4 or value.shape[2] != value.shape[3]:
        raise CaffeImportError("the bilinear filler needs a square kernel", got=tuple(value.shape))
    size = value.shape[3]
    half = math.ceil(size / 2)
    centre = (2 * half - 1 - half % 2) / (2 * half)
    ramp = 1 - (torch.arange(size, dtype=value.dtype, device=value.device) / half - centre).abs()
    return value.copy_(torch.outer(ramp, ramp).expand_as(value))
