"""Each solver against steps worked out by hand, in the words of Caffe's .cpp files."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import nn

from deeplab_repro.models import create_model, parameter_groups
from deeplab_repro.train.optim import (
    SOLVERS,
    CaffeAdaDelta,
    CaffeAdaGrad,
    CaffeAdam,
    CaffeNesterov,
    CaffeOptimizer,
    CaffeRMSProp,
    CaffeSGD,
)
from deeplab_repro.train.rates import PolyLR

GRADS = [(4.0, -2.0), (1.0, 0.5), (-3.0, 8.0)]
RATES = [0.1, 0.05, 0.2]


def run(optimizer: CaffeOptimizer, parameter: nn.Parameter) -> list[list[float]]:
    """The weights after each of three steps whose rates differ."""
    weights = []
    for grad, rate in zip(GRADS, RATES, strict=True):
        parameter.grad = torch.tensor(grad)
        optimizer.param_groups[0]["lr"] = rate
        optimizer.step()
        assert parameter.grad.tolist() == list(grad)  # left as it was
        weights.append(parameter.tolist())
    return weights


def weight() -> nn.Parameter:
    return nn.Parameter(torch.tensor([1.0, -1.0]))


def test_sgd_by_hand() -> None:
    """v = 0.5 v + rate g: 0.4, 0.2 + 0.05, 0.125 - 0.6; the other: -0.2, -0.075, 1.5625."""
    w = weight()
    found = run(CaffeSGD([w], lr=1.0, momentum=0.5), w)
    expected = [[0.6, -0.8], [0.35, -0.725], [0.825, -2.2875]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_nesterov_by_hand() -> None:
    """v as for SGD; w -= 1.5 v - 0.5 (v before): 0.6, then 0.375 - 0.2, then -0.7125 - 0.125."""
    w = weight()
    found = run(CaffeNesterov([w], lr=1.0, momentum=0.5), w)
    expected = [[0.4, -0.7], [0.225, -0.6875], [1.0625, -3.06875]]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adagrad_by_hand() -> None:
    """s = 16, 17, 26 and 4, 4.25, 68.25; w -= rate g / (sqrt(s) + 1)."""
    w = weight()
    found = run(CaffeAdaGrad([w], lr=1.0, delta=1.0), w)
    first = [0.1 * 4 / 5, 0.05 / (17**0.5 + 1), 0.2 * -3 / (26**0.5 + 1)]
    second = [0.1 * -2 / 3, 0.05 * 0.5 / (4.25**0.5 + 1), 0.2 * 8 / (68.25**0.5 + 1)]
    expected = np.array([1, -1]) - np.cumsum([first, second], axis=1).T
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_rmsprop_by_hand() -> None:
    """s = 0.75 s + 0.25 g^2: 4, 3.25, 4.6875 and 1, 0.8125, 16.609375."""
    w = weight()
    found = run(CaffeRMSProp([w], lr=1.0, rms_decay=0.75, delta=1.0), w)
    first = [0.1 * 4 / 3, 0.05 / (3.25**0.5 + 1), 0.2 * -3 / (4.6875**0.5 + 1)]
    second = [0.1 * -2 / 2, 0.05 * 0.5 / (0.8125**0.5 + 1), 0.2 * 8 / (16.609375**0.5 + 1)]
    expected = np.array([1, -1]) - np.cumsum([first, second], axis=1).T
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_adadelta_by_hand() -> None:
    """The first weight's first two steps, momentum 0.5, delta 1."""
    w = weight()
    found = run(CaffeAdaDelta([w], momentum=0.5, delta=1.0), w)
    s1 = 0.5 * 16
    u1 = 4 * ((0 + 1) / (s1 + 1)) ** 0.5  # 4 / 3
    t1 = 0.5 * u1**2
    s2 = 0.5 * s1 + 0.5 * 1
    u2 = 1 * ((t1 + 1) / (s2 + 1)) ** 0.5
    assert found[0][0] == pytest.approx(1 - 0.1 * 4 / 3, rel=1e-6)
    assert found[1][0] == pytest.approx(1 - 0.1 * 4 / 3 - 0.05 * u2, rel=1e-6)


def test_adam_by_hand() -> None:
    """m = 0.5 m + 0.5 g, s = 0.75 s + 0.25 g^2, corrected by sqrt(1 - 0.75^t) / (1 - 0.5^t)."""
    w = weight()
    found = run(CaffeAdam([w], momentum=0.5, momentum2=0.75, delta=1.0), w)
    m1, s1 = 2.0, 4.0
    m2, s2 = 1.5, 3.25
    step1 = 0.1 * (0.25**0.5 / 0.5) * m1 / (s1**0.5 + 1)  # 0.1 * 1 * 2 / 3
    step2 = 0.05 * ((1 - 0.5625) ** 0.5 / 0.75) * m2 / (s2**0.5 + 1)
    assert found[0][0] == pytest.approx(1 - 0.2 / 3, rel=1e-6)
    assert found[1][0] == pytest.approx(1 - step1 - step2, rel=1e-6)


