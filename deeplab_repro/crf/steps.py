"""The steps of mean field for pictures whose lattices are there, and their gradients."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeplab_repro.crf.energy import energies_of
from deeplab_repro.ops import mean_field, permutohedral_filter
from deeplab_repro.ops.permutohedral import Lattice
from deeplab_repro.ops.reference.mean_field import compatible

__all__ = ["MeanField", "Settings"]


class Settings(NamedTuple):
    """How mean field runs; see :func:`deeplab_repro.crf.dense_crf`.

    In the order of the arguments of the op in ``op.py``.
    """

    normalization: Sequence[str]  # of each kernel
    relaxation: float
    iterations: int
    expnorm: str
    padding_points: bool
    energies: bool


class MeanField(NamedTuple):
    """The CRF of B pictures with P points each, without its energies."""

    lattices: Sequence[Lattice]
    weights: Tensor  # (kernels,)
    compatibility: Sequence[Tensor | None]  # of each kernel
    settings: Settings

    def run(
        self, unary: Tensor, q: Tensor | None, count: int, relaxation: float | None = None
    ) -> Tensor:
        """Q after ``count`` steps from q (B, C, P) on; None: from softmax(-unary) on."""
        return mean_field(
            unary,
            self.lattices,
            self.weights,
            self.compatibility,
            normalization=self.settings.normalization,
            iterations=count,
            expnorm=self.settings.expnorm,
            relaxation=self.settings.relaxation if relaxation is None else relaxation,
            initial=q,
        )

    def steps(self, unary: Tensor) -> Iterator[Tensor]:
        """Q before the first step and after each, (B, C, P)."""
        q = self.run(unary, None, 0)
        yield q
        for _ in range(self.settings.iterations):
            q = self.run(unary, q, 1)
            yield q

    def solve(self, unary: Tensor) -> tuple[Tensor, list[Tensor]]:
        """Q after the last step, and three energies (steps + 1, B), if they are asked for."""
        if not self.settings.energies:
            return self.run(unary, None, self.settings.iterations), []
        terms = []
        for q in self.steps(unary):
            terms.append(self.energies(q, unary))
        return q, [torch.stack(term) for term in zip(*terms, strict=True)]

    @torch.no_grad()
    def energies(self, q: Tensor, unary: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Entropy, unary and pairwise term of Q, (B,) float64 each."""
        norms = self.settings.normalization
        return energies_of(q, unary, self.lattices, self.weights, self.compatibility, norms)

    def gradients(
        self, grad: Tensor, qs: Sequence[Tensor], unary: Tensor, needs: Sequence[bool]
    ) -> list[Tensor | None]:
        """Of unary, weights, compatibilities and the lattices' weights, from that of the last Q.

        Args:
            grad: (B, C, P).
            qs: what :meth:`steps` gave.
            unary: (B, C, P).
            needs: which are asked for; None stands for the others, and for Potts.
        """
        relaxation = self.settings.relaxation
        count = len(self.lattices)
        need_weights, need_mus, need_lattices = needs[1], needs[2 : 2 + count], needs[2 + count :]
        grad_unary, grad_weights = torch.zeros_like(unary), torch.zeros_like(self.weights)
        grad_mus = [None if mu is None else torch.zeros_like(mu) for mu in self.compatibility]
        grad_lattices = [torch.zeros_like(lattice.weight) for lattice in self.lattices]
        kernels = list(
            zip(
                self.lattices,
                self.weights,
                self.compatibility,
                self.settings.normalization,
                strict=True,
            )
        )
        for q, after in zip(reversed(qs[:-1]), reversed(qs[1:]), strict=True):
            expected = after if relaxation == 1 else self.run(unary, q, 1, relaxation=1.0)
            grad_energy = _through_softmax(expected, relaxation * grad)
            grad_unary += grad_energy
            grad = (1 - relaxation) * grad
            for k, (lattice, weight, mu, norm) in enumerate(kernels):
                filtering = _Filtering(lattice, q, norm, need_lattices[k])
                if need_weights:
                    grad_weights[k] += (grad_energy * compatible(mu, filtering.result)).sum()
                grad_mu = grad_mus[k]
                if need_mus[k] and grad_mu is not None:
                    grad_mu += weight * _for_compatibility(grad_energy, filtering.result, grad_mu)
                # The transpose of w * mu (K Q): mu transposed, then the filter.
                back = weight * compatible(None if mu is None else mu.t(), grad_energy)
                grad_q, grad_lattice = filtering.transposed(back)
                grad = grad + grad_q
                if grad_lattice is not None:
                    grad_lattices[k] += grad_lattice
        grad_unary += _through_softmax(qs[0], grad)
        found = [grad_unary, grad_weights, *grad_mus, *grad_lattices]
        return [one if need else None for one, need in zip(found, needs, strict=True)]


