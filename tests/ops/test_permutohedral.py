"""The permutohedral lattice on the CPU: compiled where it is built, else the reference."""

import numpy as np
import pytest
import torch

from deeplab_repro.ops import Lattice, permutohedral_build, permutohedral_filter, reference
from deeplab_repro.ops.reference.permutohedral import NORMALIZATIONS
from tests.ops.lattice_cases import (
    SHAPES,
    filter_matrix,
    gaussian_sums,
    image_features,
    kernel_stds,
    random_features,
    random_lattice,
    recorded,
)

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

BUILD = torch.ops.deeplab_repro.permutohedral_build
FILTER = torch.ops.deeplab_repro.permutohedral_filter
GRAD_WEIGHT = torch.ops.deeplab_repro.permutohedral_grad_weight
DTYPES = (torch.float32, torch.float64)

each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_shape = pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
each_kernel = pytest.mark.parametrize("kernel", ["g", "b"])


def values_for(lattice: Lattice, channels: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(channels)
    shape = (*lattice.vertex.shape[:2], channels)
    return torch.randn(shape, generator=generator, dtype=lattice.weight.dtype)


def assert_filtered(got, expected, dtype):
    """Sums of some thousand terms of either sign: relative to the largest."""
    scale = expected.abs().max().item() if expected.numel() else 1.0
    torch.testing.assert_close(
        got.double(),
        expected.double(),
        rtol=0,
        atol=scale * (3e-6 if dtype.itemsize == 4 else 1e-14),
    )


# The build.


def test_literal():
    # d = 1: the hyperplane x + y = 0; one standard deviation is sqrt(2/3) * 2 / sqrt(2) along x.
    lattice = permutohedral_build(torch.tensor([[0.0], [0.25], [5.0]]))
    assert lattice.vertex.tolist() == [[[0, 1], [0, 1], [2, 3]]]
    elevated = 0.25 * (2 / 3) ** 0.5 * 2 / 2**0.5
    torch.testing.assert_close(
        lattice.weight[0, :2], torch.tensor([[1.0, 0.0], [1 - elevated, elevated]])
    )
    # 0 lies between -1 and 1; 5 between 5 and 6: coordinate 5.77 of remainder 1 and 0.
    assert lattice.neighbours[:, 0].tolist() == [[1, -1], [-1, 1]]
    assert lattice.splat_start.tolist() == [0, 2, 4, 5, 6]
    assert lattice.splat_entry.tolist() == [0, 2, 1, 3, 4, 5]


@pytest.mark.parametrize("padding", [False, True])
@each_dtype
@each_shape
@pytest.mark.sampled(12)
def test_build_is_the_references_bit_by_bit(shape, dtype, padding):
    features = random_features(shape, dtype)
    expected = reference.permutohedral_build(features, padding)
    got = permutohedral_build(features, padding_points=padding)
    for name, ours, theirs in zip(Lattice._fields, got, expected, strict=True):
        assert ours.dtype == theirs.dtype, name
        assert ours.shape == theirs.shape, name
        assert ours.equal(theirs), name


@pytest.mark.parametrize("d", range(1, 17))
@pytest.mark.sampled(4)
def test_build_in_every_dimension(d):
    features = random_features((2, 150, d, 6.0))
    lattice = permutohedral_build(features)
    assert all(
        a.equal(b) for a, b in zip(lattice, reference.permutohedral_build(features), strict=True)
    )
    torch.testing.assert_close(lattice.weight.sum(-1), torch.ones(2, 150), rtol=0, atol=1e-5)
    assert lattice.weight.min() > -1e-5  # inside the simplex
    # The blur's gain is 2 an axis: a point far from all others keeps the square of its weights.
    alone = permutohedral_build(torch.zeros(1, d))
    got = permutohedral_filter(alone, torch.ones(1, 1)).item()
    matrix = filter_matrix(alone)
    assert got == pytest.approx(matrix[0, 0], rel=1e-6)


@pytest.mark.parametrize("name", ["dl_b_63x47_c2"])
@each_kernel
def test_build_is_densecrfs_bit_by_bit(name, kernel):
    data = recorded(name)
    features = image_features(data["image"], kernel_stds(data["params"])[kernel])
    lattice = permutohedral_build(features, padding_points=True)
    step = int(data["step"])
    assert lattice.neighbours.shape[1] == data["M"]["gb".index(kernel)]
    assert np.array_equal(lattice.weight[0, ::step], data[f"bar_{kernel}"])
    assert np.array_equal(lattice.vertex[0, ::step], data[f"off_{kernel}"])
    assert np.array_equal(lattice.neighbours[:, ::step], data[f"nb_{kernel}"])


def test_padding_points_add_vertices_without_entries():
    features = random_features((2, 37, 5, 3.0)) + 50
    plain, padded = (permutohedral_build(features, padding_points=p) for p in (False, True))
    assert padded.neighbours.shape[1] == plain.neighbours.shape[1] + 2 * 6
    assert padded.vertex.equal(plain.vertex)
    assert padded.splat_start[-12:].eq(2 * 37 * 6).all()
    whole = random_features((1, 36, 5, 3.0))
    assert permutohedral_build(whole, padding_points=True).neighbours.equal(
        permutohedral_build(whole).neighbours
    )


def test_two_dimensional_input_is_one_picture():
    features = random_features((1, 30, 3, 2.0))
    for a, b in zip(permutohedral_build(features[0]), permutohedral_build(features), strict=True):
        assert a.equal(b)


def test_strides_do_not_matter():
    features = random_features((2, 40, 5, 2.0))
    strided = features.transpose(1, 2).contiguous().transpose(1, 2)
    assert not strided.is_contiguous()
    lattice = permutohedral_build(strided)
    assert all(a.equal(b) for a, b in zip(lattice, permutohedral_build(features), strict=True))
    values = values_for(lattice, 3)
    planar = values.transpose(1, 2).contiguous().transpose(1, 2)
    assert permutohedral_filter(lattice, planar).equal(permutohedral_filter(lattice, values))


# The filter.


@pytest.mark.parametrize("reverse", [False, True])
@each_dtype
@each_shape
@pytest.mark.sampled(12)
def test_filter_agrees_with_reference(shape, dtype, reverse):
    lattice = random_lattice(shape, dtype)
    values = values_for(lattice, 5)
    got = permutohedral_filter(lattice, values, reverse=reverse)
    assert_filtered(got, reference.permutohedral_filter(values, *lattice, reverse), dtype)


@pytest.mark.parametrize("channels", [0, 1, 2, 3, 4, 5, 8, 9, 16, 21, 24, 32, 33, 65, 1000])
@each_dtype
def test_any_number_of_channels(channels, dtype):
    for d in (2, 3, 5):
        lattice = random_lattice((2, 45, d, 2.0), dtype)
        values = values_for(lattice, channels)
        got = permutohedral_filter(lattice, values)
        assert got.shape == values.shape
        assert_filtered(got, reference.permutohedral_filter(values, *lattice), dtype)


@pytest.mark.parametrize("reverse", [False, True])
def test_reference_agrees_with_loops(reverse):
    for d in (1, 2, 5):
        lattice = random_lattice((1, 25, d, 2.0), torch.float64)
        matrix = torch.from_numpy(filter_matrix(lattice, reverse))
        got = reference.permutohedral_filter(
            torch.eye(25, dtype=torch.float64)[None], *lattice, reverse
        )
        torch.testing.assert_close(got[0], matrix, rtol=0, atol=1e-13)


@pytest.mark.parametrize("name", ["dl_b_63x47_c2", "dl_d_40x30_c4_relax", "dl_e_40x30_c4_matrix"])
@each_kernel
def test_filter_agrees_with_densecrf(name, kernel):
    data = recorded(name)
    features = image_features(data["image"], kernel_stds(data["params"])[kernel])
    lattice = permutohedral_build(features, padding_points=True)
    values = torch.from_numpy(data["filter_in"].reshape(1, -1, 2))
    step = int(data["step"])
    norm = permutohedral_filter(lattice, torch.ones_like(values[..., :1]))[0, ::step, 0]
    np.testing.assert_allclose(norm, data[f"norm_raw_{kernel}"], rtol=2e-6)
    got = permutohedral_filter(lattice, values)[0, ::step]
    assert_filtered(got, torch.from_numpy(data[f"filter_raw_{kernel}"]), torch.float32)


# Largest and mean difference from the exact sums, normalised: what was measured for densecrf.
BOUNDS = {
    ("exact_a_32x24_c4", "g"): (0.0139, 0.0023),
    ("exact_a_32x24_c4", "b"): (0.2770, 0.0170),
    ("exact_b_32x24_c4_wide", "g"): (0.0204, 0.0023),
    ("exact_b_32x24_c4_wide", "b"): (0.1167, 0.0050),
}


@pytest.mark.parametrize(("name", "kernel"), BOUNDS)
@each_dtype
def test_filter_approximates_gaussian_sums(name, kernel, dtype):
    data = recorded(name)
    features = image_features(data["image"], kernel_stds(data["params"])[kernel], dtype)
    lattice = permutohedral_build(features)
    values = torch.from_numpy(data["filter_in"].reshape(1, -1, 4)).to(dtype)
    raw = permutohedral_filter(lattice, values)
    recorded_sums = torch.from_numpy(data[f"lattice_raw_{kernel}"])
    assert_filtered(raw[0, ::4], recorded_sums, dtype)
    exact = torch.from_numpy(data[f"exact_raw_{kernel}"] / data[f"exact_ones_{kernel}"])
    brute = gaussian_sums(features[0], torch.cat([values[0], torch.ones_like(values[0, :, :1])], 1))
    torch.testing.assert_close(brute[:, :4] / brute[:, 4:], exact.double(), rtol=1e-5, atol=1e-6)
    got = permutohedral_filter(lattice, values, "after")[0]
    difference = (got.double() - exact).abs()
    largest, mean = BOUNDS[name, kernel]
    assert difference.max() < largest
    assert difference.mean() < mean


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.sampled(3)
def test_normalizations(normalization, reverse):
    lattice = random_lattice((1, 30, 5, 2.0), torch.float64)
    kernel = torch.from_numpy(filter_matrix(lattice))
    n = kernel.sum(1)
    scaled = {
        "none": kernel,
        "after": kernel / n[:, None],
        "before": kernel / n,
        "symmetric": kernel / (n[:, None] * n).sqrt(),
    }[normalization]
    values = values_for(lattice, 4)
    got = permutohedral_filter(lattice, values, normalization, reverse)
    expected = (scaled.T if reverse else scaled) @ values[0]
    torch.testing.assert_close(got[0], expected, rtol=0, atol=1e-12)


def test_pictures_of_a_batch_do_not_see_each_other():
    features = random_features((3, 700, 5, 2.0))
    lattice = permutohedral_build(features)
    values = values_for(lattice, 4)
    together = permutohedral_filter(lattice, values, "after")
    for i in range(3):
        alone = permutohedral_filter(permutohedral_build(features[i]), values[i], "after")
        torch.testing.assert_close(together[i], alone, rtol=0, atol=1e-5)


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (13, 1), (6, 7)])
@each_kernel
def test_constant_pictures(size, kernel):
    stds = (3.0, 3.0) if kernel == "g" else (3.0, 3.0, 5.0, 5.0, 5.0)
    image = np.full((*size, 3), 128, np.uint8)
    lattice = permutohedral_build(image_features(image, stds))
    values = torch.full((1, size[0] * size[1], 3), 7.0)
    got = permutohedral_filter(lattice, values, "after")
    torch.testing.assert_close(got, values, rtol=1e-5, atol=0)


