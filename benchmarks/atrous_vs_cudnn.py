"""Is atrous_conv2d faster than the library's convolution?

python benchmarks/atrous_vs_cudnn.py [--threads 1 2] [--isa avx2] [--shapes NAME ...]
                                     [--full [--directions forward] [--batch 1]]

Sixteen 3x3 convolutions of LargeFOV, ASPP-L and ResNet-101, one picture, forward as a network runs
it: a layer in evaluation mode, which keeps what it has made of its filters. Ours, by its own choice
("auto"), the same with accuracy="fast", and by `direct` and `winograd`, stands against torch
(oneDNN). Each runs in both memory formats, and the better one counts. The table fills as it runs
and is done in three minutes on two cores. --threads N ... measures with several numbers of threads
in one run. --isa caps the instruction set of both sides alike.

--full takes an hour or two: every 3x3 convolution of stride 1 in LargeFOV, ASPP-S, ASPP-L and
ResNet-101 at 321 and 513, also backward (both gradients) and for ten pictures, every algorithm,
with filters that are transformed anew for each call, with oneDNN's filters reordered once, with
unfold and a matrix product, and the working memory of all. tune_rules.py reads what it writes.

On a GPU it is cuDNN in benchmark mode, with and without TF32; run_on_gpu.sh has more of it.

Before anything is timed, each result is held against float64 for some of its channels. Times are
medians of interleaved runs. The share "inside" is that of the multiply-adds which are not on the
padding. The peak is that of torch's product of two matrices in the same run.
Working memory is measured: what is in use at the peak of one run, above operands and results; on
the CPU in a process of its own in which freed memory goes back to the system at once.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from functools import partial
from typing import Any

# Candidates keep their filters side by side here, which no network does.
os.environ.setdefault("DEEPLAB_REPRO_KEPT_FILTERS", "4000")

import torch
from _capped import add_option, obey
from _conv_candidates import CHANNELS_LAST, Run, best, candidates, passes
from _conv_goals import ShapeTable, all_means, means, means_tables
from _convolutions import LIMITS, SIXTEEN, Shape, make, sample, sampled
from _live import console
from _plots import draw
from _timing import (
    arguments,
    check_agreement,
    compare,
    machine,
    one_and_two,
    parse,
    peak_memory,
    refuse,
    thread_count,
    write_json,
)

from deeplab_repro.caffe.analysis import analyse
from deeplab_repro.models import write_network
from deeplab_repro.native import backends
from deeplab_repro.ops import choose_algorithm
from deeplab_repro.ops._atrous_rules import DIRECTIONS
from prototxt_import import infer_net, parse_net
from prototxt_import.layers import Convolution

NETWORKS = ("largefov", "aspp-s", "aspp-l", "resnet101", "resnet101-aspp")
SIZES = (321, 513)
#: The most that a pass of several pictures on the CPU has.
MOST_MULTIPLY_ADDS = 20e9


def shapes_of_networks() -> list[str]:
    """The names of their shapes, in the networks' order."""
    found: dict[str, None] = {}
    for network in NETWORKS:
        for size in SIZES:
            net = parse_net(write_network(network, input_size=size))
            for row, item in zip(analyse(net), infer_net(net).layers, strict=True):
                layer = item.layer
                if not isinstance(layer, Convolution) or row.kernel != (3, 3):
                    continue
                window = layer.window_over(2)
                if window.stride != (1, 1):
                    continue
                assert window.pad == window.dilation
                filters, channels = item.shapes.params[0][:2]
                shape = Shape(channels, filters, item.bottoms[0][2], window.dilation[0])
                found[shape.name] = None
    return list(found)


def cases(options: argparse.Namespace) -> Iterator[tuple[Shape, int, str]]:
    """Shape, batch and direction of everything that is measured."""
    for batch in options.batch:
        for shape in options.shapes:
            multiply_adds = batch * shape.multiply_adds
            if batch > 1 and options.device == "cpu" and multiply_adds > MOST_MULTIPLY_ADDS:
                continue
            for direction in options.directions:
                yield shape, batch, direction


