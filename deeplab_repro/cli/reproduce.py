"""``deeplab-repro reproduce``"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
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
from prototxt_import.errors import printable

if TYPE_CHECKING:
    from deeplab_repro.data import Dataset
    from deeplab_repro.inference.segmentation import Segmenter
    from deeplab_repro.released import ReleasedModel, WeightsFile
    from deeplab_repro.reproduction.report import Part, Report
    from deeplab_repro.reproduction.run import Folder
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
@click.option("--crf/--no-crf", "with_crf", default=True, help="Refine by the dense CRF, or not.")
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
    with_crf: bool,
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

    The exit code is 1 if a published number is not reproduced.
    """
    from deeplab_repro import data
    from deeplab_repro.crf import CRFParams
    from deeplab_repro.evaluation import Pair, evaluate
    from deeplab_repro.evaluation.seen import is_known, was_seen
    from deeplab_repro.released import find_weights
    from deeplab_repro.reproduction.report import Part, Report, write_report
    from deeplab_repro.reproduction.run import Folder, Identity, is_done, label_pictures
    from deeplab_repro.reproduction.verdict import compare

    model, weights = find_weights(name)
    path = model.file(weights.name)
    dataset = data.voc(voc, split)
    _check_list(dataset)
    crf = CRFParams.named(model.crf) if with_crf and model.crf is not None else None
    folder = Folder(Path(output) if output is not None else Path("reproduce", model.name))
    identity = Identity.of(model.name, weights.name, path, dataset, crf)
    chosen = dataset if limit is None else dataset[:limit]
    with processes() as team, decoders_silent(), picture_progress(hidden=not team.first) as bar:
        folder.check(identity)
        folder.check_report(len(chosen))
        task = bar.add_task("checking", total=None)
        unfinished = [sample for sample in chosen if not is_done(sample, folder, crf, keep_scores)]
        _check_files(replace(dataset, samples=tuple(unfinished)), team, workers)
        team.wait()  # all have looked before the first one writes
        if team.first:
            folder.begin(identity)
        team.wait()
        mine = team.share(chosen.samples)
        bar.reset(task, total=len(mine), description="loading the network")
        segmenter = _segmenter(path)
        bar.update(task, description="labelling")
        failed = label_pictures(
            mine,
            folder,
            segmenter,
            crf,
            keep_scores=keep_scores,
            batch=batch,
            advance=lambda: bar.advance(task),
        )
        failures = {key: line for part in team.gather(failed) for key, line in part.items()}
        if failures:
            _stop_at(
                list(failures.values()),
                f"{len(failures)} of {len(chosen)} pictures failed, so there is no score; the"
                " others are done and stay in the folder",
                team,
            )
        parts = []
        for title, key, place in (
            ("before the CRF", "before_crf", folder.labels),
            ("after the CRF", "after_crf", folder.refined),
        )[: 2 if crf else 1]:
            bar.reset(task, total=len(mine), description=f"scoring {title}")
            pairs = [
                Pair(sample.name, place(sample), sample.label, sample.picture)
                for sample in chosen
                if sample.label is not None
            ]
            try:
                found = evaluate(
                    pairs,
                    model.num_classes,
                    workers=workers,
                    team=team,
                    advance=lambda: bar.advance(task),
                )
            except InputError as error:
                if str(folder.path) not in str(error):
                    raise
                raise InputError(f"{error}: delete it, and the run makes it anew") from None
            parts.append(Part(title, key, pairs, found))
        warning = was_seen(weights.trained_on, dataset) if is_known(weights.trained_on) else ""
        means = [100 * part.evaluation.confusion.mean_iou for part in parts]
        rows = compare(
            model,
            means[0],
            means[1] if crf else None,
            warning or _obstacle(dataset, chosen, weights, model),
        )
        report = Report(
            model.title,
            identity.as_json(),
            (len(chosen), len(dataset)),
            rows,
            parts,
            dataset.classes,
            warning,
        )
        if team.first:
            write_report(folder.path, report)
        team.wait()
    if team.first:
        _show(report, folder)
        write_json(json_file, report.as_json())
    if any(row.verdict == "not reproduced" for row in rows):
        raise click.exceptions.Exit(1)


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


def _segmenter(path: Path) -> Segmenter:
    """The network in a file, as its authors' test net is run."""
    from deeplab_repro.caffe.net import CaffeNet
    from deeplab_repro.caffe.scoring import scoring_net
    from deeplab_repro.inference.segmentation import Segmenter
    from prototxt_import import read_model

    source = read_model(path)
    part = scoring_net(source.net("TEST"), None)
    net = CaffeNet(part, source.weights).to(local_device())
    return Segmenter(net, blob=part.outputs[0])


def _stop_at(lines: Sequence[str], summary: str, team: Processes) -> NoReturn:
    """Say what is wrong, and exit with 2."""
    if team.first:
        for line in lines[:_MOST_SHOWN]:
            click.echo(f"deeplab-repro: {printable(line)}", err=True)
        click.echo(f"deeplab-repro: {summary}", err=True)
    raise click.exceptions.Exit(2)


def _obstacle(dataset: Dataset, chosen: Dataset, weights: WeightsFile, model: ReleasedModel) -> str:
    """Why the numbers of a run cannot be held against those of val."""
    if len(chosen) < len(dataset):
        return f"only {len(chosen)} of {len(dataset)} pictures were run"
    if dataset.name != "val":
        return f"the published numbers are those of val, not of {dataset.name}"
    if weights.use != "val":
        return f"the published numbers are those of {model.default.name}, not of {weights.name}"
    return ""


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