@each_dtype
def test_other_numberings_of_the_vertices_are_as_good(dtype):
    lattice = random_lattice((1, 6000, 5, 3.0), dtype)
    vertices = lattice.neighbours.shape[1]
    order = torch.randperm(vertices, generator=torch.Generator().manual_seed(3))
    number = torch.argsort(order)
    renumbered = number[lattice.vertex.long()]
    neighbours = torch.where(lattice.neighbours < 0, -1, number[lattice.neighbours.long()])
    entry = torch.argsort(renumbered.flatten(), stable=True)
    start = torch.cat(
        [
            torch.zeros(1, dtype=torch.long),
            torch.bincount(renumbered.flatten(), minlength=vertices).cumsum(0),
        ]
    )
    other = Lattice(
        renumbered.int(), lattice.weight, neighbours[:, order].int(), start.int(), entry.int()
    )
    values = values_for(lattice, 5)
    assert_filtered(
        permutohedral_filter(other, values), permutohedral_filter(lattice, values), dtype
    )


@pytest.mark.slow
def test_same_bits_for_every_thread_count():
    features = random_features((2, 30000, 5, 8.0))
    values = torch.randn(2, 30000, 21, generator=torch.Generator().manual_seed(0))
    threads = torch.get_num_threads()
    results = []
    try:
        for count in (1, 2, 5, 1):
            torch.set_num_threads(count)
            lattice = permutohedral_build(features)
            results.append([*lattice, permutohedral_filter(lattice, values, "symmetric")])
    finally:
        torch.set_num_threads(threads)
    for result in results[1:]:
        assert all(a.equal(b) for a, b in zip(result, results[0], strict=True))