def measure(
    shape: Shape, batch: int, direction: str, options: argparse.Namespace
) -> Iterator[dict[str, Any]]:
    """One result for each number of threads."""
    tensors = make(shape, batch, options.device)
    exact = sample(shape, tensors, direction)
    for threads in options.threads:
        torch.set_num_threads(threads)
        yield {
            "shape": shape.name,
            **asdict(shape),
            "multiply_adds": shape.multiply_adds,
            "useful_multiply_adds": shape.useful_multiply_adds,
            "batch": batch,
            "direction": direction,
            "device": options.device,
            "threads": threads,
            "instruction_set": backends.instruction_set(),
            "auto_takes": choices(shape, tensors, direction),
            **timed(shape, tensors, exact, direction, options),
        }


def timed(
    shape: Shape,
    tensors: list[torch.Tensor],
    exact: tuple[torch.Tensor, ...],
    direction: str,
    options: argparse.Namespace,
) -> dict[str, Any]:
    """Every candidate, held against `exact` first."""
    runs: dict[str, Run] = {}
    differences, memory = {}, {}
    for candidate in candidates(shape, options.device, direction, options.full):
        name = candidate.key
        runs[name] = passes(candidate, tensors, direction)
        results = runs[name]()
        differences[name] = max(
            check_agreement(
                f"{shape.name} {direction} {name}", part, whole, LIMITS[candidate.limit]
            )
            for part, whole in zip(sampled(results), exact, strict=True)
        )
        del results
        if options.device == "cuda":
            memory[name] = working_memory(runs[name], options.device)
    timings = compare(
        runs, options.device, options.runs, warm_up=0, max_seconds=options.max_seconds
    )
    return {
        "relative_difference": differences,
        "seconds": timings,
        "best_seconds": best({name: timing.median for name, timing in timings.items()}),
        "working_memory_bytes": memory,
    }


def choices(shape: Shape, tensors: list[torch.Tensor], direction: str) -> dict[str, str]:
    """What "auto" takes: for contiguous maps and those with channels last, in each direction."""
    found = {}
    for suffix, format in (("", torch.contiguous_format), (CHANNELS_LAST, torch.channels_last)):
        x, weight = (t.contiguous(memory_format=format) for t in tensors[:2])
        for way in DIRECTIONS[:1] if direction == "forward" else DIRECTIONS[1:]:
            how = {"padding": shape.rate, "rate": shape.rate, "direction": way}
            found[way + suffix] = choose_algorithm(x, weight, **how, kept=way == "forward")
    return found


def product_peak(threads: int) -> float:
    """GFLOP/s of torch's product of two float32 matrices."""
    torch.set_num_threads(threads)
    n = 2048
    a = torch.randn(n, n)
    timing = compare({"product": lambda: a @ a}, runs=5, warm_up=1)["product"]
    return 2 * n**3 / timing.fastest / 1e9


def working_memory(run: Run, device: str) -> int:
    """Bytes at the peak of one run, above operands and results."""
    kept: list[torch.Tensor] = []
    rise = peak_memory(lambda: kept.extend(run()), device)
    return max(0, rise - sum(t.numel() * t.element_size() for t in kept))


def measure_memory(options: argparse.Namespace) -> dict[str, dict[str, int]]:
    """Working memory of all cases on the CPU, in this process, which should be a fresh one."""
    m_mmap_threshold = -3  # of malloc.h: larger blocks are the system's own, and go back to it
    ctypes.CDLL(None).mallopt(m_mmap_threshold, 1 << 16)
    torch.set_num_threads(options.threads[-1])
    found: dict[str, dict[str, int]] = {}
    for shape, batch, direction in cases(options):
        if batch > 1:
            continue
        tensors = make(shape, batch, "cpu")
        found[f"{shape.name} {direction}"] = {
            candidate.key: _in_new_thread(
                partial(working_memory, passes(candidate, tensors, direction), "cpu")
            )
            for candidate in candidates(shape, "cpu", direction, options.full)
        }
    return found


