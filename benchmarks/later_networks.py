"""How long DeepLab v3 and v3+ take, beside torchvision's and beside plain torch modules.

python benchmarks/later_networks.py [--case NAME ...] [--threads 2] [--isa avx2] [--runs N]

One picture of 513 x 513 under `torch.inference_mode`, warm. `resnet101` is torchvision's
deeplabv3_resnet101 with random weights, and ours is made of its state dict; where torchvision is
not installed, the row says so and no ratio is claimed. `xception65` is v3+ with its decoder. The
peer `torch` is the same network of torch's own modules: nn.Conv2d, nn.BatchNorm2d and nn.ReLU one
after the other. Peers run in both memory formats, of which the faster one counts. Each candidate
has a process of its own with as many threads, and they run in turns; before that, all are held
against the plain network.
"""

from __future__ import annotations

import argparse
import tempfile
from contextlib import ExitStack
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import _capped
import torch
from _live import LiveTable
from _timing import (
    arguments,
    check_agreement,
    compare,
    launched_seconds,
    machine,
    parse,
    process_peak,
    thread_count,
    why_not,
    write_json,
)
from _workers import Worker, seconds_there, serve
from torch import nn

from deeplab_repro.models import create_model, load
from deeplab_repro.ops import AtrousConv2d
from deeplab_repro.parity.tolerances import AGREEMENT

CASES = ("resnet101", "xception65")
OURS = ("fused", "fused fast")
CHANNELS_LAST = " channels-last"
#: Times as long as ours that a peer is to take.
GOAL = 1.3
REST = 0.1  # seconds in which the waiting threads of another candidate come to rest


def measure(case: str, options: argparse.Namespace) -> dict[str, Any]:
    """One case: every candidate's seconds, and how many times as long the peers take."""
    missing = {} if case != "resnet101" else {"torchvision": why_not("torchvision")}
    missing = {peer: why for peer, why in missing.items() if why}
    peers = ["torch"] + (["torchvision"] if case == "resnet101" and not missing else [])
    names = [*OURS, *(peer + form for peer in peers for form in ("", CHANNELS_LAST))]
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        weights = folder / "weights.pt"
        torch.save(state_dict(case), weights)
        workers = {}
        for name in names:
            words = [__file__, "--case", case, "--threads", str(options.threads)]
            words += ["--size", str(options.size)]
            words += ["--child", name, str(weights), str(folder / f"{name}.pt")]
            workers[name] = stack.enter_context(Worker(words))
        scores = torch.load(folder / "torch.pt")
        differences = {
            name: check_agreement(
                f"{case}, {name}", torch.load(folder / f"{name}.pt"), scores, AGREEMENT["fused"].rel
            )
            for name in names
        }
        timings = compare(
            {name: worker.run for name, worker in workers.items()},
            runs=options.runs,
            warm_up=1,
            max_seconds=180,
            clock=seconds_there,
            rest=REST,
        )
    best = {peer: min(timings[peer].median, timings[peer + CHANNELS_LAST].median) for peer in peers}
    return {
        "network": f"{case}@{options.size}",
        "threads": options.threads,
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
        "times_faster": {
            name: {peer: best[peer] / timings[name].median for peer in peers} for name in OURS
        },
        "goal": GOAL,
        "relative_difference": differences,
        "process_peak_rss_mb": {name: worker.about["peak_mb"] for name, worker in workers.items()},
        "missing_peers": missing,
    }


def state_dict(case: str) -> dict[str, torch.Tensor]:
    """Random weights that keep the values finite, under the names of the network that has them."""
    torch.manual_seed(0)
    if case == "resnet101" and not why_not("torchvision"):
        net = torchvision_network()
    else:
        net = ours(case)
    for module in net.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 1.5)
            nn.init.normal_(module.running_mean, 0.0, 0.1)
    return net.state_dict()


def torchvision_network() -> nn.Module:
    from torchvision.models.segmentation import deeplabv3_resnet101

    net: nn.Module = deeplabv3_resnet101(weights=None, weights_backbone=None, num_classes=21)
    return net


