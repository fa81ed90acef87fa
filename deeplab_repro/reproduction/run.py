"""A run over a data set that can be killed at any point and goes on where it was.

    FOLDER/run.json             what is run; a later run in this folder must be the same
    FOLDER/scores/NAME.npy      what the network gave, until the CRF is through with it
    FOLDER/labels/NAME.png      its first maximum
    FOLDER/labels_crf/NAME.png  that of the marginals of the dense CRF

Every file appears whole or not at all, and each stands for a step of the work on one picture that
need not be done again.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeplab_repro.data import Dataset, Sample
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.scores import read_scores, write_scores
from deeplab_repro.released.store import file_sum
from prototxt_import.files import replacing

if TYPE_CHECKING:
    from torch import Tensor

    from deeplab_repro.crf import CRFParams
    from deeplab_repro.inference.segmentation import Segmenter

__all__ = ["Folder", "Identity", "is_done", "label_pictures"]

Picture = NDArray[np.uint8]
_LABELS, _REFINED, _SCORES = _PLACES = ("labels", "labels_crf", "scores")


@dataclass(frozen=True)
class Identity:
    """What makes two runs the same, so that the results of one are those of the other.

    Attributes:
        model: Name of the released model.
        weights: Name of its set of weights.
        sha256: Of the file that is loaded.
        pictures: Name of the list, and a sum of the names in it; a run over its first pictures is a
            part of the run over all.
        crf: Its parameters, or None for a run without it.
    """

    model: str
    weights: str
    sha256: str
    pictures: tuple[str, str]
    crf: dict[str, Any] | None

    @classmethod
    def of(
        cls, model: str, weights: str, file: Path, dataset: Dataset, crf: CRFParams | None
    ) -> Identity:
        """The identity of a run with the weights in `file` over a whole data set."""
        names = "\n".join(sample.name for sample in dataset)
        pictures = (dataset.name, hashlib.sha256(names.encode()).hexdigest())
        return cls(model, weights, file_sum(file), pictures, None if crf is None else asdict(crf))

    def as_json(self) -> dict[str, Any]:
        """The fields as JSON reads them back, with lists in place of tuples."""
        fields: dict[str, Any] = json.loads(json.dumps(asdict(self)))
        return fields


@dataclass(frozen=True)
class Folder:
    """The files of a run."""

    path: Path

    def labels(self, sample: Sample) -> Path:
        """The label map of a picture before the CRF."""
        return self.path / _LABELS / f"{sample.name}.png"

    def refined(self, sample: Sample) -> Path:
        """The label map of a picture after the CRF."""
        return self.path / _REFINED / f"{sample.name}.png"

    def scores(self, sample: Sample) -> Path:
        """The scores of a picture."""
        return self.path / _SCORES / f"{sample.name}.npy"

    def check(self, identity: Identity) -> None:
        """Hold a run against the one that the folder belongs to, if it belongs to any.

        Raises:
            InputError: It belongs to another one.
        """
        record = self.path / "run.json"
        if self.path.exists() and not self.path.is_dir():
            raise InputError("is no folder", file=self.path)
        try:
            found = json.loads(record.read_text(encoding="utf-8"))
        except FileNotFoundError:
            if any(file.is_file() for place in _PLACES for file in (self.path / place).glob("*")):
                raise InputError(
                    "holds results of something else, which would pass for those of this run",
                    file=self.path,
                    expected="another folder (-o)",
                ) from None
            return
        except (OSError, ValueError):
            raise InputError(
                "is damaged", file=record, expected="the record of a run; delete the folder"
            ) from None
        for name, value in identity.as_json().items():
            if not isinstance(found, dict) or found.get(name) != value:
                raise InputError(
                    f"belongs to a run with another '{name}', and results are not mixed",
                    file=self.path,
                    expected="another folder (-o)",
                )

    def check_report(self, count: int) -> None:
        """Refuse to replace the report of more pictures by one of fewer.

        Raises:
            InputError: That would be so.
        """
        file = self.path / "report.json"
        try:
            scored = json.loads(file.read_text(encoding="utf-8"))["pictures"]["scored"]
        except (OSError, ValueError, LookupError, TypeError):
            return  # there is none, or none that would be missed
        if count < scored:
            raise InputError(
                f"is the report of {scored} pictures, and would be replaced by one of {count}",
                file=file,
                expected="another folder (-o), or no smaller --limit",
            )

    def begin(self, identity: Identity) -> None:
        """Make the folder, and take away what a killed run has left half-written.

        Raises:
            InputError: It cannot be written to.
        """
        for place in _PLACES:
            if place == _REFINED and identity.crf is None:
                continue
            parent = self.path / place
            try:
                parent.mkdir(parents=True, exist_ok=True)
            except OSError as error:
                raise InputError(error.strerror or "cannot be made", file=parent) from None
            for rest in parent.glob(".*"):  # the temporary names of `replacing`
                rest.unlink(missing_ok=True)
        with replacing(self.path / "run.json") as temporary:
            temporary.write_text(json.dumps(identity.as_json(), indent=1) + "\n", encoding="utf-8")


def label_pictures(
    samples: Sequence[Sample],
    folder: Folder,
    segmenter: Segmenter,
    crf: CRFParams | None,
    *,
    keep_scores: bool = False,
    batch: int = 1,
    advance: Callable[[], object] = lambda: None,
) -> dict[str, str]:
    """Do what is not done yet on each picture: network, label map, CRF, label map.

    Args:
        samples: The pictures.
        folder: Where the results go, after :meth:`Folder.begin`.
        segmenter: The network, without a CRF.
        crf: Parameters; None leaves it out.
        keep_scores: The scores stay when the CRF is through with them.
        batch: Pictures of equal padded size that go through the network together.
        advance: Called after each picture.

    Returns:
        Name of the picture -> what is wrong with it, in one line, for those that failed.

    Raises:
        BadInput: A file cannot be written, as on a full disk: the others would fail likewise.
    """
    step = partial(_finish, folder=folder, crf=crf, keep_scores=keep_scores)
    failed: dict[str, str] = {}

    def done(sample: Sample, error: object) -> None:
        if isinstance(error, BadInput) and isinstance(error.__cause__, OSError):
            raise error
        if isinstance(error, BadInput):
            failed[sample.name] = str(error.with_file(sample.picture))
        elif isinstance(error, Exception):
            failed[sample.name] = f"{sample.picture}: {error or type(error).__name__}"
        advance()

    fresh = []
    for sample in samples:
        if is_done(sample, folder, crf, keep_scores):
            if not keep_scores:
                folder.scores(sample).unlink(missing_ok=True)
            done(sample, None)
        elif folder.scores(sample).exists():
            # The run was killed between the network and the end of the work on this picture.
            try:
                scores = torch.from_numpy(read_scores(folder.scores(sample)))
                step(sample, read_picture(sample.picture), scores.to(segmenter.device))
                done(sample, None)
            except (ValueError, OSError, RuntimeError) as error:
                done(sample, error)
        else:
            fresh.append(sample)
    stream = segmenter.stream(
        fresh, read=lambda sample: read_picture(sample.picture), then=step, batch=batch
    )
    with closing(stream):
        for sample, outcome in stream:
            done(sample, outcome)
    return failed


def is_done(sample: Sample, folder: Folder, crf: CRFParams | None, keep_scores: bool) -> bool:
    """Whether nothing is left to do on a picture."""
    files = [folder.labels(sample)]
    files += [folder.refined(sample)] if crf else []
    files += [folder.scores(sample)] if keep_scores else []
    return all(file.exists() for file in files)


def _finish(
    sample: Sample,
    picture: Picture,
    scores: Tensor,
    *,
    folder: Folder,
    crf: CRFParams | None,
    keep_scores: bool,
) -> None:
    """Write what follows from the scores of one picture, the scores themselves first."""
    from deeplab_repro.inference.segmentation import first_maximum, refine

    file = folder.scores(sample)
    if (crf or keep_scores) and not file.exists():
        write_scores(file, scores.cpu().numpy())
    if not folder.labels(sample).exists():
        write_label_png(folder.labels(sample), first_maximum(scores).labels)
    if crf and not folder.refined(sample).exists():
        refined = first_maximum(refine(scores, picture, crf))
        write_label_png(folder.refined(sample), refined.labels)
    if not keep_scores:
        file.unlink(missing_ok=True)
