"""The ops of the permutohedral lattice and mean field through CuPy: the launchers, in Python."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.native.cupy_backend import runtime

# As in the .cuh files; a test holds them together.
THREADS = 256
SORT_THREADS, SORT_TILE, SORT_BITS = 256, 2048, 4
FREE_SLOT = 0x7FFFFFFF
PIECE_ENTRIES = 256
QUAD = 4
MAX_KERNELS = 16
TINY_NORM = 1e-20
CUTOFF = {False: 20.0, True: 87.0}

_SORT = "permutohedral/sort_kernels.cuh"
_BUILD = "permutohedral/build_kernels.cuh"
_FILTER = "permutohedral/filter_kernels.cuh"
_MEAN_FIELD = "mean_field/mean_field_kernels.cuh"
_TYPES = ("float", "double")
_ROWS = ("rows_of_planes", "planes_of_rows")
# (most quads, lanes of a point, quads that a lane holds) of update_kernel: launch_update.
UPDATES = (
    *((lanes, lanes, 1) for lanes in (1, 2, 4, 8, 16, 32)),
    (64, 32, 2),
    (math.inf, 32, 0),
)
_NAMES = {
    _SORT: [
        "scan_tiles_kernel",
        "scan_sums_kernel",
        "add_tile_sums_kernel",
        "count_digits_kernel",
        "scatter_digits_kernel",
    ],
    _BUILD: [
        "fill_kernel<int>",
        *(f"simplex_kernel<{t}, {d}>" for t in _TYPES for d in (0, 2, 5)),
        *(f"{k}_kernel<{d}>" for k in ("insert", "neighbours") for d in (0, 2, 5)),
        "mark_first_kernel",
        "number_kernel",
        "start_kernel",
    ],
    _FILTER: [
        *(
            f"{k}_kernel<{t}>"
            for k in ("pair", "splat", "combine", "blur", "slice", "corner_product", *_ROWS)
            for t in _TYPES
        ),
    ],
    _MEAN_FIELD: [
        *(f"update_kernel<{lanes}, {held}>" for _, lanes, held in UPDATES),
        *(f"{k}_kernel<float>" for k in _ROWS),
        "normalizer_kernel",
    ],
}
NAMES = {file: tuple(f"deeplab::{n}" for n in names) for file, names in _NAMES.items()}

_UPDATE_KERNEL = np.dtype(
    [
        *((n, "i8") for n in ("corners",)),
        *((n, "u8") for n in ("vertex", "weight", "table", "scale", "kernel_weight", "mu")),
        ("alpha", "f4"),
        ("compatibility", "i4"),
    ],
    align=True,
)
_UPDATE = np.dtype(
    [
        *((n, "i8") for n in ("points", "classes", "kernels")),
        ("cutoff", "f4"),
        ("relaxation", "f4"),
        *((n, "u8") for n in ("logits", "old", "message", "marginals")),
        ("kernel", _UPDATE_KERNEL, (MAX_KERNELS,)),
    ],
    align=True,
)


def build(features: Tensor, padding_points: bool, max_blocks: int = 0) -> tuple[Tensor, ...]:
    """The op deeplab_repro::permutohedral_build on CUDA tensors."""
    features = features.contiguous()
    batch, points, d = features.shape
    corners = d + 1
    vertex = features.new_empty((batch, points, corners), dtype=torch.int32)
    weight = features.new_empty((batch, points, corners))
    entries = vertex.numel()
    if entries == 0:
        none = vertex.new_empty((corners, 0, 2))
        return vertex, weight, none, vertex.new_zeros(1), vertex.new_empty(0)
    padding = bool(padding_points and points % 4)
    geometry = _struct([batch, points, d, padding], "i8")
    all_points = batch * points + (batch if padding else 0)
    all_entries = all_points * corners
    slots = 1 << (2 * all_entries - 1).bit_length()
    run = _Launcher(features.device, max_blocks)

    dimension = d if d in (2, 5) else 0
    codes, table = vertex.new_empty(all_points * d), vertex.new_empty(slots)
    slot_of, number, first_entry = (vertex.new_empty(all_entries) for _ in range(3))
    run(_BUILD, "fill_kernel<int>", slots, (np.int64(slots), np.int32(FREE_SLOT), table))
    name = f"simplex_kernel<{runtime.TYPES[features.dtype]}, {dimension}>"
    run(_BUILD, name, all_points, (geometry, _scale(features), features, codes, weight))
    args = (geometry, codes, np.int64(slots), table, slot_of)
    run(_BUILD, f"insert_kernel<{dimension}>", all_entries, args)
    run(_BUILD, "mark_first_kernel", all_entries, (np.int64(all_entries), table, slot_of, number))
    total = _exclusive_scan(run, number)
    run(
        _BUILD,
        "number_kernel",
        all_entries,
        (geometry, table, slot_of, number, vertex, first_entry),
    )

    count = int(total.item())
    pairs = count * corners
    neighbours = vertex.new_empty((corners, count, 2))
    run(_BUILD, "fill_kernel<int>", 2 * pairs, (np.int64(2 * pairs), np.int32(-1), neighbours))
    lookup = (geometry, codes, np.int64(slots), table)
    found = (number, first_entry, np.int64(count), neighbours)
    run(_BUILD, f"neighbours_kernel<{dimension}>", pairs, lookup + found)
    sorted_keys, splat_entry = _sort_items(run, vertex.flatten(), count)
    splat_start = vertex.new_empty(count + 1)
    run(
        _BUILD,
        "start_kernel",
        entries + 1,
        (np.int64(entries), sorted_keys, np.int64(count), splat_start),
    )
    return vertex, weight, neighbours, splat_start, splat_entry


def filter_values(
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbours: Tensor,
    splat_start: Tensor,
    splat_entry: Tensor,
    reverse: bool,
    max_blocks: int = 0,
) -> Tensor:
    """The op deeplab_repro::permutohedral_filter on CUDA tensors."""
    values = values.contiguous()
    result = torch.empty_like(values)
    if values.numel() > 0:
        lattice = _Lattice((vertex, weight, neighbours, splat_start, splat_entry))
        lattice.filter(_Launcher(values.device, max_blocks), values, reverse, result)
    return result


def grad_weight(
    grad: Tensor,
    values: Tensor,
    vertex: Tensor,
    weight: Tensor,
    neighbours: Tensor,
    splat_start: Tensor,
    splat_entry: Tensor,
    reverse: bool,
    max_blocks: int = 0,
) -> Tensor:
    """The op deeplab_repro::permutohedral_grad_weight on CUDA tensors."""
    grad, values = grad.contiguous(), values.contiguous()
    result = weight.new_zeros(weight.shape)
    if values.numel() > 0:
        lattice = _Lattice((vertex, weight, neighbours, splat_start, splat_entry))
        run = _Launcher(values.device, max_blocks)
        pairs, channels = lattice.pairs(run, None), values.shape[-1]
        rows = lattice.rows(run, values), lattice.rows(run, grad)
        for splatted, sliced, back in ((*rows, False), (*rows[::-1], True)):
            table = lattice.blurred(run, pairs, splatted, channels, reverse != back)
            lattice.add_products(run, table, sliced, channels, result)
    return result


def mean_field(
    unary: Tensor,
    initial: Tensor | None,
    lattices: Sequence[Tensor],
    weights: Tensor,
    compatibility: Sequence[Tensor],
    normalization: Sequence[int],
    relaxation: float,
    iterations: int,
    exact: bool,
    max_blocks: int = 0,
) -> Tensor:
    """The op deeplab_repro::mean_field on CUDA tensors."""
    if len(compatibility) > MAX_KERNELS:
        raise ValueError(
            f"mean_field: at most {MAX_KERNELS} kernels on a GPU, got {len(compatibility)}"
        )
    unary, weights = unary.contiguous(), weights.contiguous()
    initial = None if initial is None else initial.contiguous()
    result = torch.empty_like(unary)
    if unary.numel() == 0:
        return result
    batch, classes, points = unary.shape
    run = _Launcher(unary.device, max_blocks)
    planes = _planes(batch * points, points, classes)
    marginals = [_new_rows(unary, batch * points, classes)]
    marginals.append(marginals[0] if relaxation == 1 else torch.empty_like(marginals[0]))
    matrices = any(mu.dim() == 2 for mu in compatibility)
    message = torch.empty_like(marginals[0]) if matrices else None
    logits = torch.empty_like(marginals[0])
    of_planes = ("rows_of_planes_kernel<float>", batch * points)
    run(_MEAN_FIELD, *of_planes, (planes, unary, np.float32(-1), np.float32(-np.inf), logits))

    a = np.zeros(1, _UPDATE)
    for name, value in (("points", batch * points), ("classes", classes),
                        ("cutoff", CUTOFF[exact]), ("relaxation", relaxation),
                        ("logits", _pointer(logits)), ("message", _pointer(message))):  # fmt: skip
        a[name] = value
    kernels, pairs, mus = [], [], []
    for k, (mu, norm) in enumerate(zip(compatibility, normalization, strict=True)):
        lattice = _Lattice(lattices[5 * k : 5 * k + 5])
        plain = lattice.pairs(run, None)
        scale = lattice.normalizer(run, plain, root=norm == 3) if norm else None
        kernels.append(lattice)
        pairs.append(plain if norm in (0, 1) else lattice.pairs(run, scale))
        mus.append((mu.contiguous(), scale))  # alive until the kernels are launched
        a["kernel"][0, k] = (
            lattice.corners,
            _pointer(lattice.vertex),
            _pointer(lattice.weight),
            0,
            _pointer(None if norm == 2 else scale),
            _pointer(weights) + 4 * k,
            _pointer(mus[-1][0]),
            lattice.alpha,
            mu.dim() if mu.numel() else 0,
        )
    quads = _quads(classes)
    _, lanes, held = next(update for update in UPDATES if quads <= update[0])
    for step in range(iterations + 1):
        old, new = marginals
        a["kernels"] = len(kernels) if step else 0
        a["old"], a["marginals"] = _pointer(old), _pointer(new)
        tables = []
        for k, lattice in enumerate(kernels if step else []):
            tables.append(lattice.blurred(run, pairs[k], old, classes, False))
            a["kernel"][0, k]["table"] = _pointer(tables[-1])
        if step == 0 and initial is not None:
            run(_MEAN_FIELD, *of_planes, (planes, initial, np.float32(1), np.float32(0), new))
        else:
            name = f"update_kernel<{lanes}, {held}>"
            run(_MEAN_FIELD, name, lanes * batch * points, (a.copy(),))
        marginals.reverse()
    args = (planes, marginals[0], result)
    run(_MEAN_FIELD, "planes_of_rows_kernel<float>", batch * points, args)
    return result


class _Launcher:
    """Runs kernels with one thread an item, or one block a tile, on a device."""

    def __init__(self, device: torch.device, max_blocks: int):
        self._device = device
        self._max_blocks = max_blocks

    def __call__(self, file: str, name: str, items: int, args: tuple, per_block: int = THREADS):
        if items > 0:
            self._launch(file, name, items, per_block, (THREADS, 1), args)

    def rows(self, file: str, name: str, rows: int, quads: int, args: tuple):
        """launch_rows of the launchers."""
        if rows > 0 and quads > 0:
            across = min(quads, THREADS)
            down = THREADS // across
            self._launch(file, name, rows, down, (across, down), args)

    def _launch(
        self,
        file: str,
        name: str,
        items: int,
        per_block: int,
        threads: tuple[int, int],
        args: tuple,
    ):
        blocks = runtime.grid_size(items, per_block, self._max_blocks)
        name = f"deeplab::{name}"
        runtime.launch(file, NAMES[file], name, self._device, blocks, threads, args)


class _Lattice:
    """A lattice's tensors, and what the launchers of filter_launch.cuh do with them."""

    def __init__(self, tensors: Sequence[Tensor]):
        contiguous = [t.contiguous() for t in tensors]
        self.vertex, self.weight, self.neighbours, self._start, self._entry = contiguous
        self.corners = self.vertex.shape[2]
        self.alpha = 1 / (1 + 2.0 ** (1 - self.corners))
        self._kind = runtime.TYPES[self.weight.dtype]
        self._points = self.vertex.shape[0] * self.vertex.shape[1]
        self._vertices = self.neighbours.shape[1]

    def pairs(self, run: _Launcher, scale: Tensor | None) -> Tensor:
        """launch_pairs: (entries, 2), of which a pair has the bytes."""
        entries = self.vertex.numel()
        pairs = self.weight.new_empty((entries, 2))
        corners = _struct(runtime.divisor(self.corners), "i8")
        args = (np.int64(entries), corners, self._entry, self.weight, scale, pairs)
        run(_FILTER, f"pair_kernel<{self._kind}>", entries, args)
        return pairs

    def rows(self, run: _Launcher, values: Tensor) -> Tensor:
        """launch_rows_of."""
        channels = values.shape[-1]
        if channels % QUAD == 0 and values.data_ptr() % 16 == 0:
            return values
        rows = _new_rows(values, self._points, channels)
        factor, padding = _scalar(1, values), _scalar(0, values)
        args = (_planes(self._points, 1, channels), values, factor, padding, rows)
        run(_FILTER, f"rows_of_planes_kernel<{self._kind}>", self._points, args)
        return rows

    def blurred(self, run: _Launcher, pairs: Tensor, rows: Tensor, channels: int, reverse: bool):
        """splat_and_blur: the blurred rows of the vertices."""
        quads = _quads(channels)
        pieces = -(-self.vertex.numel() // PIECE_ENTRIES)
        table, spare = (_new_rows(rows, self._vertices, channels) for _ in range(2))
        partial = _new_rows(rows, pieces, channels)
        g = self._geometry(channels)
        sorted_entries = (g, self.vertex, self._start, self._entry)
        run.rows(_FILTER, f"splat_kernel<{self._kind}>", self._vertices + pieces, quads,
                 (*sorted_entries, pairs, rows, table, partial))  # fmt: skip
        run.rows(_FILTER, f"combine_kernel<{self._kind}>", pieces, quads,
                 (*sorted_entries, partial, table))  # fmt: skip
        for axis in reversed(range(self.corners)) if reverse else range(self.corners):
            run.rows(_FILTER, f"blur_kernel<{self._kind}>", self._vertices, quads,
                     (g, self.neighbours[axis], table, spare))  # fmt: skip
            table, spare = spare, table
        return table

    def slice(self, run: _Launcher, table: Tensor, result: Tensor) -> None:
        channels = result.shape[-1]
        run.rows(_FILTER, f"slice_kernel<{self._kind}>", self._points, _quads(channels),
                 (self._geometry(channels), self.vertex, self.weight, self._alpha(), table,
                  result))  # fmt: skip

    def filter(self, run: _Launcher, values: Tensor, reverse: bool, result: Tensor) -> None:
        rows = self.rows(run, values)
        pairs = self.pairs(run, None)
        self.slice(run, self.blurred(run, pairs, rows, values.shape[-1], reverse), result)

    def add_products(
        self, run: _Launcher, table: Tensor, sliced: Tensor, channels: int, result: Tensor
    ) -> None:
        run.rows(_FILTER, f"corner_product_kernel<{self._kind}>", self._points, self.corners,
                 (self._geometry(channels), self.vertex, sliced, self._alpha(), np.bool_(True),
                  table, result))  # fmt: skip

    def normalizer(self, run: _Launcher, pairs: Tensor, root: bool) -> Tensor:
        """(points) 1 / norm, or its root."""
        norm = self.weight.new_empty((self._points, 1))
        ones = self.weight.new_ones((self._points, QUAD))
        self.slice(run, self.blurred(run, pairs, ones, 1, False), norm)
        args = (np.int64(self._points), np.bool_(root), np.float32(TINY_NORM), norm)
        run(_MEAN_FIELD, "normalizer_kernel", self._points, args)
        return norm

    def _alpha(self) -> np.floating:
        return _scalar(self.alpha, self.weight)

    def _geometry(self, channels: int) -> np.ndarray:
        return _struct([self._points, self._vertices, self.corners, channels], "i8")


def _quads(channels: int) -> int:
    return -(-channels // QUAD)


def _new_rows(like: Tensor, rows: int, channels: int) -> Tensor:
    return like.new_empty((rows, _quads(channels) * QUAD))


def _planes(points: int, picture: int, channels: int) -> np.ndarray:
    """struct Planes."""
    return _struct([points, *runtime.divisor(picture), channels], "i8")


def _scalar(value: float, like: Tensor) -> np.floating:
    return np.float32(value) if like.dtype == torch.float32 else np.float64(value)


def _exclusive_scan(run: _Launcher, values: Tensor) -> Tensor:
    """Sums of the values before each, in place; returns the sum of all."""
    count = values.numel()
    tiles = -(-count // SORT_TILE)
    sums, total = values.new_empty(tiles), values.new_empty(1)
    run(_SORT, "scan_tiles_kernel", tiles, (np.int64(count), values, sums), per_block=1)
    run(_SORT, "scan_sums_kernel", 1, (np.int64(tiles), sums, total), per_block=1)
    run(_SORT, "add_tile_sums_kernel", count, (np.int64(count), sums, values))
    return total


def _sort_items(run: _Launcher, keys: Tensor, key_end: int) -> tuple[Tensor, Tensor]:
    """(sorted keys, numbers of the items in their order); equal keys keep theirs."""
    count = keys.numel()
    tiles = -(-count // SORT_TILE)
    counts = keys.new_empty(tiles << SORT_BITS)
    numbers = None
    for shift in range(0, max(1, (key_end - 1).bit_length()), SORT_BITS):
        run(_SORT, "count_digits_kernel", tiles,
            (np.int64(count), keys, np.int32(shift), counts), per_block=1)  # fmt: skip
        _exclusive_scan(run, counts)
        sorted_keys, sorted_numbers = torch.empty_like(keys), torch.empty_like(keys)
        run(_SORT, "scatter_digits_kernel", tiles,
            (np.int64(count), keys, numbers, np.int32(shift), counts, sorted_keys, sorted_numbers),
            per_block=1)  # fmt: skip
        keys, numbers = sorted_keys, sorted_numbers
    assert numbers is not None
    return keys, numbers


def _scale(features: Tensor) -> np.ndarray:
    """struct FeatureScale: onto the hyperplane, a blur's standard deviation to 1."""
    kind = np.float32 if features.dtype == torch.float32 else np.float64
    d = features.shape[-1]
    std = kind(math.sqrt(2 / 3) * (d + 1))
    scale = np.zeros(16, kind)
    scale[:d] = [1 / math.sqrt((i + 1) * (i + 2)) * float(std) for i in range(d)]
    return _struct(scale, scale.dtype)


def _struct(values: Sequence[int] | np.ndarray, kind: str | np.dtype) -> np.ndarray:
    """One struct of equal fields; CuPy passes a one-element structured array by value."""
    return np.array([(tuple(values),)], np.dtype([("fields", kind, (len(values),))]))


def _pointer(tensor: Tensor | None) -> int:
    return 0 if tensor is None else tensor.data_ptr()
