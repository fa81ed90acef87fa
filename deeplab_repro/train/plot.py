"""Training curves as a figure."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import cycle
from typing import Any, Final

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from deeplab_repro.train.curves import Curve, Run

__all__ = ["training_figure"]

#: A run has a colour, and each value of a blob that has several its dashes.
_DASHES: Final = ("-", "--", ":", "-.")
_COLUMNS: Final = 2


def training_figure(runs: Sequence[Run], average: int = 1) -> Figure:
    """Loss, rate and every output over the iterations: one panel each, all runs in it.

    Args:
        runs: what is compared; their names go into the legends.
        average: draw the loss as the mean of so many logged values, over the values themselves.
    """
    names = [name for run in runs for name in (*run.train, *run.test)]
    blobs = list(dict.fromkeys(map(_blob_of, names)))
    rows = -(-(2 + len(blobs)) // _COLUMNS)
    figure = Figure(figsize=(6.2 * _COLUMNS, 3.3 * rows), layout="constrained")
    places = list(figure.subplots(rows, _COLUMNS, squeeze=False).flat)
    loss, rate, *outputs = (
        _Panel(axes, title)
        for axes, title in zip(
            places, ["loss", "rate", *(f"output {blob}" for blob in blobs)], strict=False
        )
    )
    for number, run in enumerate(runs):
        colour, label = f"C{number}", f"{run.name}: " if len(runs) > 1 else ""
        if average > 1:
            loss.draw(run.loss, None, color=colour, alpha=0.3)
        mean = f", mean of {average}" if average > 1 else ""
        loss.draw(run.loss.averaged(average), f"{label}loss{mean}", color=colour)
        rate.draw(run.lr, f"{label}rate", color=colour)
        for blob, panel in zip(blobs, outputs, strict=True):
            for phase, curves, marker in (("train", run.train, ""), ("test", run.test, "o")):
                mine = [name for name in curves if _blob_of(name) == blob]
                for name, dashes in zip(mine, cycle(_DASHES), strict=False):
                    title = f"{label}{phase} {name}"
                    panel.draw(curves[name], title, color=colour, linestyle=dashes, marker=marker)
    for panel in (loss, rate, *outputs):
        panel.add_legend()
    for unused in places[2 + len(blobs) :]:
        unused.set_visible(False)
    return figure


def _blob_of(name: str) -> str:
    """The blob of a curve of `Run`."""
    return re.sub(r"(/\d+)?( \(net \d+\))?$", "", name)


class _Panel:
    """One pair of axes; its legend takes names as they are, "$" and a leading "_" too."""

    def __init__(self, axes: Axes, title: str) -> None:
        self._axes = axes
        self._legend: dict[str, Line2D] = {}
        axes.set_title(title, fontsize=10, parse_math=False)
        axes.set_xlabel("iteration", fontsize=9)
        axes.tick_params(labelsize=8)
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)

    def draw(self, curve: Curve, label: str | None, *, marker: str = "", **style: Any) -> None:
        """A line, without a label none in the legend; a point alone gets a mark."""
        if not curve.values:
            return
        marker = marker or ("." if len(curve.values) == 1 else "")
        (line,) = self._axes.plot(
            curve.iterations, curve.values, marker=marker, markersize=4, linewidth=1.2, **style
        )
        if label is not None:
            self._legend[label] = line

    def add_legend(self) -> None:
        if self._legend:
            lines, labels = list(self._legend.values()), list(self._legend)
            legend = self._axes.legend(lines, labels, fontsize=8, frameon=False)
            for text in legend.get_texts():
                text.set_parse_math(False)
