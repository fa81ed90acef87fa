"""What the commands share: options, reading a model, tables, JSON."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

from deeplab_repro.errors import InputError
from deeplab_repro.pictures.voc import VOC_MEAN
from prototxt_import import DIALECTS, Dialect, Model, Shape, read_model
from prototxt_import.errors import printable
from prototxt_import.files import check_replaceable, replacing
from prototxt_import.limits import MAX_PIXELS

if TYPE_CHECKING:
    from deeplab_repro.caffe.net import CaffeNet
    from deeplab_repro.pictures.reading import Preparation

__all__ = [
    "ACCURACIES",
    "ALGORITHMS",
    "accuracy_option",
    "algorithm_option",
    "channel_options",
    "check_pad_to",
    "check_placeholders",
    "console",
    "input_shape_option",
    "json_option",
    "load_net",
    "make_table",
    "mean_option",
    "model_options",
    "parse_shapes",
    "parse_size",
    "picture_options",
    "placeholders_of",
    "preparation_of",
    "progress",
    "quirks_option",
    "read",
    "set_option",
    "shown",
    "writable",
    "writable_folder",
    "write_json",
]

console = Console()
if not console.is_terminal:
    console = Console(width=160)  # a file or a pipe has no width: do not fold tables to 80
# OpenCV looks when it is loaded, and would allocate what a picture's header claims.
os.environ.setdefault("OPENCV_IO_MAX_IMAGE_PIXELS", str(MAX_PIXELS.value))
_Command = TypeVar("_Command", bound=Callable[..., Any])


#: As of `deeplab_repro.ops.atrous_conv2d`, which is not loaded for a help text.
ALGORITHMS = ("auto", "direct", "im2col", "interlace", "library", "winograd")
ACCURACIES = ("exact", "fast")


def algorithm_option(command: _Command) -> _Command:
    """``--algorithm NAME``."""
    decorate = click.option(
        "--algorithm",
        type=click.Choice(ALGORITHMS),
        default="auto",
        show_default=True,
        help="How convolutions are computed; the values differ by rounding only.",
    )
    return decorate(command)


def accuracy_option(command: _Command) -> _Command:
    """``--accuracy NAME``."""
    decorate = click.option(
        "--accuracy",
        type=click.Choice(ACCURACIES),
        default="exact",
        show_default=True,
        help="fast: convolutions may take forms with fewer products that round more.",
    )
    return decorate(command)


def quirks_option(command: _Command) -> _Command:
    """``--quirks/--no-quirks``."""
    decorate = click.option(
        "--quirks/--no-quirks",
        default=True,
        show_default=True,
        help="Compute faults of the original programs as they were, or what was meant.",
    )
    return decorate(command)


def model_options(command: _Command) -> _Command:
    """MODEL, ``--prototxt``, ``--dialect`` and ``--set``: the arguments of :func:`read`."""
    for decorate in reversed(
        [
            click.argument("model", type=click.Path()),
            click.option("--prototxt", type=click.Path(), help="The network, if not in MODEL."),
            click.option(
                "--dialect", type=click.Choice(DIALECTS), help="Overrule the file's evidence."
            ),
            set_option(),
        ]
    ):
        command = decorate(command)
    return command


def set_option(
    what: str = "Fill the placeholder ${NAME} in the prototxt, or change the option NAME of a"
    " TensorFlow checkpoint's network",
) -> Callable[[_Command], _Command]:
    """``--set NAME=VALUE``, for :func:`read` and :func:`~.checkpoints.load_checkpoint`.

    Args:
        what: it does, for the help.
    """
    return click.option(
        "--set",
        "settings",
        multiple=True,
        metavar="NAME=VALUE",
        help=f"{what}; may be repeated.",
    )


def channel_options(command: _Command) -> _Command:
    """``--num-labels`` and ``--width``, of a network that is to be made."""
    for decorate in reversed(
        [
            click.option(
                "--num-labels", default=21, show_default=True, help="Channels of the scores."
            ),
            click.option(
                "--width",
                default=1,
                show_default=True,
                help="Divides the published channel counts: a small network of the same shape.",
            ),
        ]
    ):
        command = decorate(command)
    return command


def placeholders_of(settings: Sequence[str]) -> dict[str, str]:
    """Name -> value of what :func:`set_option` was given."""
    placeholders = {}
    for setting in settings:
        name, equals, value = setting.partition("=")
        if not equals or not name:
            raise InputError("--set", expected="NAME=VALUE", got=setting)
        placeholders[name] = value
    return placeholders


def check_placeholders(settings: Sequence[str], known: Sequence[str], file: object) -> None:
    """Raise InputError for a ``--set`` that fills no placeholder.

    Args:
        settings: what :func:`set_option` was given.
        known: the placeholders that there are.
        file: where they are, for the message.
    """
    for name, value in placeholders_of(settings).items():
        if name not in known:
            there = f"--set of {' or '.join(known)}" if known else "no --set: it has no placeholder"
            raise InputError(
                f"has no placeholder ${{{name}}}", file=file, expected=there, got=f"{name}={value}"
            )


def read(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: Sequence[str],
    *,
    with_others: bool = False,
) -> Model:
    """Read what :func:`model_options` named.

    Where there is no file of this name, it may be that of a released model in the local store.

    Args:
        model, prototxt, dialect, settings: as they were given.
        with_others: the settings are for several models, and need not all be for this one.

    Raises:
        BadInput: a file that cannot be used; a setting that fills no placeholder.
    """
    from deeplab_repro.released import resolve

    placeholders = placeholders_of(settings)
    if not os.path.exists(model):
        model = str(resolve(model) or model)
    found = read_model(model, prototxt, dialect=dialect, placeholders=placeholders)
    if not with_others:
        check_placeholders(settings, found.placeholders, found.net_file or model)
    return found


def load_net(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: Sequence[str],
    algorithm: str = "auto",
    quirks: bool = True,
    accuracy: str = "exact",
) -> CaffeNet:
    """The network of :func:`read` as a module, in the TEST phase."""
    from deeplab_repro.caffe.net import load_caffe

    source = read(model, prototxt, dialect, settings)
    return load_caffe(source, algorithm=algorithm, accuracy=accuracy, quirks=quirks)


def mean_option(command: _Command) -> _Command:
    """``--mean B,G,R|FILE|none``, for :func:`preparation_of`."""
    decorate = click.option(
        "--mean",
        default=",".join(map(str, VOC_MEAN)),
        show_default=True,
        metavar="B,G,R|FILE|none",
        help="Subtracted from a picture.",
    )
    return decorate(command)


def picture_options(command: _Command) -> _Command:
    """``--mean``, ``--scale``, ``--pad-to`` and ``--resize``."""
    for decorate in reversed(
        [
            mean_option,
            click.option("--scale", default=1.0, help="Multiplied after the mean is subtracted."),
            click.option(
                "--pad-to", type=click.IntRange(min=1), help="Pad right and bottom to N x N."
            ),
            click.option("--resize", metavar="HxW", help="Resize before padding."),
        ]
    ):
        command = decorate(command)
    return command


def preparation_of(mean: str, scale: float, pad_to: int | None, resize: str | None) -> Preparation:
    """What :func:`picture_options` asked for."""
    from deeplab_repro.pictures.reading import Preparation

    if not math.isfinite(scale) or scale == 0:
        raise InputError("--scale", expected="a finite number other than 0", got=scale)
    means = None if mean == "none" else _mean(mean)
    size = None if resize is None else parse_size("--resize", resize)
    if size is not None:
        MAX_PIXELS.check(size[0] * size[1], "--resize: too many pixels")
    check_pad_to(pad_to)
    return Preparation(means, scale, pad_to, size)


def check_pad_to(pad_to: int | None) -> None:
    """Raise CaffeImportError for a ``--pad-to`` of too many pixels."""
    if pad_to is not None:
        MAX_PIXELS.check(pad_to * pad_to, "--pad-to: too many pixels")


def _mean(text: str) -> Any:
    """Three numbers, or the mean picture in a file."""
    from deeplab_repro.pictures.reading import read_mean

    try:
        numbers = tuple(float(part) for part in text.split(","))
    except ValueError:
        numbers = ()
    if not text or (numbers and (len(numbers) != 3 or not all(map(math.isfinite, numbers)))):
        raise InputError(
            "--mean", expected="three finite numbers B,G,R, a FILE or none", got=text or "nothing"
        )
    return numbers or read_mean(text)


def input_shape_option(command: _Command) -> _Command:
    """``--input-shape BLOB=NxCxHxW``, for :func:`parse_shapes`."""
    decorate = click.option(
        "--input-shape",
        "input_shapes",
        multiple=True,
        metavar="BLOB=NxCxHxW",
        help="Size of an input, in place of the declared one; may be repeated.",
    )
    return decorate(command)


def parse_shapes(texts: Sequence[str]) -> dict[str, Shape]:
    """Input blob -> shape of what :func:`input_shape_option` was given."""
    shapes: dict[str, Shape] = {}
    for text in texts:
        name, _, sizes = text.partition("=")
        try:
            shape = tuple(int(size) for size in sizes.replace(",", "x").split("x"))
        except ValueError:
            shape = ()
        if not name or not shape or min(shape) < 1:
            raise InputError("--input-shape", expected="BLOB=NxCxHxW", got=text)
        shapes[name] = shape
    return shapes


def parse_size(option: str, text: str, *, square: bool = False) -> tuple[int, int]:
    """Height and width from ``HxW``.

    Args:
        option: for the message.
        text: what it was given.
        square: take ``N`` too, for NxN.

    Raises:
        InputError: another form, or less than 1.
    """
    try:
        sides = [int(part) for part in text.lower().split("x")]
    except ValueError:
        sides = []
    if len(sides) == 1 and square:
        sides *= 2
    if len(sides) != 2 or min(sides) < 1:
        form = "N or HxW" if square else "HxW"
        raise InputError(option, expected=f"{form} of at least 1x1", got=text)
    return sides[0], sides[1]


def writable(context: click.Context, option: click.Parameter, path: str | None) -> str | None:
    """A callback of options: what is to be written at the end is possible from the beginning."""
    if path is not None:
        check_replaceable(path)
        folder = Path(path).parent
        if not folder.is_dir():
            raise InputError("there is no such folder", file=folder)
        _check_permission(folder)
    return path


def writable_folder(
    context: click.Context, option: click.Parameter, path: str | None
) -> str | None:
    """A callback of options: the folder for results is there, or can be made."""
    if path is not None:
        place = Path(path)
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise InputError("is no folder", file=place)
        _check_permission(place)
    return path


def _check_permission(folder: Path) -> None:
    if not os.access(folder, os.W_OK | os.X_OK):
        raise InputError("there is no permission to write in this folder", file=folder)


def json_option(command: _Command) -> _Command:
    """``--json FILE``."""
    decorate = click.option(
        "--json",
        "json_file",
        type=click.Path(),
        callback=writable,
        help="Write the report here.",
    )
    return decorate(command)


def write_json(path: str | None, report: Any) -> None:
    """Write a report, if a file was asked for."""
    if path is not None:
        with replacing(path) as temporary:
            Path(temporary).write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


def shown(name: object) -> str:
    """Text out of a file, for tables and messages: no control characters, no markup of rich's."""
    return escape(printable(str(name)))


