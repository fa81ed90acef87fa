"""``deeplab-repro segment``"""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    preparation_of,
    read,
    shown,
    write_json,
)
from prototxt_import import DIALECTS, CaffeImportError, Dialect
from prototxt_import.errors import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deeplab_repro.palette import Classes
    from deeplab_repro.segmentation import Fuse, Segmentation, Segmenter

#: Endings by which pictures in a folder are known; a file that is named itself may have any.
_ENDINGS = (
    *(".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".ras", ".tif", ".tiff", ".webp"),
)


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
@click.option(
    "--mean",
    default="104.008,116.669,122.675",
    show_default=True,
    metavar="B,G,R|FILE|none",
    help="Subtracted from the pictures.",
)
@click.option(
    "--pad-to",
    type=click.IntRange(min=1),
    help="Pad right and bottom to N x N. By default to the network's own size, to the test crop"
    " of 513, or for larger pictures to the next size that suits the network.",
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
    classes_file: str | None,
    batch: int,
    upright: bool,
    json_file: str | None,
) -> None:
    """Label the pixels of pictures and of all pictures in folders.

    Writes labels/NAME.png (class ids, with VOC's palette) and overlays/NAME.png (the picture with
    its labels and their legend) to the output folder.  A picture that cannot be used is reported
    and the others go on; then the exit code is 2.
    """
    jobs = _jobs(pictures, Path(output))
    with _progress() as bar:
        task = bar.add_task("loading the network", total=len(jobs))
        segmenter, classes = _load(
            (model, prototxt, dialect, settings),
            classes_file,
            blob=blob,
            mean=preparation_of(mean, 1.0, None, None).mean,
            pad_to=pad_to,
            scales=[_scale(text) for text in scales] or [1.0],
            fuse=fuse,
        )
        if segmenter.rule.zoom != 1:
            click.echo(
                f"deeplab-repro: warning: the network ends before its scores are zoomed: blob"
                f" '{segmenter.blob}' is zoomed by {segmenter.rule.zoom} here, as Interp does it;"
                " its test prototxt may do more (--prototxt)",
                err=True,
            )
        for folder in ("labels", "overlays"):
            _make_folder(Path(output) / folder)
        bar.update(task, description="labelling")
        for chunk in _batches(jobs, segmenter, batch, upright):
            _segment(chunk, segmenter, classes)
            bar.advance(task, len(chunk))
    done = [job for job in jobs if not job.error]
    _show(jobs, classes, segmenter)
    write_json(json_file, _as_json(model, segmenter, classes, jobs))
    for job in jobs:
        if job.error:
            click.echo(f"deeplab-repro: {printable(job.error)}", err=True)
    if len(done) < len(jobs):
        raise click.exceptions.Exit(2)


@dataclass
class _Job:
    """One picture on its way."""

    file: Path
    labels: Path
    overlay: Path
    picture: NDArray[np.uint8] | None = None
    error: str = ""
    size: tuple[int, int] = (0, 0)
    input_sizes: tuple[tuple[int, int], ...] = ()
    shares: list[tuple[int, int]] = field(default_factory=list)  # (class, pixels)


def _jobs(arguments: Sequence[str], output: Path) -> list[_Job]:
    """The pictures to label and the files to write, none of them twice."""
    files: list[Path] = []
    for argument in arguments:
        path = Path(argument)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)
            if not inside:
                raise CaffeImportError("holds no pictures", file=path)
            files += inside
        else:
            files.append(path)
    jobs: dict[str, _Job] = {}
    for file in dict.fromkeys(files):
        name = f"{file.stem}.png"
        if name in jobs:
            raise CaffeImportError(
                f"labels/{name} would be written twice",
                file=file,
                expected=f"another name than that of {jobs[name].file}",
            )
        jobs[name] = _Job(file, output / "labels" / name, output / "overlays" / name)
    sources = {file.resolve() for file in files}
    for job in jobs.values():
        for target in (job.labels, job.overlay):
            if target.resolve() in sources:
                raise CaffeImportError("is an input, and would be overwritten", file=target)
    return list(jobs.values())


def _load(
    source: tuple[str, str | None, Dialect | None, Sequence[str]],
    classes_file: str | None,
    **options: Any,
) -> tuple[Segmenter, Classes]:
    from deeplab_repro.caffe_net import CaffeNet
    from deeplab_repro.palette import Classes, read_classes
    from deeplab_repro.segmentation import Segmenter, scoring_net

    model = read(*source)
    part = scoring_net(model.net("TEST"), options.pop("blob"))
    try:
        segmenter = Segmenter(CaffeNet(part, model.weights), blob=part.outputs[0], **options)
    except CaffeImportError as error:
        raise error.with_file(model.weights_file or model.net_file) from None
    count = segmenter.rule.classes
    classes = read_classes(classes_file, count) if classes_file else Classes.default(count)
    return segmenter, classes


def _scale(text: str) -> float:
    scale = float(text) if _is_number(text) else 0.0
    if not 0 < scale < float("inf"):
        raise CaffeImportError("--scales", expected="positive numbers", got=text)
    return scale


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaffeImportError(error.strerror or "cannot be made", file=path) from None


