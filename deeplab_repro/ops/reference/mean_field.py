"""Torch twin of mean field inference in a dense CRF whose kernels are permutohedral lattices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from deeplab_repro.ops.reference.permutohedral import (
    Lattice,
    normalized_filter,
    permutohedral_filter,
)

EXPNORMS = ("deeplab", "exact")
# densecrf's exp is exactly 0 below this.
_CUTOFF = -20.0


def mean_field(
    unary: Tensor,
    lattices: Sequence[Lattice],
    weights: Tensor,
    compatibility: Sequence[Tensor | None],
    normalization: Sequence[str],
    relaxation: float = 1.0,
    iterations: int = 10,
    expnorm: str = "deeplab",
    initial: Tensor | None = None,
    filter_: Callable[..., Tensor] = permutohedral_filter,
) -> Tensor:
    """Marginals (B, C, P) of unary energies (B, C, P); see ops.mean_field.

    One lattice, weight (K,), compatibility and normalization a kernel; `filter_` is what filters.
    """
    q = softmax(-unary, expnorm) if initial is None else initial
    for _ in range(iterations):
        energy = unary
        for lattice, weight, mu, norm in zip(
            lattices, weights, compatibility, normalization, strict=True
        ):
            values = q.transpose(1, 2)
            filtered = normalized_filter(filter_, lattice, values, norm).transpose(1, 2)
            energy = energy + weight * compatible(mu, filtered)
        expected = softmax(-energy, expnorm)
        q = expected if relaxation == 1 else (1 - relaxation) * q + relaxation * expected
    return q


def compatible(mu: Tensor | None, filtered: Tensor) -> Tensor:
    """mu times filtered (B, C, P): None = Potts, -1 for equal labels; (C,) a diagonal; (C, C)."""
    if mu is None:
        return -filtered
    return mu[:, None] * filtered if mu.dim() == 1 else _Product.apply(mu, filtered)


class _Product(torch.autograd.Function):
    """mu (C, C) @ values (B, C, P), whose backward pass autocast does not round to half, either."""

    @staticmethod
    def forward(mu: Tensor, values: Tensor) -> Tensor:
        with torch.autocast(values.device.type, enabled=False):
            return mu @ values

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Tensor, Tensor], output: Tensor) -> None:
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None]:
        mu, values = ctx.saved_tensors
        need_mu, need_values = ctx.needs_input_grad
        with torch.autocast(values.device.type, enabled=False):
            return (
                (grad @ values.mT).sum(0) if need_mu else None,
                mu.t() @ grad if need_values else None,
            )


def softmax(x: Tensor, expnorm: str) -> Tensor:
    """Along dim 1; "deeplab": a value 20 or more below the largest becomes exactly 0."""
    if expnorm == "exact":
        return torch.softmax(x, 1)
    below = x - x.amax(1, keepdim=True)
    exp = torch.where(below < _CUTOFF, 0, below.clamp_min(_CUTOFF).exp())
    return exp / exp.sum(1, keepdim=True)
