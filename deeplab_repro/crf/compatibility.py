"""What a caller may write for the compatibility of labels, as tensors for mean field."""

from __future__ import annotations

import math
from collections.abc import Sequence
from numbers import Real
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

__all__ = ["Compatibility", "OneCompatibility", "is_numbers", "per_kernel", "read_compatibility"]

#: A number is that many times Potts, a list of numbers is what the same array would be.
OneCompatibility: TypeAlias = (
    Tensor | NDArray[Any] | float | Sequence[float] | Sequence[Sequence[float]] | None
)
#: For all kernels, or in a list one for each.
Compatibility: TypeAlias = OneCompatibility | Sequence[OneCompatibility]


def per_kernel(given: Any, used: Sequence[int], count: int) -> list[Any]:
    """One value for each kernel in ``used``.

    Args:
        given: one value for all kernels, or a list of ``count`` values, one for each.  A list that
            holds numbers only, at any depth, is one value.
        used: which kernels take part.
        count: how many kernels there are.

    Raises:
        ValueError: a list of another length.
    """
    if not isinstance(given, (list, tuple)) or is_numbers(given):
        return [given] * len(used)
    if len(given) != count:
        raise ValueError(f"a list must have one entry for each of {count} kernels, got {given}")
    return [given[k] for k in used]


def read_compatibility(op: str, given: Any, labels: int | None, like: Tensor) -> Tensor | None:
    """The matrix mu of one kernel: None for Potts, (C,) a diagonal, (C, C) a matrix.

    Args:
        op: the caller's name, for messages.
        given: None; a number or a tensor without axes, which is that many times Potts, so the
            diagonal of its negative; numbers (C,) or (C, C) as tensor, array or lists.
        labels: C; None leaves a number as a tensor without axes, and checks no length.
        like: gives the dtype, and the device of what is no tensor.

    Raises:
        TypeError: something else, or values that are no real numbers.
        ValueError: another shape, rows of different length, a number that is not finite.
    """
    if given is None:
        return None
    values = _as_tensor(op, given, like)
    if values.dim() == 0:
        return values if labels is None else -values.expand(labels)
    fits = values.dim() < 3 and len(set(values.shape)) == 1
    if not fits or (labels is not None and values.shape[0] != labels):
        c = "C" if labels is None else labels
        raise ValueError(
            f"{op}: compatibility must be None, a number, ({c},) or ({c}, {c}),"
            f" got {tuple(values.shape)}"
        )
    return values


def is_numbers(value: Any) -> bool:
    """Whether ``value`` is a number, or a list of nothing but numbers at any depth."""
    if isinstance(value, (list, tuple)):
        return len(value) > 0 and all(is_numbers(entry) for entry in value)
    return isinstance(value, Real) and not isinstance(value, bool)


def _as_tensor(op: str, given: Any, like: Tensor) -> Tensor:
    expected = f"{op}: compatibility must be None, a number, or an array or lists of real numbers"
    if isinstance(given, Tensor):
        if given.dtype is torch.bool or given.is_complex():
            raise TypeError(f"{expected}, got a {given.dtype} tensor")
        return given.to(like.dtype)
    if isinstance(given, np.ndarray):
        if given.dtype.kind not in "fiu":
            raise TypeError(f"{expected}, got a {given.dtype} array")
        return torch.as_tensor(given).to(like)
    if not is_numbers(given):
        raise TypeError(f"{expected}, got {given!r}")
    if isinstance(given, Real) and not math.isfinite(given):
        raise ValueError(f"{op}: compatibility must be finite, got {given}")
    try:
        return torch.tensor(given, dtype=like.dtype, device=like.device)
    except ValueError:
        raise ValueError(
            f"{op}: compatibility has rows of different lengths, got {given}"
        ) from None
