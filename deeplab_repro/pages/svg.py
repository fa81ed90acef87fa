"""Matplotlib's figures as SVG inside a page, in the page's colours by day and by night."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Final
from xml.etree import ElementTree

from matplotlib.figure import Figure

from deeplab_repro.pictures.figures import svg_text

__all__ = ["BAD", "FIRST", "GRID", "SECOND", "TEXT", "page_svg"]

#: Colours to draw with -> the page's, which has others in the dark.
FIRST, SECOND, BAD, TEXT, GRID = "#0b63c5", "#b35900", "#c62828", "#5b6570", "#d9dee4"
_OF_PAGE: Final = {
    FIRST: "var(--first)",
    SECOND: "var(--second)",
    BAD: "var(--bad)",
    TEXT: "var(--dim)",
    GRID: "var(--line)",
}
_SVG: Final = "http://www.w3.org/2000/svg"
ElementTree.register_namespace("", _SVG)
ElementTree.register_namespace("xlink", "http://www.w3.org/1999/xlink")


def page_svg(figure: Figure, label: str, hints: Mapping[str, Sequence[str]]) -> str:
    """The figure as ``<svg>``, without what only a file of its own needs.

    Args:
        figure: drawn in the colours of this module.
        label: what it shows, for those who cannot see it.
        hints: the ``gid`` of a line with marks -> a text for each mark, shown under the pointer.
    """
    svg = svg_text(figure)
    for colour, variable in _OF_PAGE.items():
        svg = svg.replace(colour, variable)
    root = ElementTree.fromstring(svg)
    for name in ("width", "height"):
        del root.attrib[name]
    root.set("role", "img")
    root.set("aria-label", label)
    for name in ("metadata", "defs"):  # the first defs hold a style, which would be the page's
        found = root.find(f"{{{_SVG}}}{name}")
        if found is not None:
            root.remove(found)
    for group, texts in hints.items():
        marks: list[Any] = root.findall(f".//{{{_SVG}}}g[@id='{group}']//{{{_SVG}}}use")
        for mark, text in zip(marks, texts, strict=True):
            ElementTree.SubElement(mark, f"{{{_SVG}}}title").text = text
    return ElementTree.tostring(root, encoding="unicode")
