"""What a search of the CRF's parameters has found, as a picture."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from deeplab_repro.evaluation.crf_search import Search

__all__ = ["heat_map"]

_MOST_IN_CELLS = 400  # cells with their numbers in them


def heat_map(search: Search) -> Figure:
    """Mean IoU in percent over the two stds, the best over the weights.

    Stds that were not tried together are left blank; a frame marks the best pair.
    """
    rgb_stds, xy_stds = (
        sorted({getattr(setting, name) for setting in search.found})
        for name in ("bi_rgb_std", "bi_xy_std")
    )
    values = np.full((len(rgb_stds), len(xy_stds)), np.nan)
    for setting, confusion in search.found.items():
        place = rgb_stds.index(setting.bi_rgb_std), xy_stds.index(setting.bi_xy_std)
        values[place] = np.fmax(values[place], 100 * confusion.mean_iou)
    size = (2.4 + 0.55 * len(xy_stds), 1.6 + 0.42 * len(rgb_stds))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots()
    image = axes.imshow(values, origin="lower", cmap="viridis", aspect="auto")
    axes.set_xticks(range(len(xy_stds)), [f"{std:g}" for std in xy_stds], fontsize=8)
    axes.set_yticks(range(len(rgb_stds)), [f"{std:g}" for std in rgb_stds], fontsize=8)
    axes.set_xlabel("bi_xy_std in pixels")
    axes.set_ylabel("bi_rgb_std in grey levels")
    before = 100 * search.before.mean_iou
    axes.set_title(f"mean IoU in percent, best bi_w; {before:.2f} without CRF", fontsize=10)
    figure.colorbar(image)
    if values.size <= _MOST_IN_CELLS:
        middle = (np.nanmin(values) + np.nanmax(values)) / 2
        for (row, column), value in np.ndenumerate(values):
            if not np.isnan(value):
                colour = "black" if value > middle else "white"
                style: dict[str, Any] = {"ha": "center", "va": "center"}
                axes.text(column, row, f"{value:.2f}", color=colour, fontsize=7, **style)
    best = xy_stds.index(search.best.bi_xy_std), rgb_stds.index(search.best.bi_rgb_std)
    corner = best[0] - 0.5, best[1] - 0.5
    frame = Rectangle(corner, 1, 1, fill=False, edgecolor="red", linewidth=2, clip_on=False)
    axes.add_patch(frame)
    return figure
