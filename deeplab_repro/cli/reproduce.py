"""``deeplab-repro reproduce``"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, NoReturn

import click

from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    shown,
    writable_folder,
    write_json,
)
from deeplab_repro.cli.data import workers_option
from deeplab_repro.cli.jobs import decoders_silent, picture_progress
from deeplab_repro.errors import InputError
from deeplab_repro.processes import Processes, local_device, processes
from deeplab_repro.released.models import (
    CaffeModel,
    ReleasedModel,
    Score,
    TensorFlowModel,
    WeightsFile,
)
from prototxt_import.errors import printable

if TYPE_CHECKING:
    from rich.progress import Progress

    from deeplab_repro.crf import CRFParams
    from deeplab_repro.data import Dataset
    from deeplab_repro.inference.segmentation import Segmenter
    from deeplab_repro.reproduction.report import Part, Report
    from deeplab_repro.reproduction.run import Folder, Identity
    from deeplab_repro.reproduction.verdict import Row

#: Failed pictures in the terminal.
_MOST_SHOWN = 10


@click.command("reproduce")
@click.argument("name")
@click.option("--voc", type=click.Path(), required=True, metavar="ROOT", help="VOC 2012.")
@click.option("--split", default="val", show_default=True, help="Which list of VOC to score.")
@click.option("--limit", type=click.IntRange(min=1), metavar="N", help="The first N pictures only.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    callback=writable_folder,
    help="Folder of the run; reproduce/NAME by default.",
)
@click.option(
    "--crf/--no-crf",
    "with_crf",
    default=None,
    help="Refine by the dense CRF, or not. By default as the authors did: v1 and v2 yes, v3 no.",
)
@click.option(
    "--output-stride",
    type=int,
    metavar="N",
    help="Of the ways in which a TensorFlow checkpoint was scored only the one at this stride.",
)
@click.option("--keep-scores", is_flag=True, help="Keep the score maps: 16 MB for each picture.")
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pictures that go through the network together.",
)
@workers_option
@json_option
def command(
    name: str,
    voc: str,
    split: str,
    limit: int | None,
    output: str | None,
    with_crf: bool | None,
    output_stride: int | None,
    keep_scores: bool,
    batch: int,
    workers: int | None,
    json_file: str | None,
) -> None:
    """Score a released model on VOC 2012 and hold it against the published numbers.

    NAME is a model of `weights list` whose weights are in the store, or MODEL/FILE for others than
    those that its authors scored on val.  All pictures of val go
    through the network as its authors' test net did it, and through the dense CRF with its
    parameters; both label maps are scored: mean IoU, trimap.  A run that was stopped goes on where
    it was.  Under torchrun the pictures are shared out.

    A TensorFlow checkpoint is run in every way that its authors published a score of, such as at
    output stride 16 as it is and at 8 over six scales and mirrored, each in a folder of its own.
    They used no CRF with it; --crf shows what is left for one to gain.

    The exit code is 1 if a published number is not reproduced.
    """
    from deeplab_repro import data
    from deeplab_repro.crf import CRFParams
    from deeplab_repro.released import find_weights

    model, weights = find_weights(name)
    root = Path(output) if output is not None else Path("reproduce", model.name)
    ways = _ways(model, weights, root, output_stride)
    dataset = data.voc(voc, split)
    _check_list(dataset)
    if with_crf is None:
        with_crf = isinstance(model, CaffeModel)
    crf = CRFParams.named(model.crf) if with_crf and model.crf is not None else None
    chosen = dataset if limit is None else dataset[:limit]
    reports = []
    with processes() as team, decoders_silent(), picture_progress(hidden=not team.first) as bar:
        for way in ways:  # before the first one has taken hours
            way.folder.check(way.identity(model, weights, dataset, crf))
            way.folder.check_report(len(chosen))
        for way in ways:
            run = _Run(model, weights, dataset, chosen, crf, keep_scores, batch, workers)
            reports.append(run(way, team, bar))
    if team.first:
        for way, report in zip(ways, reports, strict=True):
            _show(report, way.folder)
        # A single report, as of v1 and v2, is the content; several are its parts.
        contents = [report.as_json() for report in reports]
        write_json(json_file, contents[0] if len(contents) == 1 else contents)
    if any(row.verdict == "not reproduced" for report in reports for row in report.rows):
        raise click.exceptions.Exit(1)


@dataclass(frozen=True)
class _Way:
    """One way of running a model.

    Attributes:
        name: of the weights and how they are run.
        file: that is loaded.
        folder: of its results.
        segmenter: loads the network.
        rows: its numbers before and after the CRF, and an obstacle -> beside the published ones.
    """

    name: str
    file: Path
    folder: Folder
    segmenter: Callable[[], Segmenter]
    rows: Callable[[float, float | None, str], list[Row]]

    def identity(
        self, model: ReleasedModel, weights: WeightsFile, dataset: Dataset, crf: CRFParams | None
    ) -> Identity:
        """What tells its results from those of other runs."""
        from deeplab_repro.reproduction.run import Identity

        return Identity.of(model.name, self.name, self.file, dataset, crf)


def _ways(
    model: ReleasedModel, weights: WeightsFile, root: Path, output_stride: int | None
) -> list[_Way]:
    """The ways to run a model: that of its authors' test net, or every one with a score."""
    from deeplab_repro.reproduction.run import Folder
    from deeplab_repro.reproduction.verdict import compare, compare_score

    if isinstance(model, TensorFlowModel):
        scores = _scores(model, output_stride)
        path = model.file(weights.name)
        return [
            _Way(
                f"{weights.name} at {score}",
                path,
                Folder(root / f"os{score.output_stride}"),
                partial(_of_checkpoint, model, path, score),
                partial(compare_score, model, score),
            )
            for score in scores
        ]
    assert isinstance(model, CaffeModel)  # there are two kinds
    if output_stride is not None:
        raise InputError(
            f"{model.name} does not go with --output-stride", expected="a TensorFlow checkpoint"
        )
    path = model.file(weights.name)
    load = partial(_of_caffe, path)
    return [_Way(weights.name, path, Folder(root), load, partial(compare, model))]


