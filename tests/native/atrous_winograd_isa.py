"""Checks of minimal filtering on one instruction set; run by test_atrous_conv2d_cpu.py."""

from __future__ import annotations

import random

import pytest
import torch
import torch.nn.functional as F

import deeplab_repro.native.backends  # noqa: F401  loads the library
from tests.native.atrous_conv2d_isa import LIMITS, check_random, relative

OPS = torch.ops.deeplab_repro


def random_case(draw: random.Random) -> dict | None:
    groups = draw.choice([1, 1, 1, 2, 3])
    rate = draw.randint(1, 24), draw.choice([1, 2, 3, 5, 8, 24])
    padding = tuple(draw.choice([0, 1, r, r, r, 2 * r, 2 * r + 3]) for r in rate)
    size = tuple(draw.randint(1, draw.choice([3, 20, 50])) for _ in rate)
    if any(n + 2 * p < 2 * r + 1 for n, p, r in zip(size, padding, rate, strict=True)):
        return None
    return {
        "batch": draw.choice([1, 1, 2, 3]),
        # Below, at and above the 16, 32 and 64 channels of vectors, panels and chunks.
        "channels": groups * draw.choice([1, 2, 5, 16, 17, 33, 64, 65, 130]),
        "filters": groups * draw.choice([1, 2, 16, 21, 32, 33, 70, 130]),
        "size": size,
        "padding": padding,
        "rate": rate,
        "groups": groups,
        "channels_last": draw.random() < 0.5,
        "relu": draw.random() < 0.5,
        "fast": draw.random() < 0.5,
        "strided": draw.random() < 0.2,
        "dtype": draw.choice([torch.float32, torch.float32, torch.float64]),
    }


def check(case: dict) -> None:
    """Forward, with filters transformed before and without, and back to the input."""
    dtype, fast = case["dtype"], case["fast"]
    how = case["padding"], case["rate"], case["groups"]
    ours = case["padding"], case["rate"], fast, case["groups"]
    x = torch.randn(case["batch"], case["channels"], *case["size"], dtype=torch.float64)
    weight = torch.randn(case["filters"], case["channels"] // case["groups"], 3, 3).double()
    bias = torch.randn(case["filters"], dtype=torch.float64)
    x.requires_grad_()
    exact = F.conv2d(x, weight, bias, 1, *how)
    grad = torch.randn_like(exact)
    (exact_grad,) = torch.autograd.grad(exact, x, grad)
    exact = (exact.relu() if case["relu"] else exact).detach()
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    x, grad = (t.detach().to(dtype).contiguous(memory_format=layout) for t in (x, grad))
    weight, bias = weight.to(dtype), bias.to(dtype)
    filter_set = OPS.atrous_winograd_filter_set(case["size"], *how[:2], fast)
    filters = OPS.atrous_winograd_filters(weight, filter_set, how[2])
    assert filters.shape[1] == OPS.atrous_winograd_filter_count(filter_set)
    if case["strided"]:
        weight = torch.stack([weight, weight], -1)[..., 0]
    back = [2 * r - p for r, p in zip(case["rate"], case["padding"], strict=True)]
    results = {
        "y": OPS.atrous_conv2d_winograd(x, weight, None, 0, bias, *ours, False, case["relu"]),
        "y, kept": OPS.atrous_conv2d_winograd(
            x, weight, filters, filter_set, bias, *ours, False, case["relu"]
        ),
        "grad_x": OPS.atrous_conv2d_winograd(
            grad, weight, None, 0, None, back, case["rate"], fast, case["groups"], True, False
        ),
    }
    assert results["y"].equal(results["y, kept"])
    for name, result in results.items():
        expected = exact_grad if name == "grad_x" else exact
        assert result.shape == expected.shape, (name, result.shape, case)
        error = relative(result, expected)
        assert error < LIMITS[dtype], (name, error, case)


def filters_of_other_maps_are_refused() -> None:
    """Maps of 4 and 5 rows at rate 2 need as many filters, but other ones."""
    weight, pair = torch.randn(4, 3, 3, 3), (2, 2)
    first, second = (OPS.atrous_winograd_filter_set((n, 8), pair, pair, False) for n in (4, 5))
    filters = OPS.atrous_winograd_filters(weight, first, 1)
    assert filters.shape == OPS.atrous_winograd_filters(weight, second, 1).shape
    x = torch.randn(1, 3, 5, 8)
    with pytest.raises(RuntimeError, match="these maps need set"):
        OPS.atrous_conv2d_winograd(
            x, weight, filters, first, None, pair, pair, False, 1, False, False
        )


def as_close_as_its_transforms() -> None:
    """F(2,3) loses about half a bit against the plain sum; a wrong transform loses all."""
    x, weight = torch.randn(1, 256, 41, 41), torch.randn(64, 256, 3, 3)
    for rate in (1, 2, 6, 12, 18, 24):
        exact = F.conv2d(x.double(), weight.double(), padding=rate, dilation=rate)
        pair = (rate, rate)
        ours = OPS.atrous_conv2d_winograd(
            x, weight, None, 0, None, pair, pair, False, 1, False, False
        )
        theirs = F.conv2d(x, weight, padding=rate, dilation=rate)
        assert relative(ours, exact) < 3 * relative(theirs, exact) + 1e-7


def the_same_for_any_threads() -> None:
    """Bit for bit, in one block and in many."""
    for shape, filters, rate in (((1, 70, 41, 41), 50, 6), ((2, 16, 150, 140), 16, 1)):
        x, weight, bias = (
            torch.randn(shape),
            torch.randn(filters, shape[1], 3, 3),
            torch.ones(filters),
        )
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            pair = (rate, rate)
            results.append(
                OPS.atrous_conv2d_winograd(
                    x, weight, None, 0, bias, pair, pair, False, 1, False, True
                )
            )
        torch.set_num_threads(1)
        assert all(other.equal(results[0]) for other in results[1:])
        exact = F.conv2d(x.double(), weight.double(), bias.double(), 1, rate, rate).relu()
        assert relative(results[0], exact) < LIMITS[torch.float32]


def main() -> None:
    check_random(random_case, check, 200)
    filters_of_other_maps_are_refused()
    as_close_as_its_transforms()
    the_same_for_any_threads()


if __name__ == "__main__":
    main()