# Autograd and registration.


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.sampled(2)
def test_gradcheck(normalization):
    lattice = permutohedral_build(random_features((2, 6, 3, 2.0), torch.float64))
    values = values_for(lattice, 2).requires_grad_()
    for reverse in (False, True):

        def run(v, reverse=reverse):
            return permutohedral_filter(lattice, v, normalization, reverse)

        assert torch.autograd.gradcheck(run, values)
        assert torch.autograd.gradgradcheck(run, values)


@pytest.mark.parametrize("normalization", NORMALIZATIONS)
@pytest.mark.sampled(2)
def test_features_have_the_gradient_of_what_the_lattice_computes(normalization):
    features = random_features((2, 37, 3, 2.0), torch.float64).requires_grad_()
    values = values_for(permutohedral_build(features.detach()), 4).requires_grad_()
    for reverse in (False, True):

        def run(features, values, reverse=reverse):
            return permutohedral_filter(
                permutohedral_build(features), values, normalization, reverse
            )

        assert torch.autograd.gradcheck(run, (features, values), eps=1e-7, atol=1e-5)
    lattice = permutohedral_build(features)
    assert lattice.weight.requires_grad
    with torch.no_grad():
        assert not permutohedral_build(features).weight.requires_grad
    two = permutohedral_build(features[0])  # (P, d), as one picture
    assert torch.autograd.grad(two.weight[0, :, 0].sum(), features)[0].shape == features.shape


