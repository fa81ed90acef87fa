"""What `algorithm="auto"` takes, and why."""

import time
import timeit

import pytest
import torch

from deeplab_repro.ops import (
    ALGORITHMS,
    _atrous_algorithms,
    _atrous_rules,
    atrous_conv2d,
    choose_algorithm,
)
from deeplab_repro.ops._atrous_rules import DIRECTIONS, RULES, Problem, Rule
from tests.ops.atrous_conv2d_cases import CASES, make, random_case, taps

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

X, WEIGHT = torch.ones(1, 3, 9, 9), torch.ones(4, 3, 3, 3)


def problem(case, direction="forward"):
    return Problem(
        direction, "cpu", torch.float32, False, case.x[0], case.x[1], case.weight[0],
        case.x[2:], case.out, case.weight[2:], *case.how,
    )  # fmt: skip


def test_the_table_is_sound():
    for rule in RULES:
        assert rule.algorithm in ALGORITHMS
        assert set(rule.directions) <= set(DIRECTIONS)
        assert rule.dtypes
        assert rule.reason
        assert rule.when(problem(CASES["same size at rate 2"])) in (True, False)


def test_the_useful_share_is_what_the_taps_read():
    for seed in range(30):
        case = random_case(seed)
        whole = case.out[0] * case.out[1] * case.weight[2] * case.weight[3]
        expected = sum(1 for _ in taps(case)) / whole if case.stride == (1, 1) else 1
        assert problem(case).useful == pytest.approx(expected)
    case = CASES["rate beyond the map"]
    assert problem(case).useful == pytest.approx(1 / 9)


def test_the_first_rule_that_fits_decides(monkeypatch):
    def rule(algorithm, directions=DIRECTIONS, when=lambda p: True, dtypes=(torch.float32,)):
        return Rule(algorithm, directions, "cpu", dtypes, when, "")

    monkeypatch.setattr(_atrous_rules, "kernels_are_there", lambda device: True)
    table = (
        rule("im2col", dtypes=(torch.float64,)),
        rule("direct", when=lambda p: p.rate[0] > 1),
        rule("interlace", directions=("grad_weight",)),
    )
    monkeypatch.setattr(_atrous_rules, "RULES", table)
    assert choose_algorithm(X, WEIGHT) == "library"
    assert choose_algorithm(X, WEIGHT, rate=2) == "direct"
    assert choose_algorithm(X, WEIGHT, direction="grad_weight") == "interlace"
    assert choose_algorithm(X.double(), WEIGHT.double(), rate=2) == "im2col"
    assert choose_algorithm(X.half(), WEIGHT.half(), rate=2) == "library"


def test_every_direction_has_its_own_algorithm(monkeypatch):
    calls = []
    for name in ALGORITHMS:
        chosen = _spy(name, calls)
        monkeypatch.setitem(_atrous_algorithms.BY_NAME, name, chosen)
    picks = dict(zip(DIRECTIONS, ("interlace", "direct", "im2col"), strict=True))
    monkeypatch.setattr(_atrous_algorithms, "choose", lambda p: picks[p.direction])
    x, weight, bias, grad_y = make(CASES["groups"])
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    y = atrous_conv2d(*leaves, *CASES["groups"].how)
    ours = torch.autograd.grad(y, leaves, grad_y)
    assert calls == [("interlace", "run"), ("direct", "grad_input"), ("im2col", "grad_weight")]
    expected = torch.nn.functional.conv2d(*leaves, *CASES["groups"].how)
    torch.testing.assert_close(ours, torch.autograd.grad(expected, leaves, grad_y))


def _spy(name, calls):
    algorithm = _atrous_algorithms.BY_NAME[name]

    class Spy:
        def __getattr__(self, method):
            def call(*args):
                calls.append((name, method))
                return getattr(algorithm, method)(*args)

            return call

    return Spy()


def test_other_precisions_are_the_direct_kernels():
    assert choose_algorithm(X, WEIGHT, precision="bf16") == "direct"
    assert choose_algorithm(X.double(), WEIGHT.double(), precision="bf16") == "library"


def test_without_kernels_it_is_the_library(monkeypatch):
    monkeypatch.setattr(_atrous_rules, "kernels_are_there", lambda device: False)
    assert choose_algorithm(X, WEIGHT, padding=40, rate=40) == "library"


