"""dense_crf, dense_crf_features and the module: semantics worked by hand, and gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor

from deeplab_repro.crf import Bilateral, CRFParams, DenseCRF, dense_crf, dense_crf_features
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.crf.kernels import repeated
from deeplab_repro.ops import permutohedral_build, permutohedral_filter

PARAMS = CRFParams(iterations=3, pos_w=2, pos_xy_std=2, bi_w=3, bi_xy_std=6, bi_rgb_std=20)


def problem(
    batch: int = 2, labels: int = 4, size: tuple[int, int] = (6, 7), channels: int = 3
) -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (batch, channels, *size), dtype=torch.uint8)
    return torch.randn(batch, labels, *size) * 2, image


def kernel_matrix(features: Tensor) -> Tensor:
    """(P, P) of the lattice over features (1, d, H, W): its columns one by one."""
    lattice = permutohedral_build(features.flatten(2).mT)
    points = features[0, 0].numel()
    return permutohedral_filter(lattice, torch.eye(points, dtype=features.dtype)[None])[0]


def test_every_step_by_dense_matrices():
    """The update written out with the kernels as matrices."""
    unary, image = problem(batch=1, size=(4, 5))
    unary = unary.double()
    kernels = [
        kernel_matrix(spatial_features(4, 5, 2, like=unary)[None]),
        kernel_matrix(bilateral_features(image, 6, 20, dtype=torch.float64)),
    ]
    mu = torch.randn(4, 4, dtype=torch.float64)
    diagonal = torch.randn(4, dtype=torch.float64)
    scaled = {
        "none": lambda k: k,
        "after": lambda k: k / k.sum(1, keepdim=True),
        "before": lambda k: k / k.sum(1),
        "symmetric": lambda k: k / (k.sum(1, keepdim=True) * k.sum(1)).sqrt(),
    }
    energies = unary[0].flatten(1)
    for norm, normalize in scaled.items():
        for compatibility, matrix in (
            (None, -torch.eye(4).double()),
            (diagonal, diagonal.diag()),
            (mu, mu),
        ):
            q = (-energies).softmax(0)
            for _ in range(PARAMS.iterations):
                total = energies
                for weight, kernel in zip((2, 3), kernels, strict=True):
                    total = total + weight * matrix @ (normalize(kernel) @ q.T).T
                q = 0.4 * q + 0.6 * (-total).softmax(0)
            ours = dense_crf(
                unary, image, PARAMS, compatibility, norm, relaxation=0.6, expnorm="exact"
            )
            torch.testing.assert_close(ours[0].flatten(1), q)


def test_one_pixel_is_sharpened():
    """Rows of K sum to one, so a pixel alone sends itself w * Q."""
    unary = torch.tensor([0.0, 1.0]).view(1, 2, 1, 1)
    q = dense_crf(unary, torch.zeros(1, 3, 1, 1), CRFParams(iterations=1, pos_w=2, bi_w=3))
    first = torch.tensor([0.0, -1.0]).softmax(0)
    torch.testing.assert_close(q.flatten(), (torch.tensor([0.0, -1.0]) + 5 * first).softmax(0))


def test_edges_stop_the_labels():
    """Two halves of different colour: an uncertain pixel follows its own half."""
    image = torch.zeros(1, 1, 8, 8)
    image[..., 4:] = 200
    unary = torch.zeros(1, 2, 8, 8)
    unary[:, 1, :, :4] = unary[:, 0, :, 4:] = 3
    unary[:, :, :, 3] = 0
    labels = dense_crf(unary, image, CRFParams(10, 1, 1, 5, 10, 10), output="labels")
    assert labels.dtype == torch.int64
    assert labels[0].tolist() == [[0] * 4 + [1] * 4] * 8


def test_outputs():
    unary, image = problem()
    unary[:, 2] = float("inf")
    q = dense_crf(unary, image, PARAMS)
    assert q.shape == unary.shape
    assert (q[:, 2] == 0).all()
    torch.testing.assert_close(q.sum(1), torch.ones(2, 6, 7))
    assert torch.equal(dense_crf(unary, image, PARAMS, output="labels"), q.argmax(1))
    log = dense_crf(unary, image, PARAMS, output="log")
    assert torch.equal(log, q.clamp_min(torch.finfo(torch.float32).tiny).log())
    assert torch.isfinite(log).all()
    ties = dense_crf(torch.zeros(1, 5, 2, 2), None, CRFParams(bi_w=0), output="labels")
    assert (ties == 0).all()  # of several maxima the first
    start = dense_crf(unary, image, CRFParams(iterations=0))
    torch.testing.assert_close(start, (-unary).softmax(1))


def test_labels_below_the_cut_are_zero():
    """The 2011 program's exp is 0 below -20."""
    unary = torch.tensor([0.0, 21.0, 19.0]).view(1, 3, 1, 1)
    q = dense_crf(unary, None, CRFParams(iterations=0, bi_w=0)).flatten()
    assert q[1] == 0
    assert q[2] > 0
    q = dense_crf(unary, None, CRFParams(iterations=0, bi_w=0), expnorm="exact").flatten()
    assert q[1] > 0


