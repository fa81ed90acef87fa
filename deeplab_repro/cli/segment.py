"""``deeplab-repro segment``"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import click

from deeplab_repro.cli.common import (
    console,
    json_option,
    mean_option,
    preparation_of,
    quirks_option,
    read,
    shown,
    write_json,
)
from deeplab_repro.cli.jobs import (
    Job,
    decoders_silent,
    finish,
    labels_as_json,
    make_folder,
    picture_progress,
    plan,
    say,
    show_folders,
    show_labels,
    write_png,
)
from deeplab_repro.errors import BadInput, InputError
from prototxt_import import DIALECTS, Dialect

if TYPE_CHECKING:
    from deeplab_repro.crf import CRFParams
    from deeplab_repro.inference.segmentation import Fuse, Segmentation, Segmenter
    from deeplab_repro.pictures.palette import Classes

_TARGETS: Final = {"labels": "labels/{}.png", "overlay": "overlays/{}.png"}


class _Command(click.Command):
    """``--scales 0.5 0.75 1``: click has no options with any number of values."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        spread: list[str] = []
        in_scales = False
        for i, argument in enumerate(args):
            if argument == "--":
                spread += args[i:]
                break
            if in_scales and spread[-1] != "--scales":
                in_scales = _is_number(argument)
                if in_scales:
                    spread.append("--scales")
            in_scales = in_scales or argument == "--scales"
            spread.append(argument)
        return super().parse_args(ctx, spread)


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


@click.command("segment", cls=_Command)
@click.argument("pictures", nargs=-1, required=True, type=click.Path(), metavar="PICTURE...")
@click.option("--model", type=click.Path(), required=True, metavar="MODEL", help="The network.")
@click.option("--prototxt", type=click.Path(), help="The network, if not in MODEL.")
@click.option("--dialect", type=click.Choice(DIALECTS), help="Overrule the file's evidence.")
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Fill the placeholder ${NAME} in the prototxt; may be repeated.",
)
@click.option("-o", "--output", type=click.Path(), required=True, help="Folder for the results.")
@click.option(
    "--scales",
    metavar="S...",
    multiple=True,
    help="Multi-scale testing: factors to resize the pictures by, such as 0.5 0.75 1.",
)
@click.option(
    "--fuse",
    type=click.Choice(["max", "mean"]),
    default="max",
    show_default=True,
    help="How the scores of several scales become one.",
)
@click.option("--blob", help="The blob of scores, where the network has several outputs.")
@mean_option
@click.option(
    "--pad-to",
    type=click.IntRange(min=1),
    help="Pad right and bottom to N x N. By default to the network's own size, to the test crop"
    " of 513, or for larger pictures to the next size that suits the network.",
)
@click.option(
    "--crf",
    metavar="NAME",
    help="Refine by a dense CRF with the parameters of a released model, such as"
    " deeplab_v2_resnet101 (`deeplab-repro crf --list-params`).",
)
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(),
    help="Class names, one a line; a line may end in a colour such as #804080.",
)
@click.option(
    "--batch",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Pictures of equal padded size that go through the network together.",
)
@click.option(
    "--upright",
    is_flag=True,
    help="Turn pictures as their EXIF data say; Caffe took them as they are stored.",
)
@quirks_option
@json_option
def command(
    pictures: tuple[str, ...],
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    output: str,
    scales: tuple[str, ...],
    fuse: Fuse,
    blob: str | None,
    mean: str,
    pad_to: int | None,
    crf: str | None,
    classes_file: str | None,
    batch: int,
    upright: bool,
    quirks: bool,
    json_file: str | None,
) -> None:
    """Label the pixels of pictures and of all pictures in folders.

    Writes labels/NAME.png (class ids, with VOC's palette) and overlays/NAME.png (the picture with
    its labels and their legend) to the output folder.  A picture that cannot be used is reported
    and the others go on; then the exit code is 2.
    """
    jobs = plan(_Job, pictures, Path(output), _TARGETS)
    with picture_progress() as bar:
        task = bar.add_task("loading the network", total=len(jobs))
        segmenter, classes = _load(
            (model, prototxt, dialect, settings),
            classes_file,
            quirks,
            blob=blob,
            mean=preparation_of(mean, 1.0, None, None).mean,
            pad_to=pad_to,
            scales=[_scale(text) for text in scales] or [1.0],
            fuse=fuse,
            crf=_crf(crf),
        )
        if segmenter.rule.zoom != 1:
            click.echo(
                f"deeplab-repro: warning: the network ends before its scores are zoomed: blob"
                f" '{segmenter.blob}' is zoomed by {segmenter.rule.zoom} here, as Interp does it;"
                " its test prototxt may do more (--prototxt)",
                err=True,
            )
        for folder in ("labels", "overlays"):
            make_folder(Path(output) / folder)
        bar.update(task, description="labelling")
        for chunk in _batches(jobs, segmenter, batch, upright):
            _segment(chunk, segmenter, classes)
            bar.advance(task, len(chunk))
    _show(jobs, classes, segmenter)
    write_json(json_file, _as_json(model, segmenter, classes, jobs))
    finish(jobs)


@dataclass
class _Job(Job):
    input_sizes: tuple[tuple[int, int], ...] = ()