@pytest.mark.parametrize(
    ("cpu", "channels", "filters", "rate", "copied"),
    [
        ("AVX2", 64, 64, 1, True),
        ("AVX2", 63, 64, 1, False),
        ("AVX2", 64, 63, 1, False),
        ("AVX512", 64, 64, 1, False),
        ("AVX512", 64, 64, 2, True),
        ("DEFAULT", 64, 64, 2, False),
    ],
)
def test_the_library_finds_gradients_of_the_weight_in_contiguous_maps(
    monkeypatch, cpu, channels, filters, rate, copied
):
    monkeypatch.setattr(_atrous_rules, "_LIBRARY_CPU", cpu)
    seen = []
    real = _atrous_algorithms.Library._backward

    def spy(grad_y, x, weight, how, which):
        seen.append((x.is_contiguous(), grad_y.is_contiguous()))
        return real(grad_y, x, weight, how, which)

    monkeypatch.setattr(_atrous_algorithms.Library, "_backward", staticmethod(spy))
    x = torch.randn(2, channels, 5, 6).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(filters, channels, 3, 3, requires_grad=True)
    how = {"padding": rate, "rate": rate, "algorithm": "library"}
    y = atrous_conv2d(x, weight, **how)
    grad_y = torch.randn(y.shape).contiguous(memory_format=torch.channels_last)
    (grad,) = torch.autograd.grad(y, weight, grad_y)
    (expected,) = torch.autograd.grad(atrous_conv2d(x.contiguous(), weight, **how), weight, grad_y)
    torch.testing.assert_close(grad, expected)
    assert seen[0] == (copied, copied)
    one = torch.randn(filters, channels, 1, 1, requires_grad=True)
    y = atrous_conv2d(x, one, algorithm="library")
    torch.autograd.grad(y, one, grad_y)
    assert seen[-1] == (False, False)  # a kernel of one tap is a product in either order


@pytest.mark.parametrize(
    ("change", "algorithm"),
    [
        ({}, "direct"),
        ({"instructions": "avx2"}, "direct"),
        ({"direction": "grad_input"}, "direct"),
        ({"stride": 2}, "direct"),
        ({"threads": 2}, "library"),
        ({"instructions": "amx"}, "library"),
        ({"direction": "grad_weight"}, "library"),
        ({"padding": 1}, "library"),
        ({"form": torch.contiguous_format}, "library"),
        ({"size": 7}, "library"),
        ({"channels": 48}, "library"),
        ({"filters": 8}, "library"),
    ],
    ids=str,
)
def test_filters_of_one_tap(monkeypatch, change, algorithm):
    case = {
        "instructions": "avx512", "threads": 1, "direction": "forward", "stride": 1, "padding": 0,
        "form": torch.channels_last, "size": 33, "channels": 64, "filters": 21, **change,
    }  # fmt: skip
    monkeypatch.setattr(_atrous_rules, "kernels_are_there", lambda device: True)
    monkeypatch.setattr(_atrous_rules.backends, "instruction_set", lambda: case["instructions"])
    monkeypatch.setattr(_atrous_rules.torch, "get_num_threads", lambda: case["threads"])
    x = torch.empty(1, case["channels"], case["size"], case["size"]).to(memory_format=case["form"])
    weight = torch.empty(case["filters"], case["channels"], 1, 1)
    how = {"stride": case["stride"], "padding": case["padding"], "direction": case["direction"]}
    assert choose_algorithm(x, weight, **how) == algorithm


def test_autocast_counts():
    with torch.autocast("cpu", torch.bfloat16):
        assert choose_algorithm(X, WEIGHT, padding=8, rate=8) == "library"


def test_errors_are_the_ops():
    with pytest.raises(ValueError, match="rate must be an int >= 1"):
        choose_algorithm(X, WEIGHT, rate=0)
    with pytest.raises(ValueError, match="direction must be one of forward, .* got 'up'"):
        choose_algorithm(X, WEIGHT, direction="up")


def test_it_costs_microseconds():
    # Of this thread's own time, which other programs on the machine do not lengthen.
    def look_up():
        choose_algorithm(X, WEIGHT, padding=2, rate=2)

    best = min(timeit.repeat(look_up, number=200, timer=time.thread_time))
    assert best / 200 < 200e-6
