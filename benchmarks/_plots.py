"""Draws the pictures of the results beside this file from their JSON.

python benchmarks/_plots.py

Each benchmark calls `draw` for what it has written. Where matplotlib is missing, as on a machine
that was lent for the timing alone, it says so, and the command above draws the pictures later.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.figure import Figure

RESULTS = Path(__file__).resolve().parent / "results"
#: Told apart by people who see fewer colours, too (Okabe and Ito).
COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#000000", "#999999")
#: How older results call a peer that was timed on another machine: it says nothing here.
STORED = "(stored)"
Results = list[dict[str, Any]]


def atrous_vs_cudnn(results: Results) -> Iterator[tuple[str, Figure]]:
    """The library's time over ours for each direction and number of threads, a line a shape."""
    timed = [r for r in results if "seconds" in r]

    def kind(r: dict[str, Any]) -> tuple[str, int | None]:
        return r["direction"], None if r.get("device") == "cuda" else r.get("threads")

    for direction, threads in dict.fromkeys(map(kind, timed)):
        lines: dict[str, dict[int, float]] = {}
        for r in timed:
            if kind(r) == (direction, threads):
                best = r["best_seconds"]
                name = f"{r['channels']} to {r['filters']}, {r['size']}x{r['size']}"
                # Older results have a file for each number of threads, and are of one algorithm,
                # as those of a GPU.
                ratio = best["library fp32"] / best["auto" if threads else "direct fp32"]
                lines.setdefault(f"{name}, batch {r['batch']}", {})[r["rate"]] = ratio
        ending, title = f"_{direction}", f"Library's time over ours, {direction}"
        if threads:
            count = f"{threads} thread{'s' * (threads > 1)}"
            ending, title = f"{ending}_{count.replace(' ', '_')}", f"{title}, {count}"
        yield ending, _ratios_over_rate(title, lines)


def crf_vs_peers(results: Results) -> Iterator[tuple[str, Figure]]:
    """Milliseconds of one picture beside the peers'; on a GPU pictures per second."""
    if results[0]["device"] == "cuda":
        yield "", _throughput(results)
        return
    rows: dict[str, dict[str, float]] = {}
    for r in results:
        if r["batch"] == 1:
            row = {
                f"ours, {n} thread{'s' * (n > 1)}": 1e3 * r["seconds"][name]["median"]
                for n in (1, 2, 4, 8, 16)
                if (name := f"ours, {n} threads") in r["seconds"]
            }
            for peer in r["times_faster"]:
                if STORED not in peer:
                    row[peer] = 1e3 * r["seconds"][peer]["median"]
            rows[f"{r['case']} {r['size'][0]}x{r['size'][1]}, {r['labels']} labels"] = row
    yield "", _bars("Dense CRF, 10 iterations and lattices", "ms", rows)


def segment(results: Results) -> Iterator[tuple[str, Figure]]:
    """When each stage worked on a picture, one after the other and overlapped."""
    from matplotlib.figure import Figure

    timelines = results[0]["timelines"]
    stages = list(dict.fromkeys(entry["stage"] for entry in next(iter(timelines.values()))))
    figure = Figure(figsize=(9, 4.2), layout="constrained")
    panels = figure.subplots(len(timelines), sharex=True)
    for axes, (name, entries) in zip(panels, timelines.items(), strict=True):
        for row, (stage, colour) in enumerate(zip(stages, COLOURS, strict=False)):
            bars = [(e["start"], e["end"] - e["start"]) for e in entries if e["stage"] == stage]
            axes.broken_barh(bars, (row - 0.4, 0.8), color=colour, alpha=0.7)
        times = results[0]["stages"][name]
        axes.set_title(f"{name}: {times['sum']:.1f} s of stages in {times['wall']:.1f} s")
        axes.set_yticks(range(len(stages)), stages)
        axes.tick_params(axis="y", length=0)
        axes.invert_yaxis()
        _plain(axes, "x")
    panels[-1].set_xlabel("seconds")
    yield "", figure


#: Name of a JSON file up to its threads -> what draws its pictures, with the ends of their names.
PICTURES: dict[str, Callable[[Results], Iterator[tuple[str, Figure]]]] = {
    "atrous_vs_cudnn": atrous_vs_cudnn,
    "crf_vs_peers": crf_vs_peers,
    "segment": segment,
}


