"""The dense CRF on a GPU: building its lattices, its iterations, and the whole call.

Pictures are made here: smooth shapes, with the grain that gives the lattices of one at 500x375 as
many vertices (83,816) as a photograph's. Before a case is timed, the marginals of a part of the
picture are held against the torch reference. Iterations are timed as launched and as the replay of
a captured graph. Bytes are those that an iteration must move at least; their share is of the speed
of a plain copy.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from _crf_problems import (
    ITERATIONS,
    LIMIT,
    Problem,
    corner,
    crf_params,
    energies,
    expected,
    features,
    traffic,
    whole_call,
)
from _report import Report
from _timing import Timing, compare, gpu_seconds, launched_seconds, peak_memory
from torch import Tensor

from deeplab_repro.native import backends, cupy_backend

COMPILED, CUPY = "compiled", "cupy"
CLOCKS = {"gpu": gpu_seconds, "with_launch": launched_seconds}
_AFTER = 1  # the op's number of DeepLab's normalization


class Size(NamedTuple):
    """A picture's pixels, its labels, and the standard deviations of the kernels."""

    width: int
    height: int
    labels: int
    bi_xy_std: float = 49
    bi_rgb_std: float = 5
    pos_xy_std: float = 3


class Case(NamedTuple):
    """One CRF and what computes it."""

    size: Size
    batch: int
    ours: str

    @property
    def name(self) -> str:
        s = self.size
        stds = f"bi {s.bi_xy_std:g} {s.bi_rgb_std:g} pos {s.pos_xy_std:g}"
        return f"{s.width}x{s.height}x{s.labels} {stds} batch {self.batch} {self.ours}"


VOC = Size(500, 375, 21)
CASES = (
    *(Case(VOC, batch, COMPILED) for batch in (1, 16)),
    Case(Size(500, 375, 21, 121, 13), 1, COMPILED),
    Case(Size(500, 375, 21, 67, 3, 1), 1, COMPILED),
    Case(Size(321, 321, 21), 1, COMPILED),
    Case(Size(512, 512, 2), 1, COMPILED),
    Case(Size(1000, 750, 21), 1, COMPILED),
    *(Case(VOC, batch, CUPY) for batch in (1, 16)),
    *(Case(VOC, batch, COMPILED) for batch in (2, 4, 8, 32)),
)
TINY = (Case(Size(40, 30, 4), 1, COMPILED), Case(Size(40, 30, 4), 2, COMPILED))


@dataclass(frozen=True)
class Settings:
    """How much is measured: the cases, rounds of timing, and bytes of the copy."""

    device: str
    cases: Sequence[Case] = CASES
    runs: int = 20
    seconds: float = 8.0  # of a case's timing, for each of the two clocks
    copy_bytes: int = 4 << 30


class Ops(NamedTuple):
    """The two ops of one backend, with the arguments of csrc/schemas.inc."""

    build: Callable[..., Sequence[Tensor]]
    mean_field: Callable[..., Tensor]

    @classmethod
    def of(cls, who: str, device: str) -> Ops:
        """RuntimeError where the backend is not there."""
        backend = backends.backends()[CUPY if who == CUPY else device]
        if not backend.available:
            raise RuntimeError(f"{who}: {backend.reason}")
        if who == CUPY:
            kernels = cupy_backend.KERNELS
            return cls(kernels["permutohedral_build"], kernels["mean_field"])
        return cls(torch.ops.deeplab_repro.permutohedral_build, torch.ops.deeplab_repro.mean_field)

    def iterate(
        self, weights: Tensor, given: Problem, lattices: Sequence[Sequence[Tensor]], count: int
    ) -> Tensor:
        """(N, C, points) marginals after so many iterations. weights: on the device already, since
        no graph may hold a copy to it."""
        flat = [tensor for lattice in lattices for tensor in lattice]
        potts = [weights.new_empty(0)] * len(lattices)
        norms = [_AFTER] * len(lattices)
        unary = given.unary.flatten(2)
        return self.mean_field(unary, None, flat, weights, potts, norms, 1.0, count, False)


def run(report: Report, settings: Settings) -> None:
    """Measure the copy and every case."""
    copy = report.run("copy", lambda: measure_copy(settings))
    for case in settings.cases:
        rate = copy.get("gb_per_s")
        report.run(case.name, lambda case=case, rate=rate: measure(case, settings, rate))


