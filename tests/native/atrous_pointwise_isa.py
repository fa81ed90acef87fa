"""Checks of 1x1 filters on one instruction set; run by test_atrous_conv2d_cpu.py."""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

import deeplab_repro.native.backends  # noqa: F401  loads the library
from tests.native.atrous_conv2d_isa import LIMITS, check_random, relative

OPS = torch.ops.deeplab_repro


def random_case(draw: random.Random) -> dict | None:
    return {
        "batch": draw.choice([1, 1, 2, 3]),
        # Below, at and above chunks of 128, panels of 32 and their vectors.
        "channels": draw.choice([1, 2, 5, 16, 64, 127, 128, 129, 200, 300]),
        "filters": draw.choice([1, 3, 8, 16, 21, 31, 32, 33, 64, 70, 130]),
        "size": (draw.randint(1, 20), draw.randint(4, 45)),  # two pixels or more at any stride
        "stride": (draw.choice([1, 1, 1, 2, 3]), draw.choice([1, 1, 1, 2, 3])),
        "relu": draw.random() < 0.5,
        "bias": draw.random() < 0.7,
        "weight": draw.choice(["contiguous", "channels last", "transposed", "strided"]),
        "dtype": draw.choice([torch.float32, torch.float32, torch.float64]),
    }


def stored(weight: torch.Tensor, how: str) -> torch.Tensor:
    """The same values, (K, C, 1, 1), in another order in memory."""
    if how == "channels last":
        return weight.contiguous(memory_format=torch.channels_last)
    if how == "transposed":
        return weight.transpose(0, 1).contiguous().transpose(0, 1)
    return torch.stack([weight, weight], -1)[..., 0] if how == "strided" else weight


def check(case: dict) -> None:
    """Forward, and back to the input."""
    dtype, stride = case["dtype"], case["stride"]
    x = torch.randn(case["batch"], case["channels"], *case["size"], dtype=dtype)
    weight = torch.randn(case["filters"], case["channels"], 1, 1, dtype=dtype)
    bias = torch.randn(case["filters"], dtype=dtype) if case["bias"] else None
    x = x.contiguous(memory_format=torch.channels_last)
    exact_x = x.double().clone().requires_grad_()
    exact = F.conv2d(exact_x, weight.double(), None if bias is None else bias.double(), stride)
    grad = torch.randn_like(exact).to(dtype)
    (exact_grad,) = torch.autograd.grad(exact, exact_x, grad.double())
    grad = grad.contiguous(memory_format=torch.channels_last)
    weight, relu = stored(weight, case["weight"]), case["relu"]
    how = stride, (0, 0), (1, 1), 1, "fp32"
    expected = {
        "y": exact.detach().relu() if relu else exact.detach(),
        "grad_x": exact_grad,
    }
    results = {
        "y": OPS.atrous_conv2d_direct(x, weight, bias, *how, relu),
        "grad_x": OPS.atrous_conv2d_direct_grad_input(grad, weight, case["size"], *how),
    }
    for name, result in results.items():
        assert result.shape == expected[name].shape, (name, result.shape, case)
        if min(case["channels"], case["filters"]) > 1:  # else both formats are the same
            assert result.is_contiguous(memory_format=torch.channels_last), (name, case)
        error = relative(result, expected[name])
        assert error < LIMITS[dtype], (name, error, case)


def direct(x: torch.Tensor, weight: torch.Tensor, relu: bool = False) -> torch.Tensor:
    return OPS.atrous_conv2d_direct(x, weight, None, (1, 1), (0, 0), (1, 1), 1, "fp32", relu)


def rounds_little() -> None:
    """Sums of 128 products, and then of these, are 2.2e-7 away; torch's are 5.9e-7."""
    x = torch.randn(1, 2048, 21, 21).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(64, 2048, 1, 1)
    y = direct(x, weight)
    error = relative(y, F.conv2d(x.double(), weight.double()))
    assert error < 4e-7, error


def only_nan_makes_nan() -> None:
    """Beside an infinity and a NaN, other pixels keep their values."""
    x = torch.randn(1, 40, 6, 7).contiguous(memory_format=torch.channels_last)
    weight = torch.randn(35, 40, 1, 1)
    exact = F.conv2d(x, weight).relu()
    x[0, 3, 2, 5], x[0, 7, 5, 6] = torch.inf, torch.nan
    y = direct(x, weight, relu=True)
    others = torch.ones(6, 7, dtype=torch.bool)
    others[2, 5] = others[5, 6] = False
    torch.testing.assert_close(y[..., others], exact[..., others], rtol=1e-4, atol=1e-5)
    assert y[0, :, 5, 6].isnan().all()
    assert set(y[0, :, 2, 5].unique().tolist()) == {0.0, torch.inf}


def the_same_for_any_threads() -> None:
    """Bit for bit, of many pixels and of fewer than threads: blocks depend on these alone."""
    weight = torch.randn(70, 200, 1, 1)
    for shape in ((2, 200, 45, 41), (1, 200, 15, 1), (1, 200, 1, 2)):
        x = torch.randn(shape).contiguous(memory_format=torch.channels_last)
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(direct(x, weight))
        torch.set_num_threads(1)
        assert all(other.equal(results[0]) for other in results[1:])
        assert relative(results[0], F.conv2d(x.double(), weight.double())) < LIMITS[x.dtype]


def main() -> None:
    check_random(random_case, check, 200)
    rounds_little()
    only_nan_makes_nan()
    the_same_for_any_threads()


if __name__ == "__main__":
    main()
