"""Mean field inference in a fully connected CRF with Gaussian edge potentials."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deeplab_repro.native import backends
from deeplab_repro.ops import reference
from deeplab_repro.ops.permutohedral import Lattice
from deeplab_repro.ops.reference.mean_field import EXPNORMS
from deeplab_repro.ops.reference.permutohedral import NORMALIZATIONS

_FIELDS = len(Lattice._fields)


def mean_field(
    unary: Tensor,
    lattices: Sequence[Lattice],
    weights: Tensor | Sequence[float],
    compatibility: Sequence[Tensor | None] | None = None,
    *,
    normalization: str | Sequence[str] = "after",
    relaxation: float = 1.0,
    iterations: int = 10,
    expnorm: str = "deeplab",
    initial: Tensor | None = None,
    max_blocks: int = 0,
) -> Tensor:
    """Return the marginals Q after `iterations` parallel updates of every label of every point.

    ::

        Q <- expnorm(-unary - sum over kernels k of weights[k] * mu_k (K_k Q))

    Args:
        unary: (B, C, P) energies, float32 or float64: lower is likelier, +inf = never.
        lattices: one a kernel K_k, each with B pictures of P points, dtype and device of unary.
        weights: one a kernel: numbers, or a tensor (K,).
        compatibility: one a kernel: None = Potts (mu = -1 for equal labels, 0 otherwise), (C,) a
            diagonal mu, or (C, C), used as given. None for all = Potts for all.
        normalization: of the kernels, as of :func:`permutohedral_filter`; one for all, or one a
            kernel.
        relaxation: r in Q <- (1 - r) Q_old + r Q_new.
        iterations: how many updates.
        expnorm: "deeplab", a softmax that makes a class less than exp(-20) times as likely as the
            likeliest exactly 0; "exact", without that.
        initial: (B, C, P) the first Q; None = expnorm(-unary).
        max_blocks: for tests, caps the CUDA grid; 0 = automatic.

    Returns:
        A new tensor (B, C, P). Differentiable in unary, weights, compatibility, initial and the
        lattices' own weights; where none of them requires a gradient, float32 runs through fused
        kernels, which keep no history. The same bits in every run and for every number of threads.

    Raises:
        TypeError, ValueError: for a bad argument; the message names it and what it got.
    """
    count = len(lattices)
    mus = [None] * count if compatibility is None else list(compatibility)
    norms = [normalization] * count if isinstance(normalization, str) else list(normalization)
    if not isinstance(weights, Tensor):
        weights = torch.tensor([float(w) for w in weights], dtype=torch.float64)
    weights = weights.to(unary.device, unary.dtype)
    _check(unary, lattices, weights, mus, norms, relaxation, iterations, expnorm, initial)

    inputs = [unary, weights, initial, *mus, *(lattice.weight for lattice in lattices)]
    needs_grad = torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in inputs)
    if needs_grad or unary.dtype != torch.float32 or count == 0:

        def filter_(values: Tensor, *rest: object) -> Tensor:
            return torch.ops.deeplab_repro.permutohedral_filter(values, *rest, max_blocks)

        return reference.mean_field(
            unary, lattices, weights, mus, norms, relaxation, iterations, expnorm, initial, filter_
        )
    return torch.ops.deeplab_repro.mean_field(
        unary,
        initial,
        [tensor for lattice in lattices for tensor in lattice],
        weights,
        [unary.new_empty(0) if mu is None else mu for mu in mus],
        [NORMALIZATIONS.index(norm) for norm in norms],
        relaxation,
        iterations,
        expnorm == "exact",
        max_blocks,
    )


def _check(
    unary: Tensor,
    lattices: Sequence[Lattice],
    weights: Tensor,
    mus: Sequence[Tensor | None],
    norms: Sequence[str],
    relaxation: float,
    iterations: int,
    expnorm: str,
    initial: Tensor | None,
) -> None:
    op = "mean_field"
    if unary.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: unary must be float32 or float64, got {unary.dtype}")
    if unary.dim() != 3 or unary.shape[1] == 0:
        raise ValueError(
            f"{op}: unary must have shape (B, C, P) with at least one label, "
            f"got {tuple(unary.shape)}"
        )
    batch, classes, points = unary.shape
    kernels = len(lattices)
    for name, got in (
        ("weights", weights.numel()),
        ("compatibility", len(mus)),
        ("normalization", len(norms)),
    ):
        if got != kernels or weights.dim() != 1:
            raise ValueError(
                f"{op}: {name} must have one entry for each of {kernels} lattices, got {got}"
            )
    for lattice in lattices:
        if lattice.vertex.shape[:2] != (batch, points):
            raise ValueError(
                f"{op}: a lattice has (B, P) = {tuple(lattice.vertex.shape[:2])}, "
                f"unary ({batch}, C, {points})"
            )
        _check_like(f"{op}: a lattice", lattice.weight, unary)
    for mu in mus:
        if mu is None:
            continue
        _check_like(f"{op}: compatibility", mu, unary)
        if tuple(mu.shape) not in ((classes,), (classes, classes)):
            raise ValueError(
                f"{op}: compatibility must be None, ({classes},) or ({classes}, {classes}), "
                f"got {tuple(mu.shape)}"
            )
    for norm in norms:
        if norm not in NORMALIZATIONS:
            raise ValueError(
                f"{op}: normalization must be one of {', '.join(NORMALIZATIONS)}, got {norm!r}"
            )
    if expnorm not in EXPNORMS:
        raise ValueError(f"{op}: expnorm must be one of {', '.join(EXPNORMS)}, got {expnorm!r}")
    if iterations < 0:
        raise ValueError(f"{op}: iterations must not be negative, got {iterations}")
    if not 0 <= relaxation <= 1:
        raise ValueError(f"{op}: relaxation must be in 0..1, got {relaxation}")
    if initial is not None:
        _check_like(f"{op}: initial", initial, unary)
        if initial.shape != unary.shape:
            raise ValueError(
                f"{op}: initial must have unary's shape {tuple(unary.shape)}, "
                f"got {tuple(initial.shape)}"
            )


def _check_like(what: str, tensor: Tensor, unary: Tensor) -> None:
    if tensor.dtype != unary.dtype:
        raise TypeError(f"{what} must have unary's dtype {unary.dtype}, got {tensor.dtype}")
    if tensor.device != unary.device:
        raise ValueError(f"{what} must be on unary's device {unary.device}, got {tensor.device}")


def _reference(
    unary: Tensor,
    initial: Tensor | None,
    lattices: Sequence[Tensor],
    weights: Tensor,
    compatibility: Sequence[Tensor],
    normalization: Sequence[int],
    relaxation: float,
    iterations: int,
    exact: bool,
) -> Tensor:
    """reference.mean_field with the op's arguments."""
    return reference.mean_field(
        unary,
        [Lattice(*lattices[i : i + _FIELDS]) for i in range(0, len(lattices), _FIELDS)],
        weights,
        [mu if mu.numel() else None for mu in compatibility],
        [NORMALIZATIONS[code] for code in normalization],
        relaxation,
        iterations,
        "exact" if exact else "deeplab",
        initial,
    ).clone(memory_format=torch.contiguous_format)


backends.provide("mean_field", _reference)


@torch.library.register_fake("deeplab_repro::mean_field")
def _fake(
    unary,
    initial,
    lattices,
    weights,
    compatibility,
    normalization,
    relaxation,
    iterations,
    exact,
    max_blocks=0,
):
    return unary.new_empty(unary.shape)
