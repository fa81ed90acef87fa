"""How one picture is labelled under many settings of the CRF, kept in a file as it is found."""

from __future__ import annotations

import json
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from deeplab_repro.crf.checks import check_energies
from deeplab_repro.crf.kernels import Kernel
from deeplab_repro.crf.params import CRFParams
from deeplab_repro.crf.steps import MeanField, Settings
from deeplab_repro.data.labels import read_label
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.evaluation.confusion import Confusion
from deeplab_repro.evaluation.crf_grid import Setting
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.scores import energies, read_scores
from prototxt_import.files import replacing_file

__all__ = ["Loaded", "Record", "ScoredPicture", "Task", "before_crf", "counted", "read_scored"]

Counts = NDArray[np.int64]
_OP: Final = "crf-search"


@dataclass(frozen=True)
class Task:
    """What all pictures of a search have in common.

    Attributes:
        fixed: iterations, weight and std of the spatial kernel; the bilateral one is searched.
        num_classes: of labels and scores.
        normalization: of the kernels, as of :func:`~deeplab_repro.crf.dense_crf`.
        key: the array in a score file that holds several.
        probabilities: the scores are probabilities.
        crop: the scores are those of a picture padded right and below.

    Raises:
        InputError: ``fixed`` has further bilateral kernels.
    """

    fixed: CRFParams = field(default_factory=CRFParams)
    num_classes: int = 21
    normalization: str = "after"
    key: str | None = None
    probabilities: bool = False
    crop: bool = False

    def __post_init__(self) -> None:
        if self.fixed.extra:
            raise InputError("fixed", expected="one bilateral kernel", got=self.fixed.extra)

    def as_json(self) -> dict[str, Any]:
        """What the counts of a picture depend on, besides its files and the settings."""
        fields = asdict(self)
        fixed = fields.pop("fixed")
        return {**fields, **{name: fixed[name] for name in ("iterations", "pos_w", "pos_xy_std")}}


class ScoredPicture(NamedTuple):
    """A picture, the scores of its labels, and the truth, as files.

    Attributes:
        name: of the picture.
        picture, scores, label: the files.
    """

    name: str
    picture: Path
    scores: Path
    label: Path


@dataclass
class Record:
    """The confusion matrices of one picture, in a file that is whole after every addition.

    They count as long as nothing changes that they follow from: the three files, by size and time
    of change, and the task.

    Attributes:
        file: where they are kept.
        made_from: what they follow from, as text.
        before: the matrix of the first maximum of the scores; None as long as nothing was counted.
        found: the matrix of each setting.
    """

    file: Path
    made_from: str
    before: Counts | None = None
    found: dict[Setting, Counts] = field(default_factory=dict)

    @classmethod
    def of(cls, item: ScoredPicture, folder: Path, task: Task) -> Record:
        """What the folder has of this picture; an empty record if that is nothing.

        Raises:
            InputError: one of the picture's files is not there.
        """
        stamps = [_stamp(file) for file in (item.picture, item.scores, item.label)]
        made_from = json.dumps([stamps, task.as_json()])
        file = folder / f"{item.name}.npz"
        record = cls(file, made_from)
        try:
            with np.load(file, allow_pickle=False) as kept:
                if str(kept["made_from"]) == made_from:
                    record.before = kept["before"]
                    settings = (Setting(*row) for row in kept["settings"].tolist())
                    record.found = dict(zip(settings, kept["counts"], strict=True))
        except (OSError, ValueError, LookupError, zipfile.BadZipFile):
            return cls(file, made_from)  # there is none, or none that can be used: count again
        return record

    def save(self) -> None:
        """Write it, whole or not at all.

        Raises:
            BadInput: the file cannot be written.
        """
        assert self.before is not None
        with replacing_file(self.file) as out:
            np.savez_compressed(
                out,
                made_from=np.array(self.made_from),
                before=self.before,
                settings=np.array(list(self.found), np.float64),
                counts=np.stack(list(self.found.values())),
            )