def draw(path: Path) -> list[Path]:
    """Draw the pictures of one result file beside it; returns their paths."""
    content = json.loads(path.read_text(encoding="utf-8"))
    written = []
    try:
        from deeplab_repro.pictures.figures import svg_text

        for ending, figure in PICTURES[content["name"]](content["results"]):
            picture = path.with_name(f"{path.stem}{ending}.svg")
            picture.write_text(svg_text(figure), encoding="utf-8")
            written.append(picture)
    except ModuleNotFoundError as error:
        print(f"no pictures: {error}; python benchmarks/_plots.py draws them from {path.name}")
    return written


def draw_all(results: Path = RESULTS) -> list[Path]:
    """Draw the pictures of all result files in a folder; returns their paths."""
    files = sorted(results.rglob("*.json"))
    return [
        picture
        for path in files
        if json.loads(path.read_text(encoding="utf-8")).get("name") in PICTURES
        for picture in draw(path)
    ]


def _ratios_over_rate(title: str, lines: dict[str, dict[int, float]]) -> Figure:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.6), layout="constrained")
    axes = figure.subplots()
    for i, (name, points) in enumerate(lines.items()):
        colour, style = COLOURS[i % len(COLOURS)], "-" if i < len(COLOURS) else "--"
        rates = sorted(points)
        ratios = [points[rate] for rate in rates]
        axes.plot(rates, ratios, style, marker="o", markersize=4, color=colour, label=name)
    axes.axhline(1, color="#444", linewidth=1.5, zorder=1.9)  # over the grid, under the lines
    axes.set_ylim(bottom=0)
    axes.set_xticks(sorted({rate for points in lines.values() for rate in points}))
    axes.set(title=title, xlabel="rate in pixels", ylabel="above 1 ours is faster")
    _plain(axes, "y")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _throughput(results: Results) -> Figure:
    from matplotlib.figure import Figure

    curves: dict[str, list[tuple[int, float]]] = {}
    for r in results:
        curves.setdefault(r["case"], []).append((r["batch"], r["pictures_per_second"]))
    figure = Figure(figsize=(8, 4), layout="constrained")
    axes = figure.subplots()
    for colour, (name, curve) in zip(COLOURS, curves.items(), strict=False):
        axes.plot(*zip(*curve, strict=True), marker="o", color=colour, label=name)
    axes.set_xscale("log", base=2)
    axes.set_xticks(batches := sorted({r["batch"] for r in results}), map(str, batches))
    axes.set_ylim(bottom=0)
    axes.set(title="Dense CRF, 10 iterations", xlabel="batch", ylabel="pictures per second")
    _plain(axes, "y")
    figure.legend(loc="outside right upper", frameon=False)
    return figure


def _bars(title: str, unit: str, rows: dict[str, dict[str, float]]) -> Figure:
    """Horizontal bars, a group for each row."""
    from matplotlib.figure import Figure

    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    figure = Figure(figsize=(9, 0.8 + 0.2 * len(rows) * (len(series) + 1)), layout="constrained")
    axes = figure.subplots()
    group = len(series) + 1
    for i, name in enumerate(series):
        places = [group * k + i for k, row in enumerate(rows.values()) if name in row]
        values = [row[name] for row in rows.values() if name in row]
        bars = axes.barh(places, values, 0.85, color=COLOURS[i], label=name)
        axes.bar_label(bars, [f"{value:,.0f} {unit}" for value in values], padding=4, fontsize=8)
    axes.set_yticks([group * k + (len(series) - 1) / 2 for k in range(len(rows))], list(rows))
    axes.tick_params(axis="y", length=0)
    axes.invert_yaxis()
    axes.margins(x=0.1, y=0.02)
    axes.set(title=title, xlabel=unit)
    _plain(axes, "x")
    figure.legend(loc="outside right upper", frameon=False, fontsize=9)
    return figure


def _plain(axes: Any, grid: str) -> None:
    axes.grid(axis=grid, color="#ddd", linewidth=0.8)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


if __name__ == "__main__":
    print(*draw_all(), sep="\n")
