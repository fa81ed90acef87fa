"""``deeplab-repro crf``"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeVar

import click

from deeplab_repro.cli.common import console, json_option, make_table, write_json
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
from prototxt_import.files import replacing_file

if TYPE_CHECKING:
    from deeplab_repro.crf import CRFParams
    from deeplab_repro.pictures.palette import Classes

_TARGETS: Final = {
    "labels": "labels/{}.png",
    "overlay": "overlays/{}.png",
    "marginals": "marginals/{}.npz",
    "before_after": "before_after/{}.png",
}
#: Options that set one field of CRFParams; the stds may have a number for each axis or channel.
_VALUES: Final = {
    "iterations": "mean field steps",
    "pos_w": "weight of the spatial kernel",
    "pos_xy_std": "its std in pixels, S or X,Y",
    "bi_w": "weight of the bilateral kernel",
    "bi_xy_std": "its std in pixels, S or X,Y",
    "bi_rgb_std": "its std in grey levels, S or R,G,B",
}
_Command = TypeVar("_Command", bound=Callable[..., Any])


@dataclass
class _Job(Job):
    scores: Path = Path()
    changed: int = 0  # pixels that have another label than before


def _value_options(command: _Command) -> _Command:
    for name, what in reversed(_VALUES.items()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, metavar="N", help=f"{what[0].upper()}{what[1:]}.")(
            command
        )
    return command


@click.command("crf")
@click.option("--image", type=click.Path(), required=True, help="A picture, or a folder of them.")
@click.option(
    "--scores",
    type=click.Path(),
    required=True,
    help="Its scores, (C, H, W) or (1, C, H, W), as .npy, .npz or .h5; for a folder of pictures"
    " a folder with a file of the same name for each.",
)
@click.option("-o", "--output", type=click.Path(), required=True, help="Folder for the results.")
@click.option(
    "--params",
    metavar="NAME",
    default="run_densecrf",
    show_default=True,
    help="Parameters of a released model, such as deeplab_v2_resnet101; the values below replace"
    " some of them.",
)
@click.option(
    "--list-params",
    is_flag=True,
    is_eager=True,
    expose_value=False,
    callback=lambda ctx, _, wanted: _list_params(ctx) if wanted else None,
    help="List the names for --params and exit.",
)
@_value_options
@click.option(
    "--probabilities", is_flag=True, help="The scores are probabilities, after a softmax."
)
@click.option("--key", metavar="NAME", help="The array in an .npz or .h5 that holds several.")
@click.option(
    "--crop",
    is_flag=True,
    help="The scores are those of a picture padded right and below: take its part of them.",
)
@click.option(
    "--normalization",
    type=click.Choice(["after", "symmetric", "before", "none"]),
    default="after",
    show_default=True,
    help="Where kernels are divided by their sums; after is DeepLab's, symmetric pydensecrf's.",
)
@click.option("--relaxation", default=1.0, show_default=True, help="Share of the new marginals.")
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(),
    help="Class names, one a line; a line may end in a colour such as #804080.",
)
@json_option
def command(
    image: str,
    scores: str,
    output: str,
    params: str,
    probabilities: bool,
    key: str | None,
    crop: bool,
    normalization: str,
    relaxation: float,
    classes_file: str | None,
    json_file: str | None,
    **values: str | None,
) -> None:
    """Refine score maps by a dense CRF, as DeepLab's densecrf program does.

    Writes labels/NAME.png (class ids, with VOC's palette), overlays/NAME.png, marginals/NAME.npz
    (`marginals`, C x H x W) and before_after/NAME.png to the output folder.  A picture that cannot
    be used is reported and the others go on; then the exit code is 2.
    """
    chosen = _params(params, values)
    jobs = plan(_Job, [image], Path(output), _TARGETS)
    for job in jobs:
        job.scores = _scores_of(job, Path(scores), is_folder=Path(image).is_dir())
    options = {"normalization": normalization, "relaxation": relaxation}
    classes: Classes | None = None
    with picture_progress() as bar:
        task = bar.add_task("refining", total=len(jobs))
        for job in jobs:
            try:
                classes = _refine(
                    job, chosen, options, classes_file, key, probabilities=probabilities, crop=crop
                )
            except (ValueError, OSError, MemoryError, RuntimeError) as error:
                job.error = say(error, job.file)
            bar.advance(task)
    if classes is not None:
        show_labels(jobs, classes)
    done = sum(not job.error for job in jobs)
    console.print(
        f"{done} of {len(jobs)} pictures refined, {chosen.iterations} iterations,"
        f" spatial {_kernel(chosen.pos_w, chosen.pos_xy_std)}, bilateral"
        f" {_kernel(chosen.bi_w, chosen.bi_xy_std, chosen.bi_rgb_std)}",
        highlight=False,
        soft_wrap=True,
    )
    show_folders(jobs)
    report = {
        "params": asdict(chosen),
        **options,
        "pictures": [
            {
                "file": str(job.file),
                "scores": str(job.scores),
                "size": job.size,
                "changed": job.changed,
                **{kind: str(path) for kind, path in job.targets.items()},
                **(labels_as_json(job, classes) if classes else {}),
            }
            for job in jobs
            if not job.error
        ],
        "failed": [{"file": str(job.file), "error": job.error} for job in jobs if job.error],
    }
    write_json(json_file, report)
    finish(jobs)


def _list_params(ctx: click.Context) -> None:
    from deeplab_repro.crf import CRFParams

    table = make_table("", name="left", spatial="left", bilateral="left")
    for name in CRFParams.names():
        params = CRFParams.named(name)
        spatial = _kernel(params.pos_w, params.pos_xy_std)
        table.add_row(name, spatial, _kernel(params.bi_w, params.bi_xy_std, params.bi_rgb_std))
    console.print(table)
    ctx.exit()


def _params(name: str, values: dict[str, str | None]) -> CRFParams:
    from deeplab_repro.crf import CRFParams

    numbers: dict[str, Any] = {}
    for field, text in values.items():
        if text is None:
            continue
        try:
            parts = [int(text)] if field == "iterations" else [float(t) for t in text.split(",")]
        except ValueError:
            raise InputError(
                f"--{field.replace('_', '-')}", expected=_VALUES[field], got=text
            ) from None
        numbers[field] = parts[0] if len(parts) == 1 else tuple(parts)
    try:
        return replace(CRFParams.named(name), **numbers)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None


def _scores_of(job: _Job, scores: Path, *, is_folder: bool) -> Path:
    from deeplab_repro.pictures.scores import ENDINGS

    if not is_folder:
        return scores
    # Of pictures of one name, each may have scores of its own: one.png.npy beside one.bmp.npy.
    for name in dict.fromkeys((job.name, job.file.stem)):
        for ending in ENDINGS:
            if (scores / f"{name}{ending}").exists():
                return scores / f"{name}{ending}"
    return scores / f"{job.file.stem}.npy"  # which is reported as missing


def _refine(
    job: _Job,
    params: CRFParams,
    options: dict[str, Any],
    classes_file: str | None,
    key: str | None,
    *,
    probabilities: bool,
    crop: bool,
) -> Classes:
    """Read, infer, write; returns the classes, which the scores count."""
    import numpy as np
    import torch

    from deeplab_repro.crf import dense_crf
    from deeplab_repro.pictures.overlay import draw_before_after, draw_overlay
    from deeplab_repro.pictures.palette import Classes, class_shares, read_classes, write_label_png
    from deeplab_repro.pictures.reading import read_picture
    from deeplab_repro.pictures.scores import energies, look_like_probabilities, read_scores

    with decoders_silent():
        picture = read_picture(job.file)
    job.size = picture.shape[0], picture.shape[1]
    scores = read_scores(job.scores, key)
    count = len(scores)
    classes = (
        read_classes(classes_file, count) if classes_file is not None else Classes.default(count)
    )
    if not probabilities and look_like_probabilities(scores):
        click.echo(
            f"deeplab-repro: warning: {job.scores}: these are probabilities, and are taken as"
            " scores: --probabilities",
            err=True,
        )
    try:
        unary = energies(scores, job.size, probabilities=probabilities, crop=crop)
    except BadInput as error:
        raise error.with_file(job.scores) from None
    rgb = np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))
    q = dense_crf(torch.from_numpy(unary)[None], torch.from_numpy(rgb)[None], params, **options)
    marginals = q[0].numpy()
    kind = np.uint8 if count <= 256 else np.int16
    before, labels = (values.argmax(0).astype(kind) for values in (-unary, marginals))
    for target in job.targets.values():
        make_folder(target.parent)
    write_label_png(job.targets["labels"], labels, classes.colours)
    write_png(job.targets["overlay"], draw_overlay(picture, labels, classes))
    write_png(job.targets["before_after"], draw_before_after(picture, before, labels, classes))
    with replacing_file(job.targets["marginals"]) as out:
        np.savez_compressed(out, marginals=marginals)
    job.changed = int((before != labels).sum())
    job.shares = class_shares(labels, classes.names)
    return classes


def _kernel(weight: float, *stds: float | Sequence[float]) -> str:
    def shown(std: float | Sequence[float]) -> str:
        return ",".join(f"{s:g}" for s in (std if isinstance(std, Sequence) else (std,)))

    return f"{weight:g} at {'/'.join(map(shown, stds))}"