def _stamp(file: Path) -> tuple[int, int]:
    try:
        status = os.stat(file)
    except OSError as error:
        raise InputError(error.strerror or "cannot be read", file=file) from None
    return status.st_size, status.st_mtime_ns


class Loaded(NamedTuple):
    """A picture in memory.

    Attributes:
        rgb: (1, 3, H, W) uint8.
        unary: (1, C, H * W) float32 energies.
        label: (H, W) uint8 class ids, 255 where a pixel does not count.
    """

    rgb: Tensor
    unary: Tensor
    label: NDArray[np.uint8]


def read_scored(item: ScoredPicture, task: Task) -> Loaded:
    """Read the three files of a picture.

    Raises:
        InputError: a file that cannot be used, or files that do not belong together.
    """
    picture = read_picture(item.picture)
    size = picture.shape[0], picture.shape[1]
    label = read_label(item.label, task.num_classes)
    if label.shape != size:
        raise InputError(
            "is not as large as its picture", file=item.label, expected=size, got=label.shape
        )
    scores = read_scores(item.scores, task.key)
    if len(scores) != task.num_classes:
        raise InputError(
            "holds scores of another number of classes",
            file=item.scores,
            expected=task.num_classes,
            got=len(scores),
        )
    try:
        given = energies(scores, size, probabilities=task.probabilities, crop=task.crop)
        unary = torch.from_numpy(given)[None].flatten(2)
        check_energies(_OP, unary)
    except BadInput as error:
        raise error.with_file(item.scores) from None
    except ValueError as error:
        raise InputError(str(error), file=item.scores) from None
    rgb = torch.from_numpy(np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1)))[None]
    return Loaded(rgb, unary, label)


def counted(
    given: Loaded, settings: Sequence[Setting], task: Task, device: torch.device
) -> Iterator[tuple[list[Setting], list[Counts]]]:
    """The confusion matrices of a picture, those of the settings with the same stds together.

    The lattice of the spatial kernel is built once, that of the bilateral kernel once for each pair
    of stds: weights change without it.

    Args:
        given: the picture.
        settings: those with the same stds are neighbours.
        task: what is fixed.
        device: where the CRF runs.

    Yields:
        Settings of one pair of stds, and their matrices.
    """
    fixed, dtype = task.fixed, given.unary.dtype
    rgb, unary = given.rgb.to(device), given.unary.to(device)
    xy_std = fixed.pos_xy_std if isinstance(fixed.pos_xy_std, tuple) else (fixed.pos_xy_std,) * 2
    positions = unary.new_empty((1, 0, *rgb.shape[2:]))
    whole = slice(0, 1)
    # A kernel of weight 0 takes no part, as in `dense_crf`.
    lattices = (
        [Kernel(f"{_OP}: the spatial kernel", positions, xy_std).lattice(whole, False, dtype)]
        if fixed.pos_w
        else []
    )
    for stds, group in groupby(settings, key=lambda setting: setting[1:]):
        alike = list(group)
        each = (stds[0],) * 2 + (stds[1],) * rgb.shape[1]
        bilateral = Kernel(f"{_OP}: the bilateral kernel", rgb, each).lattice(whole, False, dtype)
        both = [*lattices, bilateral]
        options = Settings(
            [task.normalization] * len(both), 1.0, fixed.iterations, "deeplab", False, False
        )
        counts = []
        for setting in alike:
            weights = unary.new_tensor([*([fixed.pos_w] * len(lattices)), setting.bi_w])
            q, _ = MeanField(both, weights, [None] * len(both), options).solve(unary)
            counts.append(_confusion(q, given.label, task.num_classes))
        yield alike, counts


def before_crf(given: Loaded, task: Task) -> Counts:
    """The confusion matrix of the first maximum of the scores."""
    return _confusion(-given.unary, given.label, task.num_classes)


def _confusion(values: Tensor, label: NDArray[np.uint8], num_classes: int) -> Counts:
    """The matrix of the first maximum of values (1, C, H * W)."""
    labels = values[0].max(0).indices.to(torch.uint8).cpu().numpy()
    confusion = Confusion(num_classes)
    confusion.add(labels.reshape(label.shape), label)
    return confusion.matrix