@pytest.mark.parametrize("channels", [0, 1, 4, 5, 21, 33])
@each_dtype
@each_shape
@pytest.mark.sampled(12)
def test_gradient_of_the_weights_agrees_with_reference(shape, dtype, channels):
    lattice = random_lattice(shape, dtype)
    values = values_for(lattice, channels)
    grad = values_for(lattice, channels).flip(1)
    for reverse in (False, True):
        got = GRAD_WEIGHT(grad, values, *lattice, reverse)
        expected = reference.permutohedral_grad_weight(grad, values, *lattice, reverse)
        assert_filtered(got, expected, dtype)


def test_gradient_of_the_weights_is_autograds_of_the_reference():
    lattice = random_lattice((2, 21, 5, 1.0), torch.float64)
    values, grad = values_for(lattice, 3), values_for(lattice, 3).flip(1)
    weight = lattice.weight.clone().requires_grad_()
    for reverse in (False, True):
        own = lattice._replace(weight=weight)
        y = reference.permutohedral_filter(values, *own, reverse)
        (expected,) = torch.autograd.grad(y, weight, grad)
        got = reference.permutohedral_grad_weight(grad, values, *lattice, reverse)
        torch.testing.assert_close(got, expected)


def test_backward_is_the_transpose():
    lattice = random_lattice((1, 40, 5, 2.0))
    values = values_for(lattice, 3).requires_grad_()
    grad = values_for(lattice, 3).flip(1)
    permutohedral_filter(lattice, values).backward(grad)
    assert values.grad.equal(permutohedral_filter(lattice, grad, reverse=True))
    assert not values.grad.equal(permutohedral_filter(lattice, grad))


@pytest.mark.slow
@each_dtype
def test_opcheck(dtype):
    lattice = random_lattice((2, 12, 3, 2.0), dtype)
    values = values_for(lattice, 2).requires_grad_()
    torch.library.opcheck(FILTER.default, (values, *lattice, False))
    weight = lattice.weight.clone().requires_grad_()
    torch.library.opcheck(FILTER.default, (values, *lattice._replace(weight=weight), False))
    grad, plain = torch.ones_like(values).detach(), values.detach()
    torch.library.opcheck(GRAD_WEIGHT.default, (grad, plain, *lattice, False))
    tests = ("test_schema", "test_faketensor")  # its sizes depend on the data
    torch.library.opcheck(
        BUILD.default, (random_features((2, 12, 3, 2.0), dtype), True), test_utils=tests
    )
