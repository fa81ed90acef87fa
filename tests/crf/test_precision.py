"""Half energies and autocast: everything is computed in float32."""

from __future__ import annotations

import pytest
import torch

from deeplab_repro.crf import CRFParams, DenseCRF, dense_crf, dense_crf_features

PARAMS = CRFParams(iterations=3, pos_w=2, pos_xy_std=2, bi_w=3, bi_xy_std=6, bi_rgb_std=20)
UNARY = torch.randn(2, 3, 5, 6, generator=torch.Generator().manual_seed(1)) * 2
IMAGE = torch.randint(0, 256, (2, 3, 5, 6), generator=torch.Generator().manual_seed(2))
MU = torch.tensor([[-1.0, 0.5, 0.25], [0.0, -2, 1], [0.125, 0, -1]]) / 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
@pytest.mark.parametrize("output", ["marginals", "log", "labels"])
def test_half_energies(dtype, output):
    unary = UNARY.to(dtype)
    for mu in (None, MU, MU.to(dtype)):
        wide = None if mu is None else mu.float()
        expected = dense_crf(unary.float(), IMAGE, PARAMS, wide, output=output)
        ours = dense_crf(unary, IMAGE, PARAMS, mu, output=output)
        assert torch.equal(ours, expected if output == "labels" else expected.to(dtype))
    features = [torch.randn(2, 5, 6), torch.randn(2, 4, 5, 6).to(dtype)]
    ours = dense_crf_features(unary, features, [1, 2], output=output)
    expected = dense_crf_features(unary.float(), features, [1, 2], output=output)
    assert torch.equal(ours, expected if output == "labels" else expected.to(dtype))
    if output == "log":
        impossible = torch.where(torch.arange(3)[:, None, None] == 1, torch.inf, unary)
        assert dense_crf(impossible, IMAGE, PARAMS, output="log").isfinite().all()


def test_half_energies_have_the_energies_of_float32():
    unary = UNARY.half()
    q, terms = dense_crf(unary, IMAGE, PARAMS, energies=True)
    _, expected = dense_crf(unary.float(), IMAGE, PARAMS, energies=True)
    assert q.dtype == torch.float16
    assert all(torch.equal(a, b) for a, b in zip(terms, expected, strict=True))


def test_gradients_of_half_energies():
    grads = []
    for dtype in (torch.bfloat16, torch.float32):
        unary = UNARY.bfloat16().to(dtype).requires_grad_()
        q = dense_crf(unary, IMAGE, PARAMS, MU)
        (grad,) = torch.autograd.grad(q.float()[:, 0].square().sum(), unary)
        assert grad.dtype == dtype
        grads.append(grad.float())
    torch.testing.assert_close(*grads, rtol=2e-2, atol=2e-3)


@pytest.mark.parametrize("checkpoint", [True, False])
def test_autocast_changes_nothing(checkpoint):
    """Neither in the forward pass nor in the backward pass, inside autocast both."""
    found = []
    for enabled in (True, False):
        inputs = UNARY.clone(), torch.tensor([2.0, 3.0]), MU.clone()
        inputs = [tensor.requires_grad_() for tensor in inputs]
        unary, weights, mu = inputs
        options = {"weights": weights, "checkpoint": checkpoint, "relaxation": 0.8}
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled):
            q, terms = dense_crf(unary, IMAGE, PARAMS, mu, energies=True, **options)
            grads = torch.autograd.grad(q[:, 0].square().sum(), inputs)
        with torch.autocast("cpu", torch.bfloat16, enabled=enabled), torch.no_grad():
            module = DenseCRF(PARAMS, MU)(UNARY, IMAGE)
        assert q.dtype == module.dtype == torch.float32
        found.append((q, *terms, *grads, module))
    for ours, expected in zip(*found, strict=True):
        assert torch.equal(ours, expected)
