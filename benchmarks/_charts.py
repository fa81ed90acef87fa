"""Small charts as SVG, without a plotting package."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path

_COLOURS = ("#1b5e9b", "#5aa2dc", "#c7781f", "#e5b566", "#7a7a7a", "#b0b0b0")
_FONT = 'font-family="sans-serif" font-size="12"'
_LEFT, _TOP, _BAR, _GAP, _WIDE = 170, 60, 14, 14, 520


def bars(
    path: Path, title: str, unit: str, rows: Mapping[str, Mapping[str, float]], hatched: str = ""
) -> Path:
    """Horizontal bars, a group for each row.

    Args:
        path: of the .svg.
        title: above the chart.
        unit: of the values.
        rows: group -> series -> value; a series may be missing in a group.
        hatched: bars of series whose name contains this are drawn pale.
    """
    series = list(dict.fromkeys(name for row in rows.values() for name in row))
    most = max(value for row in rows.values() for value in row.values())
    parts, y = [], _TOP + 18 * len(series)
    for i, name in enumerate(series):
        at = _TOP + 18 * i - 12
        parts.append(_box(_LEFT, at, 12, 12, i, bool(hatched) and hatched in name))
        parts.append(_text(_LEFT + 18, at + 10, name))
    for group, row in rows.items():
        y += _GAP
        parts.append(_text(_LEFT - 8, y + _BAR * len(row) / 2 + 4, group, "end"))
        for name, value in row.items():
            width = max(1.0, value / most * _WIDE)
            index = series.index(name)
            pale = bool(hatched) and hatched in name
            parts.append(_box(_LEFT, y, width, _BAR - 2, index, pale))
            parts.append(_text(_LEFT + width + 6, y + 10, f"{value:.3g} {unit}"))
            y += _BAR
    return _write(path, title, parts, _LEFT + _WIDE + 120, y + 20)


def lines(
    path: Path, title: str, x_label: str, y_label: str, curves: Mapping[str, Sequence[tuple]]
) -> Path:
    """Curves through (x, y) points, x at equal distances, y from 0."""
    xs = sorted({x for curve in curves.values() for x, _ in curve})
    most = max(y for curve in curves.values() for _, y in curve)
    height, step = 260, _WIDE / max(1, len(xs) - 1)
    parts = [_text(_LEFT - 8, _TOP + 8, f"{most:.3g}", "end"), _text(8, _TOP + 120, y_label)]
    parts.append(_text(_LEFT - 8, _TOP + height, "0", "end"))
    parts += [
        _text(_LEFT + i * step, _TOP + height + 18, str(x), "middle") for i, x in enumerate(xs)
    ]
    parts.append(_text(_LEFT + _WIDE / 2, _TOP + height + 38, x_label, "middle"))
    for i, (name, curve) in enumerate(curves.items()):
        points = [(_LEFT + xs.index(x) * step, _TOP + height * (1 - y / most)) for x, y in curve]
        joined = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        colour = _COLOURS[i % len(_COLOURS)]
        parts.append(
            f'<polyline points="{joined}" fill="none" stroke="{colour}" stroke-width="2"/>'
        )
        parts.append(_text(points[-1][0] + 6, points[-1][1] + 4, name))
    return _write(path, title, parts, _LEFT + _WIDE + 160, _TOP + height + 60)


def _box(x: float, y: float, width: float, height: float, index: int, pale: bool) -> str:
    opacity = 0.45 if pale else 1
    return (
        f'<rect x="{x:.1f}" y="{y:.1f}" width="{width:.1f}" height="{height:.1f}"'
        f' fill="{_COLOURS[index % len(_COLOURS)]}" fill-opacity="{opacity}"/>'
    )


def _text(x: float, y: float, text: str, anchor: str = "start") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}" {_FONT}>{escape(text)}</text>'


def _write(path: Path, title: str, parts: Sequence[str], width: float, height: float) -> Path:
    head = (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width:.0f} {height:.0f}">'
        f'<rect width="100%" height="100%" fill="white"/>'
        f'<text x="12" y="24" font-family="sans-serif" font-size="16">{escape(title)}</text>'
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join([head, *parts, "</svg>"]) + "\n", encoding="utf-8")
    return path
