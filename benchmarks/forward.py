"""How long the forward pass of a full-size network takes, beside others, and how much memory.

python benchmarks/forward.py [--case NAME ...] [--threads 2] [--isa avx2] [--runs N] [--device D]

Networks of the published width with random weights under `torch.inference_mode`, warm: as Caffe
computes them, fused (`net.fuse()`), fused with accuracy="fast", the same fused network with torch's
own convolutions ("library"), and where they are installed onnxruntime and OpenVINO with our own
ONNX export of it, in float32. Each has a process of its own with as many threads, and they run in
turns. Of a peer that is not there the table says so, and claims no ratio. Before that, the narrow
twin of each network is held against the activations that Caffe recorded for it, and everything else
against the network as Caffe computes it.

The rise of memory is that of a first pass, above what was in use before, the weights included. An
export takes a minute or two, and is kept in the system's folder for temporary files.

The figures for Caffe are recorded ones, of the original forks with OpenBLAS on another machine.
Caffe does not run here, so nothing is said about how it compares.
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import os
import subprocess
import sys
import tempfile
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

import _capped
import torch
from _live import LiveTable
from _runtimes import RUNTIMES, version
from _timing import (
    arguments,
    check_agreement,
    compare,
    launched_seconds,
    machine,
    parse,
    peak_memory,
    process_peak,
    thread_count,
    why_not,
    write_json,
)
from _workers import Worker, seconds_there, serve

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.caffe.analysis import analyse
from deeplab_repro.caffe.export import export_onnx
from deeplab_repro.caffe.graph import GraphModule
from deeplab_repro.models import write_network
from deeplab_repro.parity.comparison import compare_recording
from deeplab_repro.parity.recordings import bundled_recordings
from deeplab_repro.parity.tolerances import AGREEMENT
from prototxt_import import parse_net

MB = 1e6
#: Seconds in which the waiting threads of another library come to rest.
REST = 0.1


@dataclass(frozen=True)
class Case:
    """A network; the goals are how many times as long the fastest peer takes."""

    network: str
    size: int
    twin: str  # its narrow twin in tests/data/caffe
    caffe_seconds: float
    caffe_gb: float
    goal: float = 1.25
    fast_goal: float = 1.6


CASES = {
    "resnet101-msc-aspp@321": Case(
        "resnet101-msc-aspp", 321, "resnet101_msc_w16", 3.1, 5.3, fast_goal=1.45
    ),
    "largefov@513": Case("largefov", 513, "largefov_v2_w8", 2.2, 2.6),
    "aspp-l@321": Case("aspp-l", 321, "vgg16_aspp_l_w8", 1.25, 2.7),
}
#: Ours, and the key of its seconds in the results.
OURS = {"unfused": "seconds", "fused": "fused_seconds", "fused fast": "fast_seconds"}
LIBRARY = "library"


def measure(name: str, options: argparse.Namespace) -> dict[str, Any]:
    """One case."""
    device, missing = options.device, missing_runtimes(options)
    names = [*OURS, LIBRARY, *(peer for peer in RUNTIMES if peer not in missing)]
    if device != "cpu":
        names.remove("fused fast")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        if len(missing) < len(RUNTIMES):
            words = child(name, "export", options)
            subprocess.run([sys.executable, *words, str(exported(name, options.width))], check=True)
        workers = {}
        for key in names:
            words = [*child(name, key, options), str(folder / f"{key}.pt")]
            workers[key] = stack.enter_context(Worker(words))
        scores = torch.load(folder / "unfused.pt")
        if not torch.isfinite(scores).all():
            raise SystemExit(f"{name}: the scores are not finite")
        limit = AGREEMENT["fused"].rel
        differences = {
            key: check_agreement(f"{name}, {key}", torch.load(folder / f"{key}.pt"), scores, limit)
            for key in names
        }
        timings = compare(
            {key: worker.run for key, worker in workers.items()},
            runs=options.runs,
            warm_up=1,
            clock=seconds_there,
            rest=REST,
        )
    unfused, fused = (workers[key].about for key in ("unfused", "fused"))
    peers = [peer for peer in (LIBRARY, *RUNTIMES) if peer in timings]
    case = CASES[name]
    return {
        "network": name,
        "device": device,
        "threads": options.threads,
        "channels_divided_by": options.width,
        **{OURS[key]: asdict(timings[key]) for key in OURS if key in timings},
        "fused_rel": differences["fused"],
        "relative_difference": differences,
        "peers_seconds": {peer: asdict(timings[peer]) for peer in peers},
        "peers_versions": {peer: version(peer) for peer in peers if peer != LIBRARY},
        "missing_peers": missing,
        "times_faster": {
            key: {peer: timings[peer].median / timings[key].median for peer in peers}
            for key in ("fused", "fused fast")
            if key in timings
        },
        "goals": {"fused": case.goal, "fused fast": case.fast_goal},
        "gflop": unfused["gflop"],
        "fused_gflop_per_second": unfused["gflop"] / timings["fused"].median,
        "weights_mb": unfused["weights_mb"],
        "forward_peak_increase_mb": unfused["peak_increase_mb"],
        "process_peak_rss_mb": unfused["process_peak_rss_mb"],
        "fused_peak_increase_mb": fused["peak_increase_mb"],
        "fused_process_peak_rss_mb": fused["process_peak_rss_mb"],
        "processes_peak_rss_mb": {
            key: w.about["process_peak_rss_mb"] for key, w in workers.items()
        },
        "caffe_recorded_seconds": case.caffe_seconds,
        "caffe_recorded_peak_mb": case.caffe_gb * 1000,
    }


def child(name: str, key: str, options: argparse.Namespace) -> list[str]:
    """The command line of a process for one candidate, but the file that it writes."""
    words = [__file__, "--case", name, "--device", options.device, "--width", str(options.width)]
    return [*words, "--threads", str(options.threads), "--child", key]


def serve_candidate(name: str, key: str, options: argparse.Namespace) -> None:
    """Write the scores of a first pass to the output file, then run when told to."""
    device = options.device
    x = picture(name, device)
    about: dict[str, float] = {}
    if key in RUNTIMES:
        call = RUNTIMES[key].load(exported(name, options.width), x, options.threads)
    else:
        net: GraphModule = prepare(name, device, options.width)
        weights = {id(blob): blob.numel() * 4 for blobs in net.params.values() for blob in blobs}
        operations = 2 * sum(row.multiply_adds or 0 for row in analyse(net.net))
        about = {"gflop": operations / 1e9, "weights_mb": sum(weights.values()) / MB}
        if key != "unfused":
            net = net.fuse(accuracy="fast" if key == "fused fast" else "exact")
        if key == LIBRARY:
            net.set_algorithm("library")
        gc.collect()
        call = partial(run, net, x)
    scores: list[torch.Tensor] = []
    increase = peak_memory(lambda: scores.append(call()), device)
    about |= {"peak_increase_mb": increase / MB, "process_peak_rss_mb": process_peak() / MB}
    torch.save(scores.pop().cpu(), options.output)
    serve(call, about, launched_seconds(device))


def missing_runtimes(options: argparse.Namespace) -> dict[str, str]:
    """Runtime -> why it is not measured."""
    if options.device != "cpu":
        return dict.fromkeys(RUNTIMES, "they run on the CPU")
    if options.isa:
        return dict.fromkeys(RUNTIMES, "its instruction set cannot be capped")
    found = {name: why_not("onnx") or why_not(r.module) for name, r in RUNTIMES.items()}
    return {name: why for name, why in found.items() if why}


def prototxt(name: str, width: int) -> str:
    case = CASES[name]
    return write_network(case.network, input_size=case.size, width=width)


def exported(name: str, width: int) -> Path:
    """Where the export of a network is kept; an old one is checked as all candidates are."""
    words = f"{prototxt(name, width)} {torch.__version__}"
    key = hashlib.sha256(words.encode()).hexdigest()[:16]
    folder = Path(tempfile.gettempdir()) / f"deeplab_repro_onnx_{os.getuid()}"
    folder.mkdir(mode=0o700, exist_ok=True)
    return folder / f"{name}_{key}.onnx"


def picture(name: str, device: str) -> torch.Tensor:
    """(1, 3, size, size): normal values, as large as a picture's without its mean."""
    size = CASES[name].size
    x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(0)) * 50
    return x.to(device)


