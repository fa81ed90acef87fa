"""Mean field inference in a fully connected CRF, over pictures or over features of any kind."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeplab_repro.crf.checks import (
    check_energies,
    check_image,
    check_memory,
    check_unary,
    pictures_at_once,
)
from deeplab_repro.crf.energy import Energies, energies_of
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.crf.params import Bilateral, CRFParams, Std
from deeplab_repro.ops import mean_field, permutohedral_build
from deeplab_repro.ops.permutohedral import Lattice

__all__ = ["Compatibility", "Normalization", "Output", "dense_crf", "dense_crf_features"]

#: For all kernels, or in a list one for each.
Compatibility: TypeAlias = Tensor | Sequence[Tensor | None] | None
Normalization: TypeAlias = str | Sequence[str]
Output = Literal["marginals", "labels", "log"]
_OUTPUTS = ("marginals", "labels", "log")


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
    expnorm: str = "deeplab",
    padding_points: bool = False,
    checkpoint: bool = True,
    energies: bool = False,
) -> Any:
    """Refine a map of scores so that it follows the edges of a picture.

    Computes what DeepLab's densecrf programs compute (P. Kraehenbuehl and V. Koltun, arXiv
    1210.5644): Q = softmax(-unary); then, ``params.iterations`` times and for all pixels at once,
    Q = softmax(-unary - sum over kernels of w * mu (K Q)), K a Gaussian filter over positions, or
    over positions and colours, by permutohedral lattice.

    Args:
        unary: (N, C, H, W) float32 or float64 energies, -score or -log p; +inf rules a label out.
        image: (N, channels, H, W) of any number type, 0..255 as a rule; one or more channels,
            whose order hardly matters.  May be None where no bilateral kernel has a weight.
        params: kernels and iterations; see :meth:`CRFParams.named`.
        compatibility: mu.  None is Potts, -1 for equal labels; (C,) a diagonal; (C, C) a matrix,
            used as given.  A list has one for each kernel.
        normalization: ``"after"`` divides by K 1 (DeepLab); ``"symmetric"`` by its square root on
            both sides (pydensecrf's default); ``"before"``; ``"none"``.  A list: one a kernel.
        relaxation: r; each step gives (1 - r) * Q + r * new Q.
        output: ``"marginals"`` Q; ``"log"`` log(max(Q, least normal float)); ``"labels"`` the first
            maximum of Q.
        weights: (kernels,) to take the place of those in ``params``, to learn them.
        expnorm: ``"deeplab"`` sets labels below exp(-20) of the largest to exactly 0, as the 2011
            program does; ``"exact"`` does not.
        padding_points: the densecrf programs fill the last block of four pixels with points at
            position 0 and colour 0, which take part in the blur; True does so too.
        checkpoint: where gradients are needed, keep Q of each step only and compute the rest again
            in the backward pass.
        energies: also return the :class:`Energies` of every step.

    Returns:
        (N, C, H, W) of unary's dtype, or (N, H, W) int64 labels; with ``energies`` a pair.
        Differentiable in unary, weights and compatibility, not in the image.

    Raises:
        TypeError: no tensor, or of another dtype.
        ValueError: shapes that do not fit (height and width swapped is recognised), NaN or
            infinite values, stds so small that the lattice's keys overflow, an unknown word.
        MemoryError: more than this machine has, told before it is allocated.

    >>> q = dense_crf(-scores, image, CRFParams.named("deeplab_v2_resnet101"))
    """
    op = "dense_crf"
    check_unary(op, unary)
    batch, labels, height, width = unary.shape
    used = list(range(len(params.weights)))
    if weights is None:
        used = [k for k in used if params.weights[k]]
        weights = unary.new_tensor([params.weights[k] for k in used])
    if image is not None:
        check_image(op, image, unary)
    elif any(used):
        raise ValueError(f"{op}: image is None, but there is a bilateral kernel with a weight")
    channels = 0 if image is None else image.shape[1]
    dimensions = [2 if k == 0 else 2 + channels for k in used]
    at_once = pictures_at_once(unary)
    check_memory(op, batch, height * width, labels, dimensions, unary, at_once)
    check_energies(op, unary)
    kernels = []
    for k in used:
        if k == 0:
            what = f"{op}: the spatial kernel (pos_xy_std {params.pos_xy_std})"
            made = partial(_spatial, height, width, params.pos_xy_std, unary)
            kernels.append(_Kernel(what, made, shared=True))
        else:
            kernel = params.bilaterals[k - 1]
            what = f"{op}: the bilateral kernel (xy_std {kernel.xy_std}, rgb_std {kernel.rgb_std})"
            assert image is not None
            kernels.append(_Kernel(what, partial(_bilateral, image, kernel, unary.dtype)))
    return _infer(
        unary,
        kernels,
        padding_points,
        weights,
        compatibility=_chosen(compatibility, used, len(params.weights)),
        normalization=_chosen(normalization, used, len(params.weights)),
        relaxation=relaxation,
        iterations=params.iterations,
        expnorm=expnorm,
        output=output,
        checkpoint=checkpoint,
        energies=energies,
    )


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
) -> Any:
    """A dense CRF over free features: volumes, point clouds, any number of axes and channels.

    Args:
        unary: (N, C, ...) energies as of :func:`dense_crf`, one or more axes after C.
        features: one for each kernel, (d, ...) for all pictures alike or (N, d, ...), d from 1 to
            16, each feature divided by its std.
        weights: (kernels,).
        iterations: mean field steps.
        compatibility, normalization, relaxation, output, expnorm, padding_points, checkpoint,
        energies: as of :func:`dense_crf`.

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
    batch, labels, *shape = unary.shape
    if isinstance(features, Tensor):
        raise TypeError(f"{op}: features must be a list of tensors, one for each kernel")
    for k, one in enumerate(features):
        _check_features(f"{op}: features[{k}]", one, unary)
    weights = torch.as_tensor(weights, dtype=unary.dtype, device=unary.device)
    if weights.shape != (len(features),):
        raise ValueError(
            f"{op}: weights must have shape ({len(features)},), one for each kernel,"
            f" got {tuple(weights.shape)}"
        )
    dimensions = [one.shape[-1 - len(shape)] for one in features]
    points = unary[0, 0].numel() if batch else 0
    check_memory(op, batch, points, labels, dimensions, unary, pictures_at_once(unary))
    check_energies(op, unary)
    kernels = []
    for k, one in enumerate(features):
        shared = one.dim() < unary.dim()
        made = partial(_part, one[None] if shared else one, unary.dtype)
        kernels.append(_Kernel(f"{op}: features[{k}]", made, shared))
    return _infer(
        unary,
        kernels,
        padding_points,
        weights,
        compatibility=_chosen(compatibility, range(len(features)), len(features)),
        normalization=_chosen(normalization, range(len(features)), len(features)),
        relaxation=relaxation,
        iterations=iterations,
        expnorm=expnorm,
        output=output,
        checkpoint=checkpoint,
        energies=energies,
    )


def _check_features(what: str, features: Tensor, unary: Tensor) -> None:
    if not isinstance(features, Tensor) or not features.is_floating_point():
        kind = features.dtype if isinstance(features, Tensor) else type(features).__name__
        raise TypeError(f"{what} must be a tensor of floats, got {kind}")
    batch, _, *shape = unary.shape
    axes = len(shape)
    batched = features.dim() == axes + 2 and features.shape[0] == batch
    if list(features.shape[-axes:]) != shape or not (batched or features.dim() == axes + 1):
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


def _spatial(height: int, width: int, xy_std: Std, like: Tensor, _: slice) -> Tensor:
    return spatial_features(height, width, xy_std, like=like)[None]


def _bilateral(image: Tensor, kernel: Bilateral, dtype: torch.dtype, pictures: slice) -> Tensor:
    return bilateral_features(image[pictures], kernel.xy_std, kernel.rgb_std, dtype=dtype)


def _part(features: Tensor, dtype: torch.dtype, pictures: slice) -> Tensor:
    """features (1, d, ...) of all pictures alike, or those of some."""
    return (features if len(features) == 1 else features[pictures]).to(dtype)


class _Kernel(NamedTuple):
    """Where the lattices of one kernel come from."""

    what: str  # for messages
    features: Callable[[slice], Tensor]  # of some pictures, (pictures, d, ...)
    shared: bool = False  # the same for all pictures, (1, d, ...)

    def lattice(self, pictures: slice, padding_points: bool) -> Lattice:
        try:
            rows = self.features(pictures).flatten(2).transpose(1, 2)
            return permutohedral_build(rows, padding_points=padding_points)
        except ValueError as error:
            raise ValueError(f"{self.what}: {error}") from None


def _repeated(lattice: Lattice, batch: int) -> Lattice:
    """The lattice of ``batch`` pictures that are all alike, from that of one."""
    points, corners = lattice.vertex.shape[1:]
    vertices = lattice.neighbours.shape[1]
    picture = torch.arange(batch, dtype=torch.int32, device=lattice.vertex.device)
    first_vertex, first_entry = picture * vertices, picture * (points * corners)
    neighbours = lattice.neighbours[:, None]
    neighbours = torch.where(neighbours < 0, -1, neighbours + first_vertex[:, None, None])
    starts = lattice.splat_start[:-1] + first_entry[:, None]
    end = starts.new_tensor([batch * points * corners])
    return Lattice(
        lattice.vertex + first_vertex[:, None, None],
        lattice.weight.expand(batch, -1, -1).contiguous(),
        neighbours.flatten(1, 2).contiguous(),
        torch.cat([starts.flatten(), end]),
        (lattice.splat_entry + first_entry[:, None]).flatten(),
    )


def _chosen(given: Any, used: Sequence[int], count: int) -> list[Any]:
    """One value for each kernel in ``used``, from one for all ``count`` kernels or a list."""
    if not isinstance(given, (list, tuple)):
        return [given] * len(used)
    if len(given) != count:
        raise ValueError(f"a list must have one entry for each of {count} kernels, got {given}")
    return [given[k] for k in used]


def _infer(
    unary: Tensor,
    kernels: Sequence[_Kernel],
    padding_points: bool,
    weights: Tensor,
    *,
    output: Output,
    **options: Any,
) -> Any:
    if output not in _OUTPUTS:
        raise ValueError(f"output must be one of {', '.join(_OUTPUTS)}, got {output!r}")
    batch, at_once = len(unary), pictures_at_once(unary)
    shared: dict[int, Lattice] = {}
    results = []
    for first in range(0, max(batch, 1), at_once):
        part = unary[first : first + at_once]
        lattices = []
        for k, kernel in enumerate(kernels):
            pictures = slice(first, first + at_once)
            lattice = shared.get(k) or kernel.lattice(pictures, padding_points)
            if kernel.shared:
                shared[k] = lattice
            alike = len(lattice.vertex) == len(part)
            lattices.append(lattice if alike else _repeated(lattice, len(part)))
        results.append(_infer_at_once(part, lattices, weights, **options))
    q = results[0][0] if len(results) == 1 else torch.cat([q for q, _ in results])
    made = _as_output(q, output)
    if not options["energies"]:
        return made
    terms = zip(*(energies for _, energies in results if energies), strict=True)
    return made, Energies(*(torch.cat(parts, 1) for parts in terms))


def _infer_at_once(
    unary: Tensor,
    lattices: Sequence[Lattice],
    weights: Tensor,
    *,
    compatibility: list[Tensor | None],
    normalization: list[str],
    relaxation: float,
    iterations: int,
    expnorm: str,
    checkpoint: bool,
    energies: bool,
) -> tuple[Tensor, Energies | None]:
    flat = unary.flatten(2)
    given = [mu for mu in compatibility if mu is not None]

    def steps(count: int, q: Tensor | None, *tensors: Tensor) -> Tensor:
        flat, weights, *rest = tensors
        mus = iter(rest)
        return mean_field(
            flat,
            lattices,
            weights,
            [None if mu is None else next(mus) for mu in compatibility],
            normalization=normalization,
            relaxation=relaxation,
            iterations=count,
            expnorm=expnorm,
            initial=q,
        )

    inputs = (flat, weights, *given)
    keep_little = checkpoint and torch.is_grad_enabled() and any(t.requires_grad for t in inputs)
    seen: list[tuple[Tensor, Tensor, Tensor]] = []
    if keep_little or energies:
        q = steps(0, None, *inputs)
        for done in range(iterations + 1):
            if done:
                q = _Step.apply(steps, q, *inputs) if keep_little else steps(1, q, *inputs)
            if energies:
                with torch.no_grad():
                    terms = energies_of(q, flat, lattices, weights, compatibility, normalization)
                    seen.append(terms)
    else:
        q = steps(iterations, None, *inputs)
    q = q.unflatten(2, unary.shape[2:])
    if not energies:
        return q, None
    return q, Energies(*(torch.stack(terms) for terms in zip(*seen, strict=True)))


class _Step(torch.autograd.Function):
    """One step that keeps its inputs only, and is computed again in the backward pass.

    torch.utils.checkpoint would record the forward pass too; this one runs the fused kernels.
    """

    @staticmethod
    def forward(ctx: Any, steps: Callable[..., Tensor], *tensors: Tensor) -> Tensor:
        ctx.steps = steps
        ctx.save_for_backward(*tensors)
        return steps(1, *tensors)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        needs = ctx.needs_input_grad[1:]
        with torch.enable_grad():
            pairs = zip(ctx.saved_tensors, needs, strict=True)
            inputs = [tensor.detach().requires_grad_(need) for tensor, need in pairs]
            q = ctx.steps(1, *inputs)
        wanted = [tensor for tensor in inputs if tensor.requires_grad]
        grads = iter(torch.autograd.grad(q, wanted, grad))
        return None, *(next(grads) if need else None for need in needs)


def _as_output(q: Tensor, output: Output) -> Tensor:
    if output == "labels":
        return q.max(1).indices  # of several maxima the first; much faster than argmax
    return q.clamp_min(torch.finfo(q.dtype).tiny).log() if output == "log" else q
