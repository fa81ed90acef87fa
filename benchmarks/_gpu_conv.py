"""Our atrous convolution and cuDNN's on a GPU, in the four precisions and both memory formats.

Operands are bf16, fp16 or float32 tensors, the same ones for both sides; float32 is multiplied as
TF32 by the precision tf32, and by fp32 in full (ours by three TF32 products). A case holds every
result against float64 before it times any. `share_of_peak` counts the products inside the map
alone, over what a plain matrix product of the same precision reaches on this GPU.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _convolutions import ISSUE, LIMITS, Shape, make, sample, sampled
from _report import Report
from _timing import check_agreement, compare, gpu_seconds, launched_seconds, peak_memory

from deeplab_repro.native import backends, cupy_backend
from deeplab_repro.ops import atrous_conv2d

DTYPES = {
    "bf16": torch.bfloat16,
    "fp16": torch.float16,
    "tf32": torch.float32,
    "fp32": torch.float32,
}
FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
LIBRARY, COMPILED, CUPY = "cudnn", "compiled", "cupy"
HEADLINES = ("512-1024-r12@41", "2048-21-r24@41")
BATCHES = (1, 16)
TINY = ("16-24-r2@9", "40-5-r3@9")

Pass = Callable[[], tuple[torch.Tensor, ...]]


@dataclass(frozen=True)
class Settings:
    """How much is measured: shapes by name, rounds of timing, and the matrix product's size."""

    device: str
    headlines: Sequence[str] = HEADLINES
    shapes: Sequence[str] = ISSUE
    batches: Sequence[int] = BATCHES
    runs: int = 20
    seconds: float = 5.0  # of a case's timing, for each of the two clocks
    matrix: int = 8192

    @property
    def precisions(self) -> tuple[str, ...]:
        # The kernels for the CPU, which stands in where this is tried without a GPU, take float32.
        return tuple(DTYPES) if self.device == "cuda" else ("fp32",)


class Case(NamedTuple):
    """A convolution and what computes it."""

    shape: Shape
    batch: int
    direction: str  # "forward" or "backward", both gradients
    ours: str

    @property
    def name(self) -> str:
        return f"{self.shape.name} batch {self.batch} {self.direction} {self.ours}"


def cases(settings: Settings) -> Iterator[Case]:
    """The headlines first; then the other shapes, then CuPy, then the gradients."""
    headlines = [Shape.named(name) for name in settings.headlines]
    others = [Shape.named(name) for name in settings.shapes if name not in settings.headlines]
    for shapes, direction, ours in (
        (headlines, "forward", COMPILED),
        (others, "forward", COMPILED),
        (headlines, "forward", CUPY),
        (headlines, "backward", COMPILED),
        (others, "backward", COMPILED),
    ):
        if ours == CUPY and settings.device != "cuda":
            continue
        for shape in shapes:
            for batch in settings.batches:
                yield Case(shape, batch, direction, ours)


def run(report: Report, settings: Settings) -> None:
    """Measure the peaks and every case."""
    peaks = report.run("peaks", lambda: measure_peaks(settings))
    rates = peaks.get("matrix_tflop_per_s", {})
    for case in cases(settings):
        report.run(case.name, lambda case=case: measure(case, settings, rates))


def measure_peaks(settings: Settings) -> dict[str, Any]:
    """TFLOP/s of a plain product of random square matrices, by precision."""
    n = settings.matrix
    found = {}
    for precision in settings.precisions:
        a, b = (torch.randn(n, n, device=settings.device).to(DTYPES[precision]) for _ in range(2))

        def product(a: torch.Tensor = a, b: torch.Tensor = b, tf32: bool = precision == "tf32"):
            torch.backends.cuda.matmul.allow_tf32 = tf32
            return a @ b

        timing = compare(
            {"product": product}, settings.device, 10, clock=gpu_seconds(settings.device)
        )
        found[precision] = 2 * n**3 / timing["product"].median / 1e12
    return {"matrix_tflop_per_s": found, "matrix_size": n}


