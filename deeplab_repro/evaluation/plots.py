"""Trimap curves as a figure."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import numpy as np
from matplotlib.figure import Figure

from deeplab_repro.evaluation.trimap import Trimap
from deeplab_repro.pages import FIRST, GRID, SECOND, TEXT, page_svg

__all__ = ["trimap_plot"]

_CURVES: Final = (("pixel accuracy", "pixel_accuracy", FIRST), ("mean IoU", "mean_iou", SECOND))
_MARKS: Final = ("o", "^", "s", "D")


def trimap_plot(trimaps: Mapping[str, Trimap]) -> str:
    """``<svg>`` of pixel accuracy and mean IoU in percent over the width of the band.

    Args:
        trimaps: what is compared, each under its title; one alone may have the title "".
    """
    figure = Figure(figsize=(11.2, 3.4), layout="constrained", facecolor="none")
    axes = figure.subplots()
    axes.set_facecolor("none")
    axes.tick_params(colors=TEXT, labelsize=9, length=0)
    axes.grid(color=GRID, linewidth=0.8, clip_on=False)
    axes.set_axisbelow(True)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("width of the band in pixels", color=TEXT, fontsize=9)
    axes.set_ylabel("percent", color=TEXT, fontsize=9)
    hints = {}
    for number, (title, trimap) in enumerate(trimaps.items()):
        for name, attribute, colour in _CURVES:
            label = f"{name} {title}".rstrip()
            gid = f"{attribute}-{number}-marks"
            values = 100 * getattr(trimap, attribute)
            known = ~np.isnan(values)
            widths = np.array(trimap.widths)[known]
            axes.plot(widths, values[known], color=colour, alpha=0.5, linewidth=1, clip_on=False)
            (marks,) = axes.plot(
                widths,
                values[known],
                _MARKS[number % len(_MARKS)],
                color=colour,
                markersize=4,
                label=label,
            )
            marks.set(markeredgewidth=0, clip_on=False, gid=gid)
            hints[gid] = [
                f"width {width}: {label} {value:.2f} %"
                for width, value in zip(widths, values[known], strict=True)
            ]
    figure.legend(loc="outside upper left", ncols=2, frameon=False, labelcolor=TEXT, fontsize=9)
    return page_svg(figure, "trimap: pixel accuracy and mean IoU over the band's width", hints)
