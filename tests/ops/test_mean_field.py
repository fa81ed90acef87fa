"""Mean field on the CPU: the fused kernels where they are compiled, else the reference."""

import numpy as np
import pytest
import torch

from deeplab_repro.ops import mean_field, permutohedral_build, reference
from deeplab_repro.ops.reference.permutohedral import NORMALIZATIONS
from tests.ops.lattice_cases import (
    SHAPES,
    filter_matrix,
    image_features,
    kernel_stds,
    random_lattice,
    recorded,
)

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

OP = torch.ops.deeplab_repro.mean_field


def problem(shape, classes: int, dtype: torch.dtype = torch.float32):
    """(unary, two lattices, weights) of random points: d as given, and d = 2."""
    batch, points, _, spread = shape
    generator = torch.Generator().manual_seed(classes)
    unary = torch.randn(batch, classes, points, generator=generator, dtype=dtype) * 3
    lattices = [random_lattice((batch, points, 2, spread), dtype), random_lattice(shape, dtype)]
    return unary, lattices, torch.tensor([0.75, 1.5], dtype=dtype)


def compatibilities(classes: int, dtype: torch.dtype = torch.float32):
    generator = torch.Generator().manual_seed(7)
    diagonal = -torch.rand(classes, generator=generator, dtype=dtype) - 0.5
    matrix = torch.randn(classes, classes, generator=generator, dtype=dtype) * 0.3
    return {"potts": None, "diagonal": diagonal, "matrix": matrix - torch.eye(classes, dtype=dtype)}


def by_reference(unary, lattices, weights, mus=None, normalization="after", **options):
    count = len(lattices)
    norms = [normalization] * count if isinstance(normalization, str) else normalization
    return reference.mean_field(unary, lattices, weights, mus or [None] * count, norms, **options)


def loops(unary, lattices, weights, mu, iterations, cutoff):
    """One picture in float64, label by label, from the matrix of each kernel; normalized after."""
    kernels = [filter_matrix(lattice) for lattice in lattices]
    kernels = [k / k.sum(1, keepdims=True) for k in kernels]
    classes, points = unary.shape
    q = np.zeros((classes, points))
    energy = unary.copy()
    for step in range(iterations + 1):
        for p in range(points):
            exps = [np.exp(energy[:, p].min() - e) for e in energy[:, p]]
            exps = [e if not cutoff or e >= np.exp(-20.0) else 0.0 for e in exps]
            for c in range(classes):
                q[c, p] = exps[c] / sum(exps)
        if step == iterations:
            return q
        energy = unary.copy()
        for w, kernel in zip(weights, kernels, strict=True):
            filtered = q @ kernel.T
            for c in range(classes):
                energy[c] += w * sum(mu[c, other] * filtered[other] for other in range(classes))


def assert_marginals(got, expected, atol=5e-6):
    torch.testing.assert_close(got.double(), expected.double(), rtol=0, atol=atol)


