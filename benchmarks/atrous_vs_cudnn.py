"""Is atrous_conv2d faster than the library's convolution where the rate is high?

python benchmarks/atrous_vs_cudnn.py [--shapes networks|issue|NAME ...] [--batch 1 10] [--quick]
                                     [--most-gmacs G] [--device D] [--threads N] [--runs N]

Every distinct 3x3 convolution of rate 2 and more in LargeFOV, ASPP-S, ASPP-L and ResNet-101 at 321
and 513, forward and backward (both gradients): ours, by each algorithm and precision, against torch
(cuDNN in benchmark mode, with and without TF32; on the CPU oneDNN) and against unfold and a matrix
product. Torch and the direct kernels run in both memory formats, and the better one counts.

Before anything is timed, each result is held against float64 for some of its channels. Times are
medians of interleaved runs. Multiply-adds are counted with those on the padding, and without.
Working memory is measured: what is in use at the peak of one run, above operands and results; on
the CPU in a process of its own in which freed memory goes back to the system at once.

On the CPU, passes of a batch with more than 20 billion multiply-adds are left out (--most-gmacs).
"""

from __future__ import annotations

import argparse
import ctypes
import json
import math
import subprocess
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
import torch.nn.functional as F
from _plots import draw
from _timing import (
    arguments,
    check_agreement,
    compare,
    machine,
    parse,
    peak_memory,
    write_json,
)
from rich.console import Console
from rich.table import Table

from deeplab_repro.caffe.analysis import analyse
from deeplab_repro.models import write_network
from deeplab_repro.ops import atrous_conv2d, choose_algorithm
from deeplab_repro.ops._atrous_rules import DIRECTIONS
from prototxt_import import infer_net, parse_net
from prototxt_import.layers import Convolution

NETWORKS = ("largefov", "aspp-s", "aspp-l", "resnet101", "resnet101-aspp")
SIZES = (321, 513)
ISSUE = (
    *("512-512-r2@41", "512-512-r4@41", "256-256-r2@41"),
    *(f"512-1024-r{rate}@41" for rate in (2, 6, 12, 18, 24)),
    *(f"2048-21-r{rate}@41" for rate in (6, 12, 18, 24)),
    *("512-1024-r12@65", "2048-21-r12@65"),
)
#: Relative difference from float64: rounding of sums of up to 18,432 products, or of the operands.
LIMITS = {"fp32": 1e-5, "tf32": 2e-3, "bf16": 1e-2, "fp16": 2e-3}
SAMPLED_CHANNELS = 8
MB = 1e6


@dataclass(frozen=True)
class Shape:
    """A 3x3 convolution of stride 1 that keeps the map's size; counts are of one picture."""

    channels: int
    filters: int
    size: int
    rate: int
    multiply_adds: int
    useful_multiply_adds: int  # without those on the padding

    @property
    def name(self) -> str:
        return f"{self.channels}-{self.filters}-r{self.rate}@{self.size}"


@dataclass(frozen=True)
class Candidate:
    """A way of computing: its name in tables, its memory format, and the pass itself."""

    name: str
    precision: str
    channels_last: bool
    call: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
    tf32: bool = False


def shapes_of_networks() -> dict[str, Shape]:
    """Name -> shape, in the networks' order."""
    found: dict[str, Shape] = {}
    for network in NETWORKS:
        for size in SIZES:
            net = parse_net(write_network(network, input_size=size))
            for row, item in zip(analyse(net), infer_net(net).layers, strict=True):
                layer = item.layer
                if not isinstance(layer, Convolution) or row.kernel != (3, 3) or row.rate == (1, 1):
                    continue
                window = layer.window_over(2)
                assert window.stride == (1, 1)
                assert window.pad == window.dilation
                filters, channels = item.shapes.params[0][:2]
                counts = row.multiply_adds, row.useful_multiply_adds
                shape = Shape(channels, filters, item.bottoms[0][2], window.dilation[0], *counts)
                found.setdefault(shape.name, shape)
    return found


