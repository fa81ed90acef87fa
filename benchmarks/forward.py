"""How long the forward pass of a full-size network takes, and how much memory.

python benchmarks/forward.py [--case NAME ...] [--threads 2] [--runs N] [--device D] [--json F]

Networks of the published width with random weights, through `load_caffe` under
`torch.inference_mode`, warm: as Caffe computes them, and fused (`net.fuse()`), in turns; each
network in a process of its own. Before that, the narrow twin of each is held against the
activations that Caffe recorded for it, and the fused network against the other one.

The rise of memory is that of a first pass, above what was in use before, the weights included; for
the fused network in a process of its own, in which nothing else has run.

The figures for Caffe are recorded ones, of the original forks with OpenBLAS on a two-core machine
of the kind that this project is tested on. Caffe does not run here.
"""

from __future__ import annotations

import argparse
import gc
import json
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from _timing import (
    arguments,
    check_agreement,
    compare,
    machine,
    parse,
    peak_memory,
    process_peak,
    write_json,
)
from rich.console import Console
from rich.table import Table

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.caffe.analysis import analyse
from deeplab_repro.caffe.graph import GraphModule
from deeplab_repro.models import write_network
from deeplab_repro.parity.comparison import compare_recording
from deeplab_repro.parity.recordings import bundled_recordings
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net

MB = 1e6


@dataclass(frozen=True)
class Case:
    network: str
    size: int
    twin: str  # its narrow twin in tests/data/caffe
    caffe_seconds: float
    caffe_gb: float
    goal_seconds: float  # of the fused network on two cores


CASES = {
    "resnet101-msc-aspp@321": Case("resnet101-msc-aspp", 321, "resnet101_msc_w16", 3.1, 5.3, 1.7),
    "largefov@513": Case("largefov", 513, "largefov_v2_w8", 2.2, 2.6, 1.5),
    "aspp-l@321": Case("aspp-l", 321, "vgg16_aspp_l_w8", 1.25, 2.7, 0.9),
}


def measure_memory(name: str, device: str) -> dict[str, Any]:
    """The fused network's first pass in this process, which should be a fresh one."""
    net, x = prepare(name, device)
    fused = net.fuse()
    del net
    gc.collect()
    increase = peak_memory(lambda: run(fused, x), device)
    return {
        "fused_peak_increase_mb": increase / MB,
        "fused_process_peak_rss_mb": process_peak() / MB,
    }


def measure(name: str, device: str, runs: int) -> dict[str, Any]:
    """One case in this process, which should be a fresh one."""
    case = CASES[name]
    net, x = prepare(name, device)
    increase = peak_memory(lambda: run(net, x), device)
    peak = process_peak()
    fused = net.fuse()
    scores = run(net, x)
    if not torch.isfinite(scores).all():
        raise SystemExit(f"{name}: the scores are not finite")
    worst = check_agreement(f"{name}, fused", run(fused, x), scores, AGREEMENT["fused"].rel)
    candidates = {"unfused": lambda: run(net, x), "fused": lambda: run(fused, x)}
    timings = compare(candidates, device, runs)
    weights = {id(blob): blob.numel() * 4 for blobs in net.params.values() for blob in blobs}
    operations = 2 * sum(row.multiply_adds or 0 for row in analyse(net.net))
    return {
        "network": name,
        "device": device,
        "seconds": asdict(timings["unfused"]),
        "fused_seconds": asdict(timings["fused"]),
        "fused_goal_seconds": case.goal_seconds,
        "fused_rel": worst,
        "gflop": operations / 1e9,
        "fused_gflop_per_second": operations / 1e9 / timings["fused"].median,
        "weights_mb": sum(weights.values()) / MB,
        "forward_peak_increase_mb": increase / MB,
        "process_peak_rss_mb": peak / MB,
        "caffe_recorded_seconds": case.caffe_seconds,
        "caffe_recorded_peak_mb": case.caffe_gb * 1000,
    }


