"""The rate of each step and the multipliers of gradients, against TensorFlow's and by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import pytest

from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.schedule import LearningRate, gradient_multiplier, is_last_layer

DATA = Path(__file__).parents[1] / "data" / "tensorflow" / "training"
STEPS = json.loads((DATA / "cases.json").read_text())["train_mnv2_dm035_two_steps"]


def test_rates_that_tensorflow_computed() -> None:
    rate = LearningRate(base_learning_rate=0.007, training_number_of_steps=30000)
    assert [rate.rate(1000 + i) for i in range(2)] == pytest.approx(
        STEPS["step"]["learning_rates"], rel=1e-7
    )


@pytest.mark.parametrize(
    ("options", "rates"),
    [
        (
            {"base_learning_rate": 2.0, "training_number_of_steps": 10, "learning_power": 1.0},
            {0: 2.0, 1: 1.8, 9: 0.2, 10: 0.0, 11: 0.0},
        ),
        (  # slow steps are not counted, and poly falls over the others
            {
                "base_learning_rate": 1.0,
                "training_number_of_steps": 12,
                "learning_power": 2.0,
                "slow_start_step": 2,
                "slow_start_learning_rate": 0.25,
            },
            {0: 0.25, 1: 0.25, 2: 1.0, 7: 0.25, 12: 0.0},
        ),
        (
            {
                "base_learning_rate": 1.0,
                "training_number_of_steps": 100,
                "slow_start_step": 4,
                "slow_start_learning_rate": 0.2,
                "slow_start_burnin_type": "linear",
            },
            {0: 0.2, 1: 0.4, 3: 0.8, 4: 1.0},
        ),
        (  # decay_steps is not what is left of the training
            {
                "base_learning_rate": 1.0,
                "training_number_of_steps": 100,
                "learning_power": 1.0,
                "decay_steps": 10.0,
                "end_learning_rate": 0.5,
            },
            {0: 1.0, 5: 0.75, 10: 0.5, 90: 0.5},
        ),
        (
            {
                "learning_policy": "step",
                "base_learning_rate": 1.0,
                "learning_rate_decay_step": 3,
                "learning_rate_decay_factor": 0.5,
                "slow_start_step": 1,
                "slow_start_learning_rate": 0.1,
            },
            {0: 0.1, 1: 1.0, 3: 1.0, 4: 0.5, 7: 0.25},
        ),
        (
            {
                "learning_policy": "cosine",
                "base_learning_rate": 2.0,
                "training_number_of_steps": 4,
            },
            {0: 2.0, 1: 1 + math.sqrt(0.5), 2: 1.0, 4: 0.0, 5: 0.0},
        ),
        (  # a boundary is the last step of its rate
            {
                "learning_policy": "multi_steps",
                "boundaries": (2, 5),
                "boundary_learning_rates": (1.0, 0.5, 0.1),
            },
            {0: 1.0, 2: 1.0, 3: 0.5, 5: 0.5, 6: 0.1},
        ),
    ],
)
def test_policies(options: dict[str, Any], rates: dict[int, float]) -> None:
    rate = LearningRate(**options)
    for step, expected in rates.items():
        assert rate.rate(step) == pytest.approx(expected, rel=1e-6, abs=1e-7), step


@pytest.mark.parametrize(
    ("options", "line"),
    [
        ({"learning_policy": "exp"}, "learning_policy; expected poly or step or cosine"),
        ({"slow_start_burnin_type": "x"}, "slow_start_burnin_type; expected none or linear, got x"),
        ({"base_learning_rate": -1.0}, "base_learning_rate; expected 0 or more, got -1.0"),
        ({"base_learning_rate": "0.1"}, "base_learning_rate; expected a number, got '0.1'"),
        ({"decay_steps": -5.0}, "decay_steps; expected 0 or more, got -5.0"),
        (
            {"boundaries": (1, 2.5)},
            "boundaries; expected a tuple, each a whole number, got (1, 2.5",
        ),
        ({"training_number_of_steps": True}, "expected a whole number, got True"),
        ({"training_number_of_steps": 0}, "training_number_of_steps; expected 1 or more, got 0"),
        (
            {"training_number_of_steps": 5, "slow_start_step": 5},
            "slow_start_step; expected fewer than training_number_of_steps, 5, got 5",
        ),
        (
            {"learning_policy": "step", "learning_rate_decay_step": 0},
            "learning_rate_decay_step; expected 1 or more, got 0",
        ),
        (
            {"learning_policy": "multi_steps", "boundaries": (1,)},
            "expected 2 rates around the boundaries, got 0",
        ),
    ],
)
def test_what_cannot_be_used(options: dict[str, Any], line: str) -> None:
    with pytest.raises(InputError) as error:
        LearningRate(**options)
    assert line in str(error.value)


def test_multipliers_of_gradients() -> None:
    assert gradient_multiplier("resnet_v1_50/conv1/weights", 10.0) == 1
    assert gradient_multiplier("MobilenetV3/expanded_conv_3/squeeze_excite/Conv/biases", 10.0) == 2
    assert gradient_multiplier("logits/semantic/biases", 10.0) == 20
    assert gradient_multiplier("logits/semantic/weights", 10.0) == 10
    assert gradient_multiplier("logits/semantic/weights") == 1
    for scope in (
        "aspp1_depthwise",
        "image_pooling",
        "concat_projection",
        "decoder/feature_projection0",
    ):
        assert gradient_multiplier(f"{scope}/BatchNorm/gamma", 10.0) == 10
        assert gradient_multiplier(f"{scope}/BatchNorm/gamma", 10.0, logits_only=True) == 1
    assert is_last_layer("logits/semantic/biases", logits_only=True)
    # What the original multiplied in its two steps.
    for scope, multiplier in STEPS["step"]["gradient_multipliers_seen"]:
        leaf = "biases" if multiplier == 20 else "weights"
        assert gradient_multiplier(f"{scope}/{leaf}", 10.0) == multiplier
