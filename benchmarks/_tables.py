"""Writes the tables of docs/measured.md from the results beside this file.

python benchmarks/_tables.py

A test holds the page against them, so that no number there differs from the JSON behind it.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path
from statistics import geometric_mean
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "measured.md"
RESULTS = ROOT / "benchmarks" / "results"
_BLOCK = re.compile(r"(?<=<!-- numbers -->\n).*(?=<!-- /numbers -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """What the benchmark of that name wrote, on the one machine where it was run."""
    (path,) = RESULTS.glob(f"*/{name}.json")
    content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    return content


def _machine(path: Path, about: dict[str, Any]) -> str:
    """On which machine a file's numbers were measured, with the end of the sentence."""
    cap = path.stem.rpartition("_")[2]
    limited = f", both limited to {cap}" if cap in ("avx2", "avx512") else ""
    return f"{about['cpu']}, torch {about['torch']}{limited}."


def forward(results: Path) -> list[str]:
    """For each run of forward.py: seconds and memory of the full networks, and the peers'."""
    blocks = []
    for path in sorted(results.glob("*/forward*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about, rows = content["machine"], content["results"]
        threads = rows[0].get("threads", about["threads"])
        peers = list(dict.fromkeys(peer for r in rows for peer in r.get("peers_seconds", {})))
        lines = [
            "`benchmarks/forward.py` runs whole networks: one picture, warm, on"
            f" {threads} thread{'s' * (threads > 1)} of {_machine(path, about)}"
            " Caffe's figures were recorded with OpenBLAS on another machine.",
        ]
        if peers:
            lines[0] += (
                " `library` is the fused network with torch's convolutions; other peers run our"
                " ONNX export. Behind each stands how many times as long it takes as the fused"
                ' network, and as the one with accuracy="fast".'
            )
        headings = [
            "network",
            "as Caffe computes it",
            "fused",
            *(["fast", *peers] if peers else []),
        ]
        headings += ["Caffe", "process at its peak", "Caffe"]
        lines += ["", f"| {' | '.join(headings)} |", "| --- " * len(headings) + "|"]
        for r in rows:
            cells = [
                r["network"],
                *(f"{r[key]['median']:.2f} s" for key in ("seconds", "fused_seconds")),
            ]
            if peers:
                cells.append(f"{r['fast_seconds']['median']:.2f} s")
            for peer in peers:
                over = "".join(f", {ratio[peer]:.2f}" for ratio in r["times_faster"].values())
                cells.append(f"{r['peers_seconds'][peer]['median']:.2f} s{over}")
            cells += [f"{r['caffe_recorded_seconds']:.2f} s"]
            cells += [f"{r['process_peak_rss_mb'] / 1000:.2f} GB"]
            cells += [f"{r['caffe_recorded_peak_mb'] / 1000:.1f} GB"]
            lines.append(f"| {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return blocks


def convert() -> str:
    """Seconds and memory of conversions."""
    results = load("convert")["results"]
    size = results[0]["file_mb"]
    lines = [
        "`benchmarks/convert.py` reads and converts the three-scale ResNet-101 with its three"
        f" copies, a file of {size:.0f} MB.",
        "",
        "| task | seconds | peak memory |",
        "| --- | --- | --- |",
    ]
    lines += [
        f"| {r['task']} | {r['seconds']:.1f} | {r['peak_mb'] / size:.2f} times the file |"
        for r in results
    ]
    return "\n".join(lines)


def fuzz() -> str:
    """What hostile files did."""
    summary, *readers = load("fuzz")["results"]
    tensorflow, *variable_readers = load("fuzz_tensorflow")["results"]
    return (
        f"`benchmarks/fuzz.py` damages whole files, in {len(readers)} pairs of a reader and a file."
        f" Of {summary['cases']:,} damaged files"
        f" {len(summary['failed'])} gave anything but a result or one clear error, and the slowest"
        f" took {_slowest(readers):.1f} s."
        f" Of {tensorflow['cases']:,} damaged files of TensorFlow's, in {len(variable_readers)}"
        f" such pairs, {len(tensorflow['failed'])} did, and the slowest"
        f" took {_slowest(variable_readers):.1f} s."
    )


def _slowest(readers: list[dict[str, Any]]) -> float:
    return max(reader["slowest_seconds"] for reader in readers)


def convolutions(results: Path) -> list[str]:
    """For each run of atrous_vs_cudnn.py: its geometric means with their goals, then all shapes."""
    blocks = []
    for path in sorted(results.glob("*/atrous_vs_cudnn*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        timed = [r for r in content["results"] if "seconds" in r]
        of_cpu = "threads" in timed[0] and timed[0].get("device") != "cuda"
        if "_full" in path.stem or not of_cpu:
            continue
        about = content["machine"]
        threads = list(dict.fromkeys(r["threads"] for r in timed))
        lines = [
            "`benchmarks/atrous_vs_cudnn.py` times layers in evaluation mode, forward, in float32,"
            f" for one picture, on {_machine(path, about)}"
            " The numbers say how many times as long torch's convolution (oneDNN) takes, each in"
            ' the memory format that it is faster in. `fast` is accuracy="fast". A share of the'
            " peak is one of the speed of torch's product of two matrices, and counts the"
            " multiply-adds that are not on the padding.",
            "",
            "| convolution, map | threads | `auto` | goal | `fast` | goal | `direct` | `winograd`"
            " | share of the peak, torch | `auto` |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for r in content["results"]:
            if "group" not in r:
                continue
            over, share = r["library_over"], r["share_of_product_peak"]
            cells = [r["group"].replace("|", " or "), str(r["threads"]), _plain(over.get("auto"))]
            cells += [_plain(r["goal"]), _plain(over.get("auto fast")), _plain(r["fast_goal"])]
            cells += [_plain(over.get(name)) for name in ("direct fp32", "winograd")]
            cells += [f"{100 * share[name]:.0f} %" for name in ("library fp32", "auto")]
            lines.append(f"| {' | '.join(cells)} |")
        for first in timed:
            if first["threads"] != threads[0]:
                continue
            for r in timed:
                if r["shape"] == first["shape"]:
                    lines.append(_shape_row(r))
        blocks.append("\n".join(lines))
    return blocks


def _shape_row(result: dict[str, Any]) -> str:
    best = result["best_seconds"]
    over = {name: best["library fp32"] / value for name, value in best.items()}
    shape, size = result["shape"].split("@")
    names = ("auto", "", "auto fast", "", "direct fp32", "winograd", "", "")
    cells = [_plain(over.get(name)) if name else "" for name in names]
    return f"| {shape}, {size} | {result['threads']} | {' | '.join(cells)} |"


def _plain(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def single_channels(results: Path) -> list[str]:
    """For each run of depthwise.py: geometric means, then all layers."""
    blocks = []
    for path in sorted(results.glob("*/depthwise*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about, rows = content["machine"], content["results"]
        kinds = list(dict.fromkeys(r["what"] for r in rows))
        lines = [
            "`benchmarks/depthwise.py` times the convolution of single channels, forward, for one"
            f" picture, on {_machine(path, about)}"
            " The numbers say how many times as long torch takes, each in the memory format that"
            " it is faster in; behind them stands our speed in bytes as a share of that of a copy"
            " of x. `fused` has a ReLU before, a bias and a ReLU6 behind. Asked for are"
            f" {rows[0]['goal']:g} times.",
            "",
            f"| layer, map, rate | threads | {' | '.join(kinds)} |",
            f"| --- | --- |{' --- |' * len(kinds)}",
        ]
        cells: dict[tuple[str, int], dict[str, dict[str, Any]]] = {}
        for r in rows:
            cells.setdefault((r["layer"], r["threads"]), {})[r["what"]] = r
        for threads in dict.fromkeys(threads for _, threads in cells):
            for name, low, high in (("all", 0, 99), ("rates 1 to 6", 0, 6), ("above", 7, 99)):
                chosen = [r for r in rows if r["threads"] == threads and low <= r["rate"] <= high]
                means = [
                    geometric_mean([r["ratio"] for r in chosen if r["what"] == kind])
                    for kind in kinds
                ]
                lines.append(f"| {name} | {threads} | {' | '.join(f'{m:.2f}' for m in means)} |")
        for (layer, threads), found in cells.items():
            texts = [f"{r['ratio']:.2f}, {100 * r['of_copy']:.0f} %" for r in found.values()]
            lines.append(f"| {layer} | {threads} | {' | '.join(texts)} |")
        blocks.append("\n".join(lines))
    return blocks


def later_networks(results: Path) -> list[str]:
    """For each run of later_networks.py: seconds of all candidates."""
    blocks = []
    for path in sorted(results.glob("*/later_networks*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about, rows = content["machine"], content["results"]
        threads = rows[0]["threads"]
        on = f"{threads} threads" if threads > 1 else "one thread"
        lines = [
            "`benchmarks/later_networks.py` runs DeepLab v3 with torchvision's ResNet-101 and v3+"
            f" with Xception-65: one picture, warm, on {on} of {_machine(path, about)}"
            " `torch` is the same network of torch's own modules. Behind each peer stands how"
            " many times as long it takes, in its faster memory format, as the fused network, and"
            f' as the one with accuracy="fast"; asked for are {rows[0]["goal"]:g} times.',
            "",
            "| network, side of the picture | fused | fast | torch | torchvision |",
            "| --- | --- | --- | --- | --- |",
        ]
        for r in rows:
            seconds = {name: timing["median"] for name, timing in r["seconds"].items()}
            cells = [f"{seconds[name]:.2f} s" for name in ("fused", "fused fast")]
            for peer in ("torch", "torchvision"):
                if peer not in seconds:
                    cells.append(r["missing_peers"].get(peer, "has none"))
                    continue
                best = min(seconds[peer], seconds[f"{peer} channels-last"])
                over = "".join(f", {times[peer]:.2f}" for times in r["times_faster"].values())
                cells.append(f"{best:.2f} s{over}")
            lines.append(f"| {r['network'].replace('@', ', ')} | {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return blocks


def crf(results: Path) -> list[str]:
    """For each run of crf_vs_peers.py: time and memory, beside the peers that ran there."""
    sys.path.insert(0, str(ROOT / "benchmarks"))  # a test loads this file by its path
    from _plots import STORED
    from crf_vs_peers import CASES

    blocks = []
    for path in sorted(results.glob("*/crf_vs_peers*.json")):
        content = json.loads(path.read_text(encoding="utf-8"))
        about = content["machine"]
        lines = [
            "`benchmarks/crf_vs_peers.py` times the dense CRF: one picture, 10 iterations, with the"
            f" building of the lattices, on {about['cpu']}, torch {about['torch']}. Behind each"
            " peer, measured in the same run, stands how many times as long it takes. Kernels are"
            " given by their standard deviations, in pixels and grey levels.",
            "",
            "| case | spatial kernel | bilateral kernel | 1 thread | 2 threads | memory"
            " | peers, against 1 thread | against 2 threads | memory, of a peer's |",
            "| --- | --- | --- | --- | --- | --- | --- | --- | --- |",
        ]
        for r in content["results"]:
            if r["batch"] > 1:
                continue
            seconds = r["seconds"]
            names = [f"ours, {t} threads" for t in (1, 2)]
            total = [f"{1e3 * seconds[n]['median']:.0f} ms" if n in seconds else "" for n in names]
            over = {p: times for p, times in r["times_faster"].items() if STORED not in p}
            peers = [
                ", ".join(f"{peer} {times[t]:.1f}" for peer, times in over.items() if t in times)
                for t in ("1", "2")
            ]
            shares = ", ".join(
                f"{peer} {r['memory_mb'] / mb:.2f}"
                for peer, mb in r.get("peers_memory_mb", {}).items()
            )
            width, height = r["size"]
            p = CASES[r["case"]].params
            cells = [f"{r['case']}: {width}x{height}, {r['labels']} labels", f"{p.pos_xy_std:g}"]
            cells += [f"{p.bi_xy_std:g} and {p.bi_rgb_std:g}", *total, f"{r['memory_mb']:.0f} MB"]
            cells += [cell or "none was there" for cell in (*peers, shares)]
            lines.append(f"| {' | '.join(cells)} |")
        blocks.append("\n".join(lines))
    return blocks


def filled(page: str) -> str:
    """The page with its block of numbers made anew."""
    parts = [
        "",
        *convolutions(RESULTS),
        *single_channels(RESULTS),
        *crf(RESULTS),
        *forward(RESULTS),
        *later_networks(RESULTS),
        convert(),
        fuzz(),
    ]
    numbers = "\n\n".join([*parts, ""]).lstrip("\n")
    return _BLOCK.sub(lambda _: "\n" + numbers.rstrip("\n") + "\n\n", page)


if __name__ == "__main__":
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
