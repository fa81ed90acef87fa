"""Which algorithm `atrous_conv2d` takes by itself: one table, each row with its reason.

`benchmarks/atrous_vs_cudnn.py` measures what the rows claim. A look-up takes a few microseconds.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NamedTuple

import torch

from deeplab_repro.native import backends

ALGORITHMS: Final = ("direct", "im2col", "interlace", "library", "winograd")
DIRECTIONS: Final = ("forward", "grad_input", "grad_weight")
PRECISIONS: Final = ("fp32", "tf32", "bf16", "fp16")
ACCURACIES: Final = ("exact", "fast")

#: The instruction set that torch computes with.
_LIBRARY_CPU: Final = torch.backends.cpu.get_cpu_capability()

_SINGLE: Final = (torch.float32,)
_HALF: Final = (torch.float16, torch.bfloat16)
_REAL: Final = (torch.float32, torch.float64)
#: What the kernels take; other dtypes and devices are the library's.
DIRECT_DTYPES: Final = {"cpu": _REAL, "cuda": (*_REAL, *_HALF)}


class Problem(NamedTuple):
    """One convolution, as far as a rule looks at it. Sizes in elements and pixels, pairs (h, w)."""

    direction: str
    device: str
    dtype: torch.dtype
    channels_last: bool
    batch: int
    channels: int
    filters: int
    image_size: tuple[int, int]
    out_size: tuple[int, int]
    kernel_size: tuple[int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    rate: tuple[int, int]
    groups: int
    kept: bool = False  # the layer keeps its filters transformed
    fast: bool = False  # algorithms may round more than the plain sum does

    @property
    def taps(self) -> int:
        """Of the kernel."""
        return self.kernel_size[0] * self.kernel_size[1]

    @property
    def source_channels(self) -> int:
        """The channels that are summed over."""
        return self.filters if self.direction == "grad_input" else self.channels

    @property
    def multiply_adds(self) -> float:
        """All, those on the padding included."""
        pixels = self.batch * self.out_size[0] * self.out_size[1]
        return float(pixels * self.taps * self.channels * self.filters / self.groups)

    @property
    def useful(self) -> float:
        """The share of the multiply-adds whose value lies inside the map, not in its padding.

        Counted tap by tap for stride 1, where padding matters; other strides count as 1.
        """
        if self.stride != (1, 1):
            return 1.0
        share = 1.0
        for axis in range(2):
            size, out = self.image_size[axis], self.out_size[axis]
            taps = self.kernel_size[axis]
            inside = 0
            for tap in range(taps):
                offset = tap * self.rate[axis] - self.padding[axis]
                inside += max(0, min(out, size - offset) - max(0, -offset))
            share *= inside / (taps * out)
        return share


class Rule(NamedTuple):
    """Take `algorithm` for a problem of these kinds for which `when` holds."""

    algorithm: str
    directions: tuple[str, ...]
    device: str
    dtypes: tuple[torch.dtype, ...]
    when: Callable[[Problem], bool]
    reason: str


def _matrix_unit(p: Problem) -> bool:
    if p.groups > 1 or p.taps < 4 or p.source_channels < 256:
        return False
    # What takes less than some milliseconds two threads of the library do as fast.
    return p.multiply_adds > 1.5e9 or (p.filters <= 64 and p.useful < 0.9)


def _fewer_products(p: Problem) -> bool:
    if p.groups > 1 or not suits_winograd(p.device, p.kernel_size, p.stride):
        return False
    least = min(p.channels, p.filters)
    if backends.instruction_set() == "avx512":
        # To transform the filters takes as long as is gained.
        return p.kept and least >= (64 if p.fast else 128)
    return least >= (64 if p.kept else 128)


def _one_product(p: Problem) -> bool:
    if p.taps > 1 or p.groups > 1 or p.padding != (0, 0) or not p.channels_last:
        return False
    # For a few pixels, to pack the filters takes as long as to multiply by them.
    pixels = p.batch * p.out_size[0] * p.out_size[1]
    return p.channels >= 64 and p.filters >= 16 and pixels >= 64


def _has_one_thread() -> bool:
    # A compiled graph may run with any number.
    return not torch.compiler.is_compiling() and torch.get_num_threads() == 1


#: The first row that fits decides; without one it is the library.
RULES: Final = (
    Rule(
        "direct",
        DIRECTIONS,
        "cpu",
        _REAL,
        lambda p: p.groups > 1 and p.groups == p.channels == p.filters,
        "single channels in one pass over the memory, with both activations",
    ),
    Rule(
        "direct",
        ("forward", "grad_input"),
        "cpu",
        _SINGLE,
        lambda p: backends.instruction_set() == "amx" and _matrix_unit(p),
        "float32 on the matrix unit, which the library leaves idle",
    ),
    Rule(
        "direct",
        ("grad_weight",),
        "cpu",
        _SINGLE,
        lambda p: (
            backends.instruction_set() == "amx"
            and _matrix_unit(p)
            and min(p.channels, p.filters) > 64
        ),
        "the same; gradients of few filters are the library's",
    ),
    Rule(
        "winograd",
        ("forward",),
        "cpu",
        _SINGLE,
        lambda p: backends.instruction_set() in ("avx2", "avx512") and _fewer_products(p),
        "fewer products, which the library computes at the processor's peak",
    ),
    Rule(
        "direct",
        ("forward", "grad_input"),
        "cpu",
        _SINGLE,
        lambda p: (
            backends.instruction_set() in ("avx2", "avx512")
            and _has_one_thread()
            and _one_product(p)
        ),
        "torch hands 1x1 filters to another library where it has one thread",
    ),
    Rule(
        "direct",
        ("forward",),
        "cpu",
        _SINGLE,
        lambda p: (
            backends.instruction_set() == "avx512"
            and not p.channels_last
            and p.groups == 1
            and p.source_channels >= 256
            and p.filters > 64
            and p.useful < 0.7
        ),
        "the library multiplies the padding, too, but not where channels are last",
    ),
    Rule(
        "direct",
        DIRECTIONS,
        "cuda",
        (*_SINGLE, *_HALF),
        lambda p: max(p.rate) > 1 and p.groups == 1 and p.useful < 0.8,
        "the library multiplies the padding, too",
    ),
)


def choose(problem: Problem) -> str:
    """The algorithm for a problem whose float32 values, if any, are multiplied in full."""
    if not kernels_are_there(problem.device):
        return "library"  # `direct` would be the torch reference: the library, by a longer way
    for rule in RULES:
        if (
            rule.device == problem.device
            and problem.direction in rule.directions
            and problem.dtype in rule.dtypes
            and rule.when(problem)
        ):
            return rule.algorithm
    return "library"


def suits_winograd(device: str, kernel_size: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether minimal filtering is there for such filters; (h, w) in pixels."""
    return device == "cpu" and tuple(kernel_size) == (3, 3) and tuple(stride) == (1, 1)


def planar_grad_weight(grad_y: torch.Tensor, x: torch.Tensor, kernel_size: int, rate: int) -> bool:
    """Whether the library is to find a gradient of the weight in copies that are contiguous.

    grad_y: (N, K, H', W'), x: (N, C, H, W); their values are not read. kernel_size, rate: the
    larger of the two axes'. Forward and back to the input, it is faster where channels are last.
    For the weight it has no good kernel for that order in AVX2: two to three times as long from 128
    channels on. In AVX-512 it multiplies the padding of holes, which it skips in contiguous maps.
    """
    if (
        x.device.type != "cpu"
        or x.dtype not in _SINGLE
        or x.is_contiguous()
        or kernel_size < 2
        or min(x.shape[1], grad_y.shape[1]) < 64
    ):
        return False
    return _LIBRARY_CPU == "AVX2" or (_LIBRARY_CPU == "AVX512" and rate > 1)


def kernels_are_there(device: str) -> bool:
    """Whether anything but the torch reference computes `direct` on such a device."""
    if device == "cuda":
        return backends.has_cuda() or backends.backends()["cupy"].available
    return device == "cpu" and backends.has_cpu()
