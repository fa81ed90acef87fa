"""Checks of the direct convolution on one instruction set; run by test_atrous_conv2d_cpu.py.

The instruction set is chosen once for a process, by DEEPLAB_REPRO_CPU_ISA.
"""

from __future__ import annotations

import itertools
import os
import random
import sys
from collections.abc import Callable

import torch
import torch.nn.functional as F

import deeplab_repro.native.backends  # noqa: F401  loads the library

OPS = torch.ops.deeplab_repro
# float32: half the digits of an accumulation in any order; a dropped tap or part is far above.
LIMITS = {torch.float32: 2e-6, torch.float64: 1e-14}


def relative(ours: torch.Tensor, exact: torch.Tensor) -> float:
    return float((ours.double() - exact).norm() / exact.norm().clamp_min(1e-30))


def random_case(draw: random.Random) -> dict | None:
    groups = draw.choice([1, 1, 1, 2, 3])
    kernel = (draw.choice([1, 2, 3, 3, 3, 4, 7]), draw.choice([1, 2, 3, 3, 3, 4, 7]))
    rate = (draw.choice([1, 2, 3, 6, 30]), draw.choice([1, 2, 3, 6, 50]))
    reach = [r * (k - 1) for r, k in zip(rate, kernel, strict=True)]
    case = {
        "batch": draw.choice([1, 1, 2, 3]),
        # Below, at and above the 16, 32 and 64 channels of the blocks.
        "channels": groups * draw.choice([1, 2, 3, 5, 16, 17, 32, 33, 64, 70, 130]),
        "filters": groups * draw.choice([1, 2, 7, 16, 21, 33, 40]),
        "size": (draw.randint(1, 23), draw.randint(1, 45)),
        "kernel": kernel,
        "stride": (draw.choice([1, 1, 1, 2, 3]), draw.choice([1, 1, 1, 2, 3])),
        "padding": (
            draw.choice([0, 1, reach[0] // 2, reach[0]]),
            draw.choice([0, 1, reach[1] // 2]),
        ),
        "rate": rate,
        "groups": groups,
        "channels_last": draw.random() < 0.4,
        "bias": draw.random() < 0.8,
        "relu": draw.random() < 0.5,
        "dtype": draw.choice([torch.float32, torch.float32, torch.float64]),
    }
    fits = all(
        n + 2 * p >= r + 1 for n, p, r in zip(case["size"], case["padding"], reach, strict=True)
    )
    return case if fits else None


def check(case: dict) -> None:
    """Forward and both gradients against torch in float64."""
    dtype, how = case["dtype"], (case["stride"], case["padding"], case["rate"], case["groups"])
    per_group = case["channels"] // case["groups"]
    x = torch.randn(case["batch"], case["channels"], *case["size"], dtype=torch.float64)
    weight = torch.randn(case["filters"], per_group, *case["kernel"], dtype=torch.float64)
    bias = torch.randn(case["filters"], dtype=torch.float64) if case["bias"] else None
    x, weight = (t.to(dtype).double().requires_grad_() for t in (x, weight))
    bias = None if bias is None else bias.to(dtype).double()
    exact = F.conv2d(x, weight, bias, *how)
    grad = torch.randn_like(exact).to(dtype)
    grad_x, grad_weight = torch.autograd.grad(exact, (x, weight), grad.double())
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    x32, w32 = x.detach().to(dtype, memory_format=layout), weight.detach().to(dtype)
    grad = grad.contiguous(memory_format=layout)
    b32 = None if bias is None else bias.to(dtype)
    got = OPS.atrous_conv2d_direct(x32, w32, b32, *how, "fp32", case["relu"])
    expected = exact.relu() if case["relu"] else exact
    got_x = OPS.atrous_conv2d_direct_grad_input(grad, w32, case["size"], *how, "fp32")
    got_weight = OPS.atrous_conv2d_direct_grad_weight(grad, x32, case["kernel"], *how, "fp32")
    for name, ours, theirs in (
        ("y", got, expected),
        ("grad_x", got_x, grad_x),
        ("grad_weight", got_weight, grad_weight),
    ):
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape, case)
        assert relative(ours, theirs) < LIMITS[dtype], (name, relative(ours, theirs), case)


def special_shapes() -> None:
    """More taps than one round of the multiplication takes; the heads of the networks."""
    common = {"stride": (1, 1), "groups": 1, "bias": True, "relu": True, "dtype": torch.float32}
    taps = {"batch": 1, "filters": 21, "size": (12, 13), "kernel": (9, 10), "padding": (4, 4)}
    head = {"batch": 2, "filters": 21, "size": (9, 11), "kernel": (3, 3), "padding": (4, 4)}
    for layout in (False, True):
        check({**common, **taps, "channels": 3, "rate": (1, 1), "channels_last": layout})
        check({**common, **taps, "channels": 40, "rate": (1, 1), "channels_last": layout})
        check({**common, **head, "channels": 600, "rate": (4, 4), "channels_last": layout})


def rounds_little() -> None:
    """A sum of 2,304 products is 4e-7 away; torch's, by processor, 1.3e-7 to 2.6e-7."""
    x, weight = torch.randn(1, 256, 41, 41), torch.randn(64, 256, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=6, dilation=6)
    ours = OPS.atrous_conv2d_direct(x, weight, None, (1, 1), (6, 6), (6, 6), 1, "fp32", False)
    assert relative(ours, exact) < 5e-7


def what_float32_can_hold() -> None:
    """Infinities, NaN and subnormal numbers come out as float32 arithmetic has them."""

    def run(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return OPS.atrous_conv2d_direct(x, weight, None, (1, 1), (0, 0), (1, 1), 1, "fp32", False)

    x, weight = torch.ones(1, 40, 3, 3), torch.ones(20, 40, 1, 1)
    for special in (float("inf"), float("-inf"), float("nan"), 3e38):
        odd = x.clone()
        odd[0, 3, 1, 1] = special
        torch.testing.assert_close(run(odd, weight), F.conv2d(odd, weight), equal_nan=True)
        odd = weight.clone()
        odd[5, 3] = special
        torch.testing.assert_close(run(x, odd), F.conv2d(x, odd), equal_nan=True)
    for tiny in (1e-38, 1e-42, 1e-33):
        expected = F.conv2d((x * tiny).double(), weight.double() / 3)
        got = run(x * tiny, weight / 3).double()
        assert (got - expected).abs().max() <= expected.abs().max() * 1e-6 + 1e-44
    zeros = run(torch.zeros_like(x), weight)
    assert zeros.equal(torch.zeros_like(zeros))


def lower_precision() -> None:
    """ "tf32", "fp16" and "bf16" are at least as close as their names promise."""
    x, weight = torch.randn(1, 96, 20, 20), torch.randn(40, 96, 3, 3)
    exact = F.conv2d(x.double(), weight.double(), padding=2, dilation=2)
    for precision, limit in (("tf32", 1e-3), ("fp16", 1e-3), ("bf16", 8e-3)):
        got = OPS.atrous_conv2d_direct(x, weight, None, (1, 1), (2, 2), (2, 2), 1, precision, False)
        assert relative(got, exact) < limit, (precision, relative(got, exact))


def the_same_for_any_threads() -> None:
    """Bit for bit, over thread counts and runs."""
    for channels, filters in ((70, 50), (600, 21)):
        x, weight = torch.randn(2, channels, 30, 31), torch.randn(filters, channels, 3, 3)
        grad, bias = torch.randn(2, filters, 30, 31), torch.randn(filters)
        how = ((1, 1), (6, 6), (6, 6), 1)
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(
                (
                    OPS.atrous_conv2d_direct(x, weight, bias, *how, "fp32", False),
                    OPS.atrous_conv2d_direct_grad_input(grad, weight, (30, 31), *how, "fp32"),
                    OPS.atrous_conv2d_direct_grad_weight(grad, x, (3, 3), *how, "fp32"),
                )
            )
        torch.set_num_threads(1)
        for other in results[1:]:
            assert all(a.equal(b) for a, b in zip(other, results[0], strict=True))


def large_bands() -> None:
    """Maps whose split pixels exceed a band: many tiles of one image, and many images."""
    for shape, rate in (((1, 64, 150, 150), 1), ((1, 64, 150, 150), 40), ((30, 64, 21, 21), 5)):
        x, weight = torch.randn(shape), torch.randn(8, 64, 3, 3)
        exact = F.conv2d(x.double(), weight.double(), padding=rate, dilation=rate)
        how = ((1, 1), (rate, rate), (rate, rate), 1)
        got = OPS.atrous_conv2d_direct(x, weight, None, *how, "fp32", False)
        assert relative(got, exact) < LIMITS[torch.float32], (shape, rate)


def check_random(random_case: Callable, check: Callable, count: int) -> None:
    """Check so many cases of those that are possible; the seed is the program's argument."""
    assert OPS.cpu_instruction_set() == os.environ["DEEPLAB_REPRO_CPU_ISA"]
    torch.manual_seed(0)
    torch.set_num_threads(1)
    draw = random.Random(int(sys.argv[1]))
    cases = (random_case(draw) for _ in itertools.count())
    for case in itertools.islice(filter(None, cases), count):
        check(case)


def main() -> None:
    check_random(random_case, check, 150)
    special_shapes()
    rounds_little()
    what_float32_can_hold()
    lower_precision()
    the_same_for_any_threads()
    large_bands()


if __name__ == "__main__":
    main()
