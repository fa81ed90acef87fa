"""The search of the CRF's parameters, as the papers did it: coarse steps, then finer ones.

For a network's scores on some pictures (the papers took 100 of the validation set) the weight and
the two stds of the bilateral kernel are tried, and those with the best mean IoU are taken.

>>> search = search_crf(pictures, "search", PUBLISHED_GRIDS["v2"])
>>> search.params
CRFParams(iterations=10, pos_w=3.0, pos_xy_std=3.0, bi_w=4.0, bi_xy_std=65.0, bi_rgb_std=3.0, ...)
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from contextlib import closing
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from deeplab_repro.crf.params import CRFParams
from deeplab_repro.data.datasets import Sample
from deeplab_repro.data.parallel import cores
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.evaluation.confusion import Confusion
from deeplab_repro.evaluation.crf_counts import (
    Loaded,
    Record,
    ScoredPicture,
    Task,
    before_crf,
    counted,
    read_scored,
)
from deeplab_repro.evaluation.crf_grid import PUBLISHED_GRIDS, Grid, Setting
from deeplab_repro.inference.stages import Stages
from deeplab_repro.pictures.scores import score_file
from deeplab_repro.processes import Processes

__all__ = [
    "PUBLISHED_GRIDS",
    "Grid",
    "ScoredPicture",
    "Search",
    "Setting",
    "Task",
    "choose",
    "search_crf",
    "with_scores",
]

Counts = NDArray[np.int64]
_MOST_NAMED = 5  # pictures in a message


@dataclass(frozen=True)
class Search:
    """What a search has found.

    Attributes:
        fixed: iterations and spatial kernel of every setting.
        pictures: how many were scored.
        before: the confusion without a CRF.
        found: that of every setting tried, in the order in which they were tried.
        rounds: the grid of each round.
    """

    fixed: CRFParams
    pictures: int
    before: Confusion
    found: dict[Setting, Confusion]
    rounds: tuple[Grid, ...]

    @property
    def ranking(self) -> list[Setting]:
        """The settings, best mean IoU first; of several alike the one that was tried first."""
        return sorted(self.found, key=lambda setting: -self.found[setting].mean_iou)

    @property
    def best(self) -> Setting:
        """The setting with the best mean IoU."""
        return self.ranking[0]

    @property
    def params(self) -> CRFParams:
        """The parameters to use."""
        return replace(self.fixed, **self.best._asdict())

    @property
    def at_the_edge(self) -> list[str]:
        """Parameters whose best value is the least or the largest tried: others may be better."""
        return [
            name
            for name, value in self.best._asdict().items()
            if len(tried := {getattr(setting, name) for setting in self.found}) > 1
            and value in (min(tried), max(tried))
        ]


def choose(samples: Sequence[Sample], count: int, seed: int = 0) -> list[Sample]:
    """Some samples of a list by chance, in its order; all of them if there are no more.

    Args:
        samples: the list.
        count: how many, at most.
        seed: the same choice for the same seed, on every machine.
    """
    # The stream of RandomState is frozen; that of newer generators may change with numpy.
    chosen = np.random.RandomState(seed).permutation(len(samples))[:count]
    return [samples[i] for i in sorted(chosen.tolist())]


def with_scores(
    samples: Sequence[Sample], folder: str | os.PathLike[str], labels: Path | None = None
) -> list[ScoredPicture]:
    """Find the scores and the labels of pictures.

    Args:
        samples: the pictures.
        folder: with a file of scores for each, as of
            :func:`~deeplab_repro.pictures.scores.score_file`.
        labels: folder with the label NAME.png of each; by default those that the samples name.

    Raises:
        InputError: pictures without scores or label, or two of one name.
    """
    found, lacking = [], []
    for sample in samples:
        scores = score_file(folder, (sample.name,))
        label = sample.label if labels is None else labels / f"{sample.name}.png"
        if scores is None or label is None:
            lacking.append(f"{sample.name} ({'no scores' if scores is None else 'no label'})")
        else:
            found.append(ScoredPicture(sample.name, sample.picture, scores, label))
    if lacking:
        more = ", ..." if lacking[_MOST_NAMED:] else ""
        raise InputError(
            f"{len(lacking)} of {len(samples)} pictures cannot be scored:"
            f" {', '.join(lacking[:_MOST_NAMED])}{more}",
            file=folder,
        )
    if len({item.name for item in found}) < len(found):
        raise InputError("the list names pictures more than once, which would count twice")
    return found


def search_crf(
    pictures: Sequence[ScoredPicture],
    folder: str | os.PathLike[str],
    grid: Grid = PUBLISHED_GRIDS["v2"],
    task: Task = Task(),  # noqa: B008 - frozen
    *,
    rounds: int = 3,
    workers: int | None = None,
    team: Processes | None = None,
    device: torch.device | None = None,
    begin: Callable[[int, int], object] = lambda number, settings: None,
    advance: Callable[[], object] = lambda: None,
) -> Search:
    """Try the settings of a grid on some pictures, then finer ones around the best.

    Every round reads a picture and its scores once, for all of its settings.  What is counted goes
    to the folder at once, a file a picture: a search that was stopped at any point goes on behind
    it, and one with other ranges takes from it what it needs.  The result is the same for any
    number of workers and processes.

    Args:
        pictures: see :func:`with_scores`.
        folder: for the counts, made if need be.
        grid: the settings of the first round.
        task: what is fixed.
        rounds: the first one, and those with half the steps of the one before, each around the best
            setting so far (:meth:`Grid.finer`).
        workers: pictures at a time in each process; as many as cores by default.
        team: the processes that share the pictures; this one alone by default.
        device: where the CRF runs; the CPU by default.
        begin: called before each round with its number, from 1, and the number of its settings.
        advance: called after each picture of this process.

    Returns:
        The same in every process.

    Raises:
        InputError: no pictures, or files that cannot be used; the first is named, in every process.
    """
    if not pictures:
        raise InputError("there are no pictures to score")
    team, counts = team or Processes(), Path(folder) / "counts"
    try:
        counts.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(error.strerror or "cannot be made", file=counts) from None
    if team.first:
        for rest in counts.glob(".*"):  # what a killed search has left half-written
            rest.unlink(missing_ok=True)
    team.wait()
    found: dict[Setting, Confusion] = {}
    grids: list[Grid] = []
    search = None
    for number in range(1, rounds + 1):
        tried = grid if search is None else grids[-1].finer(search.best)
        settings = [setting for setting in tried.settings() if setting not in found]
        if not settings:  # every parameter has one value: nothing lies between
            break
        grids.append(tried)
        begin(number, len(settings))
        work = _Round(settings, counts, task, device or torch.device("cpu"))
        before, totals = _scored(work, pictures, workers or cores(), team, advance)
        found.update(zip(settings, map(Confusion.of, totals), strict=True))
        search = Search(task.fixed, len(pictures), Confusion.of(before), found, tuple(grids))
    if search is None:
        raise InputError("rounds", expected="at least 1", got=rounds)
    return search


@dataclass(frozen=True)
class _Round:
    """What is done to every picture in one round."""

    settings: Sequence[Setting]
    folder: Path
    task: Task
    device: torch.device

    def read(self, item: ScoredPicture) -> tuple[Record, Loaded | None]:
        """What is known of a picture, and the picture, if there is more to count."""
        record = Record.of(item, self.folder, self.task)
        done = record.before is not None and all(s in record.found for s in self.settings)
        return record, None if done else read_scored(item, self.task)

    def finish(self, given: tuple[Record, Loaded | None]) -> tuple[Counts, Counts]:
        """Count what is missing: the matrix before the CRF, and those of the settings."""
        record, loaded = given
        if loaded is not None:
            record.before = before_crf(loaded, self.task)
            todo = [setting for setting in self.settings if setting not in record.found]
            for alike, matrices in counted(loaded, todo, self.task, self.device):
                record.found.update(zip(alike, matrices, strict=True))
                record.save()
        assert record.before is not None
        return record.before, np.stack([record.found[setting] for setting in self.settings])


def _scored(
    work: _Round,
    pictures: Sequence[ScoredPicture],
    workers: int,
    team: Processes,
    advance: Callable[[], object],
) -> tuple[Counts, Counts]:
    """The matrices of all pictures together: before the CRF, and of each setting."""
    mine = team.share(pictures)
    classes = work.task.num_classes
    before = np.zeros((classes, classes), np.int64)
    totals = np.zeros((len(work.settings), classes, classes), np.int64)
    stages = Stages[ScoredPicture, Any, Any, Any](
        read=work.read,
        run=lambda items: items,
        finish=lambda _, given, __: work.finish(given),
        finishers=max(1, min(workers, len(mine))),
    )
    problems = []
    with closing(stages(mine)) as outcomes:
        for item, outcome in outcomes:
            if isinstance(outcome, Exception):
                problems.append(_said(outcome, item))
            else:
                before += outcome[0]
                totals += outcome[1]
            advance()
    problems = [problem for part in team.gather(problems) for problem in part]
    if problems:
        rest = f" (and {len(problems) - 1} more such pictures)" if len(problems) > 1 else ""
        raise InputError(problems[0] + rest)
    return team.sum(before), team.sum(totals)


def _said(error: Exception, item: ScoredPicture) -> str:
    """One line that names a file."""
    if isinstance(error, BadInput):
        return str(error.with_file(item.picture))
    return f"{item.picture}: {error or type(error).__name__}"
