"""Inference over a batch, directly or, while torch compiles or exports, as one op of the graph.

A lattice has as many vertices as the picture makes, and bad values can be seen only in the values:
both depend on data, which no graph can hold.  The op hides the lattices and checks when it runs, so
that a compiled program computes, and refuses, exactly what an uncompiled one does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import torch
from torch import Tensor

from deeplab_repro.crf.checks import check_energies, check_memory, pictures_at_once
from deeplab_repro.crf.energy import Energies
from deeplab_repro.crf.kernels import Kernel, parts
from deeplab_repro.crf.steps import Differentiable, MeanField, Settings

__all__ = ["solve", "working_dtype"]


def working_dtype(unary: Tensor) -> torch.dtype:
    """What is computed in: float64 for float64, float32 for all others."""
    return torch.float64 if unary.dtype == torch.float64 else torch.float32


def solve(
    op: str,
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Tensor,
    compatibility: Sequence[Tensor | None],
    settings: Settings,
    checkpoint: bool,
) -> tuple[Tensor, Energies | None]:
    """Q (N, C, ...) of energies ``unary`` in :func:`working_dtype`, and the energies of the steps.

    Args:
        op: the caller's name, for messages.
        unary: (N, C, ...) of any floating dtype.
        kernels: sources on the device of ``unary``.
        weights, compatibility: one for each kernel, in the working dtype.
        settings: as of :func:`~deeplab_repro.crf.dense_crf`.
        checkpoint: keep Q of each step for the backward pass, instead of all that it reads.  A
            compiled graph keeps none, and computes them again.

    Raises:
        ValueError: values or stds that cannot be, a word that is unknown.
        MemoryError: more than this machine has.
    """
    if torch.compiler.is_compiling():
        if any(k.features is not None and k.features.requires_grad for k in kernels):
            raise RuntimeError(
                f"{op}: a compiled graph has no gradient of features or stds; leave this call out"
                " of torch.compile"
            )
        # An op's list of tensors holds no None: an empty tensor is Potts.
        filled = [weights.new_empty(0) if mu is None else mu for mu in compatibility]
        q, *terms = torch.ops.deeplab_repro.dense_crf(
            unary, weights, filled, op, *_flat(kernels), *settings
        )
        return q, Energies(*(term.detach() for term in terms)) if settings.energies else None
    _check(op, unary, kernels)
    found = []
    inputs = (unary, weights, *compatibility, *(kernel.features for kernel in kernels))
    needs_grad = torch.is_grad_enabled() and any(
        tensor is not None and tensor.requires_grad for tensor in inputs
    )
    dtype = working_dtype(unary)
    for pictures, lattices in parts(unary, kernels, settings.padding_points, dtype):
        flat = unary[pictures].flatten(2).to(dtype)
        if needs_grad and checkpoint:
            own = [lattice.weight for lattice in lattices]
            found.append(
                Differentiable.apply(lattices, settings, flat, weights, *compatibility, *own)
            )
        else:
            q, terms = MeanField(lattices, weights, compatibility, settings).solve(flat)
            found.append((q, *terms))
    qs, *terms = zip(*found, strict=True)
    q = qs[0] if len(qs) == 1 else torch.cat(qs)
    q = q.unflatten(2, unary.shape[2:])
    return q, Energies(*(torch.cat(term, 1) for term in terms)) if terms else None


def _check(op: str, unary: Tensor, kernels: Sequence[Kernel]) -> None:
    points = unary[0, 0].numel() if len(unary) else 0
    check_memory(
        op,
        len(unary),
        points,
        unary.shape[1],
        [kernel.dimensions for kernel in kernels],
        unary.new_empty(0, dtype=working_dtype(unary)),
        pictures_at_once(unary),
    )
    check_energies(op, unary)


# ---------------------------------------------------------------- the op of compiled graphs


def _optional(compatibility: Sequence[Tensor]) -> list[Tensor | None]:
    """None for Potts again."""
    return [mu if mu.numel() else None for mu in compatibility]


def _flat(kernels: Sequence[Kernel]) -> tuple[list[str], list[Tensor], list[float]]:
    """The kernels as arguments of an op, which takes no list of lists."""
    stds = [std for kernel in kernels for std in kernel.stds]
    return [kernel.name for kernel in kernels], [kernel.source for kernel in kernels], stds


def _kernels(
    names: Sequence[str], sources: Sequence[Tensor], stds: Sequence[float]
) -> list[Kernel]:
    """What :func:`_flat` took apart.  Where there are stds, every kernel has them."""
    rest = list(stds)
    kernels = []
    for name, source in zip(names, sources, strict=True):
        count = 2 + source.shape[1] if stds else 0
        kernels.append(Kernel(name, source, tuple(rest[:count])))
        del rest[:count]
    return kernels


#: The picture's kernels, as of `_flat`, and the settings.
_SCHEMA: Final = (
    "str[] names, Tensor[] sources, float[] stds, str[] normalization, float relaxation,"
    " int iterations, str expnorm, bool padding_points"
)


@torch.library.custom_op(
    "deeplab_repro::dense_crf",
    mutates_args=(),
    schema=f"(Tensor unary, Tensor weights, Tensor[] compatibility, str op, {_SCHEMA},"
    " bool energies) -> (Tensor, Tensor, Tensor, Tensor)",
)
def _op(
    unary: Tensor,
    weights: Tensor,
    compatibility: Sequence[Tensor],
    op: str,
    names: Sequence[str],
    sources: Sequence[Tensor],
    stds: Sequence[float],
    normalization: Sequence[str],
    relaxation: float,
    iterations: int,
    expnorm: str,
    padding_points: bool,
    energies: bool,
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Q, and entropy, unary and pairwise energies (steps + 1, N), or (0, N) if not asked for."""
    settings = Settings(normalization, relaxation, iterations, expnorm, padding_points, energies)
    kernels, mus = _kernels(names, sources, stds), _optional(compatibility)
    with torch.no_grad():
        q, terms = solve(op, unary, kernels, weights, mus, settings, checkpoint=False)
    none = q.new_empty((0, len(q)), dtype=torch.float64)
    entropy, unaries, pairwise = terms or (none, none.clone(), none.clone())
    return q.contiguous(), entropy, unaries, pairwise


