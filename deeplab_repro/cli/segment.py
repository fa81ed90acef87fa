"""``deeplab-repro segment``"""

from __future__ import annotations

from collections.abc import Generator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.checkpoints import (
    checkpoint_of,
    load_checkpoint,
    network_options,
    refuse_given,
)
from deeplab_repro.cli.common import (
    accuracy_option,
    check_pad_to,
    console,
    json_option,
    mean_option,
    preparation_of,
    quirks_option,
    read,
    set_option,
    shown,
    write_json,
)
from deeplab_repro.cli.jobs import (
    SCORE_KINDS,
    Job,
    count_text,
    decoders_silent,
    device_text,
    finish,
    jobs_as_json,
    labels_as_json,
    listed_options,
    listed_pictures,
    make_folder,
    picture_progress,
    plan,
    results_option,
    show_folders,
    show_labels,
    skip_option,
    unfinished,
    work_through,
    write_png,
)
from deeplab_repro.cli.refining import read_crf_params, tile_options, tiling_of
from deeplab_repro.cli.scales import ScalesCommand, scale_of
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.processes import local_device, processes
from prototxt_import import DIALECTS, Dialect

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray
    from torch import Tensor

    from deeplab_repro.inference.segmentation import Fuse, Segmenter
    from deeplab_repro.inference.tiled import Tiling
    from deeplab_repro.models.v3.network import DeepLabV3
    from deeplab_repro.pictures.palette import Classes


#: What means nothing for a checkpoint: parameter -> option.
_OF_CAFFE = {
    "prototxt": "--prototxt",
    "dialect": "--dialect",
    "fuse": "--fuse",
    "blob": "--blob",
    "mean": "--mean",
    "tile": "--tile",
    "overlap": "--overlap",
}
_A_CHECKPOINT = "a TensorFlow checkpoint"


@click.command("segment", cls=ScalesCommand)
@click.argument("pictures", nargs=-1, type=click.Path(), metavar="[PICTURE...]")
@listed_options
@click.option("--model", type=click.Path(), required=True, metavar="MODEL", help="The network.")
@click.option("--prototxt", type=click.Path(), help="The network, if not in MODEL.")
@click.option("--dialect", type=click.Choice(DIALECTS), help="Overrule the file's evidence.")
@set_option()
@network_options
@results_option
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
@click.option("--flip", is_flag=True, help="Of a TensorFlow checkpoint: look in a mirror, too.")
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
    " deeplab_v2_resnet101 (`deeplab-repro crf --list-params`), or the .json of `crf-search`.",
)
@click.option(
    "--save-scores",
    type=click.Choice(SCORE_KINDS),
    help="Also write the network's scores, for `deeplab-repro crf`: .h5 compressed, .mat as Caffe's"
    " MatWrite layer, .bin as DeepLab's Matlab scripts.",
)
@click.option(
    "--overlays/--no-overlays",
    default=True,
    show_default=True,
    help="Draw the labels over the pictures.",
)
@skip_option
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
@tile_options
@click.option(
    "--autotune",
    "tunes",
    is_flag=True,
    help="Measure first which algorithms are the fastest here, unless `deeplab-repro autotune` or"
    " an earlier run has done so.",
)
@accuracy_option
@quirks_option
@json_option
@click.pass_context
def command(
    context: click.Context,
    pictures: tuple[str, ...],
    voc: str | None,
    split: str | None,
    list_file: str | None,
    root: str | None,
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    options_file: str | None,
    network: str | None,
    output: str,
    scales: tuple[str, ...],
    fuse: Fuse,
    flip: bool,
    blob: str | None,
    mean: str,
    pad_to: int | None,
    crf: str | None,
    save_scores: str | None,
    overlays: bool,
    skip_existing: bool,
    classes_file: str | None,
    batch: int,
    upright: bool,
    tile: int | None,
    overlap: int | None,
    tunes: bool,
    accuracy: str,
    quirks: bool,
    json_file: str | None,
) -> None:
    """Label the pixels of pictures, of all pictures in folders, or of those in a list.

    Writes labels/NAME.png (class ids, with VOC's palette) and overlays/NAME.png (the picture with
    its labels and their legend) to the output folder.  A picture that cannot be used is reported
    and the others go on; then the exit code is 2.  Reading, the network, and refining and writing
    run at the same time, on a GPU where there is one; under `torchrun --nproc-per-node N -m
    deeplab_repro segment ...` the pictures are shared out.

    A TensorFlow checkpoint gets pictures as they are, or padded to --pad-to N as its exported graph
    pads them; over several --scales its probabilities are averaged.
    """
    listed = listed_pictures(pictures, voc, split, list_file, root)
    tiling = tiling_of(tile, overlap, save_scores)
    if tunes and tiling is not None:
        raise InputError("--autotune", expected="no --tile beside it")
    check_pad_to(pad_to)
    with processes() as team, decoders_silent(), picture_progress(hidden=not team.first) as bar:
        jobs = plan(
            _Job, listed, Path(output), _targets(overlays, save_scores), quiet=not team.first
        )
        mine = team.share(jobs)
        todo = unfinished(mine, skip_existing)
        task = bar.add_task("loading the network", total=len(todo))
        common: dict[str, Any] = {
            "scales": tuple(map(scale_of, scales)) or (1.0,),
            "crf": read_crf_params(crf) if crf is not None else None,
            "accuracy": accuracy,
        }
        checkpoint = checkpoint_of(model, options_file, network)
        if checkpoint is not None:
            refuse_given(context, model, _OF_CAFFE)
            net = load_checkpoint(checkpoint, options_file, network, settings, quirks=quirks)
            segmenter = _of_checkpoint(net.fuse(), pad_to, flip=flip, **common)
        else:
            if flip:
                raise InputError("does not go with --flip", file=model, expected=_A_CHECKPOINT)
            segmenter = _of_caffe(
                (model, prototxt, dialect, settings),
                quirks,
                blob=blob,
                mean=preparation_of(mean, 1.0, None, None).mean,
                pad_to=pad_to,
                fuse=fuse,
                **common,
            )
        classes = _classes(segmenter, classes_file)
        if segmenter.rule.zoom != 1 and team.first:
            click.echo(
                f"deeplab-repro: warning: the network ends before its scores are zoomed: blob"
                f" '{segmenter.blob}' is zoomed by {segmenter.rule.zoom} here, as Interp does it;"
                " its test prototxt may do more (--prototxt)",
                err=True,
            )
        if tunes:
            bar.update(task, description="measuring")
            _tune(segmenter, batch)
        bar.update(task, description="labelling")
        if tiling is None:
            outcomes = segmenter.stream(
                todo,
                read=lambda job: _read(job, upright),
                then=lambda job, picture, scores: _write(job, picture, scores, segmenter, classes),
                batch=batch,
            )
        else:
            _check_tiling(segmenter, tiling, quiet=not team.first)
            outcomes = _in_tiles(todo, tiling, segmenter, classes, upright)
        work_through(outcomes, bar, task)
        jobs = team.merge(mine)
    if team.first:
        _show(jobs, classes, segmenter)
        report = _as_json(model, segmenter, classes, jobs)
        write_json(json_file, {**report, "tile": tile, "overlap": overlap, "accuracy": accuracy})
    finish(jobs, quiet=not team.first)


