"""Draws the pictures of the documentation and fills in the numbers that belong to them.

    python docs/make_pictures.py [NAME...]

The pictures go to docs/pictures; a NAME such as ``lattice_blur`` draws that one alone.  Every
picture follows from the bundled model, from drawn pictures of a fixed seed and from what the
package computes; nothing is drawn by hand.  The tables between ``<!-- counted -->`` and
``<!-- /counted -->`` in lattice.md and holes.md are written anew too.
"""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Final

import _hole_pictures
import _lattice_pictures
import _tour_pictures
import cv2
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from deeplab_repro.pictures.figures import svg_text
from prototxt_import.files import replacing

DOCS: Final = Path(__file__).resolve().parent
PICTURES: Final = DOCS / "pictures"
_COUNTED: Final = re.compile(r"(?<=<!-- counted -->\n).*(?=<!-- /counted -->)", re.DOTALL)

#: Pictures of lines are SVG; those with photographs or many cells are JPEG or PNG.
FIGURES: Final[dict[str, Callable[[], Figure]]] = {
    "tour_network.jpg": _tour_pictures.network,
    "tour_field.jpg": _tour_pictures.field,
    "tour_crf.jpg": _tour_pictures.crf_steps,
    "tour_trimap.jpg": _tour_pictures.trimap,
    "tour_compare.svg": _tour_pictures.compare,
    "tour_search.png": _tour_pictures.search,
    "lattice_simplex.svg": _lattice_pictures.simplex,
    "lattice_blur.svg": _lattice_pictures.blur,
    "lattice_impulse.png": _lattice_pictures.impulse,
    "hole_taps.svg": _hole_pictures.taps,
    "hole_downsample.svg": _hole_pictures.downsample,
    "hole_interlace.svg": _hole_pictures.interlace,
    "hole_borders.png": _hole_pictures.borders,
}
#: Page -> what stands between its marks.
TABLES: Final[dict[str, Callable[[], str]]] = {
    "lattice.md": _lattice_pictures.table,
    "holes.md": _hole_pictures.table,
}


def main(names: list[str]) -> None:
    """Draw the pictures of these names, or all of them and the tables."""
    PICTURES.mkdir(exist_ok=True)
    for file, draw in FIGURES.items():
        if not names or Path(file).stem in names:
            write(draw(), PICTURES / file)
            print(PICTURES / file)
    for page in [] if names else TABLES:
        path = DOCS / page
        path.write_text(filled(page, path.read_text(encoding="utf-8")), encoding="utf-8")


def filled(page: str, text: str) -> str:
    """The text of a page with its table made anew."""
    return _COUNTED.sub(lambda _: f"\n{TABLES[page]()}\n\n", text)


def write(figure: Figure, path: Path) -> None:
    """Write a figure in the format that the file's ending says."""
    with replacing(path) as temporary:
        temporary.write_bytes(encoded(figure, path.suffix))


def encoded(figure: Figure, kind: str) -> bytes:
    """The bytes of a file of this kind: ``.svg``, ``.png`` or ``.jpg``."""
    if kind == ".svg":
        return svg_text(figure).encode()
    file = io.BytesIO()
    figure.savefig(file, format="png", dpi=110)
    if kind == ".png":
        small = io.BytesIO()
        Image.open(file).convert("RGB").save(small, "PNG", optimize=True)
        return small.getvalue()
    picture = np.asarray(Image.open(file).convert("RGB"))[..., ::-1]
    return cv2.imencode(".jpg", picture, [cv2.IMWRITE_JPEG_QUALITY, 88])[1].tobytes()


if __name__ == "__main__":
    main(sys.argv[1:])
