"""The permutohedral lattice: Gaussian filters of points with d features, as densecrf computed them.

Built once for the features of a picture, a lattice filters any number of values on its points.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from deeplab_repro.native import backends
from deeplab_repro.ops import reference
from deeplab_repro.ops.reference.permutohedral import (
    MAX_COORDINATE,
    MAX_DIMENSION,
    NORMALIZATIONS,
    Lattice,
    barycentric_weights,
    normalized_filter,
)

__all__ = ["Lattice", "permutohedral_build", "permutohedral_filter"]

_FILTER = "deeplab_repro::permutohedral_filter"


def permutohedral_build(
    features: Tensor, *, padding_points: bool = False, max_blocks: int = 0
) -> Lattice:
    """Return the lattice for filters of standard deviation 1 in the space of `features`.

    Args:
        features: (P, d) or (B, P, d), float32 or float64, d in 1..16: B pictures of P points, which
            do not see each other.
        padding_points: as the SSE code of densecrf, insert the vertices of points with features 0
            until P is a multiple of 4; they take part in the blur, though nothing is splatted
            there.
        max_blocks: for tests, caps the CUDA grid; 0 = automatic.

    Returns:
        The lattice. Its weights are differentiable in the features, once: they are what moves a
        point within its simplex. It may depend on the last bit of the features: a point within
        rounding of a face of its simplex can make other vertices.

    Raises:
        TypeError, ValueError: for other shapes and dtypes, features that are not finite, and
            features so large that a lattice coordinate would not fit into 16 bits, where densecrf
            wrapped silently.

    >>> permutohedral_build(torch.tensor([[0.0, 0.0], [0.1, 0.0]])).weight.sum(-1)
    tensor([[1., 1.]])
    """
    op = "permutohedral_build"
    if features.dtype not in (torch.float32, torch.float64):
        raise TypeError(f"{op}: features must be float32 or float64, got {features.dtype}")
    if features.dim() not in (2, 3) or not 1 <= features.shape[-1] <= MAX_DIMENSION:
        raise ValueError(
            f"{op}: features must have shape (P, d) or (B, P, d) with d in 1..{MAX_DIMENSION}, "
            f"got {tuple(features.shape)}"
        )
    batched = features if features.dim() == 3 else features[None]
    entries = batched.shape[0] * (batched.shape[1] + 4) * (batched.shape[2] + 1)
    if entries >= 2**31:
        raise ValueError(
            f"{op}: features {tuple(features.shape)} need {entries} entries, 2**31 is "
            "the limit: filter fewer points at a time"
        )
    given, batched = batched, batched.detach()
    _check_range(op, batched)
    lattice = Lattice(
        *torch.ops.deeplab_repro.permutohedral_build(batched, padding_points, max_blocks)
    )
    if given.requires_grad and torch.is_grad_enabled():
        return lattice._replace(weight=_Weights.apply(given, lattice.weight))
    return lattice


class _Weights(torch.autograd.Function):
    """A lattice's weights with the gradient that the twin's have in the features."""

    @staticmethod
    def forward(features: Tensor, weight: Tensor) -> Tensor:
        return weight.clone()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
        ctx.save_for_backward(inputs[0])

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        (features,) = ctx.saved_tensors
        with torch.enable_grad():
            features = features.detach().requires_grad_()
            weights = barycentric_weights(features)
        return torch.autograd.grad(weights, features, grad)[0], None


def permutohedral_filter(
    lattice: Lattice,
    values: Tensor,
    normalization: str = "none",
    reverse: bool = False,
    *,
    max_blocks: int = 0,
) -> Tensor:
    """Return K values, where K is the lattice's approximation of the Gaussian kernel.

    Args:
        lattice: of the points.
        values: (P, V) or (B, P, V), dtype and device of the lattice's weights.
        normalization: with n = K 1, "none" is K itself, "after" (DeepLab's) divides the result by
            n, "before" the values, "symmetric" (pydensecrf's default) both by its root.
        reverse: the transpose, which blurs in the opposite order.
        max_blocks: for tests, caps the CUDA grid; 0 = automatic.

    Returns:
        A new tensor of the shape of values. Differentiable in values, any number of times, and in
        the lattice's weights, once. The same bits in every run and for every number of threads.

    Raises:
        TypeError, ValueError: for a bad argument; the message names it and what it got.

    >>> lattice = permutohedral_build(torch.tensor([[0.0], [0.5], [9.0]]))
    >>> permutohedral_filter(lattice, torch.ones(3, 1), "after").round(decimals=4)
    tensor([[1.],
            [1.],
            [1.]])
    """
    _check_filter(lattice, values, normalization)
    batched = values if values.dim() == 3 else values[None]

    def filter_(values: Tensor, *rest: Any) -> Tensor:
        return torch.ops.deeplab_repro.permutohedral_filter(values, *rest, max_blocks)

    result = normalized_filter(filter_, lattice, batched, normalization, reverse)
    return result if values.dim() == 3 else result[0]


def _check_range(op: str, features: Tensor) -> None:
    if features.numel() == 0:
        return
    # |coordinate| < sum over i of scale_i * |feature_i| * (i + 1), rounded to a vertex and its
    # neighbours.
    d = features.shape[-1]
    scale = [(2 / 3) ** 0.5 * (d + 1) * ((i + 1) / (i + 2)) ** 0.5 for i in range(d)]
    low, high = torch.aminmax(features)
    largest = float(torch.maximum(high, -low))
    if not math.isfinite(largest):
        raise ValueError(f"{op}: features must be finite, got NaN or infinity")
    reach = largest * sum(scale) + 2 * (d + 1)
    if reach > MAX_COORDINATE:  # a bound; now exactly
        each = features.abs().amax((0, 1)).double()
        reach = float((each * each.new_tensor(scale)).sum()) + 2 * (d + 1)
    if reach > MAX_COORDINATE:
        raise ValueError(
            f"{op}: features up to {largest:.6g} standard deviations make lattice "
            f"coordinates up to {reach:.0f}, {MAX_COORDINATE} is the limit: use larger standard "
            "deviations"
        )


def _check_filter(lattice: Lattice, values: Tensor, normalization: str) -> None:
    op = "permutohedral_filter"
    if normalization not in NORMALIZATIONS:
        raise ValueError(
            f"{op}: normalization must be one of {', '.join(NORMALIZATIONS)}, got {normalization!r}"
        )
    batch, points = lattice.vertex.shape[:2]
    shape = tuple(values.shape[:-1])
    if (
        values.dim() not in (2, 3)
        or shape != ((batch, points)[3 - values.dim() :])
        or (values.dim() == 2 and batch != 1)
    ):
        raise ValueError(
            f"{op}: values must have shape ({batch}, {points}, V), as the lattice, got "
            f"{tuple(values.shape)}"
        )
    if values.dtype != lattice.weight.dtype:
        raise TypeError(
            f"{op}: values must have the lattice's dtype {lattice.weight.dtype}, got {values.dtype}"
        )
    if values.device != lattice.weight.device:
        raise ValueError(
            f"{op}: values must be on the lattice's device {lattice.weight.device}, "
            f"got {values.device}"
        )


backends.provide("permutohedral_build", reference.permutohedral_build)
backends.provide("permutohedral_filter", reference.permutohedral_filter)
backends.provide("permutohedral_grad_weight", reference.permutohedral_grad_weight)


@torch.library.register_fake("deeplab_repro::permutohedral_build")
def _build_fake(features, padding_points, max_blocks=0):
    batch, points, d = features.shape
    vertices = torch.library.get_ctx().new_dynamic_size()
    index = {"dtype": torch.int32}
    return (
        features.new_empty((batch, points, d + 1), **index),
        features.new_empty((batch, points, d + 1)),
        features.new_empty((d + 1, vertices, 2), **index),
        features.new_empty((vertices + 1,), **index),
        features.new_empty((batch * points * (d + 1),), **index),
    )


@torch.library.register_fake(_FILTER)
def _filter_fake(
    values, vertex, weight, neighbours, splat_start, splat_entry, reverse, max_blocks=0
):
    return values.new_empty(values.shape)


@torch.library.register_fake("deeplab_repro::permutohedral_grad_weight")
def _grad_weight_fake(
    grad, values, vertex, weight, neighbours, splat_start, splat_entry, reverse, max_blocks=0
):
    return weight.new_empty(weight.shape)


def _setup_context(ctx: Any, inputs: tuple, output: Tensor) -> None:
    values, *lattice, ctx.reverse, ctx.max_blocks = inputs
    # The values are read for a gradient of the weights alone.
    ctx.save_for_backward(values if ctx.needs_input_grad[2] else None, *lattice)


def _backward(ctx: Any, grad: Tensor) -> tuple:
    values, *lattice = ctx.saved_tensors
    ops, tail = torch.ops.deeplab_repro, (*lattice, ctx.reverse, ctx.max_blocks)
    grad_values = grad_weight = None
    if ctx.needs_input_grad[0]:
        grad_values = ops.permutohedral_filter(grad, *lattice, not ctx.reverse, ctx.max_blocks)
    if values is not None:
        grad_weight = ops.permutohedral_grad_weight(grad, values, *tail)
    return grad_values, None, grad_weight, None, None, None, None, None


torch.library.register_autograd(_FILTER, _backward, setup_context=_setup_context)