def test_pictures_of_a_batch_do_not_see_each_other(device):
    unary, image = (tensor.to(device) for tensor in problem(batch=3))
    together = dense_crf(unary, image, PARAMS, normalization="symmetric")
    for n in range(3):
        alone = dense_crf(unary[n : n + 1], image[n : n + 1], PARAMS, normalization="symmetric")
        torch.testing.assert_close(together[n : n + 1], alone)


@pytest.mark.parametrize("padding_points", [False, True])
def test_lattice_of_pictures_alike(padding_points):
    """On a GPU a batch is filtered at once; there the spatial lattice is built for one picture."""
    points = spatial_features(5, 7, 2).flatten(1).T[None] + 0.3
    one = permutohedral_build(points, padding_points=padding_points)
    three = repeated(one, 3)
    built = permutohedral_build(points.repeat(3, 1, 1), padding_points=padding_points)
    assert [t.shape for t in three] == [t.shape for t in built]
    values = torch.rand(3, 35, 4)
    expected = torch.cat([permutohedral_filter(one, v[None]) for v in values])
    torch.testing.assert_close(permutohedral_filter(three, values), expected)
    if not padding_points:
        assert all(torch.equal(a, b) for a, b in zip(three, built, strict=True))


def test_kernels_of_weight_zero_take_no_part():
    unary, image = problem()
    spatial = CRFParams(3, 2, 2, 0, 6, 20)
    assert torch.equal(dense_crf(unary, None, spatial), dense_crf(unary, image, spatial))
    bilateral = CRFParams(3, 0, 2, 3, 6, 20)
    features = bilateral_features(image, 6, 20, dtype=torch.float32)
    expected = dense_crf_features(unary, [features], [3.0], iterations=3)
    assert torch.equal(dense_crf(unary, image, bilateral), expected)
    assert not torch.equal(expected, dense_crf(unary, image, PARAMS))


def test_further_bilateral_kernels_and_lists_of_options():
    unary, image = problem()
    params = CRFParams(3, 2, 2, 3, 6, 20, extra=(Bilateral(1.5, (9, 4), (5, 10, 15)),))
    mus = [None, torch.randn(4), torch.randn(4, 4)]
    norms = ["after", "symmetric", "none"]
    features = [
        spatial_features(6, 7, 2),
        bilateral_features(image, 6, 20, dtype=torch.float32),
        bilateral_features(image, (9, 4), (5, 10, 15), dtype=torch.float32),
    ]
    expected = dense_crf_features(unary, features, [2, 3, 1.5], mus, norms, iterations=3)
    torch.testing.assert_close(dense_crf(unary, image, params, mus, norms), expected)
    swapped = dense_crf(unary, image, params, mus, norms[::-1])
    assert not torch.allclose(swapped, expected)


@pytest.mark.parametrize("channels", [1, 2, 4, 14])
def test_any_number_of_channels(channels):
    unary, image = problem(channels=channels)
    q = dense_crf(unary, image, PARAMS)
    assert torch.isfinite(q).all()
    stds = tuple(20.0 for _ in range(channels))
    params = CRFParams(3, 2, 2, 3, 6, stds)
    assert torch.equal(q, dense_crf(unary, image, params))
    with pytest.raises(ValueError, match=f"has {channels + 1} numbers, the image {channels} ch"):
        dense_crf(unary, image, CRFParams(3, 2, 2, 3, 6, (*stds, 1.0)))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (9, 1), (2, 2), (3, 5)])
