"""What the commands that go through pictures one by one share."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from deeplab_repro.cli.common import console, make_table, shown
from deeplab_repro.errors import BadInput, InputError
from prototxt_import.errors import printable
from prototxt_import.files import replacing

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from deeplab_repro.pictures.palette import Classes

__all__ = [
    "Job",
    "decoders_silent",
    "finish",
    "labels_as_json",
    "make_folder",
    "picture_progress",
    "plan",
    "say",
    "show_folders",
    "show_labels",
    "write_png",
]

#: Endings by which pictures in a folder are known; a file that is named itself may have any.
_ENDINGS = (
    *(".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".ras", ".tif", ".tiff", ".webp"),
)


@dataclass
class Job:
    """One picture on its way.

    Attributes:
        file: the picture.
        name: what its results are called, without their ending.
        targets: what is written of it, by kind.
        error: why it could not be used, one line.
        size: its height and width.
        shares: (class, pixels) of its labels, the largest first.
    """

    file: Path
    name: str
    targets: dict[str, Path]
    picture: NDArray[np.uint8] | None = None
    error: str = ""
    size: tuple[int, int] = (0, 0)
    shares: list[tuple[int, int]] = field(default_factory=list)


_Job = TypeVar("_Job", bound=Job)


def plan(
    kind: type[_Job], pictures: Sequence[str], output: Path, targets: Mapping[str, str]
) -> list[_Job]:
    """The pictures to work on, those in folders too, and the files to write, none of them twice.

    Results have the picture's name without its ending; with it where several pictures share the
    name but for the ending, and one warning says so.

    Args:
        kind: class of the jobs.
        pictures: files and folders.
        output: where the targets' folders lie.
        targets: kind of target -> its folder and name, such as ``"labels/{}.png"``.

    Raises:
        InputError: a folder without pictures, two pictures of one name, or a picture that
            would be written over.
    """
    files: list[Path] = []
    for picture in pictures:
        path = Path(picture)
        if path.is_dir():
            inside = sorted(p for p in path.iterdir() if p.suffix.lower() in _ENDINGS)
            if not inside:
                raise InputError("holds no pictures", file=path)
            files += inside
        else:
            files.append(path)
    files = list(dict.fromkeys(files))
    alike = Counter(file.stem for file in files)
    jobs: dict[str, _Job] = {}
    for file in files:
        name = file.stem if alike[file.stem] == 1 else file.name
        if name in jobs:
            raise InputError(
                f"{next(iter(targets.values())).format(name)} would be written twice",
                file=file,
                expected=f"another name than that of {jobs[name].file}",
            )
        places = {what: output / place.format(name) for what, place in targets.items()}
        jobs[name] = kind(file, name, places)
    if kept := [job.file.name for job in jobs.values() if alike[job.file.stem] > 1]:
        click.echo(
            f"deeplab-repro: warning: {printable(', '.join(kept[:6]))} would have results of one"
            f" name: theirs keep the ending, as in {printable(kept[0])}.png",
            err=True,
        )
    sources = {file.resolve() for file in files}
    for job in jobs.values():
        for target in job.targets.values():
            if target.resolve() in sources:
                raise InputError("is an input, and would be overwritten", file=target)
    return list(jobs.values())


def make_folder(path: Path) -> None:
    """Make a folder and those above it."""
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(error.strerror or "cannot be made", file=path) from None


def write_png(path: Path, pixels: NDArray[np.uint8]) -> None:
    """Write (H, W, 3) BGR as PNG, whole or not at all."""
    import cv2

    _, content = cv2.imencode(".png", pixels)
    with replacing(path) as temporary:
        temporary.write_bytes(content.tobytes())


def say(error: BaseException, file: Path) -> str:
    """One line that names the picture."""
    if isinstance(error, BadInput):
        return str(error.with_file(file))
    return " ".join(f"{file}: {error or type(error).__name__}".splitlines()[0].split())


@contextmanager
def decoders_silent() -> Iterator[None]:
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


def picture_progress() -> Progress:
    """A bar over pictures."""
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


def show_labels(jobs: Sequence[Job], classes: Classes) -> None:
    """A table of the pictures, where they are several, and one of their classes."""
    done = [job for job in jobs if not job.error]
    if len(done) > 1:
        table = make_table("", picture="left", size="right", largest_classes="left")
        for job in done:
            size = f"{job.size[0]}x{job.size[1]}"
            table.add_row(shown(job.file), size, _largest(job, classes))
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


def show_folders(jobs: Sequence[Job]) -> None:
    """The folders that were written to."""
    folders = {path.parent for job in jobs if not job.error for path in job.targets.values()}
    for folder in sorted(folders):
        console.print(f"written: {shown(folder)}", highlight=False, soft_wrap=True)


def labels_as_json(job: Job, classes: Classes) -> dict[str, Any]:
    """What every report says of a picture's labels."""
    return {
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


def finish(jobs: Sequence[Job]) -> None:
    """Say what went wrong; exit with 2 if anything did."""
    for job in jobs:
        if job.error:
            click.echo(f"deeplab-repro: {printable(job.error)}", err=True)
    if any(job.error for job in jobs):
        raise click.exceptions.Exit(2)


def _largest(job: Job, classes: Classes) -> str:
    pixels = job.size[0] * job.size[1]
    parts = [f"{classes.names[i]} {100 * count / pixels:.1f} %" for i, count in job.shares[:3]]
    return shown(", ".join(parts) + (", ..." if len(job.shares) > 3 else ""))