def _load(
    source: tuple[str, str | None, Dialect | None, Sequence[str]],
    classes_file: str | None,
    quirks: bool,
    **options: Any,
) -> tuple[Segmenter, Classes]:
    from deeplab_repro.caffe.net import CaffeNet
    from deeplab_repro.caffe.scoring import scoring_net
    from deeplab_repro.inference.segmentation import Segmenter
    from deeplab_repro.pictures.palette import Classes, read_classes

    model = read(*source)
    part = scoring_net(model.net("TEST"), options.pop("blob"))
    try:
        net = CaffeNet(part, model.weights, quirks=quirks)
        segmenter = Segmenter(net, blob=part.outputs[0], **options)
    except BadInput as error:
        raise error.with_file(model.weights_file or model.net_file) from None
    count = segmenter.rule.classes
    classes = (
        read_classes(classes_file, count) if classes_file is not None else Classes.default(count)
    )
    return segmenter, classes


def _crf(name: str | None) -> CRFParams | None:
    from deeplab_repro.crf import CRFParams

    return CRFParams.named(name) if name is not None else None


def _scale(text: str) -> float:
    scale = float(text) if _is_number(text) else 0.0
    if not 0 < scale < float("inf"):
        raise InputError("--scales", expected="positive numbers", got=text)
    return scale


def _batches(
    jobs: Sequence[_Job], segmenter: Segmenter, batch: int, upright: bool
) -> Iterator[list[_Job]]:
    """Read the pictures and put those together that fit in one batch.

    At most four times ``batch`` pictures wait for others of their size at a time.  A job that
    failed comes alone.
    """
    from deeplab_repro.pictures.reading import read_picture

    waiting: dict[tuple[tuple[int, int], ...], list[_Job]] = {}
    for job in jobs:
        try:
            with decoders_silent():
                job.picture = read_picture(job.file, upright=upright)
            job.size = job.picture.shape[0], job.picture.shape[1]
            job.input_sizes = segmenter.input_sizes(*job.size)
        except (BadInput, MemoryError) as error:
            job.error = say(error, job.file)
            yield [job]
            continue
        alike = waiting.setdefault(job.input_sizes, [])
        alike.append(job)
        if len(alike) == batch:
            yield waiting.pop(job.input_sizes)
        elif sum(map(len, waiting.values())) >= 4 * batch:
            yield waiting.pop(max(waiting, key=lambda size: len(waiting[size])))
    yield from waiting.values()


def _segment(jobs: list[_Job], segmenter: Segmenter, classes: Classes) -> None:
    """Label the pictures of one batch and write the results."""
    pictures = [job.picture for job in jobs if job.picture is not None]
    try:
        results = segmenter(pictures) if pictures else []
    except (BadInput, MemoryError, RuntimeError) as error:  # torch's: out of memory
        if len(jobs) > 1:  # only some of them may be at fault
            for job in jobs:
                _segment([job], segmenter, classes)
            return
        jobs[0].error = say(error, jobs[0].file)
        results = []
    for job, result in zip(jobs, results, strict=False):
        try:
            _write(job, result, classes)
        except (BadInput, OSError) as error:
            job.error = say(error, job.file)
    for job in jobs:
        job.picture = None


def _write(job: _Job, result: Segmentation, classes: Classes) -> None:
    from deeplab_repro.pictures.overlay import draw_overlay
    from deeplab_repro.pictures.palette import class_shares, write_label_png

    assert job.picture is not None
    overlay = draw_overlay(job.picture, result.labels, classes)
    write_label_png(job.targets["labels"], result.labels, classes.colours)
    write_png(job.targets["overlay"], overlay)
    job.shares = class_shares(result.labels, classes.names)


def _show(jobs: list[_Job], classes: Classes, segmenter: Segmenter) -> None:
    show_labels(jobs, classes)
    scales = ""
    if segmenter.scales != (1.0,):
        joined = ", ".join(f"{scale:g}" for scale in segmenter.scales)
        scales = f", {segmenter.fuse} over scales {joined}"
    refined = ", refined by a CRF" if segmenter.crf else ""
    done = sum(not job.error for job in jobs)
    console.print(
        f"{done} of {len(jobs)} pictures labelled by blob '{shown(segmenter.blob)}'{scales}"
        f"{refined}",
        highlight=False,
        soft_wrap=True,
    )
    show_folders(jobs)


def _as_json(
    model: str, segmenter: Segmenter, classes: Classes, jobs: list[_Job]
) -> dict[str, Any]:
    return {
        "model": model,
        "blob": segmenter.blob,
        "scales": segmenter.scales,
        "fuse": segmenter.fuse,
        "zoomed_here": segmenter.rule.zoom,
        "crf": asdict(segmenter.crf) if segmenter.crf else None,
        "classes": list(classes.names),
        "pictures": [
            {
                "file": str(job.file),
                "size": job.size,
                "input_sizes": job.input_sizes,
                **{kind: str(path) for kind, path in job.targets.items()},
                **labels_as_json(job, classes),
            }
            for job in jobs
            if not job.error
        ],
        "failed": [{"file": str(job.file), "error": job.error} for job in jobs if job.error],
    }
