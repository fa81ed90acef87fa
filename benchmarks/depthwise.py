"""How near to the memory's limit is the convolution of single channels? Against torch's own.

python benchmarks/depthwise.py [--threads 1 2] [--isa avx2|avx512] [--match TEXT] [--backward]

Layers of Xception-65 and MobileNet v2 on pictures of 513 x 513, forward: bare, and with what stands
around them in the networks, which torch computes by operations of its own (ReLU before, bias, ReLU6
behind). Both sides in both memory formats; `ratio` is torch's time over ours, each in the format
that it is faster in. A copy of x to y is timed in the same turns: nothing that reads x once and
writes y once is faster by more than its caches allow, and `of copy` is our rate in bytes over its.
"""

from __future__ import annotations

import argparse
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from _capped import add_option, obey
from _live import LiveTable
from _timing import (
    arguments,
    check_agreement,
    compare,
    machine,
    one_and_two,
    parse,
    thread_count,
    write_json,
)

from deeplab_repro.ops import atrous_conv2d

FORMATS = {"contiguous": torch.contiguous_format, "channels-last": torch.channels_last}
LIMIT = 1e-5  # relative
GOAL = 2.0  # torch's time over ours

Passes = dict[str, Callable[[], torch.Tensor]]


class Layer(NamedTuple):
    """Channels, size of the map, filter, stride and rate; y is as large as x over the stride."""

    channels: int
    size: int
    kernel: int = 3
    stride: int = 1
    rate: int = 1

    @property
    def name(self) -> str:
        text = f"{self.channels}@{self.size}"
        parts = [f"{self.kernel}x{self.kernel}"] if self.kernel != 3 else []
        parts += [f"s{self.stride}"] if self.stride > 1 else []
        return " ".join([text, *parts, f"r{self.rate}"])

    @property
    def padding(self) -> int:
        return self.rate * (self.kernel // 2)


LAYERS = (
    # Xception's entry flow, middle flow at output stride 16 and 8, exit flow.
    Layer(128, 257),
    Layer(128, 257, stride=2),
    Layer(256, 129),
    Layer(728, 33),
    Layer(728, 65, rate=2),
    Layer(1536, 33, rate=2),
    Layer(1536, 65, rate=4),
    # The separable ASPP at output stride 16 and 8, and the decoder.
    *(Layer(2048, 33, rate=rate) for rate in (6, 12, 18)),
    *(Layer(2048, 65, rate=rate) for rate in (12, 24, 36)),
    Layer(304, 129),
    # MobileNet v2, and a 5x5 layer of v3.
    Layer(96, 257, stride=2),
    Layer(144, 129),
    Layer(576, 33, rate=2),
    Layer(960, 33, rate=4),
    Layer(672, 33, kernel=5, rate=2),
)


def passes(layer: Layer, fused: bool) -> Passes:
    """By side and memory format, on the same values."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, layer.channels, layer.size, layer.size, generator=generator)
    weight = torch.randn(layer.channels, 1, layer.kernel, layer.kernel, generator=generator)
    bias = torch.randn(layer.channels, generator=generator) if fused else None
    stride, padding, rate, groups = layer.stride, layer.padding, layer.rate, layer.channels

    def ours(x: torch.Tensor) -> torch.Tensor:
        if not fused:
            return atrous_conv2d(x, weight, bias, stride, padding, rate, groups)
        return atrous_conv2d(
            x,
            weight,
            bias,
            stride,
            padding,
            rate,
            groups,
            activation="relu6",
            pre_activation="relu",
        )

    def theirs(x: torch.Tensor) -> torch.Tensor:
        if not fused:
            return F.conv2d(x, weight, bias, stride, padding, rate, groups)
        return F.relu6(
            F.conv2d(x.relu(), weight, bias, stride, padding, rate, groups), inplace=True
        )

    found: Passes = {}
    for name, layout in FORMATS.items():
        as_laid = x.contiguous(memory_format=layout)
        found[f"ours, {name}"] = functools.partial(ours, as_laid)
        found[f"torch, {name}"] = functools.partial(theirs, as_laid)
    return found


def backward(layer: Layer) -> Passes:
    """Both gradients, by side and memory format."""
    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1, layer.channels, layer.size, layer.size, generator=generator)
    weight = torch.randn(layer.channels, 1, layer.kernel, layer.kernel, generator=generator)
    stride, padding, rate, groups = layer.stride, layer.padding, layer.rate, layer.channels
    found: Passes = {}
    for name, layout in FORMATS.items():
        as_laid = x.contiguous(memory_format=layout).requires_grad_()
        leaves = [as_laid, weight.requires_grad_()]
        maps = {
            "ours": atrous_conv2d(as_laid, weight, None, stride, padding, rate, groups),
            "torch": F.conv2d(as_laid, weight, None, stride, padding, rate, groups),
        }
        for side, y in maps.items():
            found[f"{side}, {name}"] = functools.partial(_gradients, y, leaves, torch.ones_like(y))
    return found


def _gradients(y: torch.Tensor, leaves: list[torch.Tensor], grad: torch.Tensor) -> torch.Tensor:
    """Computes grad_x and grad_weight; returns both, end to end."""
    grads = torch.autograd.grad(y, leaves, grad, retain_graph=True)
    return torch.cat([g.flatten() for g in grads])


def measure(layer: Layer, what: str, threads: int, options: argparse.Namespace) -> dict[str, Any]:
    """One line of the table, for the JSON."""
    torch.set_num_threads(threads)
    runs = backward(layer) if what == "backward" else passes(layer, what == "fused")
    expected = runs["torch, contiguous"]()
    differences = {
        name: check_agreement(f"{layer.name} {name}", run(), expected, LIMIT)
        for name, run in runs.items()
        if name != "torch, contiguous"
    }
    x = torch.randn(1, layer.channels, layer.size, layer.size)
    y = torch.empty_like(x)
    runs["copy"] = lambda: y.copy_(x)
    seconds = compare(runs, "cpu", options.runs, max_seconds=options.max_seconds)
    best = {
        side: min((name for name in seconds if name.startswith(side)),
                  key=lambda name: seconds[name].median)
        for side in ("ours", "torch")
    }  # fmt: skip
    out = -(-layer.size // layer.stride)
    moved = 4 * layer.channels * (layer.size**2 + out**2)
    if what == "backward":  # grad_y twice, x, and grad_x
        moved = 4 * layer.channels * (2 * layer.size**2 + 2 * out**2)
    rate = moved / seconds[best["ours"]].median
    copied = 2 * x.numel() * x.element_size() / seconds["copy"].median
    return {
        "layer": layer.name,
        **layer._asdict(),
        "what": what,
        "threads": threads,
        "bytes": moved,
        "relative_difference": differences,
        "seconds": seconds,
        "best": best,
        "ratio": seconds[best["torch"]].median / seconds[best["ours"]].median,
        "gb_per_s": rate / 1e9,
        "copy_gb_per_s": copied / 1e9,
        "of_copy": rate / copied,
        "goal": GOAL,
    }


def cases(options: argparse.Namespace) -> Iterator[tuple[Layer, str, int]]:
    for threads in options.threads:
        for layer in LAYERS:
            if options.match not in layer.name:
                continue
            for what in ("bare", "fused", *(["backward"] if options.backward else [])):
                yield layer, what, threads


def main() -> None:
    parser = arguments(__doc__, several_threads=True)
    add_option(parser)
    parser.add_argument("--match", default="", help="only layers whose name contains this")
    parser.add_argument("--backward", action="store_true", help="the gradients as well")
    parser.add_argument("--max-seconds", type=float, default=6.0, help="of a case's timing")
    parser.set_defaults(device="cpu", threads=one_and_two())
    options = parse(parser)
    obey(options.isa)
    title = f"ms of single channels, {machine()['cpu']}"
    names = [f"{side}\n{name}" for name in FORMATS for side in ("ours", "torch")]
    headings = ["", "", "", *names, "copy", "ratio", "of copy"]
    results = []
    with LiveTable(title, headings, 18) as table:
        for layer, what, threads in cases(options):
            with torch.inference_mode(what != "backward"):
                result = measure(layer, what, threads, options)
            table.add(
                layer.name,
                what,
                thread_count(threads),
                *(f"{1e3 * timing.median:.2f}" for timing in result["seconds"].values()),
                f"{result['ratio']:.2f}",
                f"{result['of_copy']:.2f}",
            )
            results.append(result)
    variant = f"_{options.isa}" if options.isa else ""
    print(write_json(options.json, "depthwise", results, variant))


if __name__ == "__main__":
    main()