def ours(case: str) -> nn.Module:
    """The network as `create_model` gives it."""
    name = {"resnet101": "deeplab_v3_resnet101", "xception65": "deeplab_v3plus_xception65"}[case]
    return create_model(name, output_stride=8 if case == "resnet101" else 16)


def network(case: str, name: str, weights: Path) -> nn.Module:
    """A candidate with the weights of the file."""
    state = torch.load(weights)
    if name.startswith("torchvision"):
        net = torchvision_network()
        net.load_state_dict(state)
        return net.eval()
    if case == "resnet101" and not why_not("torchvision"):
        net = load(weights)
    else:
        net = ours(case)
        net.load_state_dict(state)
    net.eval()
    if name in OURS:
        return net.fuse(accuracy="fast" if name == "fused fast" else "exact")
    return plain(net)


def plain(net: nn.Module) -> nn.Module:
    """The network with torch's own convolutions in place of ours."""
    for parent in list(net.modules()):
        for name, child in list(parent.named_children()):
            if isinstance(child, AtrousConv2d):
                setattr(parent, name, PlainConv2d(child))
    return net


class PlainConv2d(nn.Conv2d):
    """nn.Conv2d with another convolution's window and weights."""

    def __init__(self, conv: AtrousConv2d) -> None:
        super().__init__(
            conv.in_channels,
            conv.out_channels,
            conv.kernel_size,
            conv.stride,
            conv.padding,
            conv.rate,
            conv.groups,
            conv.bias is not None,
        )
        self.load_state_dict(conv.state_dict())


def serve_candidate(options: argparse.Namespace) -> None:
    """Write the scores of a first pass to the output file, then run when told to."""
    name = options.child
    net = network(options.case[0], name, options.weights)
    x = torch.rand(1, 3, options.size, options.size, generator=torch.Generator().manual_seed(0))
    x = x * 255 if options.case[0] == "xception65" else x * 4 - 2
    if name.endswith(CHANNELS_LAST):
        net = net.to(memory_format=torch.channels_last)
        x = x.contiguous(memory_format=torch.channels_last)
    call = partial(run, net, x)
    torch.save(call().contiguous(), options.output)
    serve(call, {"peak_mb": process_peak() / 1e6}, launched_seconds("cpu"))


def run(net: nn.Module, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        scores = net(x)
    found: torch.Tensor = scores["out"] if isinstance(scores, dict) else scores
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--size", type=int, default=513, help="side of the picture")
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("weights", type=Path, nargs="?", help=argparse.SUPPRESS)
    parser.add_argument("output", type=Path, nargs="?", help=argparse.SUPPRESS)
    _capped.add_option(parser)
    parser.set_defaults(threads=2, runs=7)
    options = parse(parser)
    _capped.obey(options.isa)
    if options.child:
        serve_candidate(options)
        return
    results = []
    title = f"Forward pass, {thread_count(options.threads)}, {machine()['cpu']}"
    columns = ["", "s", "over\nfused", "over\nfast", "\ngoal"]
    with LiveTable(title, columns, 36) as table:
        for case in options.case:
            result = measure(case, options)
            for row in rows(result):
                table.add(*row)
            results.append(result)
    variant = f"_{options.isa}" if options.isa else ""
    print(write_json(options.json, "later_networks", results, variant))


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Of the table: all candidates, and behind the faster format of a peer its time over ours."""
    network, seconds = result["network"], result["seconds"]
    found = []
    for name, timing in seconds.items():
        cells = [f"{network} {name}", f"{timing['median']:.2f}", "", "", ""]
        peer = name.removesuffix(CHANNELS_LAST)
        if name not in OURS and timing["median"] == min(
            seconds[peer]["median"], seconds[peer + CHANNELS_LAST]["median"]
        ):
            cells[2:] = [f"{result['times_faster'][key][peer]:.2f}" for key in OURS]
            cells.append(f"{result['goal']:.2f}")
        found.append(cells)
    for peer, why in result["missing_peers"].items():
        found.append([f"{network} {peer}: {why}", *"----"])
    return found


if __name__ == "__main__":
    main()
