"""Every bound of the table behind `algorithm="auto"`, held by a problem on each of its sides.

Nothing here reads the table: problems and answers are literal, so that a row that is changed or
lost turns a test red.
"""

import pytest
import torch

from deeplab_repro.native import backends
from deeplab_repro.ops import _atrous_rules
from deeplab_repro.ops._atrous_rules import Problem, choose


def row_of_pixels(width, rate, **changes):
    """One row of pixels and five taps of a filter, padded to keep the size.

    Of the 5 * width products of a channel, 6 * rate meet the padding.
    """
    sizes = {"image_size": (1, width), "out_size": (1, width), "kernel_size": (1, 5)}
    window = {"stride": (1, 1), "padding": (0, 2 * rate), "rate": (1, rate), "groups": 1}
    return Problem(
        **{
            "direction": "forward",
            "device": "cpu",
            "dtype": torch.float32,
            "channels_last": False,
            "batch": 1,
            "channels": 256,
            "filters": 64,
            **sizes,
            **window,
            **changes,
        }
    )


def map_of_pixels(filters, **changes):
    """25 x 125 pixels: 1.5e9 multiply-adds with 375 filters."""
    sizes = {"image_size": (25, 125), "out_size": (25, 125)}
    return row_of_pixels(125, 1, filters=filters, **{**sizes, **changes})


# Multiply-adds or a small share of padding make up for each other on the matrix unit only.
LARGE = map_of_pixels(376)
SMALL = row_of_pixels(119, 10)  # 89.9 % of the products are useful
PADDED = row_of_pixels(119, 30, filters=65)  # 69.7 %
GPU = row_of_pixels(119, 20, device="cuda", channels=3, filters=4)  # 79.8 %

#: instructions, a problem that is ours, and its neighbour that is the library's.
BOUNDS = {
    "amx, 1.5e9 multiply-adds": ("amx", LARGE, map_of_pixels(375)),
    "amx, 256 channels": ("amx", LARGE, map_of_pixels(400, channels=255)),
    "amx, 4 taps": (
        "amx",
        map_of_pixels(1000, kernel_size=(2, 2)),
        map_of_pixels(1000, kernel_size=(1, 3)),
    ),
    "amx, groups": ("amx", LARGE, map_of_pixels(1000, groups=2)),
    "amx, 90 % useful": ("amx", SMALL, row_of_pixels(120, 10)),
    "amx, 64 filters": ("amx", SMALL, row_of_pixels(119, 10, filters=65)),
    "amx, 256 channels of few products": ("amx", SMALL, row_of_pixels(119, 10, channels=255)),
    "amx, float32": ("amx", LARGE, LARGE._replace(dtype=torch.float64)),
    "amx, not bfloat16": ("amx", LARGE, LARGE._replace(dtype=torch.bfloat16)),
    "amx, the gradient sums over 256 filters": (
        "amx",
        map_of_pixels(256, direction="grad_input", channels=1000),
        map_of_pixels(255, direction="grad_input", channels=1000),
    ),
    "amx, the weight's gradient of more than 64 filters": (
        "amx",
        map_of_pixels(65, direction="grad_weight", channels=10_000),
        map_of_pixels(64, direction="grad_weight", channels=10_000),
    ),
    "amx, the weight's gradient by multiply-adds": (
        "amx",
        LARGE._replace(direction="grad_weight"),
        map_of_pixels(375, direction="grad_weight"),
    ),
    "amx, the weight's gradient in float32": (
        "amx",
        LARGE._replace(direction="grad_weight"),
        LARGE._replace(direction="grad_weight", dtype=torch.float64),
    ),
    "amx, the weight's gradient not in bfloat16": (
        "amx",
        LARGE._replace(direction="grad_weight"),
        LARGE._replace(direction="grad_weight", dtype=torch.bfloat16),
    ),
    "avx512, 70 % useful": ("avx512", PADDED, row_of_pixels(120, 30, filters=65)),
    "avx512, 64 filters": ("avx512", PADDED, PADDED._replace(filters=64)),
    "avx512, 256 channels": ("avx512", PADDED, PADDED._replace(channels=255)),
    "avx512, groups": ("avx512", PADDED, PADDED._replace(channels=512, filters=130, groups=2)),
    "avx512, channels last": ("avx512", PADDED, PADDED._replace(channels_last=True)),
    "avx512, float32": ("avx512", PADDED, PADDED._replace(dtype=torch.float64)),
    "avx512, not float16": ("avx512", PADDED, PADDED._replace(dtype=torch.float16)),
    "avx512, gradient of x": (
        "avx512",
        PADDED,
        PADDED._replace(direction="grad_input", filters=256),
    ),
    "avx512, gradient of the weight": ("avx512", PADDED, PADDED._replace(direction="grad_weight")),
    "cuda, 80 % useful": ("", GPU, row_of_pixels(120, 20, device="cuda")),
    "cuda, rate": (
        "",
        row_of_pixels(10, 2, device="cuda"),
        row_of_pixels(5, 1, device="cuda"),
    ),
    "cuda, rate of the rows": (
        "",
        row_of_pixels(5, 1, device="cuda")._replace(rate=(2, 1)),
        row_of_pixels(5, 1, device="cuda"),
    ),
    "cuda, groups": ("", GPU, GPU._replace(channels=4, groups=2)),
    "cuda, not float64": ("", GPU, GPU._replace(dtype=torch.float64)),
}

