"""How long the algorithms take for a problem, measured on this machine."""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median
from typing import Final

import torch

from deeplab_repro.ops._atrous_algorithms import BY_NAME
from deeplab_repro.ops._atrous_filters import KeptFilters
from deeplab_repro.ops._atrous_interlace import How
from deeplab_repro.ops._atrous_nonlinear import Nonlinear
from deeplab_repro.ops._atrous_rules import (
    DIRECT_DTYPES,
    Problem,
    kernels_are_there,
    suits_winograd,
)

# So many times as slow as the fastest is hopeless: in the first run, which prepares what is made
# once (memory, the library's code, kept filters), and in the second. A run that takes no more than
# this share of the time there is says little: another program may have come in between.
_HOPELESS: Final = (4, 2)
_SHORT: Final = 0.1


def candidates(problem: Problem) -> list[str]:
    """The algorithms that can be the fastest for a problem, as far as they are there.

    Caffe's columns are none: they take the memory of as many maps as the kernel has taps.
    """
    names = ["library"]
    if max(problem.rate) > 1:
        names.append("interlace")
    if kernels_are_there(problem.device) and problem.dtype in DIRECT_DTYPES[problem.device]:
        names.append("direct")
        if problem.direction != "grad_weight" and suits_winograd(
            problem.device, problem.kernel_size, problem.stride
        ):
            names.append("winograd")
    return names


def measure(
    problem: Problem, seconds: float = 0.3, clock: Callable[[], float] = time.perf_counter
) -> dict[str, float]:
    """The milliseconds of each candidate, in turns.

    Args:
        problem: its tensors are drawn here.
        seconds: how long to go on behind the first turn.
        clock: gives seconds.

    Returns:
        medians by name, in the order of :func:`candidates`.
    """

    def timed(run: Callable[[], object]) -> float:
        start = clock()
        run()
        if problem.device == "cuda":
            torch.cuda.synchronize()
        return clock() - start

    with torch.no_grad():
        runs = _runs(problem)
        times: dict[str, list[float]] = {}
        for often in _HOPELESS:
            times |= {name: [timed(run)] for name, run in runs.items()}
            limit = max(often * min(times[name][0] for name in runs), _SHORT * seconds)
            runs = {name: run for name, run in runs.items() if times[name][0] <= limit}
        end = clock() + seconds
        while len(runs) > 1 and clock() < end:
            for name, run in runs.items():
                times[name].append(timed(run))
    return {name: 1e3 * median(found) for name, found in times.items()}


def _runs(p: Problem) -> dict[str, Callable[[], object]]:
    """Candidate -> what it computes. A forward pass has a bias and a ReLU, as most layers do."""
    how = How(p.stride, p.padding, p.rate, p.groups, "fp32", p.fast)
    layout = torch.channels_last if p.channels_last else torch.contiguous_format

    def drawn(*shape: int) -> torch.Tensor:
        values = torch.randn(shape, dtype=p.dtype, device=p.device)
        return values.contiguous(memory_format=layout)

    weight = drawn(p.filters, p.channels // p.groups, *p.kernel_size)
    x = grad_y = bias = torch.empty(0)
    if p.direction != "grad_input":
        x = drawn(p.batch, p.channels, *p.image_size)
    if p.direction == "forward":
        bias = torch.randn(p.filters, dtype=p.dtype, device=p.device)
    else:
        grad_y = drawn(p.batch, p.filters, *p.out_size)

    def run(name: str) -> Callable[[], object]:
        algorithm = BY_NAME[name]
        if p.direction == "grad_input":
            return lambda: algorithm.grad_input(grad_y, weight, p.image_size, how)
        if p.direction == "grad_weight":
            return lambda: algorithm.grad_weight(grad_y, x, p.kernel_size, how)
        kept = KeptFilters() if p.kept else None
        return lambda: algorithm.run(x, weight, bias, how, Nonlinear(after="relu"), kept)

    return {name: run(name) for name in candidates(p)}
