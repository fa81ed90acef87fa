"""Layers that change every value by itself, on values worked by hand."""

from __future__ import annotations

import math

import pytest
import torch

from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import make, row, run, slope

LN2 = math.log(2)


@pytest.mark.parametrize(
    ("body", "values", "top", "gradient"),
    [
        pytest.param('type: "AbsVal"', [-2, 0, 3], [2, 0, 3], [-1, 0, 1], id="absval"),
        pytest.param('type: "BNLL"', [0, 60], [LN2, 60], [0.5, 1], id="bnll"),
        pytest.param(
            'type: "Clip" clip_param { min: -1 max: 2 }',
            [-3, -1, 0, 2, 5],
            [-1, -1, 0, 2, 2],
            [0, 1, 1, 1, 0],
            id="clip passes gradients at both ends",
        ),
        pytest.param(
            'type: "ELU" elu_param { alpha: 0.5 }',
            [-LN2, 0, 2],
            [-0.25, 0, 2],
            [0.25, 0.5, 1],
            id="elu has slope alpha at 0",
        ),
        pytest.param('type: "Exp"', [0, LN2], [1, 2], [1, 2], id="exp to base e"),
        pytest.param(
            'type: "Exp" exp_param { base: 2 scale: 3 shift: 1 }',
            [0, 1],
            [2, 16],
            [2 * 3 * LN2, 16 * 3 * LN2],
            id="exp 2**(3x+1)",
        ),
        pytest.param(
            'type: "Log" log_param { base: 10 scale: 2 shift: 4 }',
            [3, 48],
            [1, 2],
            [2 / 10 / math.log(10), 2 / 100 / math.log(10)],
            id="log10(2x+4)",
        ),
        pytest.param(
            'type: "Power" power_param { power: 3 scale: 2 shift: 1 }',
            [0, 1],
            [1, 27],
            [6, 54],
            id="power (2x+1)**3",
        ),
        pytest.param(
            'type: "Power" power_param { power: 0 scale: 2 }', [0, 5], [1, 1], [0, 0], id="power 0"
        ),
        pytest.param(
            'type: "Power" power_param { scale: 0 shift: 3 }', [0, 5], [3, 3], [0, 0], id="scale 0"
        ),
        pytest.param(
            'type: "Power" power_param { power: 3 }',
            [0, 2],
            [0, 8],
            [math.nan, 12],
            id="power takes its slope from 0/0 at 0",
        ),
        pytest.param('type: "Power"', [-1, 2], [-1, 2], [1, 1], id="power defaults"),
        pytest.param('type: "ReLU"', [-2, 0, 3], [0, 0, 3], [0, 0, 1], id="relu"),
        pytest.param(
            'type: "ReLU" relu_param { negative_slope: 0.5 }',
            [-2, 0, 3],
            [-1, 0, 3],
            [0.5, 0.5, 1],
            id="leaky relu has its slope at 0",
        ),
        pytest.param(
            'type: "ReLU" relu_param { negative_slope: -1 }',
            [-2, 3],
            [2, 3],
            [-1, 1],
            id="relu with a negative slope",
        ),
        pytest.param('type: "Sigmoid"', [0], [0.5], [0.25], id="sigmoid"),
        pytest.param(
            'type: "Swish" swish_param { beta: 2 }', [0, LN2 / 2], [0, LN2 / 3],
            [0.5, 2 / 3 + LN2 * 2 / 9], id="swish"
        ),  # sigmoid(ln 2) = 2/3, slope of x s(2x) = s + 2x s (1 - s)
        pytest.param('type: "TanH"', [0, 0.5 * math.log(3)], [0, 0.5], [1, 0.75], id="tanh"),
    ],
)  # fmt: skip
def test_values_and_slopes(
    body: str, values: list[float], top: list[float], gradient: list[float]
) -> None:
    x = row(*values)
    y = run(body, x)
    torch.testing.assert_close(y, torch.tensor(top, dtype=y.dtype).reshape(x.shape))
    torch.testing.assert_close(torch.tensor(slope(y, x)), torch.tensor(gradient) * 1.0,
                               equal_nan=True)  # fmt: skip


def test_threshold_is_strict_and_has_no_gradient() -> None:
    y = run('type: "Threshold" threshold_param { threshold: 1 }', row(0, 1, 2))
    assert y.flatten().tolist() == [0, 0, 1]
    assert not y.requires_grad


def test_in_place_gives_the_same_values_in_the_bottoms_memory() -> None:
    for body in ("AbsVal", "ReLU", "ELU", "Sigmoid", "TanH"):
        module = make(f'type: "{body}"', (1, 1, 1, 3))
        assert module.can_run_inplace
        x = torch.tensor([-1.0, 0.5, 2.0]).reshape(1, 1, 1, 3)
        expected = module(x.clone())
        assert module(x, inplace=True).data_ptr() == x.data_ptr()
        assert torch.equal(x, expected), body


@pytest.mark.parametrize(
    ("shared", "top", "slopes"),
    [
        pytest.param(False, [-0.25, 2, -2, 4], [-1, -4], id="one slope a channel"),
        pytest.param(True, [-0.25, 2, -1, 4], [-5], id="one slope"),
    ],
)
def test_prelu(shared: bool, top: list[float], slopes: list[float]) -> None:
    module = make(
        f'type: "PReLU" prelu_param {{ channel_shared: {str(shared).lower()} }}', (1, 2, 1, 2)
    )
    assert module.blobs[0].shape == (() if shared else (2,))
    assert (module.blobs[0] == 0.25).all()
    if not shared:
        module.set_blob(0, torch.tensor([0.25, 0.5]))
    x = torch.tensor([-1.0, 2.0, -4.0, 4.0]).reshape(1, 2, 1, 2)
    y = module(x)
    assert y.flatten().tolist() == top
    y.sum().backward()
    assert module.blobs[0].grad.reshape(-1).tolist() == slopes


def test_prelu_at_zero_takes_the_learned_slope() -> None:
    x = torch.zeros(1, 1, requires_grad=True)
    assert slope(run('type: "PReLU"', x), x) == [0.25]


def test_dropout_is_scaled_in_training_and_absent_in_testing() -> None:
    x = torch.ones(1, 1, 100, 100)
    module = make('type: "Dropout" dropout_param { dropout_ratio: 0.75 }', x.shape, phase="TRAIN")
    y = module(x)
    assert set(y.unique().tolist()) == {0.0, 4.0}
    assert abs(float(y.mean()) - 1) < 0.1
    assert torch.equal(module.eval()(x), x)


@pytest.mark.parametrize(
    ("body", "message"),
    [
        ('type: "Exp" exp_param { base: 0 }', "bad base"),
        ('type: "Log" log_param { base: -2 }', "bad base"),
        ('type: "Dropout" dropout_param { dropout_ratio: 1 }', "bad dropout_ratio"),
        ('type: "Clip" clip_param { min: 0 }', "clip_param"),
    ],
)
def test_refused(body: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(body, (1, 1, 1, 1))
