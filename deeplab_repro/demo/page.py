"""What `make demo` found, as one page that needs nothing but itself."""

from __future__ import annotations

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from numpy.typing import NDArray

from deeplab_repro import pages
from deeplab_repro.data import Dataset, Sample, read_label, voc
from deeplab_repro.evaluation.html import percent
from deeplab_repro.pictures.overlay import draw_labels
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import IGNORE_LABEL
from prototxt_import.files import read_text, replacing

Pixels = NDArray[np.uint8]
__all__ = ["Demo", "demo_page", "write_demo"]

_MOST_PICTURES: Final = 12
_ON_THE_BANNER: Final = 6
_TILE: Final = (240, 180)  # width and height of a picture on it
_ROWS: Final = ("picture", "network", "after the CRF")
_MARGIN: Final = 32  # at the left, for the names of the rows


@dataclass(frozen=True)
class Demo:
    """The files of `make demo`.

    Attributes:
        folder: holds ``unseen`` (a set in VOC's layout), ``before`` and ``after`` with ``labels``,
            what ``evaluate --json`` says of both, and what ``compare --json`` says.
    """

    folder: Path

    @property
    def pictures(self) -> Dataset:
        """All pictures of the set."""
        return voc(self.folder / "unseen", "trainval")

    def report(self, name: str) -> dict[str, Any]:
        """``before``, ``after`` or ``compare``."""
        found: dict[str, Any] = json.loads(read_text(self.folder / f"{name}.json"))
        return found

    def panels(self, sample: Sample) -> list[tuple[str, Pixels]]:
        """A picture, and the labels of the network, of the CRF and of whoever drew it.

        Args:
            sample: one of :attr:`pictures`.

        Returns:
            (caption, (H, W, 3) uint8 BGR), four times.
        """
        assert sample.label is not None
        picture, classes = read_picture(sample.picture), Classes.default(21)
        truth = read_label(sample.label)
        labels = {
            "the network": read_label(self.folder / f"before/labels/{sample.name}.png"),
            "after the CRF": read_label(self.folder / f"after/labels/{sample.name}.png"),
            "as it was drawn": np.where(truth == IGNORE_LABEL, 0, truth).astype(np.uint8),
        }
        shown = {what: draw_labels(picture, ids, classes) for what, ids in labels.items()}
        large = cv2.resize(
            picture, shown["the network"].shape[1::-1], interpolation=cv2.INTER_NEAREST
        )
        return [("picture", np.asarray(large, np.uint8)), *shown.items()]


def write_demo(folder: str | os.PathLike[str]) -> list[Path]:
    """Write ``index.html`` and ``before_after.png`` into the folder of the demo.

    Returns:
        the two files.

    Raises:
        InputError: a file of the demo is missing.
    """
    demo = Demo(Path(folder))
    page, banner = demo.folder / "index.html", demo.folder / "before_after.png"
    pages.write_page(page, demo_page(demo))
    with replacing(banner) as temporary:
        _, encoded = cv2.imencode(".png", _banner(demo))
        temporary.write_bytes(encoded.tobytes())
    return [page, banner]


def demo_page(demo: Demo) -> str:
    """The text of the page: the pictures, the scores, and what was proved."""
    before, after = demo.report("before"), demo.report("after")
    rows = [
        (old["name"], old["iou"], new["iou"])
        for old, new in zip(before["classes"], after["classes"], strict=True)
        if old["iou"] is not None
    ]
    old, new = (
        {picture["name"]: picture["mean_iou"] for picture in report["each_picture"]}
        for report in (before, after)
    )
    pictures = [
        (
            sample.name,
            [(caption, pages.png_address(pixels)) for caption, pixels in demo.panels(sample)],
            old[sample.name],
            new[sample.name],
        )
        for sample in demo.pictures[:_MOST_PICTURES]
    ]
    return pages.render_page(
        "deeplab_repro.demo",
        "demo.html",
        {"percent": percent},
        before=before,
        after=after,
        compared=demo.report("compare"),
        rows=rows,
        pictures=pictures,
    )


def _banner(demo: Demo) -> Pixels:
    """Rows of pictures, of the network's labels and of the CRF's, with names; (H, W, 3) uint8 BGR.

    The pictures are the first wide ones that show a class which is not there yet.
    """
    columns: list[list[Pixels]] = []
    shown = {0, IGNORE_LABEL}
    for sample in demo.pictures:
        panels = [pixels for _, pixels in demo.panels(sample)[:3]]
        height, width, _ = panels[0].shape
        assert sample.label is not None
        classes = {*np.unique(read_label(sample.label)).tolist()}
        if width > height and not classes <= shown and len(columns) < _ON_THE_BANNER:
            shown |= classes
            columns.append([np.asarray(cv2.resize(each, _TILE), np.uint8) for each in panels])
    rows = zip(_ROWS, zip(*columns, strict=True), strict=True)
    return np.concatenate([np.concatenate([_row_name(name), *row], 1) for name, row in rows])


def _row_name(name: str) -> Pixels:
    """The name in the middle of the margin, read from below; (tile's height, margin, 3)."""
    font, size = cv2.FONT_HERSHEY_SIMPLEX, 0.6
    paper = np.full((_MARGIN, _TILE[1], 3), 255, np.uint8)
    (width, height), _ = cv2.getTextSize(name, font, size, 1)
    at = (_TILE[1] - width) // 2, (_MARGIN + height) // 2
    cv2.putText(paper, name, at, font, size, (0, 0, 0), 1, cv2.LINE_AA)
    return np.ascontiguousarray(np.rot90(paper))
