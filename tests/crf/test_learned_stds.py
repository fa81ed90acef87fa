"""Gradients of stds and features, and stds that are learned."""

from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

from deeplab_repro.crf import CRFParams, DenseCRF, dense_crf, dense_crf_features
from tests.crf.test_dense_crf import PARAMS, problem


@pytest.mark.slow
@pytest.mark.parametrize("checkpoint", [False, True])
def test_gradients_of_stds(checkpoint):
    """Against finite differences in float64, which must not step over a face of a simplex."""
    unary, image = problem(batch=2, labels=3, size=(4, 5))
    unary = unary.double().requires_grad_()
    stds = [torch.tensor(std, dtype=torch.float64, requires_grad=True)
            for std in ([2.1, 2.3], [4.3, 3.1, 61.0, 53.0, 71.0])]  # fmt: skip

    def marginals(unary, *stds):
        return dense_crf(
            unary, image, PARAMS, None, ["after", "symmetric"], relaxation=0.8, stds=stds,
            checkpoint=checkpoint,
        )  # fmt: skip

    assert torch.autograd.gradcheck(marginals, (unary, *stds), eps=1e-7, atol=1e-5)
    with torch.no_grad():
        params = CRFParams(PARAMS.iterations, 3, (2.1, 2.3), 4, (4.3, 3.1), (61.0, 53.0, 71.0))
        plain = dense_crf(unary, image, params)
        assert torch.equal(dense_crf(unary, image, params, stds=stds), plain)


def test_gradients_of_features():
    unary, _ = problem(batch=2, labels=3, size=(4, 5))
    features = (torch.rand(2, 3, 4, 5, dtype=torch.float64) * 3).requires_grad_()

    def marginals(features):
        return dense_crf_features(unary.double(), [features], [2.0], iterations=2)

    assert torch.autograd.gradcheck(marginals, features, eps=1e-7, atol=1e-5)


def test_stds_that_cannot_be():
    unary, image = problem()
    good = [torch.tensor([2.0, 2.0]), torch.tensor([5.0, 5.0, 9.0, 9.0, 9.0])]
    for stds, message in (
        (good[:1], "stds must have one tensor for each of 2 kernels, got 1"),
        ([good[0], good[0]], r"stds\[1\] must have shape \(5,\), got \(2,\)"),
        ([-good[0], good[1]], r"stds\[0\] must be positive, got \[-2.0, -2.0\]"),
    ):
        with pytest.raises(ValueError, match=message):
            dense_crf(unary, image, PARAMS, stds=stds)


@pytest.mark.slow
def test_stds_are_learned():
    """They move towards those that made the target; numbers stay one number, pairs two."""
    unary, image = problem(labels=2, size=(24, 20))
    goal = CRFParams(3, 1.0, 2.0, 5.0, (9.0, 6.0), 30.0)
    with torch.no_grad():
        target = dense_crf(unary, image, goal)
    start = dataclasses.replace(goal, bi_xy_std=(9.0, 6.0), bi_rgb_std=15.0)
    crf = DenseCRF(start, learn=["stds"])
    assert [name for name, _ in crf.named_parameters()] == ["log_stds"]
    assert crf.log_stds.shape == (4,)
    torch.testing.assert_close(crf(unary, image), dense_crf(unary, image, start))
    optimizer = torch.optim.Adam(crf.parameters(), 0.05)
    losses = []
    for _ in range(25):
        optimizer.zero_grad()
        loss = (crf(unary, image) - target).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] / 2
    learned = crf.learned_params()
    assert isinstance(learned.bi_xy_std, tuple)
    assert 18 < learned.bi_rgb_std < 45
    torch.testing.assert_close(crf(unary, image), dense_crf(unary, image, learned))
    assert DenseCRF(goal).learned_params() == goal


@pytest.mark.slow
def test_learning_everything_takes_less_than_a_gigabyte():
    """Ten steps of 21 labels on 321 x 321 pixels, in a process of its own."""
    program = (
        "import torch\n"
        "from deeplab_repro.crf import DenseCRF\n"
        "crf = DenseCRF(learn=['weights', 'compatibility', 'stds'], labels=21)\n"
        "image = torch.nn.functional.interpolate(torch.randn(1, 3, 20, 20), (321, 321))\n"
        "crf(torch.randn(1, 21, 321, 321), image * 60, output='log')[:, 0].sum().backward()\n"
        "assert crf.log_stds.grad.abs().min() > 0\n"
        # Not ru_maxrss, in which the process that started this one counts, too.
        "print(open('/proc/self/status').read().split('VmHWM:')[1].split()[0])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) / 1024 < 1000