@pytest.mark.parametrize("expnorm", ["deeplab", "exact"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_agrees_with_loops(dtype, expnorm):
    unary, lattices, weights = problem((1, 20, 5, 2.0), 3, dtype)
    unary[:, 0] *= 12  # beyond the cutoff
    mu = compatibilities(3, dtype)["matrix"]
    expected = loops(
        unary[0].double().numpy(),
        lattices,
        weights.tolist(),
        mu.double().numpy(),
        4,
        expnorm == "deeplab",
    )
    assert ((expected == 0).sum() > 0) == (expnorm == "deeplab")
    for run in (mean_field, by_reference):
        q = run(unary, lattices, weights, [mu, mu], iterations=4, expnorm=expnorm)
        assert q.dtype == dtype
        assert_marginals(q[0], torch.from_numpy(expected))


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_agrees_with_reference_in_every_shape(shape):
    unary, lattices, weights = problem(shape, 5)
    got = mean_field(unary, lattices, weights, iterations=3)
    assert_marginals(got, by_reference(unary, lattices, weights, iterations=3))


@pytest.mark.parametrize("classes", [1, 2, 3, 4, 5, 8, 9, 16, 17, 21, 24, 25, 32, 33, 64, 1000])
@pytest.mark.parametrize("kind", ["potts", "diagonal", "matrix"])
@pytest.mark.sampled(12)
def test_any_number_of_labels(classes, kind):
    unary, lattices, weights = problem((2, 19, 5, 2.0), classes)
    mu = compatibilities(classes)[kind]
    got = mean_field(unary, lattices, weights, [mu, None], iterations=3)
    expected = by_reference(unary, lattices, weights, [mu, None], iterations=3)
    # A random matrix of 1000 labels adds as many rounded terms.
    assert_marginals(got, expected, 5e-6 if classes < 1000 else 5e-5)
    torch.testing.assert_close(got.sum(1), torch.ones(2, 19), rtol=0, atol=2e-6)


@pytest.mark.parametrize("normalization", [*NORMALIZATIONS, ["symmetric", "before"]])
@pytest.mark.parametrize("relaxation", [1.0, 0.6, 0.0])
@pytest.mark.parametrize("given", [False, True], ids=["start", "initial"])
@pytest.mark.sampled(10)
def test_options(normalization, relaxation, given):
    unary, lattices, weights = problem((2, 150, 5, 3.0), 6)
    options = {"normalization": normalization, "relaxation": relaxation, "iterations": 4}
    options["initial"] = torch.softmax(unary.flip(1), 1) if given else None
    weights = weights / 8 if normalization == "none" else weights  # sums are not averages there
    mu = compatibilities(6)["matrix"]
    got = mean_field(unary, lattices, weights, [None, mu], **options)
    assert_marginals(got, by_reference(unary, lattices, weights, [None, mu], **options), 2e-5)
    if relaxation == 0:
        first = options["initial"] if given else torch.softmax(-unary, 1)
        assert_marginals(got, first)


def test_numbers_of_kernels_and_iterations():
    unary, (spatial, bilateral), _ = problem((1, 90, 5, 3.0), 4)
    for lattices in ([], [spatial], [bilateral, spatial, bilateral]):
        for iterations in (0, 1, 2):
            weights = [0.5] * len(lattices)
            got = mean_field(unary, lattices, weights, iterations=iterations)
            expected = by_reference(unary, lattices, weights, iterations=iterations)
            assert_marginals(got, expected)


@pytest.mark.parametrize("name", ["dl_b_63x47_c2", "dl_d_40x30_c4_relax", "dl_e_40x30_c4_matrix"])
def test_is_densecrfs(name):
    data = recorded(name)
    params = data["params"]
    stds = kernel_stds(params)
    lattices = [
        permutohedral_build(image_features(data["image"], stds[k]), padding_points=True)
        for k in "gb"
    ]
    classes = data["unary64"].shape[-1]
    unary = torch.from_numpy(data["unary64"].reshape(-1, classes).T / np.float32(64))[None]
    mu = torch.from_numpy(data["compat_matrix"]) if "compat_matrix" in data else None
    q = mean_field(
        unary,
        lattices,
        [params[2], params[8]],
        [mu, mu],
        relaxation=float(params[9]),
        iterations=int(data["iterations"]),
    )
    assert_marginals(q[0].T[:: int(data["step"])], torch.from_numpy(data["q"]))


def test_infinite_energy_is_probability_zero():
    unary, lattices, weights = problem((1, 50, 5, 3.0), 3)
    unary[0, 1, ::2] = torch.inf
    unary[0, 1:, 4] = torch.inf
    for expnorm in ("deeplab", "exact"):
        q = mean_field(unary, lattices, weights, iterations=5, expnorm=expnorm)
        assert q.isfinite().all()
        assert q[0, 1, ::2].eq(0).all()
        assert q[0, :, 4].tolist() == [1, 0, 0]
        assert_marginals(q, by_reference(unary, lattices, weights, iterations=5, expnorm=expnorm))


def test_nan_shows():
    unary, lattices, weights = problem((1, 50, 2, 3.0), 3)
    unary[0, 1, 7] = torch.nan
    assert mean_field(unary, lattices, weights, iterations=0)[0, :, 7].isnan().all()
    assert mean_field(unary, lattices, weights, iterations=0).isnan().sum() == 3


def test_exact_softmax_reaches_small_probabilities():
    unary = torch.tensor([0.0, 15.0, 30.0, 86.0, 200.0]).reshape(1, 5, 1).repeat(1, 1, 3)
    lattice = random_lattice((1, 3, 2, 0.0))
    exact = mean_field(unary, [lattice], [0.0], iterations=1, expnorm="exact")
    torch.testing.assert_close(exact, torch.softmax(-unary, 1), rtol=1e-5, atol=1e-38)
    cut = mean_field(unary, [lattice], [0.0], iterations=1)
    assert cut[0, :, 0].ne(0).tolist() == [True, True, False, False, False]


def test_strides_do_not_matter():
    unary, lattices, weights = problem((2, 40, 5, 2.0), 4)
    strided = unary.transpose(1, 2).contiguous().transpose(1, 2)
    expected = mean_field(unary, lattices, weights, iterations=2)
    assert mean_field(strided, lattices, weights, iterations=2).equal(expected)


@pytest.mark.slow
def test_same_bits_for_every_thread_count():
    unary, lattices, weights = problem((2, 30000, 5, 8.0), 21)
    mu = compatibilities(21)["matrix"]
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5, 1):
            torch.set_num_threads(count)
            results.append(mean_field(unary, lattices, weights, [None, mu], iterations=2))
    finally:
        torch.set_num_threads(threads)
    assert all(q.equal(results[0]) for q in results[1:])


# Gradients.


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["potts", "diagonal", "matrix"])
def test_gradcheck(kind):
    unary, lattices, weights = problem((1, 6, 3, 2.0), 3, torch.float64)
    mu = compatibilities(3, torch.float64)[kind]
    leaves = [unary.requires_grad_(), weights.requires_grad_()]
    leaves += [] if mu is None else [mu.requires_grad_()]
    for options in ({}, {"normalization": "symmetric", "relaxation": 0.5, "expnorm": "exact"}):

        def run(unary, weights, mu=None, options=options):
            return mean_field(unary, lattices, weights, [mu, None], iterations=3, **options)

        assert torch.autograd.gradcheck(run, leaves)