def _scores(model: TensorFlowModel, output_stride: int | None) -> list[Score]:
    """Those to reproduce.

    Raises:
        InputError: there is none, or they are of another data set than VOC 2012.
    """
    if model.data != "voc2012":
        raise InputError(
            f"{model.name} is no model of VOC 2012, which is what can be scored here",
            expected="a model of `weights list` with a score on VOC 2012",
            got=model.data or "weights to start from",
        )
    scores = [each for each in model.scores if output_stride in (None, each.output_stride)]
    if not scores:
        raise InputError(
            "--output-stride",
            expected=" or ".join(str(each.output_stride) for each in model.scores),
            got=output_stride,
        )
    return scores


@dataclass(frozen=True)
class _Run:
    """What is run in each way."""

    model: ReleasedModel
    weights: WeightsFile
    dataset: Dataset
    chosen: Dataset
    crf: CRFParams | None
    keep_scores: bool
    batch: int
    workers: int | None

    def __call__(self, way: _Way, team: Processes, bar: Progress) -> Report:
        """Label all pictures, unless that has been done, and score them."""
        from deeplab_repro.evaluation.seen import is_known, was_seen
        from deeplab_repro.reproduction.report import Report, write_report

        self._label(way, team, bar)
        parts = self._parts(way, team, bar)
        trained_on = self.weights.trained_on
        warning = was_seen(trained_on, self.dataset) if is_known(trained_on) else ""
        means = [100 * part.evaluation.confusion.mean_iou for part in parts]
        rows = way.rows(means[0], means[1] if self.crf else None, warning or self._obstacle())
        title = self.model.title + (f", {way.name}" if way.name != self.weights.name else "")
        report = Report(
            title,
            way.identity(self.model, self.weights, self.dataset, self.crf).as_json(),
            (len(self.chosen), len(self.dataset)),
            rows,
            parts,
            self.dataset.classes,
            warning,
        )
        if team.first:
            write_report(way.folder.path, report)
        team.wait()
        return report

    def _label(self, way: _Way, team: Processes, bar: Progress) -> None:
        from deeplab_repro.reproduction.run import is_done, label_pictures

        task = bar.add_task("checking", total=None)
        unfinished = [
            sample
            for sample in self.chosen
            if not is_done(sample, way.folder, self.crf, self.keep_scores)
        ]
        _check_files(replace(self.dataset, samples=tuple(unfinished)), team, self.workers)
        team.wait()  # all have looked before the first one writes
        if team.first:
            way.folder.begin(way.identity(self.model, self.weights, self.dataset, self.crf))
        team.wait()
        mine = team.share(self.chosen.samples)
        bar.reset(task, total=len(mine), description="loading the network")
        segmenter = way.segmenter()
        bar.update(task, description="labelling")
        failed = label_pictures(
            mine,
            way.folder,
            segmenter,
            self.crf,
            keep_scores=self.keep_scores,
            batch=self.batch,
            advance=lambda: bar.advance(task),
        )
        failures = {key: line for part in team.gather(failed) for key, line in part.items()}
        if failures:
            _stop_at(
                list(failures.values()),
                f"{len(failures)} of {len(self.chosen)} pictures failed, so there is no score; the"
                " others are done and stay in the folder",
                team,
            )
        bar.remove_task(task)

    def _parts(self, way: _Way, team: Processes, bar: Progress) -> list[Part]:
        from deeplab_repro.evaluation import Pair, evaluate
        from deeplab_repro.reproduction.report import Part

        parts = []
        for title, key, place in (
            ("before the CRF", "before_crf", way.folder.labels),
            ("after the CRF", "after_crf", way.folder.refined),
        )[: 2 if self.crf else 1]:
            total = len(team.share(self.chosen.samples))
            task = bar.add_task(f"scoring {title}", total=total)
            pairs = [
                Pair(sample.name, place(sample), sample.label, sample.picture)
                for sample in self.chosen
                if sample.label is not None
            ]
            try:
                found = evaluate(
                    pairs,
                    self.model.num_classes,
                    workers=self.workers,
                    team=team,
                    advance=partial(bar.advance, task),
                )
            except InputError as error:
                if str(way.folder.path) not in str(error):
                    raise
                raise InputError(f"{error}: delete it, and the run makes it anew") from None
            parts.append(Part(title, key, pairs, found))
            bar.remove_task(task)
        return parts

    def _obstacle(self) -> str:
        """Why the numbers of a run cannot be held against those of val."""
        if len(self.chosen) < len(self.dataset):
            return f"only {len(self.chosen)} of {len(self.dataset)} pictures were run"
        if self.dataset.name != "val":
            return f"the published numbers are those of val, not of {self.dataset.name}"
        if self.weights.use != "val":
            if self.model.default.use != "val":
                return "the published number is that of test"
            return (
                f"the published numbers are those of {self.model.default.name},"
                f" not of {self.weights.name}"
            )
        return ""


