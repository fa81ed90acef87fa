"""The CUDA kernels of the lattice and mean field: on the host harness, on a GPU with -m cuda."""

import numpy as np
import pytest
import torch

from deeplab_repro.ops import Lattice, reference
from tests.native.conftest import ORDERS
from tests.ops.lattice_cases import SHAPES, random_features, random_lattice
from tests.ops.test_mean_field import assert_marginals, by_reference, compatibilities, problem
from tests.ops.test_permutohedral import assert_filtered, values_for

# Fibers are slow: leave the largest to the GPU.
SMALL = {n: s for n, s in SHAPES.items() if 0 < s[0] * s[1] <= 300}
KINDS = {"float32": "float", "float64": "double"}

each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
each_shape = pytest.mark.parametrize("shape", SMALL.values(), ids=SMALL.keys())
each_order = pytest.mark.parametrize("order", ORDERS.values(), ids=ORDERS.keys())
# One block makes the grid-stride loops loop; 0 is the real grid.
each_grid = pytest.mark.parametrize("max_blocks", [1, 0])


def build_on_host(library, features: torch.Tensor, padding: bool, max_blocks=0, order=0) -> Lattice:
    batch, points, d = features.shape
    entries = batch * points * (d + 1)
    most = entries + batch * (d + 1)
    x = features.numpy()
    padding = padding and points % 4 != 0
    vertex, entry = np.full((batch, points, d + 1), -7, np.int32), np.full(entries, -7, np.int32)
    weight = np.full(vertex.shape, np.nan, x.dtype)
    neighbours, start = np.full((d + 1) * most * 2, -7, np.int32), np.full(most + 1, -7, np.int32)
    count, sizes = np.zeros(1, np.int64), np.array([batch, points, d, padding], np.int64)
    library.call(
        f"build_{KINDS[str(x.dtype)]}",
        sizes,
        x,
        vertex,
        weight,
        neighbours,
        start,
        entry,
        count,
        max_blocks,
        order,
    )
    m = int(count[0])
    neighbours = neighbours[: (d + 1) * m * 2].reshape(d + 1, m, 2)
    return Lattice(*map(torch.from_numpy, (vertex, weight, neighbours, start[: m + 1], entry)))


def filter_on_host(library, lattice, values, reverse, max_blocks=0, order=0) -> torch.Tensor:
    batch, points, corners = lattice.vertex.shape
    sizes = np.array([batch * points, lattice.neighbours.shape[1], corners, values.shape[-1]])
    result = torch.full_like(values, torch.nan)
    arrays = [np.ascontiguousarray(t.numpy()) for t in (*lattice, values)]
    library.call(
        f"filter_{KINDS[str(result.numpy().dtype)]}",
        sizes,
        *arrays,
        int(reverse),
        result.numpy(),
        max_blocks,
        order,
    )
    return result


def grad_weight_on_host(
    library, lattice, grad, values, reverse, max_blocks=0, order=0
) -> torch.Tensor:
    batch, points, corners = lattice.vertex.shape
    sizes = np.array([batch * points, lattice.neighbours.shape[1], corners, values.shape[-1]])
    result = torch.full_like(lattice.weight, torch.nan)
    arrays = [np.ascontiguousarray(t.numpy()) for t in (*lattice, grad, values)]
    name = f"grad_weight_{KINDS[str(result.numpy().dtype)]}"
    library.call(name, sizes, *arrays, int(reverse), result.numpy(), max_blocks, order)
    return result


def mean_field_on_host(
    library,
    unary,
    lattices,
    weights,
    mus,
    norms,
    relaxation=1.0,
    iterations=3,
    initial=None,
    exact=False,
    max_blocks=0,
    order=0,
) -> torch.Tensor:
    batch, classes, points = unary.shape
    records, alive = [], []
    for k, (lattice, mu, norm) in enumerate(zip(lattices, mus, norms, strict=True)):
        arrays = [np.ascontiguousarray(t.numpy()) for t in lattice]
        arrays += [weights[k : k + 1].numpy(), np.zeros(1) if mu is None else mu.numpy()]
        alive.append(arrays)
        kind = 0 if mu is None else mu.dim()
        code = ("none", "after", "before", "symmetric").index(norm)
        sizes = [lattice.neighbours.shape[1], lattice.vertex.shape[2], code, kind]
        records += [*sizes, *(a.ctypes.data for a in arrays)]
    result = np.full(unary.shape, np.nan, np.float32)
    options = np.array([relaxation, 87.0 if exact else 20.0], np.float32)
    sizes = np.array([batch, points, classes, iterations, len(lattices)], np.int64)
    library.call(
        "mean_field",
        sizes,
        unary.numpy(),
        None if initial is None else initial.numpy(),
        options,
        np.array(records, np.int64),
        result,
        max_blocks,
        order,
    )
    return torch.from_numpy(result)


