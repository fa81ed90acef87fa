"""What the commands that go through pictures one by one share."""

from __future__ import annotations

import os
import sys
from collections import Counter
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from deeplab_repro.cli.common import console, make_table, shown, writable_folder
from deeplab_repro.errors import BadInput, InputError
from prototxt_import.errors import printable
from prototxt_import.files import replacing

if TYPE_CHECKING:
    import numpy as np
    import torch
    from numpy.typing import NDArray

    from deeplab_repro.data import Dataset
    from deeplab_repro.pictures.palette import Classes

__all__ = [
    "SCORE_KINDS",
    "Job",
    "count_text",
    "crf_device",
    "decoders_silent",
    "device_text",
    "finish",
    "jobs_as_json",
    "labels_as_json",
    "listed_dataset",
    "listed_options",
    "listed_pictures",
    "make_folder",
    "picture_progress",
    "plan",
    "results_option",
    "say",
    "show_folders",
    "show_labels",
    "skip_option",
    "unfinished",
    "work_through",
    "write_png",
]

#: As of `deeplab_repro.pictures.scores.WRITTEN`, which is not loaded for a help text.
SCORE_KINDS = (".npy", ".npz", ".h5", ".mat", ".bin")
#: Endings by which pictures in a folder are known; a file that is named itself may have any.
_ENDINGS = (
    *(".avif", ".bmp", ".dib", ".exr", ".gif", ".hdr", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".pbm", ".pgm", ".png", ".pnm", ".ppm", ".ras", ".tif", ".tiff", ".webp"),
)
#: Ways to name pictures, as messages explain them.
_WAYS = {"pictures": "pictures or folders", "--voc": "--voc", "--list": "--list with --root"}


@dataclass
class Job:
    """One picture on its way.

    Attributes:
        file: the picture.
        name: what its results are called, without their ending.
        targets: what is written of it, by kind.
        error: why it could not be used, one line.
        skipped: all of its results were there already.
        size: its height and width.
        shares: (class, pixels) of its labels, the largest first.
    """

    file: Path
    name: str
    targets: dict[str, Path]
    error: str = ""
    skipped: bool = False
    size: tuple[int, int] = (0, 0)
    shares: list[tuple[int, int]] = field(default_factory=list)


_Job = TypeVar("_Job", bound=Job)
_Command = TypeVar("_Command", bound=Callable[..., Any])


def plan(
    kind: type[_Job],
    pictures: Sequence[str | Path],
    output: Path,
    targets: Mapping[str, str],
    *,
    quiet: bool = False,
) -> list[_Job]:
    """The pictures to work on, those in folders too, and the files to write, none of them twice.

    Results have the picture's name without its ending; with it where several pictures share the
    name but for the ending, and one warning says so.

    Args:
        kind: class of the jobs.
        pictures: files and folders.
        output: where the targets' folders lie.
        targets: kind of target -> its folder and name, such as ``"labels/{}.png"``.
        quiet: no warning: another process says it.

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
    kept = [job.file.name for job in jobs.values() if alike[job.file.stem] > 1]
    if kept and not quiet:
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


def listed_options(command: _Command) -> _Command:
    """``--voc``, ``--split``, ``--list`` and ``--root``, for :func:`listed_pictures`."""
    for decorate in reversed(
        [
            click.option(
                "--voc", type=click.Path(), metavar="ROOT", help="The pictures of a list of VOC."
            ),
            click.option("--split", metavar="NAME", help="With --voc: its list; val by default."),
            click.option(
                "--list",
                "list_file",
                type=click.Path(),
                help="The pictures of a list under --root.",
            ),
            click.option(
                "--root", type=click.Path(), help="The folder that --list names them from."
            ),
        ]
    ):
        command = decorate(command)
    return command


def listed_pictures(
    given: Sequence[str],
    voc: str | None,
    split: str | None,
    list_file: str | None,
    root: str | None,
) -> list[str | Path]:
    """The pictures that a command is to work on: those named, or those of a list.

    Raises:
        InputError: none, or both.
    """
    named = {"pictures": given, "--voc": voc, "--list": list_file}
    _check_listed(named, voc, split, list_file, root)
    if given:
        return list(given)
    return [sample.picture for sample in _dataset(voc, split, list_file, root)]


def listed_dataset(
    voc: str | None, split: str | None, list_file: str | None, root: str | None
) -> Dataset:
    """The list of pictures and labels that a command is to work on.

    Raises:
        InputError: none, or both of ``--voc`` and ``--list``.
    """
    _check_listed({"--voc": voc, "--list": list_file}, voc, split, list_file, root)
    return _dataset(voc, split, list_file, root)


def _check_listed(
    named: Mapping[str, object],
    voc: str | None,
    split: str | None,
    list_file: str | None,
    root: str | None,
) -> None:
    """Refuse options that do not say which pictures are meant."""
    ways = [way for way, value in named.items() if value]
    if len(ways) != 1:
        raise InputError(
            "which pictures",
            expected=f"one of: {', '.join(_WAYS[way] for way in named)}",
            got=" and ".join(ways) or "none",
        )
    if split is not None and voc is None:
        raise InputError("--split", expected="--voc beside it")
    if (list_file is None) != (root is None):
        raise InputError("--list and --root", expected="both", got="one")
    if root is not None and not Path(root).is_dir():
        raise InputError("is no folder", file=root)


def _dataset(
    voc: str | None, split: str | None, list_file: str | None, root: str | None
) -> Dataset:
    from deeplab_repro import data

    if list_file is not None and root is not None:
        return data.read_list(list_file, root)
    assert voc is not None  # `_check_listed` has seen to it
    return data.voc(voc, split or "val")


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

    What they have to say is reported by :func:`read_picture` in one line.  Python's own messages
    still come out, through another descriptor, whichever thread they are from.
    """
    sys.stderr.flush()
    try:
        kept = os.dup(2)
    except OSError:  # there is none
        yield
        return
    before = sys.stderr
    with suppress(OSError, ValueError):  # one that is no file, as in a notebook
        if before.fileno() == 2:
            sys.stderr = open(kept, "w", buffering=1, closefd=False)  # noqa: SIM115
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        sys.stderr.flush()
        sys.stderr = before
        os.close(kept)