@pytest.mark.parametrize("labels", [1, 2, 1000])
@pytest.mark.parametrize("padding_points", [False, True])
def test_small_and_constant_pictures(size, labels, padding_points):
    unary, _ = problem(1, labels, size)
    image = torch.full((1, 3, *size), 77.0)
    q = dense_crf(unary, image, PARAMS, padding_points=padding_points)
    assert q.shape == unary.shape
    torch.testing.assert_close(q.sum(1), torch.ones(1, *size))
    if labels == 1:
        assert (q == 1).all()


def test_empty_batch():
    unary, image = problem(batch=0)
    assert dense_crf(unary, image, PARAMS).shape == unary.shape


@pytest.mark.parametrize("dtype", [torch.uint8, torch.int16, torch.int64, torch.float16])
def test_images_of_any_number_type(dtype):
    unary, image = problem()
    assert torch.equal(dense_crf(unary, image.to(dtype), PARAMS), dense_crf(unary, image, PARAMS))


def test_strides_do_not_matter():
    unary, image = problem()
    expected = dense_crf(unary, image, PARAMS)
    last = torch.channels_last
    strided = unary.contiguous(memory_format=last), image.contiguous(memory_format=last)
    assert torch.equal(dense_crf(*strided, PARAMS), expected)


def test_volumes():
    """Three axes; constant along the third, they give what a picture gives."""
    unary, image = problem(batch=1)
    volume = torch.stack([unary] * 3, -1)
    z = torch.zeros(1, 1, 6, 7)
    features = torch.cat([bilateral_features(image, 6, 20, dtype=torch.float32), z], 1)
    q = dense_crf_features(volume, [torch.stack([features] * 3, -1)], [2.0])
    flat = dense_crf_features(unary, [features], [2.0])
    for i in range(3):
        torch.testing.assert_close(q[..., i], flat)


def energy(q: Tensor, unary: Tensor, kernels: list[Tensor], half: float) -> float:
    q, unary = q.flatten(1).double(), unary.flatten(1).double()
    pairwise = sum(-(q * (k @ q.T).T).sum() for k in kernels)
    return float((q * q.clamp_min(1e-20).log()).sum() + (q * unary).sum() + half * pairwise)


def test_energies_of_every_step():
    unary, image = problem()
    q, energies = dense_crf(unary, image, PARAMS, normalization="symmetric", energies=True)
    assert torch.equal(q, dense_crf(unary, image, PARAMS, normalization="symmetric"))
    assert energies.unary.shape == (PARAMS.iterations + 1, 2)
    for n in range(2):
        kernels = []
        for weight, features in (
            (2, spatial_features(6, 7, 2)[None]),
            (3, bilateral_features(image[n : n + 1], 6, 20, dtype=torch.float32)),
        ):
            k = kernel_matrix(features.double())
            kernels.append(weight * k / (k.sum(1, keepdim=True) * k.sum(1)).sqrt())
        for step in range(PARAMS.iterations + 1):
            params = CRFParams(step, 2, 2, 3, 6, 20)
            at = dense_crf(unary, image, params, normalization="symmetric")[n]
            for ours, half in ((energies.free_energy, 0.5), (energies.kl_divergence, 1.0)):
                assert ours[step, n] == pytest.approx(energy(at, unary[n], kernels, half), rel=1e-5)
    assert (energies.free_energy.diff(dim=0) < 0).all()


def test_energies_with_impossible_labels():
    unary, image = problem()
    unary[:, 1, :3] = float("inf")
    _, energies = dense_crf(unary, image, PARAMS, energies=True)
    assert torch.isfinite(energies.kl_divergence).all()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("axes", "checkpoint", "relaxation"),
    [(0, False, 1.0), (1, False, 0.8), (2, False, 0.8), (2, True, 1.0)],
)
def test_gradients(axes, checkpoint, relaxation):
    """Against finite differences in float64: unary, weights, compatibility."""
    unary, image = problem(batch=2, labels=3, size=(3, 4))
    unary = unary.double().requires_grad_()
    weights = torch.tensor([0.7, 1.3], dtype=torch.float64, requires_grad=True)
    mu = torch.randn((3,) * axes, dtype=torch.float64).requires_grad_() if axes else None

    def marginals(unary, weights, *mu):
        return dense_crf(
            unary,
            image,
            PARAMS,
            mu[0] if mu else None,
            ["after", "symmetric"],
            relaxation=relaxation,
            weights=weights,
            checkpoint=checkpoint,
        )

    inputs = (unary, weights) if mu is None else (unary, weights, mu)
    assert torch.autograd.gradcheck(marginals, inputs, fast_mode=True)