class _Table(Table):
    """Shows its first rows: each takes rich a millisecond, and a file can name 20,000 layers."""

    most_rows = 1000
    left_out = 0

    def add_row(self, *cells: Any, **options: Any) -> None:
        """A row, or one more that is not shown."""
        if self.row_count < self.most_rows:
            super().add_row(*cells, **options)
        else:
            self.left_out += 1
            self.caption = f"... and {self.left_out:,} more rows; --json has them all"


def make_table(title: str, **columns: str) -> Table:
    """A table; each column is a heading and its alignment, ``"left"`` or ``"right"``."""
    table = _Table(title=title, title_justify="left", header_style="bold", box=None, pad_edge=False)
    for heading, alignment in columns.items():
        table.add_column(
            heading.replace("_", " "),
            justify=alignment,  # type: ignore[arg-type]
            overflow="fold",
            no_wrap=alignment == "right",
        )
    return table


@contextmanager
def progress(*stages: str) -> Iterator[Callable[[], None]]:
    """A bar over named stages of work; call what it gives at the end of each."""
    errors = Console(stderr=True)
    with Progress(
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TimeElapsedColumn(),
        console=errors,
        transient=True,
        disable=not errors.is_terminal,
    ) as bar:
        task = bar.add_task(stages[0], total=len(stages))
        names = iter([*stages[1:], "done"])

        def advance() -> None:
            bar.update(task, advance=1, description=next(names, "done"))

        yield advance