def _batches(
    jobs: Sequence[_Job], segmenter: Segmenter, batch: int, upright: bool
) -> Iterator[list[_Job]]:
    """Read the pictures and put those together that fit in one batch.

    At most four times ``batch`` pictures wait for others of their size at a time.  A job that
    failed comes alone.
    """
    from deeplab_repro.pictures import read_picture

    waiting: dict[tuple[tuple[int, int], ...], list[_Job]] = {}
    for job in jobs:
        try:
            with _decoders_silent():
                job.picture = read_picture(job.file, upright=upright)
            job.size = job.picture.shape[0], job.picture.shape[1]
            job.input_sizes = segmenter.input_sizes(*job.size)
        except (CaffeImportError, MemoryError) as error:
            job.error = _say(error, job.file)
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
    except (CaffeImportError, MemoryError, RuntimeError) as error:  # torch's: out of memory
        if len(jobs) > 1:  # only some of them may be at fault
            for job in jobs:
                _segment([job], segmenter, classes)
            return
        jobs[0].error = _say(error, jobs[0].file)
        results = []
    for job, result in zip(jobs, results, strict=False):
        try:
            _write(job, result, classes)
        except (CaffeImportError, OSError) as error:
            job.error = _say(error, job.file)
    for job in jobs:
        job.picture = None


def _write(job: _Job, result: Segmentation, classes: Classes) -> None:
    import cv2

    from deeplab_repro.overlay import draw_overlay
    from deeplab_repro.palette import class_shares, write_label_png
    from prototxt_import.files import replacing

    assert job.picture is not None
    _, overlay = cv2.imencode(".png", draw_overlay(job.picture, result.labels, classes))
    write_label_png(job.labels, result.labels, classes.colours)
    with replacing(job.overlay) as temporary:
        temporary.write_bytes(overlay.tobytes())
    job.shares = class_shares(result.labels, classes.names)


def _say(error: BaseException, file: Path) -> str:
    """One line that names the picture."""
    if isinstance(error, CaffeImportError):
        return str(error.with_file(file))
    return " ".join(f"{file}: {error or type(error).__name__}".splitlines()[0].split())


@contextmanager
def _decoders_silent() -> Iterator[None]:
    """Send file descriptor 2 nowhere: libpng and libjpeg complain there, over the progress bar.

    What they have to say is reported by :func:`read_picture` in one line.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def _progress() -> Progress:
    from rich.console import Console

    errors = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    )


def _show(jobs: list[_Job], classes: Classes, segmenter: Segmenter) -> None:
    done = [job for job in jobs if not job.error]
    if len(done) > 1:
        table = make_table("", picture="left", size="right", largest_classes="left")
        for job in done:
            table.add_row(shown(job.file), _size(job.size), _largest(job.shares, classes, job.size))
        console.print(table)
    if done:
        totals: dict[int, int] = {}
        for job in done:
            for i, pixels in job.shares:
                totals[i] = totals.get(i, 0) + pixels
        whole = sum(totals.values())
        title = shown(done[0].file) if len(done) == 1 else f"all {len(done)} pictures"
        console.print(title, highlight=False, soft_wrap=True)
        table = make_table("", **{"id": "right", "colour": "left", "class": "left"}, share="right")
        for i, pixels in sorted(totals.items(), key=lambda item: -item[1]):
            red, green, blue = classes.colours[i].tolist()
            swatch = Text("    ", style=f"on rgb({red},{green},{blue})")
            swatch = swatch if console.is_terminal else Text(f"#{red:02x}{green:02x}{blue:02x}")
            table.add_row(str(i), swatch, shown(classes.names[i]), f"{100 * pixels / whole:.1f} %")
        console.print(table)
    scales = ""
    if segmenter.scales != (1.0,):
        joined = ", ".join(f"{scale:g}" for scale in segmenter.scales)
        scales = f", {segmenter.fuse} over scales {joined}"
    console.print(
        f"{len(done)} of {len(jobs)} pictures labelled by blob '{shown(segmenter.blob)}'{scales}",
        highlight=False,
        soft_wrap=True,
    )
    for folder in sorted({path.parent for job in done for path in (job.labels, job.overlay)}):
        console.print(f"written: {shown(folder)}", highlight=False, soft_wrap=True)


def _largest(shares: list[tuple[int, int]], classes: Classes, size: tuple[int, int]) -> str:
    pixels = size[0] * size[1]
    parts = [f"{classes.names[i]} {100 * count / pixels:.1f} %" for i, count in shares[:3]]
    return shown(", ".join(parts) + (", ..." if len(shares) > 3 else ""))


def _size(size: tuple[int, int]) -> str:
    return f"{size[0]}x{size[1]}"


def _as_json(
    model: str, segmenter: Segmenter, classes: Classes, jobs: list[_Job]
) -> dict[str, Any]:
    return {
        "model": model,
        "blob": segmenter.blob,
        "scales": segmenter.scales,
        "fuse": segmenter.fuse,
        "zoomed_here": segmenter.rule.zoom,
        "classes": list(classes.names),
        "pictures": [
            {
                "file": str(job.file),
                "size": job.size,
                "input_sizes": job.input_sizes,
                "labels": str(job.labels),
                "overlay": str(job.overlay),
                "classes": [
                    {
                        "id": i,
                        "name": classes.names[i],
                        "pixels": pixels,
                        "share": pixels / (job.size[0] * job.size[1]),
                    }
                    for i, pixels in job.shares
                ],
            }
            for job in jobs
            if not job.error
        ],
        "failed": [{"file": str(job.file), "error": job.error} for job in jobs if job.error],
    }
