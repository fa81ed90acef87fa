"""Caffe's six solvers as optimizers of torch's, update for update.

What differs from the optimizers that torch has: the rate is inside the momentum, so that a change
of the rate does not reach back; gradients are clipped together, before they are averaged over
``iter_size`` passes and before weight decay is added; AdaDelta and Adam have Caffe's epsilon.

    >>> groups = parameter_groups(model, lr=2.5e-4, weight_decay=5e-4)
    >>> optimizer = CaffeSGD(groups, lr=2.5e-4, momentum=0.9)
    >>> scheduler = PolyLR(optimizer, max_iter=20000)

A group's ``lr`` and ``weight_decay`` are those of its parameters: base values times ``lr_mult`` and
``decay_mult``.  The arithmetic is done in the parameters' type, in the order of Caffe's.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Any, ClassVar, Final

import torch
from torch import Tensor
from torch.optim import Optimizer

__all__ = [
    "SOLVERS",
    "CaffeAdaDelta",
    "CaffeAdaGrad",
    "CaffeAdam",
    "CaffeNesterov",
    "CaffeOptimizer",
    "CaffeRMSProp",
    "CaffeSGD",
]

_Params = Iterable[Tensor] | Iterable[dict[str, Any]]


class CaffeOptimizer(Optimizer, ABC):
    """What the solvers have in common: clipping, averaging, weight decay (sgd_solver.cpp).

    Args:
        params: parameters or groups of them, as for any optimizer.
        lr: learning rate of groups that name none.
        weight_decay: of groups that name none.
        regularization: ``"L2"`` adds ``weight_decay * w`` to the gradient, ``"L1"``
            ``weight_decay * sign(w)``.
        clip_gradients: greatest 2-norm of all gradients together, summed over ``iter_size`` passes;
            larger ones are scaled down.  Negative: they are not clipped.
        iter_size: how many backward passes added up in the gradients.
        settings: of the solver, for every group that names none.

    Raises:
        ValueError: a setting that Caffe refuses, or that makes no sense.
    """

    #: What is remembered of each parameter, in the order in which a solverstate lists it.
    slots: ClassVar[tuple[str, ...]] = ("history",)

    def __init__(
        self,
        params: _Params,
        lr: float,
        *,
        weight_decay: float = 0.0,
        regularization: str = "L2",
        clip_gradients: float = -1.0,
        iter_size: int = 1,
        **settings: Any,
    ) -> None:
        if regularization not in ("L1", "L2"):
            raise ValueError(f"regularization: expected L1 or L2, got {regularization!r}")
        if iter_size < 1:
            raise ValueError(f"iter_size: expected 1 or more, got {iter_size}")
        for name, value in (("lr", lr), ("weight_decay", weight_decay), *settings.items()):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name}: expected a number of at least 0, got {value}")
        self.regularization = regularization
        self.clip_gradients = clip_gradients
        self.iter_size = iter_size
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, **settings})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Update every parameter that has a gradient; the gradients stay as they are.

        Args:
            closure: computes the gradients anew and returns the loss, as for any optimizer.

        Returns:
            what ``closure`` returned.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        scale = self._clipping()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    diff = self._gradient(parameter, scale, group["weight_decay"])
                    memory = [self.memory(parameter, slot) for slot in self.slots]
                    parameter.sub_(self._update(diff, memory, group))
        return loss

    def memory(self, parameter: Tensor, slot: str) -> Tensor:
        """What is remembered of a parameter, in its shape; zeros at first.

        Args:
            parameter: one of the optimizer's.
            slot: one of :attr:`slots`.
        """
        state = self.state[parameter]
        if slot not in state:
            state[slot] = torch.zeros_like(parameter, requires_grad=False)
        value: Tensor = state[slot]
        return value

    def _clipping(self) -> Tensor | None:
        """What all gradients are multiplied by, (); None for nothing."""
        if self.clip_gradients < 0:
            return None
        grads = [p.grad for group in self.param_groups for p in group["params"]
                 if p.grad is not None]  # fmt: skip
        if not grads:
            return None
        norm = torch.nn.utils.get_total_norm(grads)
        return torch.where(norm > self.clip_gradients, self.clip_gradients / norm, 1.0)

    def _gradient(self, parameter: Tensor, scale: Tensor | None, decay: float) -> Tensor:
        """The gradient clipped, averaged and with weight decay; it may be ``parameter.grad``."""
        diff: Tensor = parameter.grad  # type: ignore[assignment]
        if scale is not None:
            diff = diff * scale
        if self.iter_size != 1:
            diff = diff * (1 / self.iter_size)
        if decay:
            along = parameter if self.regularization == "L2" else parameter.sign()
            diff = diff.add(along, alpha=decay)
        return diff

    @abstractmethod
    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        """What is to be subtracted from the parameter (``ComputeUpdateValue``).

        Args:
            diff: the gradient, not to be changed.
            memory: what is remembered, one tensor for each of :attr:`slots`, to be updated.
            group: the parameter's.
        """


class CaffeSGD(CaffeOptimizer):
    """v = momentum * v + lr * g; w -= v (sgd_solver.cpp).

    torch's SGD has the rate outside: w -= lr * v.  The two differ as soon as the rate changes.

    Args:
        params, lr: see :class:`CaffeOptimizer`.
        momentum: how much of the last update stays.
        options: those of :class:`CaffeOptimizer`.
    """

    def __init__(
        self, params: _Params, lr: float, *, momentum: float = 0.0, **options: Any
    ) -> None:
        super().__init__(params, lr, momentum=momentum, **options)

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        (history,) = memory
        return history.mul_(group["momentum"]).add_(diff, alpha=group["lr"])


class CaffeNesterov(CaffeSGD):
    """v = momentum * v + lr * g; w -= (1 + momentum) * v - momentum * (the v before).

    (nesterov_solver.cpp.)  Arguments as for :class:`CaffeSGD`.
    """

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        momentum = group["momentum"]
        back = memory[0] * -momentum
        history = super()._update(diff, memory, group)
        return back.add_(history, alpha=1 + momentum)


class CaffeAdaGrad(CaffeOptimizer):
    """s += g^2; w -= lr * g / (sqrt(s) + delta) (adagrad_solver.cpp).

    Args:
        params, lr: see :class:`CaffeOptimizer`.
        delta: keeps the divisor from 0.
        options: those of :class:`CaffeOptimizer`.
    """

    def __init__(self, params: _Params, lr: float, *, delta: float = 1e-8, **options: Any) -> None:
        super().__init__(params, lr, delta=delta, **options)

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        squares = memory[0].add_(diff * diff)
        return _over_root(diff, squares, group["delta"]).mul_(group["lr"])


class CaffeRMSProp(CaffeOptimizer):
    """s = rms_decay * s + (1 - rms_decay) * g^2; w -= lr * g / (sqrt(s) + delta).

    (rmsprop_solver.cpp.)

    Args:
        params, lr: see :class:`CaffeOptimizer`.
        rms_decay: how much of the mean square stays.
        delta: keeps the divisor from 0.
        options: those of :class:`CaffeOptimizer`.
    """

    def __init__(
        self,
        params: _Params,
        lr: float,
        *,
        rms_decay: float = 0.99,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        _check_below_1(rms_decay=rms_decay)
        super().__init__(params, lr, rms_decay=rms_decay, delta=delta, **options)

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        squares = _mixed(memory[0], diff * diff, group["rms_decay"])
        return _over_root(diff, squares, group["delta"]).mul_(group["lr"])


class CaffeAdaDelta(CaffeOptimizer):
    """Steps in units of the steps before (adadelta_solver.cpp).

    s = momentum * s + (1 - momentum) * g^2; u = g * sqrt((t + delta) / (s + delta));
    t = momentum * t + (1 - momentum) * u^2; w -= lr * u.

    Args:
        params, lr: see :class:`CaffeOptimizer`.
        momentum: how much of the mean squares stays.
        delta: keeps the divisor from 0, and sets the first steps going.
        options: those of :class:`CaffeOptimizer`.
    """

    slots = ("history", "updates")

    def __init__(
        self,
        params: _Params,
        lr: float = 1.0,
        *,
        momentum: float = 0.95,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        super().__init__(params, lr, momentum=momentum, delta=delta, **options)

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        momentum, delta = group["momentum"], group["delta"]
        squares = _mixed(memory[0], diff * diff, momentum)
        ratio = (memory[1] + delta).div_(squares + delta).sqrt_()
        update = ratio.mul_(diff)
        _mixed(memory[1], update * update, momentum)
        return update.mul_(group["lr"])


class CaffeAdam(CaffeOptimizer):
    """Adam with Caffe's epsilon (adam_solver.cpp).

    m = momentum * m + (1 - momentum) * g; s = momentum2 * s + (1 - momentum2) * g^2;
    w -= lr * sqrt(1 - momentum2^t) / (1 - momentum^t) * m / (sqrt(s) + delta), t from 1 on.

    torch's Adam adds its epsilon to sqrt(s) after the correction of s.

    Args:
        params, lr: see :class:`CaffeOptimizer`.
        momentum: how much of the mean stays.
        momentum2: how much of the mean square stays.
        delta: keeps the divisor from 0.
        options: those of :class:`CaffeOptimizer`.
    """

    slots = ("mean", "history")

    def __init__(
        self,
        params: _Params,
        lr: float = 1e-3,
        *,
        momentum: float = 0.9,
        momentum2: float = 0.999,
        delta: float = 1e-8,
        **options: Any,
    ) -> None:
        _check_below_1(momentum=momentum, momentum2=momentum2)
        super().__init__(params, lr, momentum=momentum, momentum2=momentum2, delta=delta, **options)
        self.set_iteration(0)

    def set_iteration(self, iteration: int) -> None:
        """Say how many updates have been made, for one that goes on from a solverstate."""
        for group in self.param_groups:
            group["iteration"] = iteration

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """See :meth:`CaffeOptimizer.step`."""
        loss = super().step(closure)
        for group in self.param_groups:
            group["iteration"] = group.get("iteration", 0) + 1
        return loss

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        beta1, beta2, t = group["momentum"], group["momentum2"], group.get("iteration", 0) + 1
        mean = _mixed(memory[0], diff, beta1)
        squares = _mixed(memory[1], diff * diff, beta2)
        correction = math.sqrt(1 - beta2**t) / (1 - beta1**t)
        return _over_root(mean, squares, group["delta"]).mul_(group["lr"] * correction)


def _mixed(memory: Tensor, value: Tensor, share: float) -> Tensor:
    """``memory = share * memory + (1 - share) * value``, in place."""
    return memory.mul_(share).add_(value, alpha=1 - share)


def _over_root(value: Tensor, squares: Tensor, delta: float) -> Tensor:
    """``value / (sqrt(squares) + delta)``, a new tensor."""
    return value / squares.sqrt().add_(delta)


def _check_below_1(**shares: float) -> None:
    for name, value in shares.items():
        if not 0 <= value < 1:
            raise ValueError(f"{name}: expected a number of at least 0 and below 1, got {value}")


#: Every solver, by its name in a solver file.
SOLVERS: Final[dict[str, type[CaffeOptimizer]]] = {
    "SGD": CaffeSGD,
    "Nesterov": CaffeNesterov,
    "AdaGrad": CaffeAdaGrad,
    "RMSProp": CaffeRMSProp,
    "AdaDelta": CaffeAdaDelta,
    "Adam": CaffeAdam,
}