def prepare(name: str, device: str) -> tuple[CaffeNet, torch.Tensor]:
    case = CASES[name]
    # On a GPU: float32 in full, as Caffe multiplied it, by the fastest that the library has.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    net = load_caffe(parse_net(write_network(case.network, input_size=case.size)))
    fill(net)
    net.to(device)
    x = torch.randn(1, 3, case.size, case.size, generator=torch.Generator().manual_seed(0)) * 50
    gc.collect()
    return net, x.to(device)


def run(net: GraphModule, x: torch.Tensor) -> torch.Tensor:
    with torch.inference_mode():
        return next(iter(net(data=x).values()))


def check(twin: str) -> float:
    """The narrow twin's largest relative distance from Caffe; too large a one ends the program."""
    recordings = bundled_recordings(Path(__file__).resolve().parent.parent / "tests" / "data")
    recording = next(item for item in recordings if item.name == twin)
    net = load_caffe(recording.prototxt, recording.model)
    worst = 0.0
    for report in compare_recording(net, recording, AGREEMENT["caffe"]):
        if not report.equal:
            raise SystemExit(f"{twin}: blob {report.blob} differs from Caffe's: {report.agreement}")
        worst = max(worst, report.agreement.rel)
    return worst


def fill(net: CaffeNet) -> None:
    """Random weights that keep the values finite through a hundred layers, as trained ones do."""
    random = torch.Generator().manual_seed(0)
    types = {layer.name: layer.type for layer in net.net.layers}
    seen: set[int] = set()
    with torch.no_grad():
        for layer, blobs in net.params.items():
            for i, blob in enumerate(blobs):
                if blob.data_ptr() in seen:
                    continue
                seen.add(blob.data_ptr())
                if types[layer] == "BatchNorm":  # mean 0, variance 1, factor 1
                    blob.fill_(0 if i == 0 else 1)
                elif types[layer] == "Scale":
                    blob.fill_(0.5 if i == 0 else 0)
                elif i == 0:
                    blob.normal_(0, (2 / blob[0].numel()) ** 0.5, generator=random)
                else:
                    blob.zero_()


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--case", choices=CASES, nargs="+", default=list(CASES))
    parser.add_argument("--child", choices=["time", "memory"], help=argparse.SUPPRESS)
    parser.set_defaults(threads=2, runs=9)
    options = parse(parser)
    if options.child == "time":
        print(json.dumps(measure(options.case[0], options.device, options.runs)))
        return
    if options.child == "memory":
        print(json.dumps(measure_memory(options.case[0], options.device)))
        return
    results = []
    for name in options.case:
        result: dict[str, Any] = {"worst_rel_of_narrow_twin": check(CASES[name].twin)}
        for what in ("time", "memory"):
            command = [sys.executable, __file__, "--child", what, "--case", name]
            for option in ("threads", "runs", "device"):
                command += [f"--{option}", str(getattr(options, option))]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            result = json.loads(done.stdout) | result
        results.append(result)
    show(results)
    print(write_json(options.json, "forward", results))


def show(results: list[dict[str, Any]]) -> None:
    about = machine()
    table = Table(title=f"Forward pass, {about['threads']} threads, {about['cpu']}")
    table.add_column("network", no_wrap=True)
    headings = (
        "s",
        "fused s",
        "goal s",
        "GFLOP/s",
        "Caffe* s",
        "weights MB",
        "rise MB",
        "fused MB",
    )
    for heading in (*headings, "Caffe* MB"):
        table.add_column(heading, justify="right")
    for r in results:
        table.add_row(
            r["network"],
            f"{r['seconds']['median']:.2f}",
            f"{r['fused_seconds']['median']:.2f}",
            f"{r['fused_goal_seconds']:.1f}",
            f"{r['fused_gflop_per_second']:.0f}",
            f"{r['caffe_recorded_seconds']:.2f}",
            f"{r['weights_mb']:.0f}",
            f"{r['forward_peak_increase_mb']:.0f}",
            f"{r['fused_peak_increase_mb']:.0f}",
            f"{r['caffe_recorded_peak_mb']:.0f}",
        )
    console = Console(width=120)
    console.print(table)
    console.print("* recorded figures on a machine of this kind, not measured here")


if __name__ == "__main__":
    main()