@pytest.mark.parametrize("padding", [False, True])
@each_dtype
@each_shape
@pytest.mark.sampled(8)
def test_build_is_the_references_bit_by_bit_on_host(on_host, shape, dtype, padding):
    features = random_features(shape, dtype)
    expected = reference.permutohedral_build(features, padding)
    got = build_on_host(on_host("permutohedral"), features, padding)
    for name, ours, theirs in zip(Lattice._fields, got, expected, strict=True):
        assert ours.equal(theirs), name


@each_order
@each_grid
@pytest.mark.sampled(2)
def test_build_does_not_depend_on_grid_or_order(on_host, max_blocks, order):
    # Several tiles of the scan and of the sort, and more than one pass of it.
    features = random_features((2, 700, 5, 2.0))
    got = build_on_host(on_host("permutohedral"), features, True, max_blocks, order)
    expected = reference.permutohedral_build(features, True)
    assert all(a.equal(b) for a, b in zip(got, expected, strict=True))


def test_slots_of_the_largest_table_keep_their_numbers(on_host):
    """2**31 - 1 entries need 2**32 slots, whose numbers are beyond an int."""
    features = torch.rand(2, 60, 2) * 20
    slots, first = np.zeros(360, np.int64), np.full(360, -1, np.int32)
    sizes = np.array([2, 60], np.int64)
    on_host("permutohedral").call(
        "insert_into_largest_table", sizes, features.numpy(), slots, first
    )
    assert slots.min() >= 0
    assert 2**31 < slots.max() < 2**32
    # Entries of one vertex, and no others, share a slot, and its table names the first of them.
    _, at, numbers = np.unique(slots, return_index=True, return_inverse=True)
    assert first.tolist() == at[numbers].tolist()
    assert len(at) < 300


@pytest.mark.parametrize("reverse", [False, True])
@each_dtype
@each_shape
@pytest.mark.sampled(8)
def test_filter_agrees_with_reference_on_host(on_host, shape, dtype, reverse):
    lattice = random_lattice(shape, dtype)
    values = values_for(lattice, 5)
    got = filter_on_host(on_host("permutohedral"), lattice, values, reverse)
    assert_filtered(got, reference.permutohedral_filter(values, *lattice, reverse), dtype)


@pytest.mark.parametrize("reverse", [False, True])
@each_dtype
@each_shape
@pytest.mark.sampled(8)
def test_gradient_of_the_weights_agrees_with_reference_on_host(on_host, shape, dtype, reverse):
    lattice = random_lattice(shape, dtype)
    values, grad = values_for(lattice, 5), values_for(lattice, 5).flip(1)
    if values.numel() == 0:
        return  # the entry returns zeros without a launch
    expected = reference.permutohedral_grad_weight(grad, values, *lattice, reverse)
    results = [
        grad_weight_on_host(on_host("permutohedral"), lattice, grad, values, reverse, *how)
        for how in ((0, 0), (1, 1))
    ]
    assert_filtered(results[0], expected, dtype)
    assert results[1].equal(results[0])


@pytest.mark.parametrize(("channels", "spread"), [(1, 1.0), (21, 1.0), (32, 1.0), (2, 0.01)])
def test_filter_does_not_depend_on_grid_or_order(on_host, channels, spread):
    # Vertices with one entry and with hundreds; if all features are nearly the same, vertices that
    # go on over three pieces and more.
    lattice = random_lattice((1, 800 if spread < 1 else 400, 2, spread))
    counts = lattice.splat_start.diff()
    assert counts.max() > (64 if spread == 1 else 2 * 256)
    values = values_for(lattice, channels)
    results = [
        filter_on_host(on_host("permutohedral"), lattice, values, False, max_blocks, order)
        for max_blocks in (0, 1, 3)
        for order in ORDERS.values()
    ]
    assert all(r.equal(results[0]) for r in results[1:])
    assert_filtered(results[0], reference.permutohedral_filter(values, *lattice), torch.float32)


