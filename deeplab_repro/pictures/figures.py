"""Matplotlib's figures as SVG that has the same bytes in every run."""

from __future__ import annotations

import io
import warnings

import matplotlib as mpl
from matplotlib.figure import Figure

__all__ = ["svg_text"]


def svg_text(figure: Figure) -> str:
    """The figure as a whole SVG file; without a date, so that equal figures are equal files."""
    file = io.StringIO()
    settings = mpl.rc_context(
        {
            "svg.hashsalt": "deeplab-repro",  # names of shared parts follow from what they draw
            "svg.fonttype": "none",  # text stays text: it can be searched, and is a few bytes
            "font.sans-serif": ["DejaVu Sans"],
        }
    )
    with settings, warnings.catch_warnings():
        # Whoever shows the picture has fonts of their own for what matplotlib's lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from font")
        figure.savefig(file, format="svg", metadata={"Date": None, "Creator": None})
    return file.getvalue()