def test_clipping_averaging_and_decay_come_in_caffes_order() -> None:
    """Two passes left the gradients (6, 8) in two parameters: the norm 10 is clipped to 5.

    Then they are halved to (1.5, 2), and decay adds 0.1 times the weights 10 and -10 in the first,
    with L1 their signs.
    """

    def step(regularization: str) -> tuple[float, float]:
        first, second = (nn.Parameter(torch.tensor([value])) for value in (10.0, -10.0))
        groups = [{"params": [first], "weight_decay": 0.1}, {"params": [second], "lr": 2.0}]
        optimizer = CaffeSGD(
            groups, lr=1.0, regularization=regularization, clip_gradients=5.0, iter_size=2
        )
        first.grad, second.grad = torch.tensor([6.0]), torch.tensor([8.0])
        optimizer.step()
        return first.item(), second.item()

    assert step("L2") == pytest.approx((10 - (1.5 + 1.0), -10 - 2 * 2.0))
    assert step("L1") == pytest.approx((10 - (1.5 + 0.1), -10 - 2 * 2.0))


def test_gradients_below_the_limit_are_not_clipped() -> None:
    w = weight()
    optimizer = CaffeSGD([w], lr=1.0, clip_gradients=5.0)
    w.grad = torch.tensor([3.0, 4.0])
    optimizer.step()
    assert w.tolist() == [-2.0, -5.0]


def test_multipliers_of_the_released_files_and_poly() -> None:
    """`parameter_groups` and `PolyLR` in a loop of one's own; classifiers learn faster."""
    model = create_model("largefov", num_classes=3, width=16)
    groups = parameter_groups(model, lr=0.5, weight_decay=0.25)
    optimizer = CaffeSGD(groups, lr=0.5, momentum=0.5)
    scheduler = PolyLR(optimizer, max_iter=4, power=1.0)
    before = {id(p): p.detach().clone() for g in groups for p in g["params"]}
    history = {key: torch.zeros_like(value) for key, value in before.items()}
    for factor in (1.0, 0.75):
        for group in optimizer.param_groups:
            for p in group["params"]:
                p.grad = torch.ones_like(p)
        for group in optimizer.param_groups:
            decay, rate = 0.25 * group["decay_mult"], 0.5 * factor * group["lr_mult"]
            for p in group["params"]:
                history[id(p)] = 0.5 * history[id(p)] + rate * (1 + decay * before[id(p)])
                before[id(p)] -= history[id(p)]
        optimizer.step()
        scheduler.step()
    assert {group["lr_mult"] for group in groups} == {1, 2, 10, 20}
    for group in optimizer.param_groups:
        for p in group["params"]:
            torch.testing.assert_close(p.detach(), before[id(p)], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
def test_state_dict_resumes_to_the_bit(make: Callable[..., CaffeOptimizer]) -> None:
    torch.manual_seed(0)
    straight, resumed = weight(), weight()
    optimizer = make([straight], lr=0.1)
    first = make([resumed], lr=0.1)
    grads = torch.randn(4, 2)

    def go(optimizer: CaffeOptimizer, parameter: nn.Parameter, steps: range) -> None:
        for i in steps:
            parameter.grad = grads[i]
            optimizer.step()

    go(optimizer, straight, range(4))
    go(first, resumed, range(2))
    second = make([resumed], lr=0.1)
    second.load_state_dict(first.state_dict())
    go(second, resumed, range(2, 4))
    assert torch.equal(straight, resumed)


@pytest.mark.parametrize("make", SOLVERS.values(), ids=SOLVERS)
def test_a_parameter_without_gradient_stays(make: Callable[..., CaffeOptimizer]) -> None:
    w, other = weight(), weight()
    optimizer = make([w, other], lr=0.1, weight_decay=0.5)
    w.grad = torch.ones(2)
    optimizer.step()
    assert torch.equal(other, weight())
    assert not torch.equal(w, weight())


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda w: CaffeSGD([w], lr=-1.0), "lr: expected a number of at least 0, got -1.0"),
        (lambda w: CaffeSGD([w], lr=1.0, momentum=float("nan")), "momentum: .* got nan"),
        (lambda w: CaffeSGD([w], lr=1.0, regularization="L3"), "expected L1 or L2, got 'L3'"),
        (lambda w: CaffeSGD([w], lr=1.0, iter_size=0), "iter_size: expected 1 or more, got 0"),
        (lambda w: CaffeRMSProp([w], lr=1.0, rms_decay=1.0), "rms_decay: .*below 1, got 1.0"),
        (lambda w: CaffeAdam([w], momentum2=1.5), "momentum2: .*below 1, got 1.5"),
    ],
)
def test_settings_that_make_no_sense(make: Callable[[nn.Parameter], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        make(weight())