# 3x3 filters whose layer keeps them.
KEPT = map_of_pixels(256, kernel_size=(3, 3), kept=True)

#: The same of minimal filtering.
FEWER_PRODUCTS = {
    "avx512, kept": ("avx512", KEPT, KEPT._replace(kept=False)),
    "avx512, 256 channels": ("avx512", KEPT, KEPT._replace(channels=255)),
    "avx512, 256 filters": ("avx512", KEPT, KEPT._replace(filters=255)),
    "avx512, 3x3": ("avx512", KEPT, KEPT._replace(kernel_size=(3, 5))),
    "avx512, stride": ("avx512", KEPT, KEPT._replace(stride=(2, 1))),
    "avx512, groups": ("avx512", KEPT, KEPT._replace(groups=2, channels=512, filters=512)),
    "avx512, float32": ("avx512", KEPT, KEPT._replace(dtype=torch.float64)),
    "avx512, forward": ("avx512", KEPT, KEPT._replace(direction="grad_input")),
    "avx2, 128 channels, kept or not": (
        "avx2",
        KEPT._replace(channels=128, kept=False),
        KEPT._replace(channels=127),
    ),
    "avx2, 128 filters": ("avx2", KEPT._replace(filters=128), KEPT._replace(filters=127)),
}


@pytest.fixture
def machine(monkeypatch):
    """Make choose believe in kernels, for the instructions that are given."""

    def with_instructions(name):
        monkeypatch.setattr(_atrous_rules, "kernels_are_there", lambda device: True)
        monkeypatch.setattr(backends, "instruction_set", lambda: name)

    return with_instructions


@pytest.mark.parametrize(("instructions", "ours", "librarys"), BOUNDS.values(), ids=BOUNDS.keys())
def test_a_bound(machine, instructions, ours, librarys):
    machine(instructions)
    assert (choose(ours), choose(librarys)) == ("direct", "library")


@pytest.mark.parametrize(
    ("instructions", "ours", "librarys"), FEWER_PRODUCTS.values(), ids=FEWER_PRODUCTS.keys()
)
def test_a_bound_of_minimal_filtering(machine, instructions, ours, librarys):
    machine(instructions)
    assert (choose(ours), choose(librarys)) == ("winograd", "library")


def test_minimal_filtering_is_for_vectors(machine):
    for name in ("amx", "baseline", ""):
        machine(name)
        assert choose(KEPT) != "winograd"


@pytest.mark.parametrize(
    ("problem", "instructions"),
    [
        (LARGE, {"amx"}),
        (SMALL, {"amx"}),
        (LARGE._replace(direction="grad_weight"), {"amx"}),
        (PADDED, {"avx512"}),
    ],
    ids=["large", "small", "gradient of the weight", "padded"],
)
def test_the_instructions_decide(machine, problem, instructions):
    for name in ("amx", "avx512", "avx2", "baseline", ""):
        machine(name)
        assert (choose(problem) == "direct") == (name in instructions)


def test_the_matrix_unit_takes_every_memory_format_and_both_directions(machine):
    machine("amx")
    for problem in (LARGE, SMALL):
        assert choose(problem._replace(channels_last=True)) == "direct"
    assert choose(LARGE._replace(direction="grad_input")) == "direct"
    # Few filters of many channels: the gradient sums over too few.
    assert choose(SMALL._replace(direction="grad_input")) == "library"


def test_a_gpu_takes_every_direction_and_short_dtype(machine):
    machine("")
    for direction in ("forward", "grad_input", "grad_weight"):
        for dtype in (torch.float32, torch.float16, torch.bfloat16):
            problem = GPU._replace(direction=direction, dtype=dtype)
            assert choose(problem) == "direct"
            assert choose(problem._replace(device="cpu")) == "library"
    assert choose(LARGE._replace(device="cuda")) == "library"