@_op.register_fake
def _fake(
    unary, weights, compatibility, op, names, sources, stds,
    normalization, relaxation, iterations, expnorm, padding_points, energies,
):  # fmt: skip
    q = unary.new_empty(unary.shape, dtype=working_dtype(unary))
    shape = (iterations + 1 if energies else 0, unary.shape[0])
    return q, *(unary.new_empty(shape, dtype=torch.float64) for _ in Energies._fields)


@torch.library.custom_op(
    "deeplab_repro::dense_crf_backward",
    mutates_args=(),
    schema=f"(Tensor grad, Tensor unary, Tensor weights, Tensor[] compatibility, {_SCHEMA},"
    " bool[] needs) -> Tensor[]",
)
def _backward_op(
    grad: Tensor,
    unary: Tensor,
    weights: Tensor,
    compatibility: Sequence[Tensor],
    names: Sequence[str],
    sources: Sequence[Tensor],
    stds: Sequence[float],
    normalization: Sequence[str],
    relaxation: float,
    iterations: int,
    expnorm: str,
    padding_points: bool,
    needs: Sequence[bool],
) -> list[Tensor]:
    """Gradients of unary, weights and each compatibility; 0 where ``needs`` does not ask."""
    settings = Settings(normalization, relaxation, iterations, expnorm, padding_points, False)
    mus = _optional(compatibility)
    inputs = (unary, weights, *compatibility)
    totals = [torch.zeros_like(t, memory_format=torch.contiguous_format) for t in inputs]
    kernels, dtype = _kernels(names, sources, stds), working_dtype(unary)
    needs = [*needs, *(False for _ in kernels)]  # a graph's lattices have no gradients
    for pictures, lattices in parts(unary, kernels, padding_points, dtype):
        flat = unary[pictures].flatten(2).to(dtype)
        field = MeanField(lattices, weights, mus, settings)
        qs = list(field.steps(flat))
        grads = field.gradients(grad[pictures].flatten(2), qs, flat, needs)[: len(inputs)]
        if grads[0] is not None:
            totals[0][pictures] = grads[0].view_as(totals[0][pictures])
        for total, one in zip(totals[1:], grads[1:], strict=True):
            if one is not None:
                total += one
    return totals


@_backward_op.register_fake
def _backward_fake(
    grad, unary, weights, compatibility, names, sources, stds,
    normalization, relaxation, iterations, expnorm, padding_points, needs,
):  # fmt: skip
    return [t.new_empty(t.shape) for t in (unary, weights, *compatibility)]


def _setup_context(ctx: Any, inputs: tuple, output: tuple) -> None:
    unary, weights, compatibility, _, names, sources, *settings, _ = inputs
    ctx.names, ctx.settings = names, settings
    ctx.save_for_backward(unary, weights, *compatibility, *sources)


def _backward(ctx: Any, grad: Tensor, *_: Tensor) -> tuple:
    unary, weights, *rest = ctx.saved_tensors
    mus, sources = rest[: len(ctx.names)], rest[len(ctx.names) :]
    need_unary, need_weights, need_mus, *_ = ctx.needs_input_grad
    needs = [need_unary, need_weights, *need_mus]
    grads = torch.ops.deeplab_repro.dense_crf_backward(
        grad, unary, weights, mus, ctx.names, sources, *ctx.settings, needs
    )
    grad_unary, grad_weights, *grad_mus = (
        one if need else None for one, need in zip(grads, needs, strict=True)
    )
    lists = (ctx.names, sources, *ctx.settings[:2])  # and stds, normalization
    tail = (*map(_no_gradient, lists), *(None for _ in range(5)))
    return grad_unary, grad_weights, grad_mus, None, *tail


def _no_gradient(given: Sequence[Any]) -> list[None] | None:
    """For an argument that is a list.  torch wants a list for one of tensors, or an empty one."""
    return [None for _ in given] if all(isinstance(one, Tensor) for one in given) else None


_op.register_autograd(_backward, setup_context=_setup_context)
