"""The pictures and the table of holes.md."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Final

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from numpy.typing import NDArray

from deeplab_repro.ops import atrous_conv2d

BLUE, ORANGE, GREEN, GREY = "#0072b2", "#d55e00", "#009e73", "#bbbbbb"
SIDE: Final = 41  # of the map of fc6 for a picture of 321 x 321
RATES: Final = (1, 2, 4, 6, 12, 18, 24)
_TILE: Final = 14  # output pixels that it computes together on AVX-512


def taps() -> Figure:
    """Which pixels one output pixel reads, at four rates."""
    figure = Figure(figsize=(9, 2.75), layout="constrained")
    centre = SIDE // 2
    for axes, rate in zip(figure.subplots(1, 4), (1, 2, 6, 12), strict=True):
        _paper(axes, SIDE)
        for row in (-rate, 0, rate):
            for column in (-rate, 0, rate):
                corner = centre + column - 0.5, centre + row - 0.5
                axes.add_patch(
                    Rectangle(corner, 1, 1, facecolor=ORANGE, edgecolor="white", linewidth=0.4)
                )
        reach = 2 * rate + 1
        corner = centre - rate - 0.5, centre - rate - 0.5
        axes.add_patch(Rectangle(corner, reach, reach, fill=False, ec=BLUE, linewidth=1.2))
        axes.set_title(f"rate {rate}: 9 taps span {reach} x {reach}", fontsize=9)
    return figure


def downsample() -> Figure:
    """One axis: subsampled maps lose every other result, holes keep them all."""
    figure = Figure(figsize=(9, 3.1), layout="constrained")
    left, right = figure.subplots(1, 2)
    for axes, title in (
        (left, "stride 2, then 3 taps: 7 of 13 results"),
        (right, "stride 1, then 3 taps at rate 2: all 13 results"),
    ):
        axes.set_axis_off()
        axes.set_xlim(-4, 12.5)
        axes.set_ylim(-0.5, 2.7)
        axes.set_title(title, fontsize=10)
    _dots(left, 2, range(13), "input")
    _dots(left, 1, range(0, 13, 2), "every second one")
    _dots(left, 0, range(0, 13, 2), "results")
    _dots(right, 2, range(13), "input")
    _dots(right, 0, range(13), "results")
    for position in range(0, 13, 2):
        _line(left, (position, 2), (position, 1), GREY)
    for tap in (-2, 0, 2):
        _line(left, (6 + tap, 1), (6, 0), ORANGE)
        _line(right, (6 + tap, 2), (6, 0), ORANGE)
        _line(right, (7 + tap, 2), (7, 0), BLUE)
    return figure


def interlace() -> Figure:
    """A map of 12 x 12 at rate 3 is nine dense maps of 4 x 4."""
    side, rate = 12, 3
    rows, columns = np.indices((side, side))
    number = rows % rate * rate + columns % rate
    apart = np.full((3 * 5 - 1, 3 * 5 - 1), np.nan)
    for k in range(rate * rate):
        top, left = divmod(k, rate)
        apart[top * 5 : top * 5 + 4, left * 5 : left * 5 + 4] = k
    figure = Figure(figsize=(9, 3.2), layout="constrained")
    all_axes = figure.subplots(1, 3)
    for axes, values, title in zip(
        all_axes,
        (number, apart, np.full((4, 4), number[1, 2])),
        ("a map, 9 taps at rate 3", "its nine small maps", "one of them, 9 neighbouring taps"),
        strict=True,
    ):
        axes.imshow(values, cmap="Pastel1", vmin=0, vmax=rate * rate - 1)
        axes.set_title(title, fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.spines[:].set_visible(False)
        for i in range(1, len(values)):
            axes.axhline(i - 0.5, color="white", linewidth=0.8)
            axes.axvline(i - 0.5, color="white", linewidth=0.8)
    taps = [(i, j) for i in range(rate) for j in range(rate)]
    whole, _, dense = all_axes
    whole.plot([2 + rate * j for _, j in taps], [1 + rate * i for i, _ in taps], "ko", ms=5)
    dense.plot([j for _, j in taps], [i for i, _ in taps], "ko", ms=9)
    return figure


def borders() -> Figure:
    """How many of the nine taps lie inside the map, for each output pixel."""
    figure = Figure(figsize=(9, 2.9), layout="constrained")
    all_axes = figure.subplots(1, 4)
    for axes, rate in zip(all_axes, (6, 12, 18, 24), strict=True):
        counts = taps_inside(rate)
        image = axes.imshow(counts, cmap="viridis", vmin=1, vmax=9)
        axes.set_title(f"rate {rate}: {100 * counts.mean() / 9:.0f} % inside", fontsize=10)
        axes.set_xticks([])
        axes.set_yticks([])
        axes.set_xlabel("output column", fontsize=9)
        for row, column in _middles(counts):
            value = counts[row, column]
            colour = "black" if value > 5 else "white"
            axes.text(column, row, f"{value}", color=colour, ha="center", va="center", fontsize=9)
    all_axes[0].set_ylabel("output row", fontsize=9)
    figure.colorbar(image, ax=all_axes, shrink=0.8, label="taps inside")
    return figure


def table() -> str:
    """Multiply-adds of fc6 over its rates: all, those inside the map, those that tiles do."""
    per_tap = 512 * 1024
    lines = [
        "| rate | span of 3 x 3 taps | multiply-adds with the padding | inside the map | share |"
        " done by `direct` on AVX-512 |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    for rate in RATES:
        counts = taps_inside(rate)
        every, inside = 9 * SIDE * SIDE * per_tap, int(counts.sum()) * per_tap
        lines.append(
            f"| {rate} | {2 * rate + 1} x {2 * rate + 1} | {every / 1e9:.2f} billion"
            f" | {inside / 1e9:.2f} billion | {100 * inside / every:.1f} %"
            f" | {100 * tiled_share(rate):.1f} % |"
        )
    return "\n".join(lines)


def taps_inside(rate: int) -> NDArray[np.int64]:
    """(41, 41): how many taps of a 3 x 3 filter read inside the map, counted by a convolution."""
    ones = torch.ones(1, 1, SIDE, SIDE)
    counts = atrous_conv2d(ones, torch.ones(1, 1, 3, 3), padding=rate, rate=rate)
    return counts[0, 0].round().long().numpy()


def tiled_share(rate: int) -> float:
    """The share of all multiply-adds that tiles of 14 pixels do, as on AVX-512, one picture.

    As csrc/atrous_conv2d/cpu/pixel_plan.cpp lays them out: of each region, every row in tiles of
    its own unless they would be less than half full; then what is left, from whatever rows. A tile
    does each tap that one of its pixels has.
    """
    inside = [rate <= p for p in range(SIDE)], [p < SIDE - rate for p in range(SIDE)]
    taps_of = [(inside[0][p], True, inside[1][p]) for p in range(SIDE)]
    ranges: list[list[int]] = []
    for p in range(SIDE):
        if ranges and taps_of[p] == taps_of[ranges[-1][-1]]:
            ranges[-1].append(p)
        else:
            ranges.append([p])
    done, rest = 0, []
    for rows in ranges:
        for columns in ranges:
            needed = np.outer(taps_of[rows[0]], taps_of[columns[0]]).ravel()
            count, tiles = len(rows) * len(columns), math.ceil(len(columns) / _TILE)
            if len(columns) // tiles > _TILE // 2:
                done += int(needed.sum()) * count
            else:
                rest += [needed] * count
    for begin in range(0, len(rest), _TILE):
        tile = np.array(rest[begin : begin + _TILE])
        done += int(tile.any(0).sum()) * len(tile)
    return done / (9 * SIDE * SIDE)


def _middles(counts: NDArray[np.int64]) -> list[tuple[int, int]]:
    """The middle of each of the regions of equal taps."""
    edges = [0, *(np.flatnonzero(np.diff(counts[SIDE // 2])) + 1).tolist(), SIDE]
    middles = [(a + b - 1) // 2 for a, b in pairwise(edges)]
    return [(row, column) for row in middles for column in middles]


def _paper(axes: Axes, side: int) -> None:
    axes.set_xlim(-0.5, side - 0.5)
    axes.set_ylim(side - 0.5, -0.5)
    axes.set_aspect("equal")
    axes.set_xticks([])
    axes.set_yticks([])
    axes.set_facecolor("#f4f4f4")


def _dots(axes: Axes, height: float, positions: range, name: str) -> None:
    axes.plot(list(positions), [height] * len(positions), "o", color="black", ms=5)
    axes.text(-0.7, height, name, fontsize=8, color="#555555", ha="right", va="center")


def _line(axes: Axes, start: tuple[float, float], end: tuple[float, float], colour: str) -> None:
    axes.plot([start[0], end[0]], [start[1], end[1]], color=colour, linewidth=1.3, zorder=0)