def test_differentiable_path_computes_the_same():
    unary, lattices, weights = problem((1, 300, 5, 2.0), 4)
    expected = mean_field(unary, lattices, weights, iterations=3)
    unary.requires_grad_()
    q = mean_field(unary, lattices, weights, iterations=3)
    assert q.requires_grad
    assert_marginals(q.detach(), expected)
    with torch.no_grad():
        assert mean_field(unary, lattices, weights, iterations=3).equal(expected)


def test_gradient_where_energy_is_infinite():
    unary, lattices, weights = problem((1, 20, 2, 2.0), 3)
    unary[0, 1, ::2] = torch.inf
    unary.requires_grad_()
    mean_field(unary, lattices, weights, iterations=2)[0, 0].sum().backward()
    assert unary.grad.isfinite().all()
    assert unary.grad[0, 1, ::2].eq(0).all()


@pytest.mark.slow
def test_opcheck():
    unary, lattices, weights = problem((2, 12, 3, 2.0), 3)
    flat = [t for lattice in lattices for t in lattice]
    mus = [torch.empty(0), compatibilities(3)["diagonal"]]
    args = (unary, None, flat, weights, mus, [1, 3], 0.5, 2, False)
    torch.library.opcheck(OP.default, args)
    torch.library.opcheck(OP.default, (unary, torch.softmax(unary, 1), *args[2:]))