def measure_copy(settings: Settings) -> dict[str, Any]:
    """GB/s of a copy that no cache holds, read and written bytes together."""
    source = torch.rand(settings.copy_bytes // 4, device=settings.device)
    target = torch.empty_like(source)
    clock = gpu_seconds(settings.device)
    timing = compare({"": lambda: target.copy_(source)}, settings.device, 7, clock=clock)[""]
    return {"gb_per_s": 2 * settings.copy_bytes / timing.median / 1e9, "seconds": timing}


def problem(size: Size, batch: int, device: str) -> Problem:
    """Pictures and energies, each of the batch another."""
    random = np.random.default_rng(0)
    coarse = torch.from_numpy(random.uniform(40, 215, (batch, 3, 6, 8)).astype(np.float32))
    shapes = torch.nn.functional.interpolate(coarse, (size.height, size.width), mode="bicubic")
    grain = torch.from_numpy(random.normal(0, 1, shapes.shape).astype(np.float32))
    image = (shapes + grain).clamp(0, 255).to(torch.uint8)
    unary = energies(random, batch, size.labels, size.width, size.height)
    return Problem(unary.to(device), image.to(device), crf_params(*size[3:]))


def weights_of(given: Problem) -> Tensor:
    """(2): of the kernels, on the device."""
    return given.unary.new_tensor(given.params.weights)


@functools.cache
def exact(size: Size) -> Tensor:
    """Marginals of a corner by the reference."""
    return expected(corner(problem(size, 1, "cpu")))


def check(ops: Ops, size: Size, device: str) -> float:
    """Mean difference of the corner's marginals; RuntimeError where it is no rounding."""
    part = corner(problem(size, 1, device))
    lattices = [ops.build(points, False) for points in features(part)]
    q = ops.iterate(weights_of(part), part, lattices, ITERATIONS)
    difference = float((q.cpu() - exact(size)).abs().mean())
    if not difference < LIMIT:
        raise RuntimeError(f"marginals differ from the reference's by {difference:.1e}")
    return difference


def measure(case: Case, settings: Settings, copy_rate: float | None) -> dict[str, Any]:
    """Agreement, then times of the parts and of the whole call, then bytes."""
    device = settings.device
    ops = Ops.of(case.ours, device)
    difference = check(ops, case.size, device)
    given = problem(case.size, case.batch, device)
    rows = features(given)
    lattices = [ops.build(rows[0].expand(case.batch, -1, -1), False), ops.build(rows[1], False)]
    weights = weights_of(given)
    runs: dict[str, Callable[[], Any]] = {
        # The spatial lattice of a batch is that of one picture.
        "build": lambda: [ops.build(points, False) for points in rows],
        "no iterations": lambda: ops.iterate(weights, given, lattices, 0),
        "iterations": lambda: ops.iterate(weights, given, lattices, ITERATIONS),
    }
    if case.ours == COMPILED:
        runs["whole call"] = lambda: whole_call(given)
    errors = {}
    if device == "cuda":
        try:
            runs["iterations in a graph"] = captured(runs["iterations"]).replay
        except RuntimeError as error:
            errors["iterations in a graph"] = str(error)
    seconds: dict[str, dict[str, Timing]] = {
        name: compare(runs, device, settings.runs, 2, settings.seconds, clock(device))
        for name, clock in CLOCKS.items()
    }
    found = {name: timing.median for name, timing in seconds["gpu"].items()}
    iteration = (found["iterations"] - found["no iterations"]) / ITERATIONS
    vertices = [lattice[2].shape[1] for lattice in lattices]
    moved = traffic(given, vertices)
    rate = moved["compulsory"] / max(iteration, 1e-9) / 1e9
    return {
        **case.size._asdict(),
        "batch": case.batch,
        "ours": case.ours,
        "vertices": vertices,
        "mean_difference": difference,
        "seconds": seconds,
        "iteration_ms": 1e3 * iteration,
        "bytes_per_iteration": moved,
        "gb_per_s": rate,
        "share_of_copy": rate / copy_rate if copy_rate else None,
        "peak_bytes": peak_memory(runs.get("whole call", runs["iterations"]), device),
        "errors": errors,
    }


def captured(call: Callable[[], Any]) -> torch.cuda.CUDAGraph:
    """The call as a graph, after a first run on the side, as CUDA wants it."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        call()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        call()
    return graph
