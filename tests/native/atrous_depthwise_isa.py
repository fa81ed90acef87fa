"""Checks of the convolution of single channels on one instruction set.

Run by test_atrous_conv2d_cpu.py; DEEPLAB_REPRO_CPU_ISA chooses.
"""

from __future__ import annotations

import random

import torch
import torch.nn.functional as F

from tests.native.atrous_conv2d_isa import LIMITS, OPS, check_random, relative


def random_case(draw: random.Random) -> dict | None:
    kernel = (draw.choice([1, 2, 3, 3, 3, 5, 7]), draw.choice([1, 2, 3, 3, 3, 5, 7]))
    rate = (draw.choice([1, 1, 2, 3, 6, 30]), draw.choice([1, 1, 2, 3, 6, 50]))
    reach = [r * (k - 1) for r, k in zip(rate, kernel, strict=True)]
    case = {
        "batch": draw.choice([1, 1, 2, 3]),
        # Below, at and above the channels of a block, 8 to 32; more than are worked on at once.
        "channels": draw.choice([1, 2, 3, 7, 8, 9, 16, 17, 31, 32, 33, 70, 200]),
        # Rows below, at and above the vectors of a tile; below, at and above its rows.
        "size": (
            draw.randint(1, 30),
            draw.choice([1, 3, 7, 8, 9, 15, 16, 17, 31, 33, 65, 70, 129]),
        ),
        "kernel": kernel,
        "stride": (draw.choice([1, 1, 1, 2, 3]), draw.choice([1, 1, 1, 2, 3])),
        "padding": [draw.choice([0, 1, r // 2, r]) for r in (reach[0], reach[0], *reach[1:] * 2)],
        "rate": rate,
        "channels_last": draw.random() < 0.5,
        "bias": draw.random() < 0.8,
        "relu_before": draw.random() < 0.5,
        "activation": draw.choice(["none", "relu", "relu6"]),
        "dtype": draw.choice([torch.float32, torch.float32, torch.float64]),
    }
    top, bottom, left, right = case["padding"]
    (height, width), (down, across) = case["size"], reach
    fits = height + top + bottom > down and width + left + right > across
    return case if fits else None


def check(case: dict) -> None:
    """Forward and both gradients against torch in float64."""
    dtype, channels = case["dtype"], case["channels"]
    window = case["stride"], case["padding"], case["rate"]
    top, bottom, left, right = case["padding"]
    layout = torch.channels_last if case["channels_last"] else torch.contiguous_format
    x = torch.randn(case["batch"], channels, *case["size"], dtype=dtype)
    x = x.contiguous(memory_format=layout)
    weight = torch.randn(channels, 1, *case["kernel"], dtype=dtype)
    bias = 3 * torch.randn(channels, dtype=dtype) if case["bias"] else None

    def exact(x, weight, bias):
        padded = F.pad(x, (left, right, top, bottom))
        return F.conv2d(padded, weight, bias, case["stride"], 0, case["rate"], channels)

    wide = [None if t is None else t.double() for t in (x, weight, bias)]
    y = exact(wide[0].relu() if case["relu_before"] else wide[0], *wide[1:])
    y = {"none": y, "relu": y.relu(), "relu6": F.relu6(y)}[case["activation"]]
    got = OPS.atrous_depthwise(x, weight, bias, *window, case["relu_before"], case["activation"])
    # A map of one pixel is contiguous, too, whatever the layout.
    assert got.is_contiguous(memory_format=layout) or x.is_contiguous(), case
    grad = torch.randn_like(y).to(dtype).contiguous(memory_format=layout)
    _, pull = torch.func.vjp(lambda x, weight: exact(x, weight, None), *wide[:2])
    grad_x, grad_weight = pull(grad.double())
    got_x = OPS.atrous_depthwise_grad_input(grad, weight, case["size"], *window)
    got_weight = OPS.atrous_depthwise_grad_weight(grad, x, case["kernel"], *window)
    for name, ours, theirs in (
        ("y", got, y),
        ("grad_x", got_x, grad_x),
        ("grad_weight", got_weight, grad_weight),
    ):
        assert ours.shape == theirs.shape, (name, ours.shape, theirs.shape, case)
        assert relative(ours, theirs) < LIMITS[dtype], (name, relative(ours, theirs), case)


def large_maps() -> None:
    """Rows in several bands; sums over many pixels; strides that read every other column."""
    for size, stride, rate in ((257, 1, 1), (150, 2, 1), (130, 1, 12), (65, 1, 36)):
        check(
            {
                "batch": 1,
                "channels": 40,
                "size": (size, size),
                "kernel": (3, 3),
                "stride": (stride, stride),
                "padding": (rate, rate, rate, rate),
                "rate": (rate, rate),
                "channels_last": size % 2 == 0,
                "bias": True,
                "relu_before": True,
                "activation": "relu6",
                "dtype": torch.float32,
            }
        )


def nan_survives() -> None:
    """A NaN of x is one in every result that reads it, whatever the activations."""
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.zeros(1, 3, 20, 20).contiguous(memory_format=layout)
        x[0, 1, 7, 9] = float("nan")
        how = ((1, 1), (2, 2, 2, 2), (2, 2), True)
        y = OPS.atrous_depthwise(x, torch.ones(3, 1, 3, 3), None, *how, "relu6")
        where = y.isnan().nonzero()[:, 1:].tolist()
        assert where == [[1, i, j] for i in (5, 7, 9) for j in (7, 9, 11)]


def the_same_for_any_threads() -> None:
    """Bit for bit, over thread counts and runs."""
    for layout in (torch.contiguous_format, torch.channels_last):
        x = torch.randn(2, 300, 60, 61).contiguous(memory_format=layout)
        grad, weight = torch.randn_like(x), torch.randn(300, 1, 3, 3)
        how = ((1, 1), (6, 6, 6, 6), (6, 6))
        results = []
        for threads in (1, 2, 3, 1):
            torch.set_num_threads(threads)
            results.append(
                (
                    OPS.atrous_depthwise(x, weight, weight[:, 0, 0, 0], *how, True, "relu"),
                    OPS.atrous_depthwise_grad_input(grad, weight, (60, 61), *how),
                    OPS.atrous_depthwise_grad_weight(grad, x, (3, 3), *how),
                )
            )
        torch.set_num_threads(1)
        for other in results[1:]:
            assert all(a.equal(b) for a, b in zip(other, results[0], strict=True))


def main() -> None:
    check_random(random_case, check, 400)
    large_maps()
    nan_survives()
    the_same_for_any_threads()


if __name__ == "__main__":
    main()
