"""``deeplab-repro crf``"""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple, TypeVar

import click

from deeplab_repro.cli.common import console, json_option, make_table, write_json
from deeplab_repro.cli.jobs import (
    SCORE_KINDS,
    Job,
    count_text,
    crf_device,
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
from deeplab_repro.cli.refining import (
    normalization_option,
    read_crf_params,
    score_options,
    tile_options,
    tiling_of,
)
from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.processes import processes

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from deeplab_repro.crf import CRFParams
    from deeplab_repro.inference.tiled import Tiling
    from deeplab_repro.pictures.palette import Classes
    from deeplab_repro.pictures.score_parts import ScoreFile

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
    scores: Path | None = None  # None: there are none
    classes: int = 0  # that the scores are of
    changed: int = 0  # pixels that have another label than before
    probable: bool = False  # the scores look like probabilities, and were not said to be


@dataclass(frozen=True)
class _Work:
    """What is done to every picture."""

    params: CRFParams
    options: dict[str, Any]
    classes_file: str | None
    key: str | None
    probabilities: bool
    crop: bool
    tiling: Tiling | None
    device: torch.device


def _value_options(command: _Command) -> _Command:
    for name, what in reversed(_VALUES.items()):
        flag = f"--{name.replace('_', '-')}"
        command = click.option(flag, name, metavar="N", help=f"{what[0].upper()}{what[1:]}.")(
            command
        )
    return command


@click.command("crf")
@click.option("--image", type=click.Path(), help="A picture, or a folder of them.")
@listed_options
@click.option(
    "--scores",
    type=click.Path(),
    required=True,
    help="Its scores, (C, H, W) or (1, C, H, W), as .npy, .npz, .h5, .mat (Caffe's MatWrite layer)"
    " or .bin (DeepLab's Matlab scripts); for several pictures a folder with a file of the same"
    " name for each.",
)
@results_option
@click.option(
    "--params",
    metavar="NAME",
    default="run_densecrf",
    show_default=True,
    help="Parameters of a released model, such as deeplab_v2_resnet101, or the .json of"
    " `crf-search`; the values below replace some of them.",
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
@score_options
@normalization_option
@click.option("--relaxation", default=1.0, show_default=True, help="Share of the new marginals.")
@click.option(
    "--classes",
    "classes_file",
    type=click.Path(),
    help="Class names, one a line; a line may end in a colour such as #804080.",
)
@click.option(
    "--marginals",
    "marginals_kind",
    type=click.Choice([*SCORE_KINDS, "none"]),
    default=".npz",
    show_default=True,
    help="The kind of file for the marginals.",
)
@click.option(
    "--bin", "bins", is_flag=True, help="Also write the labels as the densecrf program does."
)
@click.option(
    "--overlays/--no-overlays",
    default=True,
    show_default=True,
    help="Draw the labels over the pictures.",
)
@click.option(
    "--workers",
    type=click.IntRange(min=1),
    help="Pictures that are refined at the same time, the processor's threads shared out among"
    " them.  By default as many as there are threads, and one with --tile.",
)
@tile_options
@skip_option
@json_option
def command(
    image: str | None,
    voc: str | None,
    split: str | None,
    list_file: str | None,
    root: str | None,
    scores: str,
    output: str,
    params: str,
    probabilities: bool,
    key: str | None,
    crop: bool,
    normalization: str,
    relaxation: float,
    classes_file: str | None,
    marginals_kind: str,
    bins: bool,
    overlays: bool,
    workers: int | None,
    tile: int | None,
    overlap: int | None,
    skip_existing: bool,
    json_file: str | None,
    **values: str | None,
) -> None:
    """Refine score maps by a dense CRF, as DeepLab's densecrf program does.

    Writes labels/NAME.png (class ids, with VOC's palette), overlays/NAME.png, marginals/NAME.npz
    (`marginals`, C x H x W), before_after/NAME.png and, with --bin, bin/NAME.bin (int16, column by
    column) to the output folder.  A picture that cannot be used is reported and the others go on;
    then the exit code is 2.  Under `torchrun --nproc-per-node N -m deeplab_repro crf ...` the
    pictures are shared out.
    """
    chosen = _params(params, values)
    options = {"normalization": normalization, "relaxation": relaxation}
    tiling = tiling_of(tile, overlap, None if marginals_kind == "none" else marginals_kind)
    if not Path(scores).exists():
        raise InputError("there is no such file or folder", file=scores)
    listed = listed_pictures([image] if image is not None else [], voc, split, list_file, root)
    with processes() as team, decoders_silent(), picture_progress(hidden=not team.first) as bar:
        targets = _targets(overlays, marginals_kind, bins)
        jobs = plan(_Job, listed, Path(output), targets, quiet=not team.first)
        for job in jobs:
            job.scores = _scores_of(job, Path(scores), is_folder=Path(scores).is_dir())
        mine = team.share(jobs)
        todo = unfinished(mine, skip_existing)
        task = bar.add_task("refining", total=len(todo))
        work = _Work(chosen, options, classes_file, key, probabilities, crop, tiling, crf_device())
        work_through(_refined(todo, work, workers or (1 if tiling else None)), bar, task)
        jobs = team.merge(mine)
    if team.first:
        _warn_of_probabilities(jobs)
        count = max((job.classes for job in jobs), default=0)
        classes = _classes(classes_file, count) if count else None
        if classes is not None:
            show_labels(jobs, classes)
        console.print(
            f"{count_text(jobs)} refined, {chosen.iterations} iterations,"
            f" spatial {_kernel(chosen.pos_w, chosen.pos_xy_std)}, bilateral"
            f" {_kernel(chosen.bi_w, chosen.bi_xy_std, chosen.bi_rgb_std)}",
            highlight=False,
            soft_wrap=True,
        )
        show_folders(jobs)
        report = {
            "params": asdict(chosen),
            **options,
            "tile": tile,
            "overlap": overlap,
            "device": device_text(work.device),
            **jobs_as_json(
                jobs,
                lambda job: {
                    "scores": str(job.scores),
                    "changed": job.changed,
                    **(labels_as_json(job, classes) if classes else {}),
                },
            ),
        }
        write_json(json_file, report)
    finish(jobs, quiet=not team.first)


def _targets(overlays: bool, marginals_kind: str, bins: bool) -> dict[str, str]:
    """What is written of a picture."""
    targets = {"labels": "labels/{}.png"}
    if overlays:
        targets |= {"overlay": "overlays/{}.png", "before_after": "before_after/{}.png"}
    if marginals_kind != "none":
        targets["marginals"] = f"marginals/{{}}{marginals_kind}"
    if bins:
        targets["bin"] = "bin/{}.bin"
    return targets


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
        return replace(read_crf_params(name), **numbers)
    except (ValueError, TypeError) as error:
        raise InputError(str(error)) from None


def _scores_of(job: _Job, scores: Path, *, is_folder: bool) -> Path | None:
    from deeplab_repro.pictures.scores import score_file

    if not is_folder:
        return scores
    # Of pictures of one name, each may have scores of its own: one.png.npy beside one.bmp.npy.
    return score_file(scores, (job.name, job.file.stem))


def _classes(classes_file: str | None, count: int) -> Classes:
    from deeplab_repro.pictures.palette import Classes, read_classes

    return read_classes(classes_file, count) if classes_file is not None else Classes.default(count)


def _refined(
    jobs: Sequence[_Job], work: _Work, workers: int | None
) -> Generator[tuple[_Job, Any], None, None]:
    """Work through the pictures, several at a time."""
    import torch

    from deeplab_repro.inference.stages import Stages

    workers = max(1, min(workers or torch.get_num_threads(), len(jobs)))
    stages = Stages[_Job, _Input, _Input, None](
        read=lambda job: _read(job, work),
        run=lambda inputs: inputs,
        finish=lambda job, _, given: _refine(job, given, work),
        finishers=workers,
    )
    return stages(jobs)


class _Input(NamedTuple):
    """A picture, (H, W, 3) uint8 BGR, and the energies of its labels, (C, H, W)."""

    picture: NDArray[np.uint8]
    unary: NDArray[np.float32] | None  # None: of tiles, which are read one by one


def _read(job: _Job, work: _Work) -> _Input:
    from deeplab_repro.pictures.reading import read_picture
    from deeplab_repro.pictures.scores import (
        ENDINGS,
        energies,
        look_like_probabilities,
        read_scores,
    )

    picture = read_picture(job.file)
    job.size = picture.shape[0], picture.shape[1]
    if job.scores is None:
        raise InputError(
            "has no scores",
            file=job.file,
            expected=f"{job.file.stem} with one of {', '.join(ENDINGS)} in the folder of --scores",
        )
    if work.tiling is not None:
        return _Input(picture, None)
    scores = read_scores(job.scores, work.key)
    job.probable = not work.probabilities and look_like_probabilities(scores)
    try:
        unary = energies(scores, job.size, probabilities=work.probabilities, crop=work.crop)
    except BadInput as error:
        raise error.with_file(job.scores) from None
    return _Input(picture, unary)


def _refine(job: _Job, given: _Input, work: _Work) -> None:
    """Infer and write."""
    import numpy as np
    import torch

    from deeplab_repro.crf import dense_crf
    from deeplab_repro.pictures.scores import write_scores

    picture, unary = given
    if unary is None:
        _refine_tiles(job, picture, work)
        return
    rgb = np.ascontiguousarray(picture[:, :, ::-1].transpose(2, 0, 1))
    q = dense_crf(
        torch.from_numpy(unary)[None].to(work.device),
        torch.from_numpy(rgb)[None].to(work.device),
        work.params,
        **work.options,
    )
    marginals = q[0].cpu().numpy()
    kind = _label_type(len(unary))
    before, labels = (values.argmax(0).astype(kind) for values in (-unary, marginals))
    _write_labels(job, picture, before, labels, len(unary), work)
    if "marginals" in job.targets:
        write_scores(job.targets["marginals"], marginals, name="marginals")


def _refine_tiles(job: _Job, picture: NDArray[np.uint8], work: _Work) -> None:
    """Infer and write, with the scores and marginals of one tile in memory at a time."""
    import numpy as np

    from deeplab_repro.inference.tiled import refine_tiles
    from deeplab_repro.pictures.score_parts import open_scores, scratch_scores
    from deeplab_repro.pictures.scores import check_size, look_like_probabilities

    assert job.scores is not None
    assert work.tiling is not None
    probable = []
    with ExitStack() as stack:
        scores = stack.enter_context(open_scores(job.scores, work.key))
        count = scores.shape[0]
        before, labels = np.empty((2, *job.size), _label_type(count))
        marginals: ScoreFile | None = None
        try:
            check_size(scores.shape, job.size, crop=work.crop)
            for tile, unary, q in refine_tiles(
                scores,
                picture,
                work.params,
                work.tiling,
                device=work.device,
                probabilities=work.probabilities,
                look=lambda values: probable.append(look_like_probabilities(values)),
                **work.options,
            ):
                before[tile.kept], labels[tile.kept] = unary.argmin(0), q.argmax(0)
                if "marginals" in job.targets:
                    if marginals is None:
                        folder = job.targets["marginals"].parent
                        make_folder(folder)
                        shape = (count, *job.size)
                        marginals = stack.enter_context(scratch_scores(folder, shape))
                    marginals.put(*tile.kept, q)
                del unary, q  # the next tile needs their room
        except BadInput as error:
            raise error.with_file(job.scores) from None
        job.probable = not work.probabilities and all(probable)
        _write_labels(job, picture, before, labels, count, work)
        if marginals is not None:
            marginals.save(job.targets["marginals"], "marginals")


def _label_type(count: int) -> type[np.uint8] | type[np.int16]:
    """What holds the ids of so many classes."""
    import numpy as np

    return np.uint8 if count <= 256 else np.int16


def _write_labels(
    job: _Job,
    picture: NDArray[np.uint8],
    before: NDArray[Any],
    labels: NDArray[Any],
    count: int,
    work: _Work,
) -> None:
    """Write the labels in all forms, and note what the report says of them."""
    from deeplab_repro.pictures.matlab import write_bin
    from deeplab_repro.pictures.overlay import draw_before_after, draw_overlay
    from deeplab_repro.pictures.palette import class_shares, write_label_png

    classes = _classes(work.classes_file, count)
    for target in job.targets.values():
        make_folder(target.parent)
    write_label_png(job.targets["labels"], labels, classes.colours)
    if "overlay" in job.targets:
        write_png(job.targets["overlay"], draw_overlay(picture, labels, classes))
        write_png(job.targets["before_after"], draw_before_after(picture, before, labels, classes))
    if "bin" in job.targets:
        write_bin(job.targets["bin"], labels)
    job.classes = count
    job.changed = int((before != labels).sum())
    job.shares = class_shares(labels, classes.names)


def _warn_of_probabilities(jobs: Sequence[_Job]) -> None:
    probable = [job for job in jobs if job.probable and not job.error]
    if probable:
        more = f" (and those of {len(probable) - 1} more pictures)" if len(probable) > 1 else ""
        click.echo(
            f"deeplab-repro: warning: {probable[0].scores}: these are probabilities, and are taken"
            f" as scores: --probabilities{more}",
            err=True,
        )


def _kernel(weight: float, *stds: float | Sequence[float]) -> str:
    def shown(std: float | Sequence[float]) -> str:
        return ",".join(f"{s:g}" for s in (std if isinstance(std, Sequence) else (std,)))

    return f"{weight:g} at {'/'.join(map(shown, stds))}"
