"""What mean field minimises, term by term."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deeplab_repro.ops import permutohedral_filter
from deeplab_repro.ops.permutohedral import Lattice

__all__ = ["Energies", "energies_of", "kernel_energies"]


class Energies(NamedTuple):
    """Terms of each picture before the first step and after each one; float64.

    Attributes:
        entropy: (steps + 1, N), sum of Q log Q.
        unary: (steps + 1, N), sum of Q U.
        pairwise: (steps + 1, N), sum of Q times the messages, over all kernels.  Each pair of
            pixels counts twice and each pixel with itself once.
    """

    entropy: Tensor
    unary: Tensor
    pairwise: Tensor

    @property
    def free_energy(self) -> Tensor:
        """(steps + 1, N): what the updates belong to; every pair counts once."""
        return self.entropy + self.unary + 0.5 * self.pairwise

    @property
    def kl_divergence(self) -> Tensor:
        """(steps + 1, N): pydensecrf's klDivergence, in which every pair counts twice."""
        return self.entropy + self.unary + self.pairwise


def energies_of(
    q: Tensor,
    unary: Tensor,
    lattices: Sequence[Lattice],
    weights: Tensor,
    compatibility: Sequence[Tensor | None],
    normalization: Sequence[str],
) -> tuple[Tensor, Tensor, Tensor]:
    """Entropy, unary and pairwise term, (N,) float64 each, of marginals.

    Args:
        q: (N, C, P) marginals.
        unary: (N, C, P) energies.
        lattices, weights, compatibility, normalization: as of :func:`~deeplab_repro.ops.mean_field`,
            one for each kernel.
    """
    entropy = q * q.clamp_min(1e-20).log()
    # A label that cannot be, +inf, has probability 0 and adds nothing.
    unaries = torch.where(q > 0, q * unary, 0)
    pairwise = torch.zeros(len(q), dtype=torch.float64, device=q.device)
    kernels = kernel_energies(q, lattices, compatibility, normalization)
    for weight, energy in zip(weights, kernels, strict=True):
        pairwise += weight.double() * energy
    return _total(entropy), _total(unaries), pairwise


def kernel_energies(
    q: Tensor,
    lattices: Sequence[Lattice],
    compatibility: Sequence[Tensor | None],
    normalization: Sequence[str],
) -> list[Tensor]:
    """The pairwise term of each kernel at weight 1, (N,) float64."""
    found = []
    for lattice, mu, norm in zip(lattices, compatibility, normalization, strict=True):
        filtered = permutohedral_filter(lattice, q.transpose(1, 2), norm).transpose(1, 2)
        if mu is None:
            messages = -filtered
        else:
            messages = mu[:, None] * filtered if mu.dim() == 1 else mu @ filtered
        found.append(_total(q * messages))
    return found


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.float64)
