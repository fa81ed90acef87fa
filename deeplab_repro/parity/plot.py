"""The error of every blob over depth, as an SVG picture in the colours of its page."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Final

from matplotlib.figure import Figure

from deeplab_repro.pages import BAD, FIRST, GRID, SECOND, TEXT, page_svg
from deeplab_repro.parity.agreement import Agreement
from deeplab_repro.parity.comparison import BlobReport
from deeplab_repro.parity.tolerances import Tolerance
from prototxt_import.errors import printable

__all__ = ["error_plot"]

#: Below the rounding of float32 nothing is of interest.
_LEAST: Final = 1e-9
_MOST_NAMES: Final = 66  # that fit below the plot


def error_plot(reports: Sequence[BlobReport], tolerance: Tolerance) -> str:
    """``<svg>`` of rel (dots) and max (squares) of each compared blob, for ``page.css``.

    Args:
        reports: in running order; those without an agreement are left out.
        tolerance: drawn as two lines.
    """
    compared = [(r, r.agreement) for r in reports if r.agreement is not None]
    low, high = _range([agreement for _, agreement in compared], tolerance)
    figure = Figure(figsize=(11.2, 3.8), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.set_yscale("log")
    axes.set_ylim(10.0**low, 10.0**high)
    axes.set_xlim(-0.7, max(1, len(compared)) - 0.3)
    powers = range(low + 1, high, max(1, (high - low) // 10))
    axes.set_yticks(
        [10.0**power for power in (low, *powers, high)],
        ["0", *(f"1e{power}" for power in powers), "inf"],
    )
    every = max(1, math.ceil(len(compared) / _MOST_NAMES))
    axes.set_xticks(
        range(0, len(compared), every),
        [_short(report.blob) for report, _ in compared[::every]],
        rotation=60,
        ha="right",
        rotation_mode="anchor",
        parse_math=False,  # a "$" in a name is one
    )
    axes.minorticks_off()
    axes.tick_params(colors=TEXT, labelsize=8, length=0)
    axes.grid(axis="y", color=GRID, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    for i, (report, _) in enumerate(compared):
        if report.equal is False:
            axes.axvline(i, color=BAD, alpha=0.35, linewidth=1, clip_on=False)
    size = max(1.8, min(5.0, 500 / max(1, len(compared))))
    for name, marker, colour in (("rel", "o", FIRST), ("max", "s", SECOND)):
        bound = getattr(tolerance, name)
        if bound > 0:
            axes.axhline(bound, color=colour, linestyle=(0, (6, 4)), linewidth=1, clip_on=False)
        heights = [_height(getattr(agreement, name), low, high) for _, agreement in compared]
        # The line is pale and the marks are not, so they are drawn apart.
        axes.plot(heights, color=colour, alpha=0.5, linewidth=1, clip_on=False)
        (marks,) = axes.plot(heights, marker, color=colour, markersize=size, label=name)
        marks.set(markeredgewidth=0, clip_on=False, gid=f"{name}-marks")
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=TEXT, fontsize=9)
    hints = [printable(f"{report.blob}: {agreement}") for report, agreement in compared]
    texts = {f"{name}-marks": hints for name in ("rel", "max")}
    return page_svg(figure, "relative error of every blob over depth", texts)


def _range(agreements: Sequence[Agreement], tolerance: Tolerance) -> tuple[int, int]:
    """The powers of ten that the plot starts and ends at."""
    values = [v for a in agreements for v in (a.rel, a.max) if math.isfinite(v) and v > 0]
    low = math.floor(math.log10(max(_LEAST, min([*values, tolerance.rel], default=1e-7)))) - 1
    return low, math.ceil(math.log10(max([*values, tolerance.max * 10]))) + 1


def _height(value: float, low: int, high: int) -> float:
    """Where a value is drawn: 0 at the lower end, what is no finite number at the upper one."""
    if not math.isfinite(value):
        return 10.0**high
    return min(max(value, 10.0**low), 10.0**high)


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 16 else f"{name[:6]}…{name[-9:]}"
