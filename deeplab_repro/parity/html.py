"""The report of ``compare`` as one page that needs nothing but itself."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from markupsafe import Markup

from deeplab_repro import pages
from deeplab_repro.errors import BadInput
from deeplab_repro.parity.causes import Cause
from deeplab_repro.parity.comparison import BlobReport, Compared
from deeplab_repro.parity.heat import difference_picture, plane_of, value_picture
from deeplab_repro.parity.plot import error_plot
from prototxt_import.words import show

__all__ = ["compare_page", "write_page"]

#: Layers shown as heat maps.
_MOST_MAPS: Final = 5


def write_page(
    path: str | os.PathLike[str], comparison: Compared, causes: Sequence[Cause], model: str
) -> None:
    """Write :func:`compare_page`; whatever was at ``path`` is replaced when all is done."""
    pages.write_page(path, compare_page(comparison, causes, model))


def compare_page(comparison: Compared, causes: Sequence[Cause], model: str) -> str:
    """The page: summary, causes, error over depth, heat maps of the worst layers, all blobs.

    Args:
        comparison: what was compared.
        causes: what :func:`deeplab_repro.parity.causes.likely_causes` found.
        model: file name of the model, for the heading.
    """
    return pages.render_page(
        "deeplab_repro.parity",
        "compare.html",
        {"shape": show, "sortable": _sortable},
        title=Path(model).name,
        model=model,
        comparison=comparison,
        compared=[r for r in comparison.reports if r.agreement is not None],
        inputs={
            name: _input(comparison.ours[name].numpy())
            for name in comparison.inputs
            if name in comparison.ours
        },
        causes=causes,
        plot=Markup(error_plot(comparison.reports, comparison.tolerance)),
        worst=list(_shown(comparison, causes)),
    )


def _sortable(value: float) -> str:
    """For JavaScript, which reads "Infinity"; NaN sorts as what is worse than any number."""
    return f"{value:.8e}" if math.isfinite(value) else "Infinity"


def _input(values: np.ndarray[Any, Any]) -> str:
    if not values.size:
        return show(values.shape)
    text = f"{show(values.shape)}, from {values.min():.4g} to {values.max():.4g}"
    if values.ndim == 4 and values.shape[1] <= 4:
        means = ", ".join(f"{mean:.4g}" for mean in values.mean((0, 2, 3)))
        text += f", mean of each channel {means}"
    return text


@dataclass(frozen=True)
class _Maps:
    """The map of a blob with the largest difference.

    Attributes:
        report: of the blob.
        where: its channel, in words.
        pictures: (data: address, caption); without an address there is only the caption.
    """

    report: BlobReport
    where: str
    pictures: list[tuple[str, str]]


def _shown(comparison: Compared, causes: Sequence[Cause]) -> Iterator[_Maps]:
    for report in _worst(comparison, causes):
        try:
            recorded = comparison.recording.whole(report.blob)
        except BadInput:
            continue  # recorded in samples: nothing to see
        if recorded.size and report.blob in comparison.ours:
            yield _maps(report, comparison.ours[report.blob].numpy(), recorded)


def _worst(comparison: Compared, causes: Sequence[Cause]) -> list[BlobReport]:
    by_name = {r.blob: r for r in comparison.reports if r.equal is False and r.layer}

    def badness(report: BlobReport) -> float:
        rel = report.agreement.rel if report.agreement else 0.0
        return rel if rel == rel else float("inf")

    named = [cause.blob for cause in causes]
    by_error = sorted(by_name.values(), key=badness, reverse=True)
    order = dict.fromkeys([*list(by_name)[:1], *named, *(r.blob for r in by_error)])
    return [by_name[name] for name in order if name in by_name][:_MOST_MAPS]


def _maps(report: BlobReport, ours: np.ndarray[Any, Any], recorded: np.ndarray[Any, Any]) -> _Maps:
    picture, channel = _worst_map(ours, recorded)
    planes = plane_of(ours, picture, channel), plane_of(recorded, picture, channel)
    finite = np.concatenate([p[np.isfinite(p)].ravel() for p in planes] + [np.zeros(1)])
    low, high = float(finite.min()), float(finite.max())
    pictures = [
        (value_picture(plane, low, high), f"{what}, {show(values.shape)}, {_range(plane)}")
        for what, plane, values in zip(("ours", "recorded"), planes, (ours, recorded), strict=True)
    ]
    if planes[0].shape == planes[1].shape:
        difference = planes[0].astype(np.float64) - planes[1]
        left = np.abs(difference[np.isfinite(difference)])
        largest = float(left.max()) if left.size else 0.0
        text = f"ours - recorded, at most {largest:.3g}"
        pictures.append((difference_picture(difference, largest), text))
    else:
        pictures.append(("", "the sizes differ"))
    where = f"channel {channel}" + (f" of picture {picture}" if picture else "")
    return _Maps(report, where, pictures)


def _worst_map(ours: np.ndarray[Any, Any], recorded: np.ndarray[Any, Any]) -> tuple[int, int]:
    """Picture and channel with the largest difference; of the largest values, if sizes differ."""
    if ours.ndim < 4 or recorded.ndim < 4:
        return 0, 0
    pictures, channels = (
        min(a, b) for a, b in zip(ours.shape[:2], recorded.shape[:2], strict=True)
    )
    values = recorded[:pictures, :channels].astype(np.float64)
    if ours.shape == recorded.shape:
        values = ours - values
    size = np.nan_to_num(np.abs(values), nan=np.inf).reshape(pictures, channels, -1).max(-1)
    picture, channel = np.unravel_index(int(size.argmax()), size.shape)
    return int(picture), int(channel)


def _range(plane: np.ndarray[Any, Any]) -> str:
    finite = plane[np.isfinite(plane)]
    if not finite.size:
        return "no finite value"
    return f"from {finite.min():.3g} to {finite.max():.3g}"