def test_an_image_that_asks_for_a_gradient_gets_none():
    unary, image = torch.randn(1, 3, 4, 5), 255 * torch.rand(1, 3, 4, 5)
    expected = dense_crf(unary, image)
    image.requires_grad_()
    unary.requires_grad_()
    q = dense_crf(unary, image)
    assert torch.equal(q, expected)
    q[:, 0].sum().backward()
    assert unary.grad is not None
    assert image.grad is None


def test_checkpointing_keeps_less_and_gives_the_same():
    unary, image = problem()
    saved = {}
    grads = {}
    for checkpoint in (True, False):
        x = unary.clone().requires_grad_()
        kept = []
        with torch.autograd.graph.saved_tensors_hooks(
            lambda t, kept=kept: kept.append(t.numel()) or t, lambda t: t
        ):
            q = dense_crf(x, image, PARAMS, checkpoint=checkpoint)
        (grads[checkpoint],) = torch.autograd.grad(q[:, 0].sum(), x)
        saved[checkpoint] = sum(kept)
    torch.testing.assert_close(grads[True], grads[False])
    assert saved[True] < saved[False] / 4


@pytest.mark.slow
def test_module_learns():
    """Weights and compatibility move towards what made the target."""
    unary, image = problem(labels=2)
    target = dense_crf(unary, image, CRFParams(3, 0.5, 2, 5, 6, 20), output="labels")
    crf = DenseCRF(PARAMS, learn=["weights", "compatibility"], labels=2)
    assert {name for name, _ in crf.named_parameters()} == {"weights", "compatibility"}
    torch.testing.assert_close(crf(unary, image), dense_crf(unary, image, PARAMS))
    optimizer = torch.optim.SGD(crf.parameters(), 0.1)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = torch.nn.functional.nll_loss(crf(unary, image, output="log"), target)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses == sorted(losses, reverse=True)
    again = DenseCRF(PARAMS, learn=["weights", "compatibility"], labels=2)
    again.load_state_dict(crf.state_dict())
    assert torch.equal(again(unary, image), crf(unary, image))


def test_module_without_learning_has_no_parameters():
    unary, image = problem()
    crf = DenseCRF(PARAMS, torch.full((4,), -0.5))
    assert not list(crf.parameters())
    expected = dense_crf(unary, image, PARAMS, torch.full((4,), -0.5))
    assert torch.equal(crf(unary, image), expected)
    assert torch.equal(copy.deepcopy(crf)(unary, image), expected)
    assert "bi_xy_std=6.0" in repr(crf)
    with pytest.raises(ValueError, match="learn must be of weights, compatibility, stds"):
        DenseCRF(learn="std")
    with pytest.raises(ValueError, match="give labels"):
        DenseCRF(learn="compatibility")


def test_same_bits_in_every_run(device):
    unary, image = (tensor.to(device) for tensor in problem(labels=21, size=(40, 30)))
    first = dense_crf(unary, image, PARAMS)
    assert all(torch.equal(dense_crf(unary, image, PARAMS), first) for _ in range(3))


def test_same_bits_for_any_number_of_threads():
    unary, image = problem(labels=21, size=(60, 50))
    before = torch.get_num_threads()
    found = []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(dense_crf(unary, image, PARAMS))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1])
    assert torch.equal(found[0], found[2])


def test_devices_agree(device):
    unary, image = problem(labels=21, size=(40, 30))
    q = dense_crf(unary.to(device), image.to(device), PARAMS)
    torch.testing.assert_close(q.cpu(), dense_crf(unary, image, PARAMS), rtol=1e-4, atol=1e-5)
