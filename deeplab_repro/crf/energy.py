"""What mean field minimises, term by term."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from deeplab_repro.ops import permutohedral_filter
from deeplab_repro.ops.permutohedral import Lattice
from deeplab_repro.ops.reference.mean_field import compatible

__all__ = ["Energies", "energies_of", "label_energies", "messages"]


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
        lattices, weights, compatibility, normalization: one for each kernel, as of ``mean_field``.
    """
    pairwise = torch.zeros(len(q), dtype=torch.float64, device=q.device)
    for sent in messages(q, lattices, weights, compatibility, normalization):
        pairwise += _total(q * sent)
    return *label_energies(q, unary), pairwise


def label_energies(q: Tensor, unary: Tensor) -> tuple[Tensor, Tensor]:
    """Entropy and unary term, (N,) float64 each, of marginals and energies (N, C, P)."""
    entropy = q * q.clamp_min(1e-20).log()
    # A label that cannot be, +inf, has probability 0 and adds nothing.
    return _total(entropy), _total(torch.where(q > 0, q * unary, 0))


def messages(
    q: Tensor,
    lattices: Sequence[Lattice],
    weights: Tensor,
    compatibility: Sequence[Tensor | None],
    normalization: Sequence[str],
) -> Iterator[Tensor]:
    """What each kernel adds to the energies, w * mu (K Q), (N, C, P)."""
    kernels = zip(lattices, weights, compatibility, normalization, strict=True)
    for lattice, weight, mu, norm in kernels:
        filtered = permutohedral_filter(lattice, q.transpose(1, 2), norm).transpose(1, 2)
        yield weight * compatible(mu, filtered)


def _total(values: Tensor) -> Tensor:
    return values.flatten(1).sum(1, dtype=torch.float64)
