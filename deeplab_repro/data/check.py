"""Looking through a data set for what would spoil training or scoring unseen."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.data.datasets import Dataset, Sample
from deeplab_repro.data.labels import read_label
from deeplab_repro.data.parallel import over
from deeplab_repro.errors import BadInput
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import IGNORE_LABEL
from deeplab_repro.processes import Processes

__all__ = ["Check", "Problem", "check"]


class Problem(NamedTuple):
    """What is wrong with a sample, in one line that names the file."""

    name: str
    text: str


@dataclass(frozen=True)
class Check:
    """What a data set holds.

    Attributes:
        pixels: (classes,) int64, pixels of each class in all labels.
        pictures: (classes,) int64, labels in which the class occurs.
        void: void pixels of all labels.
        labelled: how many samples have a label.
        without_void: how many labels have no void pixel; they have no trimap.
        smallest: (height, width) of the smallest picture, by pixels.
        largest: of the largest one.
        problems: in the order of the list; duplicates come first.
    """

    pixels: NDArray[np.int64]
    pictures: NDArray[np.int64]
    void: int
    labelled: int
    without_void: int
    smallest: tuple[int, int]
    largest: tuple[int, int]
    problems: tuple[Problem, ...]


def check(
    dataset: Dataset,
    *,
    workers: int | None = None,
    team: Processes | None = None,
    advance: Callable[[], object] = lambda: None,
) -> Check:
    """Read every picture and label of a data set.

    Args:
        dataset: whose classes say which ids there are.
        workers: threads of each process; all cores by default.
        team: the processes that share the pictures; this one alone by default.
        advance: called after each sample of this process.

    Returns:
        What there is, and what is wrong: a picture or label that is missing or cannot be read, a
        label of another size or with values that are no ids, a name that is listed twice.  The same
        in every process.
    """
    team = team or Processes()
    classes = len(dataset.classes.names)
    work = partial(_look_at, classes=classes)
    looks = team.merge(over(work, team.share(dataset.samples), workers, advance=advance))
    counts = [look.counts for look in looks if look.counts is not None]
    table = np.array(counts, np.int64).reshape(-1, classes + 1)
    sizes = sorted((look.size for look in looks if look.size), key=lambda size: size[0] * size[1])
    duplicates = [Problem(name, f"{name}: listed more than once") for name in dataset.duplicates]
    return Check(
        pixels=table[:, :-1].sum(0),
        pictures=(table[:, :-1] > 0).sum(0),
        void=int(table[:, -1].sum()),
        labelled=len(counts),
        without_void=int((table[:, -1] == 0).sum()),
        smallest=sizes[0] if sizes else (0, 0),
        largest=sizes[-1] if sizes else (0, 0),
        problems=(*duplicates, *(problem for look in looks for problem in look.problems)),
    )


class _Look(NamedTuple):
    size: tuple[int, int] | None  # height and width, where the picture could be read
    counts: NDArray[np.int64] | None  # pixels of each class, then of void
    problems: list[Problem]


def _look_at(sample: Sample, classes: int) -> _Look:
    problems: list[Problem] = []
    size = counts = None
    try:
        height, width = read_picture(sample.picture).shape[:2]
        size = (height, width)
    except BadInput as error:
        problems.append(Problem(sample.name, str(error)))
    if sample.label is not None:
        try:
            label = read_label(sample.label, classes)
        except BadInput as error:
            problems.append(Problem(sample.name, str(error)))
        else:
            values = np.bincount(label.ravel(), minlength=256).astype(np.int64)
            counts = np.append(values[:classes], values[IGNORE_LABEL])
            if size is not None and label.shape != size:
                text = _sizes_differ(sample.label, label.shape, size)
                problems.append(Problem(sample.name, text))
    return _Look(size, counts, problems)


def _sizes_differ(file: Path, label: tuple[int, ...], picture: tuple[int, int]) -> str:
    swapped = ": rows and columns are swapped" if label == picture[::-1] else ""
    return (
        f"{file}: is not as large as its picture{swapped}; expected {picture[0]}x{picture[1]},"
        f" got {label[0]}x{label[1]}"
    )