class Differentiable(torch.autograd.Function):
    """:meth:`MeanField.solve`, which keeps Q of every step and no more for the backward pass.

    Behind each kernel's compatibility it is given each lattice's weights once more.
    """

    @staticmethod
    def forward(
        ctx: Any,
        lattices: Sequence[Lattice],
        settings: Settings,
        unary: Tensor,
        weights: Tensor,
        *mus_and_lattice_weights: Tensor | None,
    ) -> tuple[Tensor, ...]:
        mus = mus_and_lattice_weights[: len(lattices)]
        # A function sees the gradients of what it is given as a tensor of its own.
        lattices = [lattice._replace(weight=lattice.weight.detach()) for lattice in lattices]
        field = MeanField(lattices, weights, mus, settings)
        qs = list(field.steps(unary))
        ctx.lattices, ctx.settings = lattices, settings
        ctx.save_for_backward(unary, weights, *mus, *qs)
        if not settings.energies:
            return (qs[-1],)
        terms = zip(*(field.energies(q, unary) for q in qs), strict=True)
        energies = [torch.stack(term) for term in terms]
        ctx.mark_non_differentiable(*energies)
        return qs[-1], *energies

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple[Tensor | None, ...]:
        unary, weights, *rest = ctx.saved_tensors
        count = len(ctx.lattices)
        mus, qs = rest[:count], rest[count:]
        field = MeanField(ctx.lattices, weights, mus, ctx.settings)
        with torch.autocast(unary.device.type, enabled=False):
            grads = field.gradients(grad, qs, unary, ctx.needs_input_grad[2:])
        return None, None, *grads


class _Filtering:
    """Q (B, C, P) filtered, as far as somebody asks, and the way back.

    With ``learns`` it also goes back to the lattice's weights, those of the normalization too.
    """

    def __init__(self, lattice: Lattice, q: Tensor, norm: str, learns: bool) -> None:
        if learns:
            q = q.detach().requires_grad_()
            lattice = lattice._replace(weight=lattice.weight.detach().requires_grad_())
        self._lattice, self._q, self._norm, self._learns = lattice, q, norm, learns

    @cached_property
    def result(self) -> Tensor:
        """(B, C, P), with its history where the lattice learns."""
        with torch.set_grad_enabled(self._learns):
            return _filtered(self._lattice, self._q, self._norm)

    def transposed(self, grad: Tensor) -> tuple[Tensor, Tensor | None]:
        """The gradients of Q and of the lattice's weights, from that of the result."""
        if not self._learns:
            return _filtered(self._lattice, grad, self._norm, reverse=True), None
        inputs = self._q, self._lattice.weight
        grad_q, grad_weight = torch.autograd.grad(self.result, inputs, grad)
        return grad_q, grad_weight


def _filtered(lattice: Lattice, values: Tensor, norm: str, reverse: bool = False) -> Tensor:
    """Values (B, C, P) filtered."""
    return permutohedral_filter(lattice, values.transpose(1, 2), norm, reverse).transpose(1, 2)


def _through_softmax(q: Tensor, grad: Tensor) -> Tensor:
    """The gradient of the energies E, where q = softmax(-E) over the labels (B, C, P)."""
    return q * ((q * grad).sum(1, keepdim=True) - grad)


def _for_compatibility(grad_energy: Tensor, filtered: Tensor, mu: Tensor) -> Tensor:
    """The gradient of mu, (C,) or (C, C), in mu * filtered (B, C, P)."""
    if mu.dim() == 1:
        return (grad_energy * filtered).sum((0, 2))
    return (grad_energy @ filtered.mT).sum(0)