@dataclass
class _Job(Job):
    input_sizes: tuple[tuple[int, int], ...] = ()


def _targets(overlays: bool, save_scores: str | None) -> dict[str, str]:
    """What is written of a picture."""
    targets = {"labels": "labels/{}.png"}
    if overlays:
        targets["overlay"] = "overlays/{}.png"
    if save_scores:
        # Matlab's scripts look for the name that the MatWrite layer gives.
        blob = "_blob_0" if save_scores == ".mat" else ""
        targets["scores"] = f"scores/{{}}{blob}{save_scores}"
    return targets


def _of_caffe(
    source: tuple[str, str | None, Dialect | None, Sequence[str]], quirks: bool, **options: Any
) -> Segmenter:
    from deeplab_repro.caffe.net import CaffeNet
    from deeplab_repro.caffe.scoring import scoring_net
    from deeplab_repro.inference.segmentation import Segmenter

    model = read(*source)
    part = scoring_net(model.net("TEST"), options.pop("blob"))
    try:
        net = CaffeNet(part, model.weights, quirks=quirks)
        segmenter = Segmenter(net, blob=part.outputs[0], **options)
    except BadInput as error:
        raise error.with_file(model.weights_file or model.net_file) from None
    net.to(local_device())
    return segmenter


def _of_checkpoint(net: DeepLabV3, pad_to: int | None, **options: Any) -> Segmenter:
    from deeplab_repro.tensorflow.segmentation import CropSegmenter

    crop = None if pad_to is None else (pad_to, pad_to)
    return CropSegmenter(net.to(local_device()), crop_size=crop, **options)


def _classes(segmenter: Segmenter, classes_file: str | None) -> Classes:
    from deeplab_repro.pictures.palette import Classes, read_classes

    count = segmenter.rule.classes
    assert count is not None  # both kinds of networks state it
    return read_classes(classes_file, count) if classes_file is not None else Classes.default(count)


def _tune(segmenter: Segmenter, batch: int) -> None:
    """Measure for the sizes that most pictures are padded to; larger ones go by the rules."""
    from deeplab_repro.autotuning import autotune

    size = segmenter.pad_to or segmenter.rule.declared or segmenter.rule.crop
    for padded in dict.fromkeys(segmenter.input_sizes(*size)):
        autotune(segmenter.net, (batch, 3, *padded), progress=False)


def _read(job: _Job, upright: bool) -> NDArray[np.uint8]:
    from deeplab_repro.pictures.reading import read_picture

    return read_picture(job.file, upright=upright)