def picture_progress(*, hidden: bool = False) -> Progress:
    """A bar over pictures, where there is a terminal to show it on."""
    errors = Console(stderr=True)
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("pictures"),
        TimeRemainingColumn(),
        console=errors,
        transient=True,
        disable=hidden or not errors.is_terminal,
    )


def results_option(command: _Command) -> _Command:
    """``-o FOLDER``, whose folders are the targets of :func:`plan`."""
    decorate = click.option(
        "-o",
        "--output",
        type=click.Path(),
        callback=writable_folder,
        required=True,
        help="Folder for the results.",
    )
    return decorate(command)


def skip_option(command: _Command) -> _Command:
    """``--skip-existing``, for :func:`unfinished`."""
    decorate = click.option(
        "--skip-existing",
        is_flag=True,
        help="Leave out pictures whose results are there, as after a run that was stopped; they"
        " must have been made with the same options.",
    )
    return decorate(command)


def unfinished(jobs: Sequence[_Job], skip_existing: bool) -> list[_Job]:
    """The jobs that are still to be done; the others are marked as skipped."""
    for job in jobs:
        job.skipped = skip_existing and all(path.is_file() for path in job.targets.values())
    return [job for job in jobs if not job.skipped]


def work_through(
    outcomes: Generator[tuple[_Job, Any], None, None], bar: Progress, task: TaskID
) -> None:
    """Take what stages give of each job, and note the errors."""
    with closing(outcomes):
        for job, outcome in outcomes:
            if isinstance(outcome, Exception):
                job.error = say(outcome, job.file)
            bar.advance(task)


def count_text(jobs: Sequence[Job]) -> str:
    """How many pictures, as "3 of 4 pictures" or "3 of 4 pictures (1 was there)"."""
    skipped = sum(job.skipped for job in jobs)
    done = sum(not job.error for job in jobs)
    there = f" ({skipped} {'was' if skipped == 1 else 'were'} there)" if skipped else ""
    return f"{done} of {len(jobs)} pictures{there}"


def crf_device() -> torch.device:
    """A GPU for which there are kernels, or the CPU."""
    import torch

    from deeplab_repro.native.backends import backends
    from deeplab_repro.processes import local_device

    there = backends()
    has_kernels = there["cuda"].available or there["cupy"].available
    return local_device() if has_kernels else torch.device("cpu")


def device_text(device: torch.device) -> str:
    """A device for a report: "cpu", or the kind of GPU; not which one of several."""
    if device.type != "cuda":
        return device.type
    import torch

    return f"cuda ({torch.cuda.get_device_name(device)})"


def show_labels(jobs: Sequence[Job], classes: Classes) -> None:
    """A table of the pictures, where they are several, and one of their classes."""
    done = [job for job in jobs if not job.error and not job.skipped]
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


def jobs_as_json(
    jobs: Sequence[_Job], entry: Callable[[_Job], Mapping[str, Any]]
) -> dict[str, Any]:
    """What every report says of its pictures: done (as ``entry`` has it), skipped and failed."""
    return {
        "pictures": [
            {
                "file": str(job.file),
                "size": job.size,
                **{kind: str(path) for kind, path in job.targets.items()},
                **entry(job),
            }
            for job in jobs
            if not job.error and not job.skipped
        ],
        "skipped": [str(job.file) for job in jobs if job.skipped],
        "failed": [{"file": str(job.file), "error": job.error} for job in jobs if job.error],
    }


def finish(jobs: Sequence[Job], *, quiet: bool = False) -> None:
    """Say what went wrong, unless another process does; exit with 2 if anything did."""
    for job in jobs:
        if job.error and not quiet:
            click.echo(f"deeplab-repro: {printable(job.error)}", err=True)
    if any(job.error for job in jobs):
        raise click.exceptions.Exit(2)


def _largest(job: Job, classes: Classes) -> str:
    pixels = job.size[0] * job.size[1]
    parts = [f"{classes.names[i]} {100 * count / pixels:.1f} %" for i, count in job.shares[:3]]
    return shown(", ".join(parts) + (", ..." if len(job.shares) > 3 else ""))
