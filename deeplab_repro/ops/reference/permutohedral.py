"""Torch twin of the permutohedral lattice (Adams, Baek and Davis, 2010), as in densecrf.

A d-dimensional Gaussian filter of standard deviation 1 in feature space: the values of the points
are spread over the vertices of a lattice of simplices (splat), blurred along each of the lattice's
d + 1 axes, and read back (slice). The coordinates and the order of every rounding are those of the
2011 and 2013 densecrf programs.
"""

from __future__ import annotations

import math
from typing import NamedTuple

import torch
from torch import Tensor

MAX_DIMENSION = 16
# The original programs keep lattice coordinates in 16 bits; ours are refused where theirs wrap.
MAX_COORDINATE = 32767
# SSE code of the originals: pixels are handled by fours.
_PADDED_POINTS = 4
_TINY = 1e-20

NORMALIZATIONS = ("none", "after", "before", "symmetric")


class Lattice(NamedTuple):
    """The lattice of B pictures of P points with d features: plain tensors, M vertices in all.

    Vertices are numbered in the order in which points, and the corners of a point, first touch
    them; those of padding points come last. Pictures share no vertex.

    Attributes:
        vertex: (B, P, d+1) int32: vertex of each point and corner.
        weight: (B, P, d+1) barycentric weights, dtype of the features.
        neighbours: (d+1, M, 2) int32: the two vertices beside each along each axis, -1 = none.
        splat_start: (M+1,) int32: the entries of vertex m are splat_entry[start[m]:start[m+1]].
        splat_entry: (B*P*(d+1),) int32: point * (d+1) + corner, ascending within a vertex.
    """

    vertex: Tensor
    weight: Tensor
    neighbours: Tensor
    splat_start: Tensor
    splat_entry: Tensor


def permutohedral_build(features: Tensor, padding_points: bool = False) -> Lattice:
    """The lattice of features (B, P, d); see ops.permutohedral_build."""
    batch, points, d = features.shape
    base, rank, weight = _enclosing_simplex(features)
    keys = _corner_keys(base, rank)  # (B, P, d+1, d)
    batch_of = torch.arange(batch, device=keys.device)
    entry_keys = torch.cat(
        [batch_of.repeat_interleave(points * (d + 1))[:, None], keys.reshape(-1, d)], 1
    )
    padding_keys = entry_keys[:0]
    if padding_points and points % _PADDED_POINTS:
        origin, order, _ = _enclosing_simplex(features.new_zeros(batch, 1, d))
        corners = _corner_keys(origin, order).reshape(-1, d)
        padding_keys = torch.cat([batch_of.repeat_interleave(d + 1)[:, None], corners], 1)
    vertex, vertex_keys = _number_by_first_row(torch.cat([entry_keys, padding_keys]))
    vertex = vertex[: len(entry_keys)]
    splat_entry = torch.sort(vertex, stable=True).indices
    counts = torch.bincount(vertex, minlength=len(vertex_keys))
    splat_start = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return Lattice(
        vertex.reshape(batch, points, d + 1).int(),
        weight,
        _neighbours(vertex_keys).int(),
        splat_start.int(),
        splat_entry.int(),
    )


def barycentric_weights(features: Tensor) -> Tensor:
    """(B, P, d+1): the weights of a lattice of features (B, P, d), differentiable in them.

    Within a simplex they are linear; where a point is and which corner is which has no slope.
    """
    return _enclosing_simplex(features)[2]


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """(base, rank, weight) of features (B, P, d): the simplex of the lattice around each point.

    base (B, P, d+1): its corner whose coordinates are multiples of d+1. rank (B, P, d+1): the
    order of the point's offsets from there, 0 the largest. weight (B, P, d+1): barycentric, by the
    corners' remainder modulo d+1.
    """
    d = features.shape[-1]
    # Onto the hyperplane of d+1 coordinates whose sum is 0. The blur has variance 2/3 (d+1)^2.
    std = torch.tensor(math.sqrt(2 / 3) * (d + 1), dtype=features.dtype).item()
    scale = features.new_tensor([1 / math.sqrt((i + 1) * (i + 2)) * std for i in range(d)])
    scaled = features * scale
    partial = torch.zeros_like(features[..., 0])
    coordinates = []
    for i in range(d, 0, -1):
        coordinates.append(partial - i * scaled[..., i - 1])
        partial = partial + scaled[..., i - 1]
    elevated = torch.stack([partial, *reversed(coordinates)], -1)

    share = 1 / features.new_tensor(d + 1)
    nearest = torch.round(elevated * share)  # half to even
    base = nearest * (d + 1)
    offset = elevated - base
    # Rank by offset; of two equal ones the earlier coordinate comes first.
    rank = offset.argsort(dim=-1, descending=True, stable=True).argsort(-1)
    # A base whose coordinates do not sum to 0 is off the hyperplane: step back along the axes that
    # rounding moved most.
    rank = rank + nearest.sum(-1, keepdim=True).long()
    base = base + (rank < 0) * (d + 1) - (rank > d) * (d + 1)
    rank = rank + (rank < 0) * (d + 1) - (rank > d) * (d + 1)

    falling = torch.empty_like(offset).scatter_(-1, rank, (elevated - base) * share)
    first = falling[..., d:] + (1 - falling[..., :1])
    weight = torch.cat([first, (falling[..., :d] - falling[..., 1:]).flip(-1)], -1)
    return base, rank, weight


