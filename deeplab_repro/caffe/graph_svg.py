"""A small layered layout: every box below what it reads, drawn as SVG."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from html import escape
from itertools import pairwise
from typing import Final

from deeplab_repro.caffe.boxes import Box
from prototxt_import.words import show

__all__ = ["graph_svg"]

_CHARACTER: Final = 6.3  # width of one at 11 px
_LINE: Final = 15
_GAP: Final = 26  # between ranks; between boxes of a rank half of it
_SWEEPS: Final = 12
_COLOURS: Final = {
    "input": "#e8eaed",
    "Convolution": "#d4e6fb",
    "Deconvolution": "#d4e6fb",
    "InnerProduct": "#d4e6fb",
    "Pooling": "#fbe3cc",
    "Interp": "#e7dcf8",
    "Padding": "#e7dcf8",
    "Eltwise": "#d5f0da",
    "Concat": "#d5f0da",
    "block": "#c9ecef",
}
_OTHER: Final = "#f5f0cf"
_LOSS: Final = "#f8d4d4"


@dataclass
class _Place:
    """A box, or a bend of an edge that passes through a rank."""

    key: tuple[str, ...]
    rank: int
    width: float
    height: float
    x: float = 0.0  # of the middle
    y: float = 0.0  # of the top

    @property
    def is_bend(self) -> bool:
        """Whether an edge passes here, not a box."""
        return len(self.key) > 1


def graph_svg(boxes: Mapping[str, Box], title: str) -> str:
    """The boxes as an SVG picture, inputs at the top.

    Args:
        boxes: in an order in which each comes after those that it reads.
        title: of the picture.
    """
    places: dict[tuple[str, ...], _Place] = {(k,): _placed(box) for k, box in boxes.items()}
    for key, box in boxes.items():
        above = [places[below,].rank for below in box.below]
        places[key,].rank = 1 + max(above, default=-1)
    # A box with nothing above it stands right over its first reader.
    for key, box in boxes.items():
        if not box.below:
            readers = [places[other,].rank for other, b in boxes.items() if key in b.below]
            places[key,].rank = min(readers, default=1) - 1
    edges = _bent_edges(boxes, places)
    ranks: list[list[_Place]] = [[] for _ in range(1 + max(p.rank for p in places.values()))]
    for place in places.values():
        ranks[place.rank].append(place)
    _arrange(ranks, [pair for path in edges for pair in pairwise(path)], places)
    y = 46.0
    for rank in ranks:
        height = max(place.height for place in rank)
        for place in rank:
            place.y = y
            if place.is_bend:  # straight past the boxes beside it
                place.height = height
        y += height + _GAP
    left = min(place.x - place.width / 2 for place in places.values()) - 16
    right = max(place.x + place.width / 2 for place in places.values()) + 16
    right = max(right, left + 32 + 9.5 * len(title))
    width = right - left
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="{left:.0f} 0 {width:.0f} {y:.0f}" '
        f'width="{width:.0f}" height="{y:.0f}" font-family="Liberation Sans, Arial, '
        f'sans-serif" font-size="11">',
        f"<title>{escape(title)}</title>",
        '<defs><marker id="arrow" viewBox="0 0 8 8" refX="7" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0 8 4 0 8z" fill="#667"/></marker></defs>',
        f'<rect x="{left:.0f}" width="100%" height="100%" fill="#fff"/>',
        f'<text x="{left + 16:.0f}" y="26" font-size="16" font-weight="bold">{escape(title)}'
        "</text>",
    ]
    parts += [_curve([places[key] for key in path]) for path in edges]
    parts += [_drawn(box, places[key,]) for key, box in boxes.items()]
    return "\n".join([*parts, "</svg>\n"])


def _texts(box: Box) -> list[str]:
    title = f"{box.times} x {box.title}" if box.times > 1 else box.title
    return [_cut(title, 44), *(_cut(line, 62) for line in box.lines), show(box.shape)]


def _cut(text: str, most: int) -> str:
    return text if len(text) <= most else f"{text[: most // 2 - 1]}…{text[-most // 2 :]}"


def _placed(box: Box) -> _Place:
    texts = _texts(box)
    widths = [len(texts[0]) * 1.1, *map(len, texts[1:])]
    return _Place((box.key,), 0, max(90.0, _CHARACTER * max(widths) + 20), _LINE * len(texts) + 10)


def _bent_edges(
    boxes: Mapping[str, Box], places: dict[tuple[str, ...], _Place]
) -> list[list[tuple[str, ...]]]:
    """Paths from box to box; an edge over several ranks gets a bend in each between."""
    edges = []
    for key, box in boxes.items():
        for below in box.below:
            path: list[tuple[str, ...]] = [(below,)]
            for rank in range(places[below,].rank + 1, places[key,].rank):
                # Edges from one box share their bends: they run as one line until they part.
                bend = (below, "", str(rank))
                places.setdefault(bend, _Place(bend, rank, 10, 0))
                path.append(bend)
            edges.append([*path, (key,)])
    return edges


def _arrange(
    ranks: list[list[_Place]],
    pairs: list[tuple[tuple[str, ...], tuple[str, ...]]],
    places: dict[tuple[str, ...], _Place],
) -> None:
    """Order each rank by where its neighbours are, and move it there, without overlaps."""
    above: dict[tuple[str, ...], list[_Place]] = {}
    below: dict[tuple[str, ...], list[_Place]] = {}
    for start, end in dict.fromkeys(pairs):
        below.setdefault(start, []).append(places[end])
        above.setdefault(end, []).append(places[start])
    for rank in ranks:
        _spread(rank, {})
    for sweep in range(_SWEEPS):
        down = sweep % 2 == 0
        for rank in ranks if down else reversed(ranks):
            wanted = {}
            for place in rank:
                near = (above if down else below).get(place.key) or [place]
                wanted[place.key] = sum(other.x for other in near) / len(near)
            rank.sort(key=lambda place: wanted[place.key])
            _spread(rank, wanted)


def _spread(rank: list[_Place], wanted: Mapping[tuple[str, ...], float]) -> None:
    """Put the places of a rank near where they want to be, in order, side by side.

    Neighbours that want the same place form a cluster around the mean of their wishes.
    """
    clusters: list[tuple[float, list[_Place]]] = []  # left edge, members
    for place in rank:
        members = [place]
        left = wanted.get(place.key, 0.0) - place.width / 2
        while clusters and clusters[-1][0] + _extent(clusters[-1][1]) > left:
            members = clusters.pop()[1] + members
            offset, wishes = 0.0, []
            for member in members:
                middle = offset + member.width / 2
                wishes.append(wanted.get(member.key, 0.0) - middle)
                offset += member.width + _GAP / 2
            left = sum(wishes) / len(wishes)
        clusters.append((left, members))
    for left, members in clusters:
        for member in members:
            member.x = left + member.width / 2
            left += member.width + _GAP / 2


def _extent(members: list[_Place]) -> float:
    return sum(member.width + _GAP / 2 for member in members)


def _curve(path: list[_Place]) -> str:
    """Curved between ranks, straight where it passes one."""
    x, y = path[0].x, path[0].y + path[0].height
    text = f"M{x:.1f} {y:.1f}"
    for place in path[1:]:
        middle = (y + place.y) / 2
        text += f"C{x:.1f} {middle:.1f} {place.x:.1f} {middle:.1f} {place.x:.1f} {place.y:.1f}"
        x, y = place.x, place.y
        if place.is_bend:
            y += place.height
            text += f"V{y:.1f}"
    return f'<path d="{text}" fill="none" stroke="#667" marker-end="url(#arrow)"/>'


def _drawn(box: Box, place: _Place) -> str:
    colour = _LOSS if box.kind.endswith("Loss") else _COLOURS.get(box.kind, _OTHER)
    x, y = place.x - place.width / 2, place.y
    texts = _texts(box)
    rows = [
        f'<text x="{place.x:.1f}" y="{y + _LINE * (i + 1):.1f}" text-anchor="middle"'
        + (' font-weight="bold"' if i == 0 else ' fill="#555"' if i == len(texts) - 1 else "")
        + f">{escape(text)}</text>"
        for i, text in enumerate(texts)
    ]
    hint = escape(", ".join(box.layers[:40]) + (", …" if len(box.layers) > 40 else "") or box.title)
    double = (
        f'<rect x="{x + 4:.1f}" y="{y + 4:.1f}" width="{place.width:.1f}" '
        f'height="{place.height:.1f}" rx="5" fill="{colour}" stroke="#889"/>'
        if box.times > 1
        else ""
    )
    return (
        f'<g><title>{hint}</title>{double}<rect x="{x:.1f}" y="{y:.1f}" width="{place.width:.1f}" '
        f'height="{place.height:.1f}" rx="5" fill="{colour}" stroke="#889"/>{"".join(rows)}</g>'
    )
