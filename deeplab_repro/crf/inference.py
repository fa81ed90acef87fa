"""Mean field inference in a fully connected CRF, over pictures or over features of any kind."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal, TypeAlias, overload

import torch
from torch import Tensor

from deeplab_repro.crf.checks import check_image, check_unary
from deeplab_repro.crf.compatibility import Compatibility, per_kernel, read_compatibility
from deeplab_repro.crf.energy import Energies
from deeplab_repro.crf.features import learned_features
from deeplab_repro.crf.kernels import Kernel
from deeplab_repro.crf.params import CRFParams, Std
from deeplab_repro.crf.solve import solve, working_dtype
from deeplab_repro.crf.steps import Settings

__all__ = ["Compatibility", "Normalization", "Output", "dense_crf", "dense_crf_features"]

#: For all kernels, or in a list one for each.
Normalization: TypeAlias = str | Sequence[str]
Output: TypeAlias = Literal["marginals", "labels", "log"]
_OUTPUTS = ("marginals", "labels", "log")


# fmt: off
@overload
def dense_crf(
    unary: Tensor, image: Tensor | None, params: CRFParams = ...,
    compatibility: Compatibility = ..., normalization: Normalization = ...,
    relaxation: float = ..., output: Output = ..., *, weights: Tensor | None = ...,
    stds: Sequence[Tensor] | None = ...,
    expnorm: str = ..., padding_points: bool = ..., checkpoint: bool = ...,
    energies: Literal[False] = ...,
) -> Tensor: ...
@overload
def dense_crf(
    unary: Tensor, image: Tensor | None, params: CRFParams = ...,
    compatibility: Compatibility = ..., normalization: Normalization = ...,
    relaxation: float = ..., output: Output = ..., *, weights: Tensor | None = ...,
    stds: Sequence[Tensor] | None = ...,
    expnorm: str = ..., padding_points: bool = ..., checkpoint: bool = ...,
    energies: Literal[True],
) -> tuple[Tensor, Energies]: ...
@overload
def dense_crf(
    unary: Tensor, image: Tensor | None, params: CRFParams = ...,
    compatibility: Compatibility = ..., normalization: Normalization = ...,
    relaxation: float = ..., output: Output = ..., *, weights: Tensor | None = ...,
    stds: Sequence[Tensor] | None = ...,
    expnorm: str = ..., padding_points: bool = ..., checkpoint: bool = ...,
    energies: bool,
) -> Tensor | tuple[Tensor, Energies]: ...
# fmt: on
def dense_crf(
    unary: Tensor,
    image: Tensor | None,
    params: CRFParams = CRFParams(),  # noqa: B008 - frozen
    compatibility: Compatibility = None,
    normalization: Normalization = "after",
    relaxation: float = 1.0,
    output: Output = "marginals",
    *,
    weights: Tensor | None = None,
    stds: Sequence[Tensor] | None = None,
    expnorm: str = "deeplab",
    padding_points: bool = False,
    checkpoint: bool = True,
    energies: bool = False,
) -> Tensor | tuple[Tensor, Energies]:
    """Refine a map of scores so that it follows the edges of a picture.

    Computes what DeepLab's densecrf programs compute (P. Kraehenbuehl and V. Koltun, arXiv
    1210.5644): Q = softmax(-unary); then, ``params.iterations`` times and for all pixels at once,
    Q = softmax(-unary - sum over kernels of w * mu (K Q)), K a Gaussian filter over positions, or
    over positions and colours, by permutohedral lattice.

    Args:
        unary: (N, C, H, W) energies, -score or -log p; +inf rules a label out.  float64 is
            computed in float64; float32, float16 and bfloat16 in float32, under autocast too.
        image: (N, channels, H, W) of any number type, 0..255 as a rule; one or more channels,
            whose order hardly matters.  May be None where no bilateral kernel has a weight.
        params: kernels and iterations; see :meth:`CRFParams.named`.
        compatibility: mu.  None is Potts, -1 for equal labels; a number that many times Potts;
            (C,) a diagonal and (C, C) a matrix, used as given: a tensor, an array, or numbers in
            lists.  A list with anything but numbers in it has one of these for each kernel.
        normalization: ``"after"`` divides by K 1 (DeepLab); ``"symmetric"`` by its square root on
            both sides (pydensecrf's default); ``"before"``; ``"none"``.  A list: one a kernel.
        relaxation: r; each step gives (1 - r) * Q + r * new Q.
        output: ``"marginals"`` Q; ``"log"`` log(max(Q, least normal float)); ``"labels"`` the first
            maximum of Q.
        weights: (kernels,) to take the place of those in ``params``, to learn them.
        stds: to take the place of those in ``params``, to learn them: one tensor for each kernel,
            (2,) for x and y, and for a bilateral one (2 + channels,).
        expnorm: ``"deeplab"`` sets labels below exp(-20) of the largest to exactly 0, as the 2011
            program does; ``"exact"`` does not.
        padding_points: the densecrf programs fill the last block of four pixels with points at
            position 0 and colour 0, which take part in the blur; True does so too.
        checkpoint: where gradients are needed, keep Q of each step only and compute the rest again
            in the backward pass, which is then differentiable once.  A compiled graph keeps
            nothing.
        energies: also return the :class:`Energies` of every step.

    Returns:
        (N, C, H, W) of unary's dtype, or (N, H, W) int64 labels, which come from Q in float32 or
        float64 always; with ``energies`` a pair.  Differentiable in unary, weights, compatibility
        and stds, not in the image (:func:`dense_crf_features` is in its features).  Gradients of
        stds and features are those of what the lattice computes, not of the Gaussian that it
        approximates.

        In ``torch.compile`` and ``torch.export`` the CRF is one op of the graph, of any size; a
        saved program needs this package where it runs.

    Raises:
        TypeError: no tensor, or of another dtype.
        ValueError: shapes that do not fit (height and width swapped is recognised), NaN or
            infinite values, stds so small that the lattice's keys overflow, an unknown word; of a
            compiled graph, what is wrong in values alone shows when it runs.
        MemoryError: more than this machine has, told before it is allocated.

    >>> q = dense_crf(-scores, image, CRFParams.named("deeplab_v2_resnet101"))
    """
    op = "dense_crf"
    check_unary(op, unary)
    used = list(range(len(params.weights)))
    dtype = working_dtype(unary)
    if weights is None:
        used = [k for k in used if params.weights[k]]
        weights = unary.new_tensor([params.weights[k] for k in used], dtype=dtype)
    if image is not None:
        check_image(op, image, unary)
    elif any(used):
        raise ValueError(f"{op}: image is None, but there is a bilateral kernel with a weight")
    return _infer(
        op,
        unary,
        [_picture_kernel(op, unary, image, params, k, stds) for k in used],
        weights,
        compatibility=per_kernel(compatibility, used, len(params.weights)),
        normalization=per_kernel(normalization, used, len(params.weights)),
        relaxation=relaxation,
        iterations=params.iterations,
        expnorm=expnorm,
        padding_points=padding_points,
        output=output,
        checkpoint=checkpoint,
        energies=energies,
    )


# fmt: off
@overload
def dense_crf_features(
    unary: Tensor, features: Sequence[Tensor], weights: Tensor | Sequence[float],
    compatibility: Compatibility = ..., normalization: Normalization = ...,
    relaxation: float = ..., output: Output = ..., *, iterations: int = ...,
    expnorm: str = ..., padding_points: bool = ..., checkpoint: bool = ...,
    energies: Literal[False] = ...,
) -> Tensor: ...
@overload
def dense_crf_features(
    unary: Tensor, features: Sequence[Tensor], weights: Tensor | Sequence[float],
    compatibility: Compatibility = ..., normalization: Normalization = ...,
    relaxation: float = ..., output: Output = ..., *, iterations: int = ...,
    expnorm: str = ..., padding_points: bool = ..., checkpoint: bool = ...,
    energies: Literal[True],
) -> tuple[Tensor, Energies]: ...
@overload
def dense_crf_features(
    unary: Tensor, features: Sequence[Tensor], weights: Tensor | Sequence[float],
    compatibility: Compatibility = ..., normalization: Normalization = ...,
    relaxation: float = ..., output: Output = ..., *, iterations: int = ...,
    expnorm: str = ..., padding_points: bool = ..., checkpoint: bool = ...,
    energies: bool,
) -> Tensor | tuple[Tensor, Energies]: ...
# fmt: on
def dense_crf_features(
    unary: Tensor,
    features: Sequence[Tensor],
    weights: Tensor | Sequence[float],
    compatibility: Compatibility = None,
    normalization: Normalization = "after",
    relaxation: float = 1.0,
    output: Output = "marginals",
    *,
    iterations: int = 10,
    expnorm: str = "deeplab",
    padding_points: bool = False,
    checkpoint: bool = True,
    energies: bool = False,
) -> Tensor | tuple[Tensor, Energies]:
    """A dense CRF over free features: volumes, point clouds, any number of axes and channels.

    Args:
        unary: (N, C, ...) energies as of :func:`dense_crf`, one or more axes after C.
        features: one for each kernel, (d, ...) for all pictures alike or (N, d, ...), d from 1 to
            16, each feature divided by its std.
        weights: (kernels,).
        iterations: mean field steps.
        compatibility, normalization, relaxation, output: as of :func:`dense_crf`.
        expnorm, padding_points, checkpoint, energies: as of :func:`dense_crf`.

    Returns:
        (N, C, ...) of unary's dtype, or (N, ...) int64 labels; with ``energies`` a pair.

    Raises:
        TypeError, ValueError, MemoryError: as :func:`dense_crf`.

    >>> z, y, x = torch.meshgrid(*map(torch.arange, volume.shape), indexing="ij")
    >>> features = torch.stack([z / 2, y / 3, x / 3, volume / 15])
    >>> q = dense_crf_features(unary, [features], [4.0])
    """
    op = "dense_crf_features"
    check_unary(op, unary, None)
    if isinstance(features, Tensor):
        raise TypeError(f"{op}: features must be a list of tensors, one for each kernel")
    kernels = []
    for k, one in enumerate(features):
        name = f"{op}: features[{k}]"
        _check_features(name, one, unary)
        kernels.append(Kernel(name, one if one.dim() == unary.dim() else one[None], ()))
    weights = torch.as_tensor(weights, dtype=working_dtype(unary), device=unary.device)
    if weights.shape != (len(features),):
        raise ValueError(
            f"{op}: weights must have shape ({len(features)},), one for each kernel,"
            f" got {tuple(weights.shape)}"
        )
    return _infer(
        op,
        unary,
        kernels,
        weights,
        compatibility=per_kernel(compatibility, range(len(features)), len(features)),
        normalization=per_kernel(normalization, range(len(features)), len(features)),
        relaxation=relaxation,
        iterations=iterations,
        expnorm=expnorm,
        padding_points=padding_points,
        output=output,
        checkpoint=checkpoint,
        energies=energies,
    )


def _check_features(what: str, features: Tensor, unary: Tensor) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{what} must be a tensor of floats, got {kind}")
    axes = unary.dim() - 2
    batched = features.dim() == axes + 2 and features.shape[0] == unary.shape[0]
    alike = features.dim() == axes + 1
    if not (batched or alike) or features.shape[-axes:] != unary.shape[2:]:
        batch, _, *shape = unary.shape
        places = ", ".join(map(str, shape))
        hint = ""
        if list(features.shape[-axes:]) == shape[::-1]:
            hint = ": the axes are in the opposite order"
        raise ValueError(
            f"{what} must have shape (d, {places}) or ({batch}, d, {places}),"
            f" got {tuple(features.shape)}{hint}"
        )
    if features.device != unary.device:
        raise ValueError(f"{what} must be on unary's device {unary.device}, got {features.device}")


def _picture_kernel(
    op: str,
    unary: Tensor,
    image: Tensor | None,
    params: CRFParams,
    k: int,
    stds: Sequence[Tensor] | None,
) -> Kernel:
    """Kernel ``k`` of a picture: spatial, bilateral, extra ones."""
    if stds is not None:
        return _learned_kernel(op, unary, image if k else None, stds, len(params.weights), k)
    if k == 0:
        positions = unary.new_empty((1, 0, *unary.shape[2:]))
        return Kernel(f"{op}: the spatial kernel", positions, _each(params.pos_xy_std, 2))
    assert image is not None  # the callers see to it
    # No new Bilateral: it checks its numbers, which torch.compile may have made symbols.
    if k == 1:
        xy, rgb = params.bi_xy_std, params.bi_rgb_std
    else:
        xy, rgb = params.extra[k - 2].xy_std, params.extra[k - 2].rgb_std
    channels = image.shape[1]
    name = f"{op}: the bilateral kernel"
    if isinstance(rgb, tuple) and len(rgb) != channels:
        raise ValueError(f"{name}: rgb_std has {len(rgb)} numbers, the image {channels} channels")
    return Kernel(name, image, (*_each(xy, 2), *_each(rgb, channels)))


def _learned_kernel(
    op: str, unary: Tensor, image: Tensor | None, stds: Sequence[Tensor], kernels: int, k: int
) -> Kernel:
    """Kernel ``k`` with stds that gradients reach, by way of its features."""
    if len(stds) != kernels:
        raise ValueError(
            f"{op}: stds must have one tensor for each of {kernels} kernels, got {len(stds)}"
        )
    name, like = f"{op}: stds[{k}]", unary.new_empty(0, dtype=working_dtype(unary))
    own = torch.as_tensor(stds[k]).to(like)
    dimensions = 2 + (0 if image is None else image.shape[1])
    if own.shape != (dimensions,):
        raise ValueError(f"{name} must have shape ({dimensions},), got {tuple(own.shape)}")
    if not torch.compiler.is_compiling() and not bool((own > 0).all()):
        raise ValueError(f"{name} must be positive, got {own.tolist()}")
    return Kernel(name, learned_features(image, own, unary.shape[2], unary.shape[3]), ())


def _each(std: Std, count: int) -> tuple[float, ...]:
    return std if isinstance(std, tuple) else (std,) * count


def _infer(
    op: str,
    unary: Tensor,
    kernels: Sequence[Kernel],
    weights: Tensor,
    *,
    compatibility: Sequence[Any],
    normalization: Sequence[str],
    relaxation: float,
    iterations: int,
    expnorm: str,
    padding_points: bool,
    output: Output,
    checkpoint: bool,
    energies: bool,
) -> Tensor | tuple[Tensor, Energies]:
    if output not in _OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(_OUTPUTS)}, got {output!r}")
    like = unary.new_empty(0, dtype=working_dtype(unary))
    mus = [read_compatibility(op, mu, unary.shape[1], like) for mu in compatibility]
    settings = Settings(normalization, relaxation, iterations, expnorm, padding_points, energies)
    q, terms = solve(op, unary, kernels, weights.to(like), mus, settings, checkpoint)
    made = _as_output(q, output, unary.dtype)
    return made if terms is None else (made, terms)


def _as_output(q: Tensor, output: Output, dtype: torch.dtype) -> Tensor:
    if output == "labels":
        return q.max(1).indices  # of several maxima the first; much faster than argmax
    made = q.clamp_min(torch.finfo(q.dtype).tiny).log() if output == "log" else q
    return made.to(dtype)