def _corner_keys(base: Tensor, rank: Tensor) -> Tensor:
    """(B, P, d+1, d) coordinates of the corners by remainder r; the last one follows from them."""
    d = base.shape[-1] - 1
    remainder = torch.arange(d + 1, device=base.device)[:, None]
    step = remainder - (d + 1) * (rank[..., None, :d] > d - remainder)
    return base[..., None, :d].long() + step


def _row_ids(rows: Tensor) -> Tensor:
    """An id for each of rows (N, k): equal where the rows are equal."""
    ids = rows.new_zeros(len(rows))
    for column in rows.unbind(1):
        low, high = torch.aminmax(column)
        # No overflow: fewer than 2**31 ids, and a column spans fewer than 2**32 values.
        joined = ids * (high - low + 1) + (column - low)
        ids = torch.unique(joined, return_inverse=True)[1]
    return ids


def _number_by_first_row(rows: Tensor) -> tuple[Tensor, Tensor]:
    """(number of each row, the distinct rows): numbered in the order of first appearance."""
    if len(rows) == 0:
        return rows.new_zeros(0), rows
    ids = _row_ids(rows)
    index = torch.arange(len(rows), device=rows.device)
    first = index.new_full((int(ids.max()) + 1,), len(rows)).scatter_reduce_(0, ids, index, "amin")
    order = torch.argsort(first)
    number = torch.empty_like(order)
    number[order] = torch.arange(len(order), device=rows.device)
    return number[ids], rows[first[order]]


def _neighbours(keys: Tensor) -> Tensor:
    """(d+1, M, 2) of vertex keys (M, 1+d): picture, then d coordinates."""
    count, d = len(keys), keys.shape[1] - 1
    pairs = []
    for axis in range(d + 1):
        step = torch.cat([keys.new_zeros(1), keys.new_full((d,), -1)])
        if axis < d:
            step[1 + axis] = d
        pairs += [keys + step, keys - step]
    if count == 0:
        return keys.new_zeros(d + 1, 0, 2)
    ids = _row_ids(torch.cat([keys, *pairs]))
    vertex_of = ids.new_full((int(ids.max()) + 1,), -1)
    vertex_of[ids[:count]] = torch.arange(count, device=keys.device)
    return vertex_of[ids[count:]].reshape(d + 1, 2, count).transpose(1, 2)


def permutohedral_filter(
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbours: Tensor,
    splat_start: Tensor,
    splat_entry: Tensor,
    reverse: bool = False,
) -> Tensor:
    """Splat, blur and slice values (B, P, V), without normalization.

    The other arguments are a Lattice's, in values' dtype. reverse: blur along the axes in the
    opposite order, which transposes the operator.
    """
    corners = _blurred(values, vertex, weight, neighbours, reverse)[vertex.long()]
    return (corners * (weight * _gain(weight))[..., None]).sum(-2)


def permutohedral_grad_weight(
    grad: Tensor,
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbours: Tensor,
    splat_start: Tensor,
    splat_entry: Tensor,
    reverse: bool = False,
) -> Tensor:
    """(B, P, d+1): the gradient of the weights of a filter of values, both (B, P, V).

    A weight splats its point's values, and slices what a vertex has: grad goes back through either.
    """
    forth = _blurred(values, vertex, weight, neighbours, reverse)[vertex.long()]
    back = _blurred(grad, vertex, weight, neighbours, not reverse)[vertex.long()]
    products = (forth * grad[..., None, :]).sum(-1) + (back * values[..., None, :]).sum(-1)
    return _gain(weight) * products


def _gain(weight: Tensor) -> float:
    """What slicing multiplies with, as densecrf: the blur's gain."""
    return 1 / (1 + 2.0 ** (1 - weight.shape[-1]))


def _blurred(
    values: Tensor, vertex: Tensor, weight: Tensor, neighbours: Tensor, reverse: bool
) -> Tensor:
    """(M + 1, V): splatted and blurred values (B, P, V) of the vertices, and a row of zeros."""
    axes, count = neighbours.shape[:2]
    channels = values.shape[-1]
    corner_values = weight[..., None] * values[..., None, :]  # (B, P, d+1, V)
    # One row more, always 0, stands for missing neighbours: index -1.
    table = values.new_zeros(count + 1, channels)
    table = table.index_add(0, vertex.flatten(), corner_values.flatten(0, 2))
    for axis in reversed(range(axes)) if reverse else range(axes):
        before, after = neighbours[axis].long().unbind(1)
        blurred = table[:count] + 0.5 * (table[before] + table[after])
        table = torch.cat([blurred, table[count:]])
    return table


def normalized_filter(
    filter_, lattice: Lattice, values: Tensor, normalization: str, reverse: bool = False
) -> Tensor:
    """filter_ (permutohedral_filter or the op) with normalization, see ops.permutohedral_filter."""
    if normalization == "none":
        return filter_(values, *lattice, reverse)
    norm = filter_(values.new_ones(*values.shape[:2], 1), *lattice, False)
    if normalization == "symmetric":
        scale = 1 / torch.sqrt(norm + _TINY)
        return scale * filter_(scale * values, *lattice, reverse)
    scale = 1 / (norm + _TINY)
    # The transpose of a normalization of the outputs is one of the inputs.
    if (normalization == "after") != reverse:
        return scale * filter_(values, *lattice, reverse)
    return filter_(scale * values, *lattice, reverse)