def _in_new_thread(call: Any) -> int:
    """call(), by a thread that has kept no buffer from an earlier convolution."""
    with ThreadPoolExecutor(1) as pool:
        return int(pool.submit(call).result())


def memory_in_a_child() -> dict[str, dict[str, int]]:
    """Working memory by case and candidate."""
    command = [sys.executable, __file__, *sys.argv[1:], "--child"]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    content: dict[str, dict[str, int]] = json.loads(done.stdout.splitlines()[-1])
    return content


def parsed() -> argparse.Namespace:
    """The options, with shapes in the place of their names."""
    parser = arguments(__doc__, several_threads=True)
    parser.add_argument("--full", action="store_true", help="everything, which takes hours")
    parser.add_argument(
        "--shapes",
        nargs="+",
        metavar="NAME",
        help="like 512-1024-r12@41, or sixteen (the default), or networks (with --full)",
    )
    parser.add_argument(
        "--directions", nargs="+", choices=("forward", "backward"), help="with --full: both"
    )
    parser.add_argument("--batch", type=int, nargs="+", metavar="N", help="with --full: 1 10")
    add_option(parser)
    parser.add_argument("--max-seconds", type=float, default=4.0, help="of a case's timing")
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(runs=None)
    options = parse(parser)
    on_gpu = options.device == "cuda"
    options.full = options.full or on_gpu
    options.runs = options.runs or (20 if on_gpu else 5)
    options.directions = options.directions or ["forward", "backward"][: 1 + options.full]
    options.batch = options.batch or [1, 10][: 1 + options.full]
    options.threads = options.threads or ([1] if on_gpu else one_and_two())
    known = {"networks": shapes_of_networks, "sixteen": lambda: list(SIXTEEN)}
    words = options.shapes or (["networks", "sixteen"] if options.full else ["sixteen"])
    names = [name for word in words for name in (known[word]() if word in known else [word])]
    try:
        options.shapes = [Shape.named(name) for name in dict.fromkeys(names)]
    except ValueError as error:
        refuse(f"--shapes: {error}")
    return options


def main() -> None:
    options = parsed()
    obey(options.isa)
    if options.child:
        print(json.dumps(measure_memory(options)))
        return
    torch.backends.cudnn.benchmark = True
    on_gpu = options.device == "cuda"
    memory = {}
    if options.full and not on_gpu:
        print("Working memory is measured first, which shows nothing for some minutes.", flush=True)
        memory = memory_in_a_child()
    about = machine()
    title = (
        f"atrous convolution beside torch {about['torch']}, {about.get('gpu') or about['cpu']}"
        f"{f', both capped at {options.isa}' if options.isa else ''}"
    )
    print("Milliseconds, each side in its better memory format, and torch's time over ours.")
    print("Ours took d: direct, l: the library, w: winograd.")
    variant = "_full" * (options.full and not on_gpu) + (f"_{options.isa}" if options.isa else "")
    write = partial(write_json, options.json, "atrous_vs_cudnn", variant=variant)
    results: list[dict[str, Any]] = []
    with ShapeTable(title, options.threads) as rows:
        for shape, batch, direction in cases(options):
            found = list(measure(shape, batch, direction, options))
            for result in found:
                if batch == 1:
                    in_child = memory.get(f"{shape.name} {direction}", {})
                    result["working_memory_bytes"] |= in_child
            rows.add(found)
            results += found
            write(results)  # so that a run which is stopped was not in vain
    peaks = {} if on_gpu else {threads: product_peak(threads) for threads in options.threads}
    for threads, peak in peaks.items():
        print(f"Peak, torch's plain product on {thread_count(threads)}: {peak:.0f} GFLOP/s")
    summary = means(results, peaks, bool(options.isa))
    console().print("", *means_tables(summary), sep="\n")
    for row in summary:
        if row["group"] == "all" and options.full:
            print(all_means(row))
    found_peaks = [{"threads": t, "product_gflop_per_second": peak} for t, peak in peaks.items()]
    path = write([*results, *summary, *found_peaks])
    print(path, *draw(path), sep="\n")


if __name__ == "__main__":
    main()
