"""Every rate policy at literal values: iterations 0, 1, the edges of the steps, the last."""

from __future__ import annotations

import math

import pytest
import torch

from deeplab_repro.train.rates import (
    Exp,
    ExpLR,
    Fixed,
    FixedLR,
    Inv,
    InvLR,
    MultiStep,
    MultiStepLR,
    Policy,
    PolicyLR,
    Poly,
    PolyLR,
    Sigmoid,
    SigmoidLR,
    Step,
    StepLR,
)

#: Policy -> {iteration: factor}, worked out by hand from the formulas in caffe.proto.
LITERAL: list[tuple[Policy, dict[int, float]]] = [
    (Fixed(), {0: 1, 1: 1, 19999: 1}),
    (Step(0.1, 2000), {0: 1, 1: 1, 1999: 1, 2000: 0.1, 3999: 0.1, 4000: 0.01, 5999: 0.01}),
    (Exp(0.5), {0: 1, 1: 0.5, 2: 0.25, 9: 1 / 512}),
    (Inv(1.0, 0.5), {0: 1, 1: 1 / math.sqrt(2), 3: 0.5, 99: 0.1}),
    (MultiStep(0.5, (3, 5)), {0: 1, 1: 1, 2: 1, 3: 0.5, 4: 0.5, 5: 0.25, 6: 0.25, 99: 0.25}),
    # At most one step in an iteration, as Caffe counts them.
    (MultiStep(0.5, (3, 3)), {2: 1, 3: 0.5, 4: 0.25, 5: 0.25}),
    (MultiStep(0.5, (5, 2)), {4: 1, 5: 0.5, 6: 0.25}),
    (MultiStep(0.5, (0,)), {0: 0.5, 1: 0.5}),
    # (1 - i / 20000) ^ 0.9, by a calculator.
    (Poly(0.9, 20000), {0: 1, 1: 0.99995499989, 10000: 0.53588673127, 20000: 0}),
    (Poly(0.9, 20000), {19999: 0.000134590}),
    (Poly(2.0, 4), {0: 1, 1: 0.5625, 2: 0.25, 3: 0.0625, 4: 0, 5: 0}),
    (Sigmoid(-0.5, 5), {0: 0.92414181998, 1: 0.88079707798, 5: 0.5, 9: 0.11920292202}),
    (Sigmoid(-1.0, 0), {0: 0.5, 1000: 0}),
]


@pytest.mark.parametrize(("policy", "factors"), LITERAL, ids=lambda value: str(value)[:40])
def test_literal_factors(policy: Policy, factors: dict[int, float]) -> None:
    for iteration, factor in factors.items():
        # float32 holds 1 - i / 20000 of the last iteration to 1e-3 of it.
        close = pytest.approx(factor, rel=2e-3 if iteration == 19999 else 1e-6, abs=1e-12)
        assert policy.factor(iteration) == close, iteration


def test_the_last_rate_of_poly_is_caffes_float32() -> None:
    """1 - 19999 / 20000 in float32 is 5.00083e-05, not 5e-05; its power 0.9 is 1.34610e-04."""
    assert Poly(0.9, 20000).factor(19999) == pytest.approx(
        (1 - 0.9999499917030334) ** 0.9, rel=1e-9
    )


def test_counted_steps_of_a_snapshot() -> None:
    """Caffe writes the count of the last iteration that it computed."""
    assert [Step(0.1, 4).steps(i) for i in (0, 4, 5, 8, 9, 12)] == [0, 0, 1, 1, 2, 2]
    assert [MultiStep(0.1, (3, 5)).steps(i) for i in (0, 3, 4, 5, 6)] == [0, 0, 1, 1, 2]
    assert Poly(0.9, 9).steps(5) == 0


def test_multistep_goes_on_from_the_steps_of_a_snapshot() -> None:
    """Another list of steps does not undo those that were taken, nor make up for missed ones."""
    resumed = MultiStep(0.5, (2, 4, 100)).resumed(50, 1)
    assert [resumed.factor(i) for i in (50, 51, 99, 100)] == [0.25, 0.25, 0.25, 0.125]
    assert [resumed.steps(i) for i in (50, 51)] == [1, 2]
    assert Step(0.5, 10).resumed(50, 1).factor(50) == 0.5**5


def test_a_rate_that_python_cannot_raise_is_what_c_gives() -> None:
    assert math.isinf(Inv(-1.0, 0.5).factor(1))  # 0 ^ -0.5
    assert math.isnan(Inv(-1.0, 0.5).factor(3))
    assert Sigmoid(-5.0, 0).factor(10**6) == 0


@pytest.mark.parametrize(
    "make",
    [
        lambda o: FixedLR(o),
        lambda o: StepLR(o, stepsize=2, gamma=0.5),
        lambda o: ExpLR(o, gamma=0.9),
        lambda o: InvLR(o, gamma=0.1, power=0.75),
        lambda o: MultiStepLR(o, stepvalue=[1, 3], gamma=0.1),
        lambda o: PolyLR(o, max_iter=5),
        lambda o: SigmoidLR(o, gamma=-1, stepsize=2),
    ],
)
def test_schedulers_follow_their_policy_in_every_group(make) -> None:
    weight, bias = (torch.nn.Parameter(torch.zeros(1)) for _ in range(2))
    groups = [{"params": [weight]}, {"params": [bias], "lr": 0.2}]
    optimizer = torch.optim.SGD(groups, lr=0.1)
    scheduler: PolicyLR = make(optimizer)
    for iteration in range(6):
        factor = scheduler.policy.factor(iteration)
        assert [g["lr"] for g in optimizer.param_groups] == [0.1 * factor, 0.2 * factor]
        optimizer.step()
        scheduler.step()


def test_a_scheduler_resumes_from_its_state() -> None:
    def make() -> tuple[torch.optim.SGD, PolyLR]:
        optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=1.0)
        return optimizer, PolyLR(optimizer, max_iter=10)

    optimizer, scheduler = make()
    for _ in range(4):
        optimizer.step()
        scheduler.step()
    other_optimizer, other = make()
    other_optimizer.load_state_dict(optimizer.state_dict())
    other.load_state_dict(scheduler.state_dict())
    for opt, sched in ((optimizer, scheduler), (other_optimizer, other)):
        opt.step()
        sched.step()
    assert other.get_last_lr() == scheduler.get_last_lr() == [Poly(0.9, 10).factor(5)]


def test_schedules_of_no_iterations_are_refused() -> None:
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    with pytest.raises(ValueError, match="max_iter: expected 1 or more, got 0"):
        PolyLR(optimizer, max_iter=0)
    with pytest.raises(ValueError, match="stepsize: expected 1 or more, got -5"):
        StepLR(optimizer, stepsize=-5)