def test_filter_of_more_channels_than_a_block_has_threads_on_host(on_host):
    lattice = random_lattice((1, 9, 2, 1.0))
    values = values_for(lattice, 4 * 256 + 3)
    got = filter_on_host(on_host("permutohedral"), lattice, values, False)
    assert_filtered(got, reference.permutohedral_filter(values, *lattice), torch.float32)


# From one lane of a warp for a point to all 32, and to several quads of a lane.
@pytest.mark.parametrize("classes", [1, 2, 8, 13, 21, 33, 70, 130, 259])
@pytest.mark.parametrize("kind", ["potts", "diagonal", "matrix"])
@pytest.mark.sampled(6)
def test_mean_field_agrees_with_reference_on_host(on_host, classes, kind):
    unary, lattices, weights = problem((2, 19, 5, 2.0), classes)
    unary[0, 0, 3] = torch.inf if classes > 1 else 0
    mus, norms = [compatibilities(classes)[kind], None], ["after", "symmetric"]
    got = mean_field_on_host(on_host("mean_field"), unary, lattices, weights, mus, norms)
    assert_marginals(got, by_reference(unary, lattices, weights, mus, norms, iterations=3))


@pytest.mark.parametrize("norm", ["none", "before"])
@pytest.mark.parametrize("relaxation", [1.0, 0.6])
@pytest.mark.parametrize("iterations", [0, 1, 3])
@pytest.mark.parametrize("given", [False, True], ids=["start", "initial"])
def test_mean_field_options_on_host(on_host, norm, relaxation, iterations, given):
    unary, lattices, weights = problem((1, 40, 3, 3.0), 6)
    weights = weights / 8
    initial = torch.softmax(unary.flip(1), 1) if given else None
    options = {"relaxation": relaxation, "iterations": iterations, "initial": initial}
    got = mean_field_on_host(
        on_host("mean_field"),
        unary,
        lattices,
        weights,
        [None, None],
        [norm, "after"],
        exact=True,
        **options,
    )
    expected = by_reference(
        unary, lattices, weights, None, [norm, "after"], expnorm="exact", **options
    )
    assert_marginals(got, expected)


@each_order
@each_grid
@pytest.mark.sampled(2)
def test_mean_field_does_not_depend_on_grid_or_order(on_host, max_blocks, order):
    unary, lattices, weights = problem((1, 60, 5, 2.0), 40)
    mus = [None, compatibilities(40)["matrix"]]
    args = (on_host("mean_field"), unary, lattices, weights, mus, ["after", "after"])
    got = mean_field_on_host(*args, max_blocks=max_blocks, order=order)
    assert got.equal(mean_field_on_host(*args))


# On a GPU: the compiled library and CuPy, all shapes.


@pytest.mark.cuda
@each_dtype
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_lattice_on_gpu(on_gpu, shape, dtype):
    features = random_features(shape, dtype)
    lattice = Lattice(*on_gpu("permutohedral_build")(features.cuda(), True))
    expected = reference.permutohedral_build(features, True)
    assert all(a.cpu().equal(b) for a, b in zip(lattice, expected, strict=True))
    values = values_for(Lattice(*expected), 21)
    for reverse in (False, True):
        got = on_gpu("permutohedral_filter")(values.cuda(), *lattice, reverse)
        assert_filtered(
            got.cpu(), reference.permutohedral_filter(values, *expected, reverse), dtype
        )
        assert got.equal(on_gpu("permutohedral_filter")(values.cuda(), *lattice, reverse))
        grad = values.flip(1)
        got = on_gpu("permutohedral_grad_weight")(grad.cuda(), values.cuda(), *lattice, reverse)
        wanted = reference.permutohedral_grad_weight(grad, values, *expected, reverse)
        assert_filtered(got.cpu(), wanted, dtype)


@pytest.mark.cuda
@pytest.mark.parametrize("kind", ["potts", "diagonal", "matrix"])
@pytest.mark.parametrize("classes", [2, 21, 40])
def test_mean_field_on_gpu(on_gpu, classes, kind):
    unary, lattices, weights = problem((3, 2500, 5, 3.0), classes)
    mus, norms = [compatibilities(classes)[kind], None], ["after", "symmetric"]
    expected = by_reference(unary, lattices, weights, mus, norms, iterations=10)
    got = on_gpu("mean_field")(
        unary.cuda(),
        None,
        [tensor.cuda() for lattice in lattices for tensor in lattice],
        weights.cuda(),
        [unary.new_empty(0).cuda() if mu is None else mu.cuda() for mu in mus],
        [1, 3],
        1.0,
        10,
        False,
    )
    assert_marginals(got.cpu(), expected, 1e-5)
