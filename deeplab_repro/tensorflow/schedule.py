"""How fast the original program learns: the rate of each step, and multipliers of gradients."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Final

import numpy as np

from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.fields import check_types

__all__ = ["LearningRate", "gradient_multiplier", "is_last_layer"]

#: What the name of a variable behind the backbone holds (model.py, get_extra_layer_scopes).
_LAST_LAYERS: Final = (
    "logits",
    "image_pooling",
    "aspp",
    "concat_projection",
    "decoder",
    "meta_architecture",
)
_POLICIES: Final = ("poly", "step", "cosine", "multi_steps")
_BURN_INS: Final = ("none", "linear")


@dataclass(frozen=True)
class LearningRate:
    """The rate of each step (utils/train_utils.py, get_model_learning_rate).

    Names and defaults are those of train.py's flags.

    Attributes:
        learning_policy: ``"poly"``, (1 - step / steps) ^ power; ``"step"``, a factor every so many
            steps; ``"cosine"``; or ``"multi_steps"``, given rates between given steps.
        base_learning_rate: of the first step, unless it starts slowly.
        training_number_of_steps: steps in all.
        learning_power: of poly.
        decay_steps: over how many steps poly falls; 0 for all that do not start slowly.
        end_learning_rate: to which poly falls.
        learning_rate_decay_step: of step: how many steps a rate lasts.
        learning_rate_decay_factor: of step: what it is multiplied by then.
        boundaries: of multi_steps: the last steps of the rates but the last one.
        boundary_learning_rates: of multi_steps: one more.
        slow_start_step: how many steps start slowly; the policy counts from there on.
        slow_start_learning_rate: of these.
        slow_start_burnin_type: ``"none"``, or ``"linear"`` from that rate up to the base rate.

    Raises:
        InputError: an unknown policy, a value of another type, a negative number, or numbers of
            steps that leave nothing to divide by.
    """

    learning_policy: str = "poly"
    base_learning_rate: float = 0.0001
    training_number_of_steps: int = 30000
    learning_power: float = 0.9
    decay_steps: float = 0.0
    end_learning_rate: float = 0.0
    learning_rate_decay_step: int = 2000
    learning_rate_decay_factor: float = 0.1
    boundaries: tuple[int, ...] = ()
    boundary_learning_rates: tuple[float, ...] = ()
    slow_start_step: int = 0
    slow_start_learning_rate: float = 0.0001
    slow_start_burnin_type: str = "none"

    def __post_init__(self) -> None:
        check_types(self)
        if self.learning_policy not in _POLICIES:
            raise InputError(
                "learning_policy", expected=" or ".join(_POLICIES), got=self.learning_policy
            )
        if self.slow_start_burnin_type not in _BURN_INS:
            raise InputError(
                "slow_start_burnin_type",
                expected=" or ".join(_BURN_INS),
                got=self.slow_start_burnin_type,
            )
        rates = ("base_learning_rate", "slow_start_learning_rate")
        for name in (*rates, "slow_start_step", "decay_steps"):
            if not getattr(self, name) >= 0:
                raise InputError(name, expected="0 or more", got=getattr(self, name))
        if self.training_number_of_steps < 1:
            raise InputError(
                "training_number_of_steps", expected="1 or more", got=self.training_number_of_steps
            )
        if self.learning_policy == "step" and self.learning_rate_decay_step < 1:
            raise InputError(
                "learning_rate_decay_step", expected="1 or more", got=self.learning_rate_decay_step
            )
        if self.learning_policy in ("poly", "cosine") and self._steps() <= 0:
            raise InputError(
                "slow_start_step",
                expected=f"fewer than training_number_of_steps, {self.training_number_of_steps}",
                got=self.slow_start_step,
            )
        if self.learning_policy == "multi_steps" and (
            len(self.boundary_learning_rates) != len(self.boundaries) + 1
        ):
            raise InputError(
                "boundary_learning_rates",
                expected=f"{len(self.boundaries) + 1} rates around the boundaries",
                got=len(self.boundary_learning_rates),
            )

    def rate(self, global_step: int) -> float:
        """The rate of the update after ``global_step`` ones, computed in float32."""
        if global_step >= self.slow_start_step:
            return float(self._policy(global_step - self.slow_start_step))
        rate = np.float32(self.slow_start_learning_rate)
        if self.slow_start_burnin_type == "linear":
            rise = np.float32(self.base_learning_rate - self.slow_start_learning_rate)
            rate += rise * np.float32(global_step) / np.float32(self.slow_start_step)
        return float(rate)

    def _steps(self) -> float:
        """Over how many steps the rate falls."""
        rest = self.training_number_of_steps - self.slow_start_step
        return self.decay_steps or rest if self.learning_policy == "poly" else rest

    def _policy(self, step: int) -> np.float32:
        """The rate after so many steps that count."""
        one, base = np.float32(1), np.float32(self.base_learning_rate)
        if self.learning_policy == "multi_steps":
            place = int(np.searchsorted(self.boundaries, step, side="left"))
            return np.float32(self.boundary_learning_rates[place])
        if self.learning_policy == "step":
            times = np.floor(np.float32(step) / np.float32(self.learning_rate_decay_step))
            return base * np.float32(self.learning_rate_decay_factor) ** times
        steps = np.float32(self._steps())
        done = min(np.float32(step), steps) / steps
        if self.learning_policy == "cosine":
            return base * (np.float32(0.5) * (one + np.cos(np.float32(math.pi) * done)))
        end = np.float32(self.end_learning_rate)
        return (base - end) * (one - done) ** np.float32(self.learning_power) + end


def is_last_layer(name: str, *, logits_only: bool = False, as_prefix: bool = False) -> bool:
    """Whether a variable belongs to what stands behind the backbone.

    Args:
        name: TensorFlow's.
        logits_only: of that, the classifiers alone (``last_layers_contain_logits_only``).
        as_prefix: the name has to begin with such a scope, as where the original leaves out what
            it does not restore; elsewhere it holds one.
    """
    scopes = _LAST_LAYERS[:1] if logits_only else _LAST_LAYERS
    return name.startswith(scopes) if as_prefix else any(scope in name for scope in scopes)


def gradient_multiplier(
    name: str, last_layer_gradient_multiplier: float = 1.0, *, logits_only: bool = False
) -> float:
    """What a variable's gradient, that of its weight decay too, is multiplied by.

    Biases learn twice as fast as weights (utils/train_utils.py, get_model_gradient_multipliers).

    Args:
        name: TensorFlow's.
        last_layer_gradient_multiplier: for what stands behind the backbone.
        logits_only: see :func:`is_last_layer`.
    """
    twice = 2.0 if "biases" in name else 1.0
    last = is_last_layer(name, logits_only=logits_only)
    return twice * (last_layer_gradient_multiplier if last else 1.0)
