"""The report of ``evaluate`` as one page that needs nothing but itself."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from deeplab_repro import pages
from deeplab_repro.data.labels import read_label
from deeplab_repro.errors import BadInput
from deeplab_repro.evaluation.confusion import Confusion
from deeplab_repro.evaluation.evaluate import Evaluation, Pair, PictureScore, read_prediction
from deeplab_repro.evaluation.plots import trimap_plot
from deeplab_repro.pictures.palette import Classes
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import IGNORE_LABEL, voc_palette

__all__ = ["evaluation_page", "write_evaluation_page"]

#: Pictures shown.
_MOST_PICTURES: Final = 12
#: Longest side of a picture in the page; larger ones are shrunk.
_LONGEST: Final = 400
#: The colours of a difference, BGR: pixels that are right, wrong, and void.
_RIGHT, _WRONG, _VOID = (235, 235, 235), (40, 40, 198), (160, 160, 160)


def write_evaluation_page(
    path: str | os.PathLike[str],
    evaluation: Evaluation,
    pairs: Sequence[Pair],
    classes: Classes,
    *,
    title: str,
    crop: bool = False,
    warning: str = "",
) -> None:
    """Write :func:`evaluation_page`; whatever was at ``path`` is replaced when all is done."""
    text = evaluation_page(evaluation, pairs, classes, title=title, crop=crop, warning=warning)
    pages.write_page(path, text)


def evaluation_page(
    evaluation: Evaluation,
    pairs: Sequence[Pair],
    classes: Classes,
    *,
    title: str,
    crop: bool = False,
    warning: str = "",
) -> str:
    """The page: scores, classes, confusions, trimap curves, and the worst pictures.

    Args:
        evaluation: what was found.
        pairs: the files, of which those of the worst pictures are read again.
        classes: names and colours of the ids.
        title: heading of the page.
        crop: as of :func:`~deeplab_repro.evaluation.evaluate.evaluate`.
        warning: shown above everything, where the weights have seen the pictures.
    """
    by_name = {pair.name: pair for pair in pairs}
    worst = [
        _shown(score, by_name[score.name], classes, crop)
        for score in evaluation.worst[:_MOST_PICTURES]
    ]
    confusion = evaluation.confusion
    trimap = evaluation.trimap
    return pages.render_page(
        "deeplab_repro.evaluation",
        "evaluate.html",
        {"percent": percent},
        title=title,
        warning=warning,
        evaluation=evaluation,
        confusion=confusion,
        rows=list(_class_rows(confusion, classes)),
        names=classes.names,
        shares=_shares_of_truth(confusion).tolist(),
        curves=Markup(trimap_plot({"": trimap}))
        if trimap is not None and trimap.rings.any()
        else "",
        worst=worst,
    )


def percent(value: float) -> str:
    """A share in percent with two digits; a dash where there is none."""
    return f"{100 * value:.2f}" if value == value else "-"


@dataclass(frozen=True)
class _ClassRow:
    name: str
    colour: str
    iou: float
    accuracy: float
    share: float  # of the pixels that count
    taken_for: str  # the class that most of its missed pixels have


def _class_rows(confusion: Confusion, classes: Classes) -> Iterator[_ClassRow]:
    truth = confusion.matrix.sum(1)
    missed = confusion.matrix.copy()
    np.fill_diagonal(missed, 0)
    for i, name in enumerate(classes.names):
        most = int(missed[i].argmax())
        share_missed = missed[i, most] / truth[i] if truth[i] else 0.0
        yield _ClassRow(
            name,
            "#{:02x}{:02x}{:02x}".format(*classes.colours[i].tolist()),
            float(confusion.iou[i]),
            float(confusion.accuracy[i]),
            truth[i] / max(1, confusion.pixels),
            f"{classes.names[most]} {100 * share_missed:.1f} %" if share_missed else "",
        )


def _shares_of_truth(confusion: Confusion) -> NDArray[np.float64]:
    """Each row of the matrix as shares of its sum; zeros for a class without pixels."""
    return confusion.matrix / np.maximum(confusion.matrix.sum(1, keepdims=True), 1)


@dataclass(frozen=True)
class _Shown:
    """A picture of the page.

    Attributes:
        score: its own scores.
        panels: (caption, data: address).
        classes: those of its label, by name, with their IoU in it.
    """

    score: PictureScore
    panels: list[tuple[str, str]]
    classes: list[tuple[str, str, float]]


def _shown(score: PictureScore, pair: Pair, classes: Classes, crop: bool) -> _Shown:
    count = len(classes.names)
    truth = read_label(pair.label, count)
    predicted = read_prediction(pair.prediction, count, score.size, crop=crop)
    own = Confusion(count)
    own.add(predicted, truth)
    difference = np.where((predicted == truth)[:, :, None], _RIGHT, _WRONG).astype(np.uint8)
    difference[truth == IGNORE_LABEL] = _VOID
    panels = [
        ("label", _coloured(truth, classes)),
        ("prediction", _coloured(predicted, classes)),
        ("difference", difference),
    ]
    try:
        if pair.picture is not None:
            panels.insert(0, ("picture", read_picture(pair.picture)))
    except BadInput:
        pass  # the scores do not need it
    present = [i for i in range(count) if own.matrix[i].any()]
    return _Shown(
        score,
        [(caption, pages.png_address(_shrunk(pixels))) for caption, pixels in panels],
        [
            (
                classes.names[i],
                "#{:02x}{:02x}{:02x}".format(*classes.colours[i].tolist()),
                float(own.iou[i]),
            )
            for i in present
        ],
    )


def _coloured(labels: NDArray[np.uint8], classes: Classes) -> NDArray[np.uint8]:
    """(H, W) ids as (H, W, 3) BGR."""
    palette = voc_palette()
    palette[: len(classes.colours)] = classes.colours
    return np.asarray(palette[labels][:, :, ::-1])


def _shrunk(pixels: NDArray[Any]) -> NDArray[Any]:
    factor = _LONGEST / max(pixels.shape[:2])
    if factor >= 1:
        return np.ascontiguousarray(pixels)
    size = max(1, round(pixels.shape[1] * factor)), max(1, round(pixels.shape[0] * factor))
    return np.asarray(cv2.resize(pixels, size, interpolation=cv2.INTER_AREA))