def _check_list(dataset: Dataset) -> None:
    """Refuse a list that could not be scored."""
    unlabelled = [sample.name for sample in dataset if sample.label is None]
    if unlabelled:
        raise InputError(
            f"{len(unlabelled)} of the {len(dataset)} pictures of '{dataset.name}' have no label,"
            f" such as {unlabelled[0]}",
            expected="a list of which all pictures have one, such as val",
        )
    if dataset.duplicates:
        raise InputError(
            f"the list '{dataset.name}' names pictures more than once", got=dataset.duplicates[0]
        )


def _check_files(dataset: Dataset, team: Processes, workers: int | None) -> None:
    """Read every picture and label before hours of work are spent on the others."""
    from deeplab_repro.data.check import check

    problems = check(dataset, workers=workers, team=team).problems
    if problems:
        lines = [problem.text for problem in problems]
        _stop_at(lines, f"{len(lines)} of the pictures and labels cannot be used", team)


def _of_caffe(path: Path) -> Segmenter:
    """The network in a file, as its authors' test net is run."""
    from deeplab_repro.caffe.net import CaffeNet
    from deeplab_repro.caffe.scoring import scoring_net
    from deeplab_repro.inference.segmentation import Segmenter
    from prototxt_import import read_model

    source = read_model(path)
    part = scoring_net(source.net("TEST"), None)
    net = CaffeNet(part, source.weights).to(local_device())
    return Segmenter(net, blob=part.outputs[0])


def _of_checkpoint(model: TensorFlowModel, path: Path, score: Score) -> Segmenter:
    """The network in a file, as eval.py ran it for a score."""
    from deeplab_repro import tensorflow
    from deeplab_repro.tensorflow.segmentation import CropSegmenter

    options = {**model.options_for(output_stride=score.output_stride), "crop_size": model.crop_size}
    net = tensorflow.load(options, path).to(local_device())
    return CropSegmenter(net, scales=score.scales, flip=score.flip)


def _stop_at(lines: Sequence[str], summary: str, team: Processes) -> NoReturn:
    """Say what is wrong, and exit with 2."""
    if team.first:
        for line in lines[:_MOST_SHOWN]:
            click.echo(f"deeplab-repro: {printable(line)}", err=True)
        click.echo(f"deeplab-repro: {summary}", err=True)
    raise click.exceptions.Exit(2)


def _show(report: Report, folder: Folder) -> None:
    _show_parts(report.parts)
    _show_rows(report.rows, f"{report.model}, {report.pictures[0]} pictures")
    if report.warning:
        click.echo(f"deeplab-repro: warning: {printable(report.warning)}", err=True)
    console.print(f"written: {shown(folder.path)}", highlight=False, soft_wrap=True)


def _show_parts(parts: Sequence[Part]) -> None:
    widths = (1, 5, 10, 20, 40)
    columns: dict[str, Any] = {f"{width} px": "right" for width in widths}
    table = make_table("mean IoU in bands around void pixels (trimap)", band="left", **columns)
    for part in parts:
        trimap = part.evaluation.trimap
        if trimap is not None and trimap.rings.any():
            by_width = dict(zip(trimap.widths, trimap.mean_iou, strict=True))
            values = (f"{100 * by_width[width]:.2f}" for width in widths)
            table.add_row(part.title, *values)
    if table.row_count:
        console.print(table)


def _show_rows(rows: Sequence[Row], title: str) -> None:
    table = make_table(
        shown(title),
        percent="left",
        paper="right",
        others="left",
        ours="right",
        verdict="left",
        reason="left",
    )
    for row in rows:
        others = ", ".join(f"{value:.2f} {who}" for who, value in row.others)
        paper = f"{row.paper:.2f}" if row.paper is not None else "-"
        table.add_row(
            row.what, paper, shown(others) or "-", f"{row.ours:.2f}", row.verdict, shown(row.reason)
        )
    console.print(table)
