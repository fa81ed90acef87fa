"""The report of ``compare`` as one page that needs nothing but itself."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from html import escape
from importlib.resources import files
from pathlib import Path
from typing import Any, Final

import numpy as np

import deeplab_repro
from deeplab_repro.parity.causes import Cause
from deeplab_repro.parity.comparison import BlobReport, Comparison
from deeplab_repro.parity.heat import difference_picture, plane_of, value_picture
from deeplab_repro.parity.plot import error_plot
from prototxt_import import CaffeImportError
from prototxt_import.files import replacing

__all__ = ["compare_page", "write_page"]

#: Layers shown as heat maps.
_MOST_MAPS: Final = 5
_SURE: Final = {"proved": "proved", "likely": "likely", "unknown": "not recognised"}
#: Heading -> key for sorting, kind.
_COLUMNS: Final = {
    "#": ("number", "number"),
    "blob": ("blob", "text"),
    "layer": ("layer", "text"),
    "type": ("type", "text"),
    "shape": ("shape", "text"),
    "rel": ("rel", "number"),
    "max": ("max", "number"),
    "verdict": ("verdict", "text"),
}


def write_page(
    path: str | os.PathLike[str], comparison: Comparison, causes: Sequence[Cause], model: str
) -> None:
    """Write :func:`compare_page`; whatever was at ``path`` is replaced when all is done."""
    text = compare_page(comparison, causes, model)
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")


def compare_page(comparison: Comparison, causes: Sequence[Cause], model: str) -> str:
    """The page: summary, causes, error over depth, heat maps of the worst layers, all blobs.

    Args:
        comparison: what was compared.
        causes: what :func:`deeplab_repro.parity.causes.likely_causes` found.
        model: file name of the model, for the heading.
    """
    equal = comparison.first is None
    parts = {
        "title": escape(f"{Path(model).name}: {'equal' if equal else 'not equal'}"),
        "model": escape(Path(model).name),
        "verdict": "equal" if equal else "not equal",
        "verdict_class": "good" if equal else "bad",
        "summary": _summary(comparison, model),
        "causes": _causes(causes),
        "plot": error_plot(comparison.reports, comparison.tolerance),
        "heat_maps": _heat_maps(comparison, causes),
        "columns": "".join(
            f'<th data-key="{key}" data-kind="{kind}" class="{kind}">'
            f'<button type="button">{heading}</button></th>'
            for heading, (key, kind) in _COLUMNS.items()
        ),
        "rows": "\n".join(_row(i, report) for i, report in enumerate(comparison.reports, 1)),
        "footer": f"deeplab-repro {escape(deeplab_repro.__version__)}",
        "style": _part("page.css"),
        "script": _part("page.js"),
    }
    # One pass: what is put in is not looked at again, whatever a blob is called.
    return re.sub(r"\{\{(\w+)\}\}", lambda match: parts[match[1]], _part("compare.html"))


def _part(name: str) -> str:
    return (files("deeplab_repro.parity") / "page" / name).read_text(encoding="utf-8")


def _summary(comparison: Comparison, model: str) -> str:
    net, tolerance, first = comparison.net.net, comparison.tolerance, comparison.first
    compared = [r for r in comparison.reports if r.agreement is not None]
    differing = sum(r.equal is False for r in compared)
    rows = {
        "network": f"{escape(net.name or 'without a name')}, {len(net.layers)} layers",
        "model": f"<code>{escape(model)}</code>",
        "recording": f"<code>{escape(str(comparison.recording.file))}</code>",
        "dialect": escape(str(net.raw.report)),
        "verdict": f"{differing} of {len(compared)} compared blobs differ"
        if differing
        else f"all {len(compared)} compared blobs are equal",
    }
    rows["compared"] = f"{comparison.compared} of {len(comparison.ours)} blobs of the network"
    if first is not None:
        layer = f"layer <code>{escape(first.layer)}</code>, " if first.layer else ""
        rows["first difference"] = (
            f"{layer}blob <code>{escape(first.blob)}</code>: {escape(str(first.agreement))}"
        )
    rows["tolerance"] = (
        f"rel = ‖ours - recorded‖ / ‖recorded‖ ≤ {tolerance.rel:.0e}, "
        f"max = max|ours - recorded| / max|recorded| ≤ {tolerance.max:.0e} "
        f'<span class="hint">({escape(tolerance.reason)})</span>'
    )
    for name in comparison.net.inputs:
        if name in comparison.ours:
            rows[f"input {escape(name)}"] = _input(comparison.ours[name].numpy())
    items = "\n".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in rows.items())
    return f"<dl>\n{items}\n</dl>"


def _input(values: np.ndarray[Any, Any]) -> str:
    if not values.size:
        return _shape(values.shape)
    text = f"{_shape(values.shape)}, from {values.min():.4g} to {values.max():.4g}"
    if values.ndim == 4 and values.shape[1] <= 4:
        means = ", ".join(f"{mean:.4g}" for mean in values.mean((0, 2, 3)))
        text += f", mean of each channel {means}"
    return text


def _causes(causes: Sequence[Cause]) -> str:
    if not causes:
        return ""
    cards = []
    for cause in causes:
        evidence = "".join(f"<li>{escape(text)}</li>" for text in cause.evidence)
        also = (
            f"<p>The same holds for {len(cause.also)} more: "
            f"<code>{escape(', '.join(cause.also[:12]))}"
            f"{', …' if len(cause.also) > 12 else ''}</code></p>"
            if cause.also
            else ""
        )
        cards.append(
            f'<div class="cause" data-cause="{escape(cause.trap.id)}"><h3>'
            f"{escape(cause.trap.title[:1].upper() + cause.trap.title[1:])} "
            f'<span class="badge sure">{_SURE[cause.sure]}</span></h3>'
            f"<p>at layer <code>{escape(cause.layer or '-')}</code></p><ul>{evidence}</ul>{also}"
            f"<p><b>What to do:</b> {escape(cause.trap.advice)}</p></div>"
        )
    plural = "s" if len(causes) > 1 else ""
    return f"<section><h2>Likely cause{plural}</h2>{''.join(cards)}</section>"


def _row(number: int, report: BlobReport) -> str:
    rel = maximum = "-"
    sort_rel = sort_max = ""
    verdict, css = "not recorded", ""
    if report.agreement is not None:
        rel, maximum = f"{report.agreement.rel:.2e}", f"{report.agreement.max:.2e}"
        # JavaScript reads "Infinity", and NaN sorts as what is worse than any number.
        sort_rel, sort_max = (_sortable(v) for v in (report.agreement.rel, report.agreement.max))
        note = f" ({report.agreement.note})" if report.agreement.note else ""
        verdict, css = ("equal", "good") if report.equal else (f"differs{note}", "bad")
    shape = _shape(report.shape) if report.layer or report.shape else "-"
    cells = [
        ("number", str(number), str(number)),
        ("name", report.blob, report.blob),
        ("name", report.layer, report.layer),
        ("", report.type, report.type.replace("+", " + ")),
        ("number", shape, shape),
        ("number", sort_rel, rel),
        ("number", sort_max, maximum),
        ("verdict", verdict, verdict),
    ]
    found = escape(f"{report.blob} {report.layer} {report.type}".lower())
    columns = "".join(
        f'<td class="{kind}" data-v="{escape(value)}">{escape(text)}</td>'
        for kind, value, text in cells
    )
    return f'<tr class="{css}" data-find="{found}">{columns}</tr>'


def _sortable(value: float) -> str:
    return f"{value:.8e}" if abs(value) < float("inf") else "Infinity"


def _shape(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape)) or "scalar"


def _heat_maps(comparison: Comparison, causes: Sequence[Cause]) -> str:
    shown = []
    for report in _worst(comparison, causes):
        try:
            recorded = comparison.recording.whole(report.blob)
        except CaffeImportError:
            continue  # recorded in samples: nothing to see
        if recorded.size and report.blob in comparison.ours:
            shown.append(_figures(report, comparison.ours[report.blob].numpy(), recorded))
    if not shown:
        return ""
    return (
        "<section><h2>Worst layers</h2>"
        '<p class="hint">The first layer that differs, those that a cause names, then those with '
        "the largest error. Of each blob: the map with the largest difference. Ours and recorded "
        "have one scale, dark to bright; difference: blue below, red above, magenta is no number."
        f"</p>{''.join(shown)}</section>"
    )


def _worst(comparison: Comparison, causes: Sequence[Cause]) -> list[BlobReport]:
    by_name = {r.blob: r for r in comparison.reports if r.equal is False and r.layer}

    def badness(report: BlobReport) -> float:
        rel = report.agreement.rel if report.agreement else 0.0
        return rel if rel == rel else float("inf")

    named = [cause.blob for cause in causes]
    by_error = sorted(by_name.values(), key=badness, reverse=True)
    order = dict.fromkeys([*list(by_name)[:1], *named, *(r.blob for r in by_error)])
    return [by_name[name] for name in order if name in by_name][:_MOST_MAPS]


def _figures(report: BlobReport, ours: np.ndarray[Any, Any], recorded: np.ndarray[Any, Any]) -> str:
    picture, channel = _worst_map(ours, recorded)
    planes = plane_of(ours, picture, channel), plane_of(recorded, picture, channel)
    finite = np.concatenate([p[np.isfinite(p)].ravel() for p in planes] + [np.zeros(1)])
    low, high = float(finite.min()), float(finite.max())
    figures = [
        _figure(value_picture(plane, low, high), f"{what}, {_shape(values.shape)}, {_range(plane)}")
        for what, plane, values in zip(("ours", "recorded"), planes, (ours, recorded), strict=True)
    ]
    if planes[0].shape == planes[1].shape:
        difference = planes[0].astype(np.float64) - planes[1]
        left = np.abs(difference[np.isfinite(difference)])
        largest = float(left.max()) if left.size else 0.0
        text = f"ours - recorded, at most {largest:.3g}"
        figures.append(_figure(difference_picture(difference, largest), text))
    else:
        figures.append("<figure><figcaption>the sizes differ</figcaption></figure>")
    where = f"channel {channel}" + (f" of picture {picture}" if picture else "")
    return (
        f"<h3>{escape(report.blob)} <span class='hint'>{escape(report.type)}, {where}, "
        f"{escape(str(report.agreement))}</span></h3><div class='maps'>{''.join(figures)}</div>"
    )


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


def _figure(address: str, text: str) -> str:
    return (
        f'<figure><img alt="{escape(text)}" src="{address}"><figcaption>{escape(text)}'
        "</figcaption></figure>"
    )
