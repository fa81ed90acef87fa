"""How long the forward pass of a full-size network takes, and how much memory.

python benchmarks/forward.py [--case NAME ...] [--threads 2] [--runs N] [--device D] [--json F]

Networks of the published width with random weights, unfused, through `load_caffe` under
`torch.inference_mode`, warm; each in a process of its own. Before that, the narrow twin of each is
held against the activations that Caffe recorded for it.

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
from deeplab_repro.networks import write_network
from deeplab_repro.parity import compare_recording
from deeplab_repro.testing.recordings import bundled_recordings
from deeplab_repro.testing.tolerances import AGREEMENT
from prototxt_import import parse_net

MB = 1e6


@dataclass(frozen=True)
class Case:
    network: str
    size: int
    twin: str  # its narrow twin in tests/data/caffe
    caffe_seconds: float
    caffe_gb: float


CASES = {
    "resnet101-msc-aspp@321": Case("resnet101-msc-aspp", 321, "resnet101_msc_w16", 3.1, 5.3),
    "largefov@513": Case("largefov", 513, "largefov_v2_w8", 2.2, 2.6),
    "aspp-l@321": Case("aspp-l", 321, "vgg16_aspp_l_w8", 1.25, 2.7),
}


def measure(name: str, device: str, runs: int) -> dict[str, Any]:
    """One case in this process, which should be a fresh one."""
    case = CASES[name]
    net = load_caffe(parse_net(write_network(case.network, input_size=case.size)))
    fill(net)
    net.to(device)
    x = torch.randn(1, 3, case.size, case.size, generator=torch.Generator().manual_seed(0)) * 50
    x = x.to(device)
    gc.collect()

    def forward() -> torch.Tensor:
        with torch.inference_mode():
            return next(iter(net(data=x).values()))

    increase = peak_memory(forward, device)
    if not torch.isfinite(forward()).all():
        raise SystemExit(f"{name}: the scores are not finite")
    timing = compare({name: forward}, device, runs)[name]
    weights = {id(blob): blob.numel() * 4 for blobs in net.params.values() for blob in blobs}
    return {
        "network": name,
        "device": device,
        "seconds": asdict(timing),
        "weights_mb": sum(weights.values()) / MB,
        "forward_peak_increase_mb": increase / MB,
        "process_peak_rss_mb": process_peak() / MB,
        "caffe_recorded_seconds": case.caffe_seconds,
        "caffe_recorded_peak_mb": case.caffe_gb * 1000,
    }


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
    parser.add_argument("--child", action="store_true", help=argparse.SUPPRESS)
    parser.set_defaults(threads=2, runs=9)
    options = parse(parser)
    if options.child:
        print(json.dumps(measure(options.case[0], options.device, options.runs)))
        return
    results = []
    for name in options.case:
        worst = check(CASES[name].twin)
        command = [sys.executable, __file__, "--child", "--case", name]
        for option in ("threads", "runs", "device"):
            command += [f"--{option}", str(getattr(options, option))]
        done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        results.append({**json.loads(done.stdout), "worst_rel_of_narrow_twin": worst})
    show(results)
    print(write_json(options.json, "forward", results))


def show(results: list[dict[str, Any]]) -> None:
    about = machine()
    table = Table(title=f"Forward pass, unfused, {about['threads']} threads, {about['cpu']}")
    table.add_column("network", no_wrap=True)
    for heading in ("s", "Caffe* s", "ratio", "weights MB", "rise MB", "peak RSS MB", "Caffe* MB"):
        table.add_column(heading, justify="right")
    for r in results:
        seconds, caffe = r["seconds"]["median"], r["caffe_recorded_seconds"]
        table.add_row(
            r["network"],
            f"{seconds:.2f}",
            f"{caffe:.2f}",
            f"{caffe / seconds:.1f}",
            f"{r['weights_mb']:.0f}",
            f"{r['forward_peak_increase_mb']:.0f}",
            f"{r['process_peak_rss_mb']:.0f}",
            f"{r['caffe_recorded_peak_mb']:.0f}",
        )
    console = Console(width=110)
    console.print(table)
    console.print("* recorded figures on a machine of this kind, not measured here")


if __name__ == "__main__":
    main()
