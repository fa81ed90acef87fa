"""The error of every blob over depth, as an SVG picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from html import escape
from typing import Final

from deeplab_repro.parity.comparison import BlobReport
from deeplab_repro.parity.tolerances import Tolerance

__all__ = ["error_plot"]

_WIDTH: Final = 1120
_HEIGHT: Final = 370
_LEFT, _RIGHT, _TOP, _BOTTOM = 56, 12, 26, 104
#: Below the rounding of float32 nothing is of interest.
_LEAST: Final = 1e-9


def error_plot(reports: Sequence[BlobReport], tolerance: Tolerance) -> str:
    """``<svg>`` of rel (dots) and max (squares) of each compared blob; the page colours it.

    Args:
        reports: in running order; those without an agreement are left out.
        tolerance: drawn as two lines.
    """
    compared = [report for report in reports if report.agreement is not None]
    values = [
        v for r in compared if r.agreement for v in (r.agreement.rel, r.agreement.max) if _usual(v)
    ]
    low = math.floor(math.log10(max(_LEAST, min([*values, tolerance.rel], default=1e-7)))) - 1
    high = math.ceil(math.log10(max([*values, tolerance.max * 10]))) + 1
    step = (_WIDTH - _LEFT - _RIGHT) / max(1, len(compared))
    parts = [
        f'<svg viewBox="0 0 {_WIDTH} {_HEIGHT}" role="img" '
        'aria-label="relative error of every blob over depth">'
    ]

    def y(value: float) -> float:
        if value == 0:
            place = float(low)
        elif not math.isfinite(value):
            place = float(high)
        else:
            place = min(max(math.log10(max(value, _LEAST)), low), high)
        return _HEIGHT - _BOTTOM - (place - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)

    for power in range(low + 1, high, max(1, (high - low) // 10)):
        parts.append(
            f'<line class="grid" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" y1="{y(10.0**power):.1f}" '
            f'y2="{y(10.0**power):.1f}"/><text x="{_LEFT - 6}" y="{y(10.0**power) + 4:.1f}" '
            f'text-anchor="end">1e{power}</text>'
        )
    for text, place in (("0", float(low)), ("inf", float(high))):
        height = _HEIGHT - _BOTTOM - (place - low) / (high - low) * (_HEIGHT - _TOP - _BOTTOM)
        parts.append(f'<text x="{_LEFT - 6}" y="{height + 4:.1f}" text-anchor="end">{text}</text>')
    for name, bound in (("rel", tolerance.rel), ("max", tolerance.max)):
        if bound > 0:
            parts.append(
                f'<line class="limit {name}" x1="{_LEFT}" x2="{_WIDTH - _RIGHT}" '
                f'y1="{y(bound):.1f}" y2="{y(bound):.1f}"/>'
            )
    size = max(1.2, min(3.5, step / 3))
    lines: dict[str, list[str]] = {"rel": [], "max": []}
    marks: list[str] = []
    for i, report in enumerate(compared):
        if report.agreement is None:
            continue
        x = _LEFT + (i + 0.5) * step
        rel, largest = report.agreement.rel, report.agreement.max
        if report.equal is False:
            parts.append(
                f'<line class="bad-mark" x1="{x:.1f}" x2="{x:.1f}" y1="{_TOP}" '
                f'y2="{_HEIGHT - _BOTTOM}"/>'
            )
        lines["rel"].append(f"{x:.1f},{y(rel):.1f}")
        lines["max"].append(f"{x:.1f},{y(largest):.1f}")
        marks.append(
            f"<g><title>{escape(report.blob)}: {escape(str(report.agreement))}</title>"
            f'<circle class="rel" cx="{x:.1f}" cy="{y(rel):.1f}" r="{size:.1f}"/>'
            f'<rect class="max" x="{x - size:.1f}" y="{y(largest) - size:.1f}" '
            f'width="{2 * size:.1f}" height="{2 * size:.1f}"/></g>'
        )
    for name, points in lines.items():
        parts.append(
            f'<polyline class="{name}" fill="none" stroke-width="1" opacity=".5" '
            f'points="{" ".join(points)}"/>'
        )
    parts += marks
    every = max(1, math.ceil(16 / step))  # a label needs 16 pixels
    for i in range(0, len(compared), every):
        x = _LEFT + (i + 0.5) * step
        name = compared[i].blob
        short = name if len(name) <= 16 else f"{name[:6]}…{name[-9:]}"
        parts.append(
            f'<text transform="translate({x + 4:.1f} {_HEIGHT - _BOTTOM + 8}) rotate(-60)" '
            f'text-anchor="end">{escape(short)}</text>'
        )
    parts.append(
        f'<circle class="rel" cx="{_LEFT + 8}" cy="12" r="4"/>'
        f'<text x="{_LEFT + 18}" y="16">rel</text>'
        f'<rect class="max" x="{_LEFT + 54}" y="8" width="8" height="8"/>'
        f'<text x="{_LEFT + 68}" y="16">max</text></svg>'
    )
    return "\n".join(parts)


def _usual(value: float) -> bool:
    return math.isfinite(value) and value > 0
