"""``deeplab-repro evaluate``"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    shown,
    writable,
    write_json,
)
from deeplab_repro.cli.data import (
    chosen_classes,
    chosen_dataset,
    classes_option,
    num_classes_option,
    workers_option,
)
from deeplab_repro.cli.jobs import picture_progress
from deeplab_repro.errors import InputError
from deeplab_repro.processes import processes
from prototxt_import.words import number

if TYPE_CHECKING:
    from deeplab_repro.data import Dataset
    from deeplab_repro.evaluation import Evaluation, Pair, Trimap

#: Widths of the trimap that the terminal shows; the JSON has all of them.
_SHOWN_WIDTHS: Final = (1, 2, 5, 10, 20, 30, 40)


@click.command("evaluate")
@click.option(
    "--predictions",
    type=click.Path(),
    required=True,
    help="Folder with NAME.png, NAME.mat or NAME.bin for each picture: class ids, or scores.",
)
@click.option("--labels", type=click.Path(), help="Folder with the label NAME.png of each picture.")
@click.option("--list", "list_file", type=click.Path(), help="The pictures; by default all labels.")
@click.option("--voc", type=click.Path(), help="VOC 2012, in place of --labels and --list.")
@click.option("--split", help="With --voc: its list; val by default.")
@click.option("--pictures", type=click.Path(), help="Folder with the pictures, for --html.")
@num_classes_option
@classes_option
@click.option("--trimap/--no-trimap", default=True, show_default=True, help="Score borders too.")
@click.option(
    "--crop",
    is_flag=True,
    help="Predictions are those of pictures padded right and below: take their part of them.",
)
@click.option(
    "--trained-on",
    metavar="SPLIT|FILE",
    help="What the weights were trained on, such as trainval_aug, or a list: warns if they have"
    " seen the pictures.",
)
@click.option(
    "--model",
    metavar="NAME",
    help="The released model that made the predictions, in place of --trained-on.",
)
@workers_option
@json_option
@click.option(
    "--html",
    "html_file",
    type=click.Path(),
    callback=writable,
    help="Write a page with plots here.",
)
def command(
    predictions: str,
    labels: str | None,
    list_file: str | None,
    voc: str | None,
    split: str | None,
    pictures: str | None,
    num_classes: int,
    classes_file: str | None,
    trimap: bool,
    crop: bool,
    trained_on: str | None,
    model: str | None,
    workers: int | None,
    json_file: str | None,
    html_file: str | None,
) -> None:
    """Score label maps against the truth: mean IoU, accuracies, trimap curves.

    Pixels are counted over all pictures (VOC's metric), those with label 255 left out.  Runs under
    torchrun too, with the same result.
    """
    from deeplab_repro.evaluation import evaluate, was_seen
    from deeplab_repro.evaluation.evaluate import pair_up

    if voc is not None:
        if labels is not None or list_file is not None:
            raise InputError("--voc", expected="no --labels and no --list beside it")
        dataset = chosen_dataset(voc, None, split, num_classes, classes_file)
    elif labels is None or split is not None:
        raise InputError("--labels or --voc", expected="one of them, --split with --voc")
    else:
        dataset = _listed(Path(labels), list_file)
        dataset = replace(dataset, classes=chosen_classes(num_classes, classes_file))
    pairs = pair_up(dataset, Path(predictions), None if labels is None else Path(labels))
    if pictures is not None:
        pairs = _with_pictures(pairs, Path(pictures))
    if model is not None and trained_on is None:
        trained_on = _trained_on(model)
    seen = was_seen(trained_on, dataset) if trained_on is not None else ""
    with processes() as team, picture_progress() as bar:
        bar.disable = bar.disable or not team.first
        task = bar.add_task("scoring", total=len(team.share(pairs)))
        found = evaluate(
            pairs,
            num_classes,
            trimap=trimap,
            crop=crop,
            workers=workers,
            team=team,
            advance=lambda: bar.advance(task),
        )
        if not team.first:
            return
    if seen:
        warnings.warn(seen, stacklevel=1)
    _show(dataset, found)
    write_json(json_file, _as_json(dataset, found, predictions, trained_on, seen))
    if html_file is not None:
        from deeplab_repro.evaluation.html import write_evaluation_page

        title = f"{Path(predictions).name or predictions} on {dataset.name}"
        write_evaluation_page(
            html_file, found, pairs, dataset.classes, title=title, crop=crop, warning=seen
        )


def _listed(labels: Path, list_file: str | None) -> Dataset:
    """The pictures of a list, or those that have a label; labels are looked up in their folder."""
    from deeplab_repro.data import Dataset, Sample, read_list
    from deeplab_repro.data.labels import LABEL_ENDINGS

    if list_file is not None:
        return read_list(list_file, labels.parent)
    if not labels.is_dir():
        raise InputError("is no folder", file=labels)
    names = {file.stem for file in labels.iterdir() if file.suffix.lower() in LABEL_ENDINGS}
    if not names:
        raise InputError("holds no labels", file=labels)
    picture = labels.parent / "JPEGImages"
    samples = (Sample(name, picture / f"{name}.jpg") for name in sorted(names))
    return Dataset(labels.name, tuple(samples))


def _with_pictures(pairs: Sequence[Pair], folder: Path) -> list[Pair]:
    if not folder.is_dir():
        raise InputError("is no folder", file=folder)
    files = {file.stem: file for file in folder.iterdir()}
    return [replace(pair, picture=files.get(pair.name)) for pair in pairs]


def _trained_on(model: str) -> str | None:
    from deeplab_repro.evaluation.seen import is_known
    from deeplab_repro.released import find_weights

    trained_on = find_weights(model)[1].trained_on
    return trained_on if is_known(trained_on) else None


def _show(dataset: Dataset, found: Evaluation) -> None:
    confusion, classes = found.confusion, dataset.classes
    table = make_table(
        "", **{"id": "right", "class": "left", "IoU": "right", "accuracy": "right"}, pixels="right"
    )
    truth = confusion.matrix.sum(1)
    for i, name in enumerate(classes.names):
        table.add_row(
            str(i),
            shown(name),
            _percent(confusion.iou[i]),
            _percent(confusion.accuracy[i]),
            f"{truth[i]:,}",
        )
    console.print(table)
    if found.trimap is not None and found.trimap.rings.any():
        _show_trimap(found.trimap)
    summary = make_table("", score="left", percent="right")
    summary.add_row("pixel accuracy", _percent(confusion.pixel_accuracy))
    summary.add_row("mean accuracy", _percent(confusion.mean_accuracy))
    summary.add_row("frequency-weighted IoU", _percent(confusion.frequency_weighted_iou))
    summary.add_row("mean IoU", _percent(confusion.mean_iou), style="bold")
    console.print(summary)
    for line in _notes(dataset, found):
        console.print(line, highlight=False, soft_wrap=True, style="dim")


def _show_trimap(trimap: Trimap) -> None:
    widths = [width for width in trimap.widths if width in _SHOWN_WIDTHS]
    table = make_table("trimap", width="left", **{str(width): "right" for width in widths})
    for name, values in (("pixel accuracy", trimap.pixel_accuracy), ("mean IoU", trimap.mean_iou)):
        by_width = dict(zip(trimap.widths, values, strict=True))
        table.add_row(name, *(_percent(by_width[width]) for width in widths))
    console.print(table)


def _notes(dataset: Dataset, found: Evaluation) -> list[str]:
    confusion = found.confusion
    lines = [
        f"{number(len(found.pictures), 'picture')} of {shown(dataset.name)},"
        f" {confusion.pixels:,} pixels that are not void",
        f"not the metric: {_percent(found.mean_of_picture_iou)}, the mean over pictures of their"
        " own mean IoU, as some programs report",
    ]
    nowhere = [
        name for name, iou in zip(dataset.classes.names, confusion.iou, strict=True) if iou != iou
    ]
    if nowhere:
        lines.append(
            f"left out of the mean: {number(len(nowhere), 'class', 'classes')} without a pixel"
            f" ({shown(', '.join(nowhere))}); with 0 for these, as DeepLab's MyVOCevalseg.m counts"
            f" them, it is {_percent(confusion.mean_iou_of_all)}"
        )
    if found.trimap is not None and not found.trimap.rings.any():
        lines.append("no trimap: the labels have no void pixels")
    return lines


def _percent(value: float) -> str:
    return f"{100 * value:.2f}" if value == value else "-"


def _as_json(
    dataset: Dataset, found: Evaluation, predictions: str, trained_on: str | None, seen: str
) -> dict[str, Any]:
    return {
        "predictions": predictions,
        "data": dataset.name,
        "trained_on": trained_on,
        "seen_in_training": seen or None,
        **found.as_json(dataset.classes.names),
    }
