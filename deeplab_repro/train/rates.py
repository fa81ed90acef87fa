"""How the learning rate follows the iterations (``GetLearningRate`` in sgd_solver.cpp).

A policy is a function of the iteration.  Caffe's solver multiplies what it gives by ``base_lr``; in
a loop of one's own a scheduler does the same to every group of an optimizer:

    >>> scheduler = PolyLR(optimizer, max_iter=20000, power=0.9)
    >>> for batch in batches:
    ...     ...
    ...     optimizer.step()
    ...     scheduler.step()
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import ClassVar, Final

import numpy as np
from torch import Tensor
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

__all__ = [
    "POLICIES",
    "Exp",
    "ExpLR",
    "Fixed",
    "FixedLR",
    "Inv",
    "InvLR",
    "MultiStep",
    "MultiStepLR",
    "Policy",
    "PolicyLR",
    "Poly",
    "PolyLR",
    "Sigmoid",
    "SigmoidLR",
    "Step",
    "StepLR",
]


@dataclass(frozen=True)
class Policy(ABC):
    """What the base rate is multiplied by in each iteration.

    Attributes:
        name: as ``lr_policy`` spells it.
    """

    name: ClassVar[str]

    @abstractmethod
    def factor(self, iteration: int) -> float:
        """The factor, as a double.

        Args:
            iteration: how many updates have been made; 0 in the first iteration.
        """

    def rate(self, base_lr: float, iteration: int) -> float:
        """The rate as Caffe has it: a float32."""
        return float(np.float32(base_lr * self.factor(iteration)))

    def steps(self, iteration: int) -> int:
        """``current_step`` of a solverstate that was written before ``iteration``."""
        return 0

    def resumed(self, iteration: int, steps: int) -> Policy:
        """The policy of a training that goes on from a solverstate.

        Args:
            iteration: how many updates had been made.
            steps: its ``current_step``.
        """
        return self


@dataclass(frozen=True)
class Fixed(Policy):
    """The base rate throughout."""

    name = "fixed"

    def factor(self, iteration: int) -> float:
        """The base rate stays as it is."""
        return 1.0


@dataclass(frozen=True)
class Step(Policy):
    """gamma ^ floor(iteration / stepsize)."""

    name = "step"
    gamma: float
    stepsize: int

    def factor(self, iteration: int) -> float:
        """The formula of the class, as a double."""
        return _power(self.gamma, iteration // self.stepsize)

    def steps(self, iteration: int) -> int:
        """How many steps the last iteration computed, which is the one before, had taken."""
        return max(0, iteration - 1) // self.stepsize


@dataclass(frozen=True)
class Exp(Policy):
    """gamma ^ iteration."""

    name = "exp"
    gamma: float

    def factor(self, iteration: int) -> float:
        """The formula of the class, as a double."""
        return _power(self.gamma, iteration)


@dataclass(frozen=True)
class Inv(Policy):
    """(1 + gamma * iteration) ^ -power."""

    name = "inv"
    gamma: float
    power: float

    def factor(self, iteration: int) -> float:
        """The formula of the class, as a double."""
        return _power(1 + self.gamma * iteration, -self.power)


@dataclass(frozen=True)
class MultiStep(Policy):
    """gamma ^ (number of ``stepvalue`` that have been reached).

    Caffe's solver counts the steps itself and takes at most one in each iteration, so that equal or
    falling values of ``stepvalue`` take effect one iteration after the other.

    Attributes:
        gamma: what a step multiplies the rate by.
        stepvalue: iterations of the steps.
        start: iteration and number of steps taken where the counting begins: those of the
            solverstate that the training went on from.
    """

    name = "multistep"
    gamma: float
    stepvalue: tuple[int, ...]
    start: tuple[int, int] = (0, 0)

    def factor(self, iteration: int) -> float:
        """The formula of the class, as a double."""
        return _power(self.gamma, self._taken(iteration))

    def steps(self, iteration: int) -> int:
        """How many steps the last iteration had counted."""
        first, taken = self.start
        return taken if iteration <= first else self._taken(iteration - 1)

    def resumed(self, iteration: int, steps: int) -> MultiStep:
        """The policy that counts on from there."""
        return replace(self, start=(iteration, steps))

    def _taken(self, iteration: int) -> int:
        earliest, taken = self.start
        for value in self.stepvalue[taken:]:
            reached = max(earliest, value)
            if reached > iteration:
                break
            taken, earliest = taken + 1, reached + 1
        return taken


@dataclass(frozen=True)
class Poly(Policy):
    """(1 - iteration / max_iter) ^ power; DeepLab v2 trains with the power 0.9."""

    name = "poly"
    power: float
    max_iter: int

    def factor(self, iteration: int) -> float:
        """See the class; 0 from ``max_iter`` on."""
        # Caffe divides in float32, which the small rates at the end of a training tell.
        rest = np.float32(1) - np.float32(iteration) / np.float32(self.max_iter)
        return _power(max(0.0, float(rest)), self.power)


@dataclass(frozen=True)
class Sigmoid(Policy):
    """1 / (1 + exp(-gamma * (iteration - stepsize)))."""

    name = "sigmoid"
    gamma: float
    stepsize: int

    def factor(self, iteration: int) -> float:
        """The formula of the class, as a double."""
        # The two forms are equal; each is used where its exponential cannot overflow.
        x = self.gamma * (iteration - self.stepsize)
        return 1 / (1 + math.exp(-x)) if x >= 0 else math.exp(x) / (1 + math.exp(x))


def _power(base: float, exponent: float) -> float:
    """``base ** exponent`` as C computes it: infinite or NaN where Python raises."""
    with np.errstate(all="ignore"):
        return float(np.power(np.float64(base), np.float64(exponent)))


#: Every policy, by its name in a solver file.
POLICIES: Final[dict[str, type[Policy]]] = {
    policy.name: policy for policy in (Fixed, Step, Exp, Inv, MultiStep, Poly, Sigmoid)
}


class PolicyLR(LRScheduler):
    """Sets the rate of every group of an optimizer to its first rate times a policy's factor.

    A group's multiplier (``lr_mult``) is part of its first rate, as
    :func:`deeplab_repro.models.parameter_groups` makes them.

    Args:
        optimizer: any optimizer of torch's.
        policy: how the rate follows the iterations.
        last_epoch: the number of iterations done, as torch's schedulers take it: -1 for none.
    """

    def __init__(self, optimizer: Optimizer, policy: Policy, last_epoch: int = -1) -> None:
        self.policy = policy
        super().__init__(optimizer, last_epoch)

    def get_lr(self) -> list[float | Tensor]:
        """The rate of each group in the present iteration."""
        factor = self.policy.factor(self.last_epoch)
        return [group["initial_lr"] * factor for group in self.optimizer.param_groups]


def _check_iterations(name: str, count: int) -> None:
    if count < 1:
        raise ValueError(f"{name}: expected 1 or more, got {count}")


class FixedLR(PolicyLR):
    """See :class:`Fixed`."""

    def __init__(self, optimizer: Optimizer, last_epoch: int = -1) -> None:
        super().__init__(optimizer, Fixed(), last_epoch)


class StepLR(PolicyLR):
    """See :class:`Step`.  Raises ValueError where ``stepsize`` is less than 1."""

    def __init__(
        self, optimizer: Optimizer, stepsize: int, gamma: float = 0.1, last_epoch: int = -1
    ) -> None:
        _check_iterations("stepsize", stepsize)
        super().__init__(optimizer, Step(gamma, stepsize), last_epoch)


class ExpLR(PolicyLR):
    """See :class:`Exp`."""

    def __init__(self, optimizer: Optimizer, gamma: float, last_epoch: int = -1) -> None:
        super().__init__(optimizer, Exp(gamma), last_epoch)


class InvLR(PolicyLR):
    """See :class:`Inv`."""

    def __init__(
        self, optimizer: Optimizer, gamma: float, power: float, last_epoch: int = -1
    ) -> None:
        super().__init__(optimizer, Inv(gamma, power), last_epoch)


class MultiStepLR(PolicyLR):
    """See :class:`MultiStep`."""

    def __init__(
        self, optimizer: Optimizer, stepvalue: Sequence[int], gamma: float, last_epoch: int = -1
    ) -> None:
        super().__init__(optimizer, MultiStep(gamma, tuple(stepvalue)), last_epoch)


class PolyLR(PolicyLR):
    """See :class:`Poly`.  Raises ValueError where ``max_iter`` is less than 1."""

    def __init__(
        self, optimizer: Optimizer, max_iter: int, power: float = 0.9, last_epoch: int = -1
    ) -> None:
        _check_iterations("max_iter", max_iter)
        super().__init__(optimizer, Poly(power, max_iter), last_epoch)


class SigmoidLR(PolicyLR):
    """See :class:`Sigmoid`."""

    def __init__(
        self, optimizer: Optimizer, gamma: float, stepsize: int, last_epoch: int = -1
    ) -> None:
        super().__init__(optimizer, Sigmoid(gamma, stepsize), last_epoch)