def measure(case: Case, settings: Settings, peaks: dict[str, float]) -> dict[str, Any]:
    """Both sides in all precisions and formats; what fails is in `errors`, by its name."""
    torch.backends.cudnn.benchmark = True
    shape, device = case.shape, settings.device
    flop, useful = (
        2 * case.batch * count * (1 if case.direction == "forward" else 2)
        for count in (shape.multiply_adds, shape.useful_multiply_adds)
    )
    float32 = make(shape, case.batch, device)
    runs: dict[str, Pass] = {}
    candidates: dict[str, dict[str, Any]] = {}
    errors: dict[str, str] = {}
    for precision in settings.precisions:
        tensors = [t.to(DTYPES[precision]) for t in float32]
        exact = sample(shape, tensors, case.direction)
        for layout, memory_format in FORMATS.items():
            operands = [t.contiguous(memory_format=memory_format) for t in tensors]
            for who in (case.ours, LIBRARY):
                name = f"{who} {precision} {layout}"
                try:
                    pass_ = _pass(who, case, precision, operands)
                    difference = max(
                        check_agreement(name, part, whole, LIMITS[precision])
                        for part, whole in zip(sampled(pass_()), exact, strict=True)
                    )
                    memory = peak_memory(pass_, device)
                except (Exception, SystemExit) as error:
                    errors[name] = f"{type(error).__name__}: {error}"
                    if "CUDA error" in str(error):
                        raise  # of this process's context: nothing after it would run
                    continue
                runs[name] = pass_
                candidates[name] = {"relative_difference": difference, "peak_bytes": memory}
    for clock_name, clock in (
        ("gpu", gpu_seconds(device)),
        ("with_launch", launched_seconds(device)),
    ):
        timings = compare(runs, device, settings.runs, 2, settings.seconds, clock)
        for name, timing in timings.items():
            candidates[name][clock_name] = timing
    for name, candidate in candidates.items():
        rate = useful / candidate["gpu"].median / 1e12
        candidate["useful_tflop_per_s"] = rate
        peak = peaks.get(name.split()[1])
        candidate["share_of_peak"] = rate / peak if peak else None
    return {
        "shape": shape.name,
        "batch": case.batch,
        "direction": case.direction,
        "gflop": flop / 1e9,
        "useful_gflop": useful / 1e9,
        "candidates": candidates,
        "errors": errors,
        "cudnn_takes_times_as_long": _ratios(candidates, case.ours, settings.precisions),
    }


def _ratios(
    candidates: dict[str, dict[str, Any]], ours: str, precisions: Sequence[str]
) -> dict[str, dict[str, float]]:
    """By precision and clock, both sides in the format that each is faster in."""
    found: dict[str, dict[str, float]] = {}
    for precision in precisions:
        for clock in ("gpu", "with_launch"):
            best = {
                who: min(
                    (c[clock].median for name, c in candidates.items()
                     if name.startswith(f"{who} {precision} ")), default=None)
                for who in (ours, LIBRARY)
            }  # fmt: skip
            if None not in best.values():
                found.setdefault(precision, {})[clock] = best[LIBRARY] / best[ours]
    return found


def _pass(who: str, case: Case, precision: str, tensors: Sequence[torch.Tensor]) -> Pass:
    """One run of a side: (y,) or (grad_x, grad_weight)."""
    x, weight, grad_y = tensors
    rate = [case.shape.rate] * 2
    if who == LIBRARY:
        call = _library(case, x, weight, grad_y)

        def with_setting() -> tuple[torch.Tensor, ...]:
            torch.backends.cudnn.allow_tf32 = precision == "tf32"
            return call()

        return with_setting
    # 16-bit tensors are multiplied as they are; the word says how float32 is.
    how = precision if x.dtype == torch.float32 else "fp32"
    if who == COMPILED:
        backend = backends.backends()["cuda" if x.is_cuda else "cpu"]
        if not backend.available:
            raise RuntimeError(backend.reason)
        ops = {name: getattr(torch.ops.deeplab_repro, name) for name in cupy_backend.KERNELS}
    else:
        if not backends.backends()["cupy"].available:
            raise RuntimeError(backends.backends()["cupy"].reason)
        ops = cupy_backend.KERNELS
    tail = ([1, 1], rate, rate, 1, how)
    if case.direction == "backward":
        grad_input = ops["atrous_conv2d_direct_grad_input"]
        grad_weight = ops["atrous_conv2d_direct_grad_weight"]
        return lambda: (
            grad_input(grad_y, weight, list(x.shape[2:]), *tail),
            grad_weight(grad_y, x, [3, 3], *tail),
        )
    if who == COMPILED:  # as users call it, with its checks

        def forward() -> tuple[torch.Tensor, ...]:
            options = {"padding": rate[0], "rate": rate[0], "algorithm": "direct"}
            return (atrous_conv2d(x, weight, precision=how, **options),)

        return forward
    return lambda: (ops["atrous_conv2d_direct"](x, weight, None, *tail, False),)


def _library(case: Case, x: torch.Tensor, weight: torch.Tensor, grad_y: torch.Tensor) -> Pass:
    rate = case.shape.rate
    if case.direction == "forward":
        return lambda: (F.conv2d(x, weight, padding=rate, dilation=rate),)
    pairs = ([1, 1], [rate, rate], [rate, rate])
    backward = torch.ops.aten.convolution_backward
    wanted = [True, True, False]
    return lambda: backward(grad_y, x, weight, None, *pairs, False, [0, 0], 1, wanted)[:2]
