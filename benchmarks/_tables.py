"""Writes the tables of the README from the results beside this file.

python benchmarks/_tables.py

A test holds the README against them, so that no number there differs from the JSON behind it.
"""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "benchmarks" / "results" / "intel-xeon-processor-2-cores"
_BLOCK = re.compile(r"(?<=<!-- numbers -->\n).*(?=<!-- /numbers -->)", re.DOTALL)


def load(name: str) -> dict[str, Any]:
    """What the benchmark of that name wrote."""
    content: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text(encoding="utf-8"))
    return content


def forward() -> str:
    """Seconds and memory of the full networks beside Caffe's."""
    content = load("forward")
    about = content["machine"]
    lines = [
        f"`benchmarks/forward.py`: warm, batch 1, {about['threads']} threads of {about['cpu']},"
        f" torch {about['torch']}. Caffe's figures are recorded ones, with OpenBLAS on a machine of"
        " this kind.",
        "",
        "| network | as Caffe computes it | fused | Caffe | process at its peak | Caffe |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {r['network']} | {r['seconds']['median']:.2f} s | {r['fused_seconds']['median']:.2f} s"
        f" | {r['caffe_recorded_seconds']:.2f} s | {r['process_peak_rss_mb'] / 1000:.2f} GB"
        f" | {r['caffe_recorded_peak_mb'] / 1000:.1f} GB |"
        for r in content["results"]
    ]
    return "\n".join(lines)


def convert() -> str:
    """Seconds and memory of conversions."""
    results = load("convert")["results"]
    size = results[0]["file_mb"]
    lines = [
        f"`benchmarks/convert.py`: three-scale ResNet-101 with its three copies, {size:.0f} MB.",
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
    slowest = max(reader["slowest_seconds"] for reader in readers)
    return (
        f"`benchmarks/fuzz.py`: {summary['cases']:,} mutated files over {len(readers)} readers and"
        f" files, {len(summary['failed'])} of which gave anything but a result or one clear error;"
        f" the slowest took {slowest:.1f} s."
    )


def filled(readme: str) -> str:
    """The README with its block of numbers made anew."""
    numbers = "\n\n".join(["", forward(), convert(), fuzz(), ""]).lstrip("\n")
    return _BLOCK.sub(lambda _: "\n" + numbers.rstrip("\n") + "\n\n", readme)


if __name__ == "__main__":
    path = ROOT / "README.md"
    path.write_text(filled(path.read_text(encoding="utf-8")), encoding="utf-8")