def candidates(shape: Shape, device: str) -> list[Candidate]:
    how = {"padding": shape.rate, "rate": shape.rate}

    def ours(algorithm: str, precision: str = "fp32") -> Callable[..., torch.Tensor]:
        options = {"algorithm": algorithm, "precision": precision}
        return lambda x, weight: atrous_conv2d(x, weight, **how, **options)

    def library(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return F.conv2d(x, weight, padding=shape.rate, dilation=shape.rate)

    def unfolded(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        columns = F.unfold(x, 3, shape.rate, shape.rate)
        y = torch.matmul(weight.flatten(1), columns)
        return y.view(x.shape[0], -1, *x.shape[2:])

    found = [
        Candidate("auto", "fp32", False, ours("auto")),
        Candidate("im2col", "fp32", False, ours("im2col")),
        Candidate("interlace", "fp32", False, ours("interlace")),
        Candidate("unfold", "fp32", False, unfolded),
    ]
    precisions = ("fp32", "tf32", "bf16", "fp16") if device == "cuda" else ("fp32",)
    for last in (False, True):
        for precision in precisions:
            call = ours("direct", precision)
            found.append(Candidate(f"direct {precision}", precision, last, call))
        found.append(Candidate("library fp32", "fp32", last, library))
        if device == "cuda":
            found.append(Candidate("library tf32", "tf32", last, library, tf32=True))
    return found


def passes(
    candidate: Candidate, tensors: list[torch.Tensor], direction: str
) -> Callable[[], tuple[torch.Tensor, ...]]:
    """One run of the candidate: (y,) or (grad_x, grad_weight)."""
    format = torch.channels_last if candidate.channels_last else torch.contiguous_format
    x, weight, grad_y = (t.contiguous(memory_format=format) for t in tensors)

    def with_setting(run: Callable[[], tuple[torch.Tensor, ...]]) -> tuple[torch.Tensor, ...]:
        torch.backends.cudnn.allow_tf32 = candidate.tf32
        return run()

    if direction == "forward":
        with torch.no_grad():
            return lambda: with_setting(lambda: (no_grad(candidate.call, x, weight),))
    leaves = [x.detach().requires_grad_(), weight.detach().requires_grad_()]
    y = with_setting(lambda: (candidate.call(*leaves),))[0]
    return lambda: with_setting(lambda: torch.autograd.grad(y, leaves, grad_y, retain_graph=True))


def no_grad(call: Callable[..., torch.Tensor], *tensors: torch.Tensor) -> torch.Tensor:
    with torch.no_grad():
        return call(*tensors)


def sample(shape: Shape, tensors: list[torch.Tensor], direction: str) -> tuple[torch.Tensor, ...]:
    """The first channels of each result, in float64."""
    x, weight, grad_y = (t.double() for t in tensors)
    n, how = SAMPLED_CHANNELS, {"padding": shape.rate, "dilation": shape.rate}
    if direction == "forward":
        return (F.conv2d(x, weight[:n], **how),)
    image, kernel = x[:, :n].shape, weight[:n].shape
    return (
        torch.nn.grad.conv2d_input(image, weight[:, :n], grad_y, **how),
        torch.nn.grad.conv2d_weight(x, kernel, grad_y[:, :n], **how),
    )


def sampled(results: tuple[torch.Tensor, ...]) -> tuple[torch.Tensor, ...]:
    if len(results) == 1:
        return (results[0][:, :SAMPLED_CHANNELS],)
    return results[0][:, :SAMPLED_CHANNELS], results[1][:SAMPLED_CHANNELS]


def make(shape: Shape, batch: int, device: str) -> list[torch.Tensor]:
    """x, weight, grad_y: normal values, the weight such that y's are of size 1."""
    generator = torch.Generator().manual_seed(0)
    sizes = (
        (batch, shape.channels, shape.size, shape.size),
        (shape.filters, shape.channels, 3, 3),
        (batch, shape.filters, shape.size, shape.size),
    )
    x, weight, grad_y = (torch.randn(s, generator=generator).to(device) for s in sizes)
    return [x, weight / (9 * shape.channels) ** 0.5, grad_y]


def key(candidate: Candidate) -> str:
    return f"{candidate.name} channels-last" if candidate.channels_last else candidate.name


def measure(
    shape: Shape, batch: int, direction: str, options: argparse.Namespace
) -> dict[str, Any]:
    tensors = make(shape, batch, options.device)
    runs, differences, memory = {}, {}, {}
    exact = sample(shape, tensors, direction)
    for candidate in candidates(shape, options.device):
        name = key(candidate)
        runs[name] = passes(candidate, tensors, direction)
        results = runs[name]()
        differences[name] = max(
            check_agreement(
                f"{shape.name} {direction} {name}", part, whole, LIMITS[candidate.precision]
            )
            for part, whole in zip(sampled(results), exact, strict=True)
        )
        del results
        if options.device == "cuda":
            memory[name] = working_memory(runs[name], options.device)
    del exact
    timings = compare(
        runs, options.device, options.runs, warm_up=0, max_seconds=options.max_seconds
    )
    seconds = {name: timing.median for name, timing in timings.items()}
    return {
        "shape": shape.name,
        **asdict(shape),
        "batch": batch,
        "direction": direction,
        "device": options.device,
        "auto_takes": {
            d: choose_algorithm(*tensors[:2], padding=shape.rate, rate=shape.rate, direction=d)
            for d in (DIRECTIONS[:1] if direction == "forward" else DIRECTIONS[1:])
        },
        "relative_difference": differences,
        "seconds": timings,
        "best_seconds": best(seconds),
        "working_memory_bytes": memory,
    }


def best(seconds: dict[str, float]) -> dict[str, float]:
    """Of each candidate the faster memory format."""
    found: dict[str, float] = {}
    for name, value in seconds.items():
        plain = name.removesuffix(" channels-last")
        found[plain] = min(value, found.get(plain, value))
    return found


def working_memory(run: Callable[[], tuple[torch.Tensor, ...]], device: str) -> int:
    kept: list[torch.Tensor] = []
    rise = peak_memory(lambda: kept.extend(run()), device)
    return max(0, rise - sum(t.numel() * t.element_size() for t in kept))


def cases(options: argparse.Namespace) -> Iterator[tuple[Shape, int, str]]:
    shapes = shapes_of_networks()
    names = {"networks": list(shapes), "issue": list(ISSUE)}
    chosen = [name for word in options.shapes for name in names.get(word, [word])]
    if unknown := set(chosen) - set(shapes):
        raise SystemExit(f"unknown shape {min(unknown)}; there are: {', '.join(shapes)}")
    if options.quick:
        chosen = [name for name in chosen if shapes[name].multiply_adds < 1e9]
    for batch in options.batch:
        for name in chosen:
            if batch > 1 and batch * shapes[name].multiply_adds > options.most_gmacs * 1e9:
                continue
            for direction in ("forward", "backward"):
                yield shapes[name], batch, direction


def measure_memory(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Working memory of all cases on the CPU, in this process, which should be a fresh one."""
    m_mmap_threshold = -3  # of malloc.h: larger blocks are the system's own, and go back to it
    ctypes.CDLL(None).mallopt(m_mmap_threshold, 1 << 16)
    found: dict[str, dict[str, int]] = {}
    for shape, batch, direction in cases(options):
        if batch > 1:
            continue
        tensors = make(shape, batch, "cpu")
        found[f"{shape.name} {direction}"] = {
            key(candidate): _in_new_thread(
                partial(working_memory, passes(candidate, tensors, direction), "cpu")
            )
            for candidate in candidates(shape, "cpu")
        }
    return found


def _in_new_thread(call: Callable[[], int]) -> int:
    """call(), by a thread that has kept no buffer from an earlier convolution."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(call).result()


def memory_in_a_child() -> dict[str, dict[str, int]]:
    command = [sys.executable, __file__, *sys.argv[1:], "--child"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return content


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """How many times as long the library takes, in full float32, as ours and others do."""
    seconds = result["best_seconds"]
    return {name: seconds["library fp32"] / value for name, value in seconds.items()}


def means(results: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Geometric means of the ratios, over all rates and over those from 6 on."""
    rows = []
    for batch in sorted({r["batch"] for r in results}):
        for direction in ("forward", "backward"):
            for least in (2, 6):
                some = [
                    ratios(r)
                    for r in results
                    if (r["batch"], r["direction"]) == (batch, direction) and r["rate"] >= least
                ]
                if some:
                    mean = {
                        name: math.exp(sum(math.log(r[name]) for r in some) / len(some))
                        for name in some[0]
                    }
                    rows.append(
                        {"batch": batch, "direction": direction, "least_rate": least,
                         "cases": len(some), "library_over": mean}
                    )  # fmt: skip
    return rows


def show(results: list[dict[str, Any]], summary: list[dict[str, Any]]) -> None:
    about = machine()
    where = about.get("gpu") if results[0]["device"] == "cuda" else about["cpu"]
    names = list(results[0]["best_seconds"])
    table = Table(title=f"ms, and the library's time over it; {where}, {about['threads']} threads")
    table.add_column("shape", no_wrap=True)
    for heading in ("batch", "pass", "useful", *names):
        table.add_column(heading, justify="right")
    for r in results:
        cells = [
            f"{r['best_seconds'][name] * 1e3:.3g} [dim]x{ratios(r)[name]:.2f}[/]" for name in names
        ]
        useful = f"{r['useful_multiply_adds'] / r['multiply_adds']:.0%}"
        table.add_row(r["shape"], str(r["batch"]), r["direction"], useful, *cells)
    console = Console(width=60 + 15 * len(names))
    console.print(table)
    for r in results:
        if r["working_memory_bytes"]:
            values = ", ".join(
                f"{name} {value / MB:.0f}" for name, value in r["working_memory_bytes"].items()
            )
            title = f"{r['shape']} batch {r['batch']} {r['direction']}"
            console.print(f"working MB (measured), {title}: {values}", highlight=False)
    for row in summary:
        values = ", ".join(f"{name} {value:.2f}" for name, value in row["library_over"].items())
        console.print(
            f"geometric mean of the library's time over each, batch {row['batch']} "
            f"{row['direction']}, rate >= {row['least_rate']}, {row['cases']} cases: {values}",
            highlight=False,
        )


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--shapes", nargs="+", default=["networks"], metavar="NAME")
    parser.add_argument("--batch", type=int, nargs="+", default=[1, 10])
    parser.add_argument(
        "--quick", action="store_true", help="shapes of less than 1e9 multiply-adds"
    )
    parser.add_argument("--most-gmacs", type=float, help="of a pass of more than one picture")
    parser.add_argument("--max-seconds", type=float, default=10.0, help="of a case")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(runs=None)
    options = parse(parser)
    on_gpu = options.device == "cuda"
    options.runs = options.runs or (20 if on_gpu else 3)
    if options.most_gmacs is None:
        options.most_gmacs = math.inf if on_gpu else 20
    if options.child:
        print(json.dumps(measure_memory(options)))
        return
    torch.backends.cudnn.benchmark = True
    memory = {} if on_gpu else memory_in_a_child()
    results = []
    for shape, batch, direction in cases(options):
        result = measure(shape, batch, direction, options)
        if batch == 1 and not on_gpu:
            result["working_memory_bytes"] = memory[f"{shape.name} {direction}"]
        results.append(result)
        ours, library = (result["best_seconds"][n] * 1e3 for n in ("direct fp32", "library fp32"))
        case = f"{shape.name} batch {batch} {direction}"
        print(f"{case}: direct {ours:.2f} ms, library {library:.2f} ms", file=sys.stderr)
    summary = means(results)
    show(results, summary)
    path = write_json(options.json, "atrous_vs_cudnn", [*results, *summary])
    print(path, *draw(path), sep="\n")


if __name__ == "__main__":
    main()
