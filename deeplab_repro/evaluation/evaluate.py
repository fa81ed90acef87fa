"""Scoring the predictions of a data set: files in, confusion matrices out."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.data.datasets import Sample
from deeplab_repro.data.labels import LABEL_ENDINGS, check_ids, read_label
from deeplab_repro.data.matlab import MATLAB_ENDINGS, read_matlab
from deeplab_repro.data.parallel import over
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.evaluation.confusion import Confusion
from deeplab_repro.evaluation.trimap import Trimap
from deeplab_repro.pictures import scores as score_files
from deeplab_repro.processes import Processes
from prototxt_import.words import finite_or_none

__all__ = ["Evaluation", "Pair", "PictureScore", "evaluate", "pair_up", "read_prediction"]

#: Names that a prediction of a picture may have: ours, and what Caffe's MatWrite layer adds.
_NAMES: Final = ("{}", "{}_blob_0")
_MOST_NAMED: Final = 5  # files in a message


@dataclass(frozen=True)
class Pair:
    """A prediction and what it is held against.

    Attributes:
        name: of the picture.
        prediction: file with the predicted ids.
        label: file with the true ids.
        picture: the picture itself, where it is at hand; only reports show it.
    """

    name: str
    prediction: Path
    label: Path
    picture: Path | None = None


@dataclass(frozen=True)
class PictureScore:
    """How one picture was labelled.

    Attributes:
        name: of the picture.
        size: height and width.
        pixels: pixels that count, which are not void.
        correct: those that have the right class.
        mean_iou: mean IoU over the classes that the label has; NaN if all of it is void.
    """

    name: str
    size: tuple[int, int]
    pixels: int
    correct: int
    mean_iou: float


@dataclass(frozen=True)
class Evaluation:
    """The scores of a data set.

    Attributes:
        confusion: of all pixels.
        trimap: of those near borders; None if it was not asked for.
        pictures: each picture's own scores, in the order of the data set.
    """

    confusion: Confusion
    trimap: Trimap | None
    pictures: tuple[PictureScore, ...]

    @property
    def mean_of_picture_iou(self) -> float:
        """The mean over pictures of their own mean IoU, which is NOT the metric of any paper.

        Some ports report it.  It is larger by points, since most pictures hold few classes.
        """
        values = [score.mean_iou for score in self.pictures if score.pixels]
        return float(np.mean(values)) if values else float("nan")

    def as_json(self, classes: Sequence[str]) -> dict[str, Any]:
        """All numbers for a report; shares are from 0 to 1, and None where there is none.

        Args:
            classes: names of the class ids.
        """
        confusion, trimap = self.confusion, self.trimap
        return {
            "pictures": len(self.pictures),
            "pixels": confusion.pixels,
            "pixel_accuracy": finite_or_none(confusion.pixel_accuracy),
            "mean_accuracy": finite_or_none(confusion.mean_accuracy),
            "mean_iou": finite_or_none(confusion.mean_iou),
            "mean_iou_of_all_classes": confusion.mean_iou_of_all,
            "frequency_weighted_iou": finite_or_none(confusion.frequency_weighted_iou),
            "not_the_metric": {"mean_of_picture_iou": finite_or_none(self.mean_of_picture_iou)},
            "classes": [
                {
                    "id": i,
                    "name": name,
                    "iou": finite_or_none(float(confusion.iou[i])),
                    "accuracy": finite_or_none(float(confusion.accuracy[i])),
                }
                for i, name in enumerate(classes)
            ],
            "confusion_matrix": confusion.matrix.tolist(),
            "trimap": None
            if trimap is None
            else {
                "widths": list(trimap.widths),
                "pixel_accuracy": [finite_or_none(float(v)) for v in trimap.pixel_accuracy],
                "mean_iou": [finite_or_none(float(v)) for v in trimap.mean_iou],
            },
            "each_picture": [
                {
                    "name": score.name,
                    "size": score.size,
                    "pixels": score.pixels,
                    "correct": score.correct,
                    "mean_iou": finite_or_none(score.mean_iou),
                }
                for score in self.pictures
            ],
        }

    @property
    def worst(self) -> list[PictureScore]:
        """The pictures that have pixels to count, those with the lowest mean IoU first."""
        return sorted(
            (score for score in self.pictures if score.pixels),
            key=lambda score: (score.mean_iou, -score.pixels, score.name),
        )


def pair_up(samples: Iterable[Sample], predictions: Path, labels: Path | None = None) -> list[Pair]:
    """Find the prediction, and the label, of every picture.

    Args:
        samples: the pictures.
        predictions: folder with NAME.png, NAME.mat, NAME_blob_0.mat, NAME.bin or a file of scores.
        labels: folder with the labels; by default those that the samples name.

    Raises:
        InputError: no such folder; pictures without a prediction or label, or listed twice.
    """
    endings = (*LABEL_ENDINGS, *_score_endings())
    found = _files_by_name(predictions, endings)
    truths = None if labels is None else _files_by_name(labels, LABEL_ENDINGS)
    samples = list(samples)
    pairs, unpredicted, unlabelled = [], [], []
    for sample in samples:
        names = (name.format(sample.name) for name in _NAMES)
        prediction = next((found[name] for name in names if name in found), None)
        label = sample.label if truths is None else truths.get(sample.name)
        if prediction is None:
            unpredicted.append(sample.name)
        if label is None:
            unlabelled.append(sample.name)
        if prediction is not None and label is not None:
            pairs.append(Pair(sample.name, prediction, label, sample.picture))
    _refuse_missing("predictions", predictions, unpredicted, samples)
    _refuse_missing("labels", labels or "the list", unlabelled, samples)
    counts = Counter(pair.name for pair in pairs)
    repeated = [name for name, count in counts.items() if count > 1]
    if repeated:
        raise InputError(
            "the list names pictures more than once, which would count twice",
            got=", ".join(repeated[:_MOST_NAMED]),
        )
    return pairs


def evaluate(
    pairs: Sequence[Pair],
    num_classes: int = 21,
    *,
    trimap: bool = True,
    crop: bool = False,
    workers: int | None = None,
    team: Processes | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Evaluation:
    """Score predictions.  The result is the same for any number of workers and processes.

    Args:
        pairs: what is held against what.
        num_classes: class ids are 0 to this number less one.
        trimap: count the bands around void pixels too.
        crop: a prediction larger than its label was made of a picture padded right and below, as
            Caffe's test networks do: its part from the top left counts.
        workers: threads of each process; all cores by default.
        team: the processes that share the pictures; this one alone by default.
        advance: called after each picture of this process.

    Returns:
        The same in every process.

    Raises:
        InputError: a file that holds no class ids, or a prediction of another size than its label.
            The first such file is named, in every process.
    """
    team = team or Processes()
    counts = _Counts(num_classes, trimap)
    work = partial(_score, counts=counts, crop=crop)
    mine = over(work, team.share(pairs), workers, advance=advance)
    results = team.merge(mine)
    errors = [result for result in results if isinstance(result, str)]
    if errors:
        rest = f" (and {len(errors) - 1} more such files)" if len(errors) > 1 else ""
        raise InputError(errors[0] + rest)
    confusion = Confusion.of(team.sum(counts.confusion.matrix))
    if counts.trimap is not None:
        counts.trimap.rings[:] = team.sum(counts.trimap.rings)
    scores = tuple(result for result in results if isinstance(result, PictureScore))
    return Evaluation(confusion, counts.trimap, scores)


def read_prediction(
    path: Path, num_classes: int, size: tuple[int, int], *, crop: bool = False
) -> NDArray[np.uint8]:
    """The predicted ids of one picture.

    Args:
        path: a label map (:func:`~deeplab_repro.data.labels.read_label`), or scores, of which the
            first maximum is the label, as in EvalSegResults.m.
        num_classes: class ids are 0 to this number less one.
        size: (height, width) of the label.
        crop: take the rows and columns from the top left of a larger map.

    Returns:
        (height, width) uint8.

    Raises:
        InputError: no map, values that are no class ids, or another size.
    """
    ending = path.suffix.lower()
    if ending in _score_endings():
        labels = _first_maximum(score_files.read_scores(path), num_classes, path)
    elif ending in MATLAB_ENDINGS and (values := read_matlab(path)).ndim == 3:
        labels = _first_maximum(values, num_classes, path)
    elif ending in MATLAB_ENDINGS:
        labels = check_ids(values, num_classes, void=False, file=path)
    else:
        labels = read_label(path, num_classes, void=False)
    rows, columns = labels.shape
    larger = rows >= size[0] and columns >= size[1]
    if labels.shape != size and crop and larger:
        labels = labels[: size[0], : size[1]]
    if labels.shape != size:
        hint = ", as if it were scored at the size of a crop or of padding" if larger else ""
        raise InputError(
            f"is not as large as its label{hint}",
            file=path,
            expected=f"{size[0]}x{size[1]}" + (" (--crop cuts from the top left)" * larger),
            got=f"{rows}x{columns}",
        )
    return labels


class _Counts:
    """What the threads of a process add to; sums of integers do not depend on their order."""

    def __init__(self, num_classes: int, trimap: bool) -> None:
        self.confusion = Confusion(num_classes)
        self.trimap = Trimap(num_classes) if trimap else None
        self._lock = threading.Lock()

    def add(self, prediction: NDArray[np.uint8], label: NDArray[np.uint8]) -> Confusion:
        """Count a picture; returns its own confusion matrix."""
        own = Confusion(self.confusion.num_classes)
        own.add(prediction, label)
        rings = None if self.trimap is None else self.trimap.rings_of(prediction, label)
        with self._lock:
            self.confusion.matrix += own.matrix
            if self.trimap is not None and rings is not None:
                self.trimap.rings += rings
        return own


def _score(pair: Pair, counts: _Counts, crop: bool) -> PictureScore | str:
    """The score of one picture, or what is wrong with its files."""
    classes = counts.confusion.num_classes
    try:
        label = read_label(pair.label, classes)
        size = (label.shape[0], label.shape[1])
        prediction = read_prediction(pair.prediction, classes, size, crop=crop)
        own = counts.add(prediction, label)
    except BadInput as error:
        return str(error.with_file(pair.prediction))
    present = own.matrix.sum(1) > 0
    mean_iou = float(own.iou[present].mean()) if present.any() else float("nan")
    return PictureScore(pair.name, size, own.pixels, int(np.trace(own.matrix)), mean_iou)


def _first_maximum(scores: NDArray[Any], num_classes: int, path: Path) -> NDArray[np.uint8]:
    if len(scores) != num_classes:
        raise InputError(
            "holds scores of another number of classes",
            file=path,
            expected=num_classes,
            got=len(scores),
        )
    return scores.argmax(0).astype(np.uint8)


def _score_endings() -> tuple[str, ...]:
    return tuple(ending for ending in score_files.ENDINGS if ending not in MATLAB_ENDINGS)


def _files_by_name(folder: Path, endings: Sequence[str]) -> dict[str, Path]:
    """The files of a folder by name; where one name has several, the first of the endings."""
    if not folder.is_dir():
        raise InputError("is no folder", file=folder)
    found: dict[str, Path] = {}
    for file in sorted(folder.iterdir()):
        ending = file.suffix.lower()
        if ending not in endings:
            continue
        other = found.get(file.stem)
        if other is None or endings.index(ending) < endings.index(other.suffix.lower()):
            found[file.stem] = file
    return found


def _refuse_missing(
    what: str, where: object, missing: Sequence[str], samples: Sequence[Sample]
) -> None:
    if missing:
        shown = ", ".join(missing[:_MOST_NAMED]) + (", ..." if missing[_MOST_NAMED:] else "")
        raise InputError(
            f"{len(missing)} of {len(samples)} pictures have no {what} here: {shown}", file=where
        )