def prepare(name: str, device: str, width: int) -> CaffeNet:
    """The network with random weights."""
    # On a GPU: float32 in full, as Caffe multiplied it, by the fastest that the library has.
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True
    net = load_caffe(parse_net(prototxt(name, width)))
    fill(net)
    net.to(device)
    return net


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
    parser.add_argument(
        "--width", type=int, default=1, help="divide the channel counts, to try this out"
    )
    parser.add_argument("--child", help=argparse.SUPPRESS)
    parser.add_argument("output", type=Path, nargs="?", help=argparse.SUPPRESS)
    _capped.add_option(parser)
    parser.set_defaults(threads=2, runs=7)
    options = parse(parser)
    _capped.obey(options.isa)
    if options.child == "export":
        if not options.output.is_file():
            name = options.case[0]
            shapes = {"data": (1, 3, CASES[name].size, CASES[name].size)}
            export_onnx(prepare(name, "cpu", options.width).fuse(), options.output, shapes)
        return
    if options.child:
        serve_candidate(options.case[0], options.child, options)
        return
    results = []
    title = f"Forward pass, {thread_count(options.threads)}, {machine()['cpu']}"
    with LiveTable(title, ["", "s", "over\nfused", "\ngoal", "over\nfast", "\ngoal"], 40) as table:
        for name in options.case:
            result = measure(name, options) | {"worst_rel_of_narrow_twin": check(CASES[name].twin)}
            for row in rows(result):
                table.add(*row)
            results.append(result)
    for r in results:
        print(
            f"{r['network']}: weights {r['weights_mb']:.0f} MB, rise of memory"
            f" {r['forward_peak_increase_mb']:.0f} MB, fused {r['fused_peak_increase_mb']:.0f} MB,"
            f" fused {r['fused_gflop_per_second']:.0f} GFLOP/s;"
            f" Caffe's recorded peak {r['caffe_recorded_peak_mb']:.0f} MB"
        )
    print("* recorded on another machine")
    variant = f"_{options.isa}" if options.isa else ""
    print(write_json(options.json, "forward", results, variant))


def rows(result: dict[str, Any]) -> list[list[str]]:
    """Of the table: ours, each peer with its time over ours, and why a peer is missing."""
    name, over, goals = result["network"], result["times_faster"], result["goals"]
    found = [
        [f"{name} {key}", f"{result[seconds]['median']:.2f}", "", "", "", ""]
        for key, seconds in OURS.items()
        if seconds in result
    ]
    for peer, seconds in result["peers_seconds"].items():
        cells = [f"{name} {peer}", f"{seconds['median']:.2f}"]
        for key in ("fused", "fused fast"):
            ratio = over.get(key, {}).get(peer)
            cells += [f"{ratio:.2f}" if ratio else "-", f"{goals[key]:.2f}"]
        found.append(cells)
    for peer, why in result["missing_peers"].items():
        found.append([f"{name} {peer}: {why}", *"-----"])
    found.append([f"{name} Caffe*", f"{result['caffe_recorded_seconds']:.2f}", *"----"])
    return found


if __name__ == "__main__":
    main()