def _write(
    job: _Job,
    picture: NDArray[np.uint8],
    scores: Tensor,
    segmenter: Segmenter,
    classes: Classes,
) -> None:
    """Refine the scores of one picture, and write what is made of them."""
    from deeplab_repro.pictures.scores import write_scores

    labels = segmenter.label(scores, picture).labels
    _write_labels(job, picture, labels, segmenter, classes)
    if "scores" in job.targets:
        write_scores(job.targets["scores"], scores.cpu().numpy())


def _write_labels(
    job: _Job,
    picture: NDArray[np.uint8],
    labels: NDArray[Any],
    segmenter: Segmenter,
    classes: Classes,
) -> None:
    """Write the labels in all forms, and note what the report says of them."""
    from deeplab_repro.pictures.overlay import draw_overlay
    from deeplab_repro.pictures.palette import class_shares, write_label_png

    for target in job.targets.values():
        make_folder(target.parent)
    write_label_png(job.targets["labels"], labels, classes.colours)
    if "overlay" in job.targets:
        write_png(job.targets["overlay"], draw_overlay(picture, labels, classes))
    job.size = picture.shape[0], picture.shape[1]
    job.input_sizes = segmenter.input_sizes(*job.size)
    job.shares = class_shares(labels, classes.names)


def _check_tiling(segmenter: Segmenter, tiling: Tiling, *, quiet: bool) -> None:
    """Say before the work begins what tiles cannot do, or cannot do exactly."""
    from deeplab_repro.inference.tiled import network_overlap

    if segmenter.scales != (1.0,):
        raise InputError("--tile", expected="no --scales beside it", got=list(segmenter.scales))
    overlap, exact = network_overlap(segmenter, tiling.side)
    if tiling.overlap is None and not exact and not quiet:
        click.echo(
            f"deeplab-repro: warning: tiles of {tiling.side} cannot overlap as far as the network"
            f" sees: they overlap by {overlap}, and scores near seams differ from those of the"
            " whole picture (a larger --tile helps)",
            err=True,
        )


def _in_tiles(
    jobs: Sequence[_Job], tiling: Tiling, segmenter: Segmenter, classes: Classes, upright: bool
) -> Generator[tuple[_Job, Any], None, None]:
    """Work through pictures of which a tile is in memory at a time: one picture after the other."""
    from deeplab_repro.inference.stages import Stages

    stages = Stages[_Job, "NDArray[np.uint8]", "NDArray[np.uint8]", None](
        read=lambda job: _read(job, upright),
        run=lambda pictures: pictures,
        finish=lambda job, picture, _: _write_tiles(job, picture, tiling, segmenter, classes),
        readers=1,
    )
    return stages(jobs)


def _write_tiles(
    job: _Job,
    picture: NDArray[np.uint8],
    tiling: Tiling,
    segmenter: Segmenter,
    classes: Classes,
) -> None:
    """Label one picture tile by tile, and write what is made of it."""
    import numpy as np

    from deeplab_repro.inference.segmentation import first_maximum
    from deeplab_repro.inference.tiled import refine_tiles, score_tiles
    from deeplab_repro.pictures.score_parts import ScoreFile, scratch_scores

    size = picture.shape[0], picture.shape[1]
    labels = np.empty(size, np.uint8 if len(classes.names) <= 256 else np.int16)
    whole: ScoreFile | None = None
    with ExitStack() as stack:
        for tile, scores in score_tiles(segmenter, picture, tiling):
            labels[tile.kept], values = first_maximum(scores)
            if segmenter.crf or "scores" in job.targets:
                if whole is None:
                    folder = job.targets["scores" if "scores" in job.targets else "labels"].parent
                    make_folder(folder)
                    whole = stack.enter_context(scratch_scores(folder, (len(values), *size)))
                whole.put(*tile.kept, values)
            del scores, values  # the next tile needs their room
        if segmenter.crf and whole is not None:
            for tile, unary, q in refine_tiles(
                whole, picture, segmenter.crf, tiling, device=segmenter.device
            ):
                labels[tile.kept] = q.argmax(0)
                del unary, q
        _write_labels(job, picture, labels, segmenter, classes)
        if "scores" in job.targets and whole is not None:
            whole.save(job.targets["scores"])


def _show(jobs: list[_Job], classes: Classes, segmenter: Segmenter) -> None:
    show_labels(jobs, classes)
    scales = ""
    if segmenter.scales != (1.0,) or segmenter.flip:
        joined = ", ".join(f"{scale:g}" for scale in segmenter.scales)
        mirrored = ", each also mirrored" if segmenter.flip else ""
        scales = f", {segmenter.fuse} over scales {joined}{mirrored}"
    refined = ", refined by a CRF" if segmenter.crf else ""
    console.print(
        f"{count_text(jobs)} labelled by blob '{shown(segmenter.blob)}'{scales}{refined}",
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
        "device": device_text(segmenter.device),
        "classes": list(classes.names),
        **jobs_as_json(
            jobs,
            lambda job: {"input_sizes": job.input_sizes, **labels_as_json(job, classes)},
        ),
    }
