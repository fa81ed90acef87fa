"""``deeplab-repro plot``"""

from __future__ import annotations

import os
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import click

from deeplab_repro.cli.common import console, json_option, make_table, shown, writable, write_json
from deeplab_repro.errors import InputError
from prototxt_import.files import replacing_file

if TYPE_CHECKING:
    from deeplab_repro.train.curves import Run

_ENDINGS = (".png", ".svg", ".pdf")


@click.command("plot")
@click.argument("runs", nargs=-1, required=True, type=click.Path(), metavar="RUN...")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    callback=writable,
    help="FILE.png|.svg|.pdf; by default training.png in the folder of the run, or with several"
    " runs here.",
)
@click.option(
    "--average",
    type=click.IntRange(min=1),
    default=1,
    show_default=True,
    help="Draw the loss as the mean of so many logged values, as average_loss of a solver does.",
)
@json_option
def command(runs: tuple[str, ...], output: str | None, average: int, json_file: str | None) -> None:
    """Draw loss, rate and outputs of training runs in one figure.

    RUN is a log.jsonl, a log of `caffe train`, or the folder that holds one.  --json writes the
    values of all curves.
    """
    from deeplab_repro.train.curves import read_run
    from deeplab_repro.train.log import json_ready

    first = Path(runs[0])
    folder = Path() if len(runs) > 1 else first if first.is_dir() else first.parent
    target = Path(output) if output is not None else folder / "training.png"
    if target.suffix not in _ENDINGS:
        raise InputError(
            "unknown kind of picture", file=target, expected=" or ".join(_ENDINGS), got=target.name
        )
    read = [read_run(run) for run in runs]
    for run, path in zip(read, runs, strict=True):
        if [other.name for other in read].count(run.name) > 1:
            run.name = os.path.normpath(path)
    _save(read, average, target)
    _show(read, target)
    write_json(json_file, [json_ready(asdict(run)) for run in read])


def _save(runs: list[Run], average: int, target: Path) -> None:
    from deeplab_repro.pictures.figures import svg_text
    from deeplab_repro.train.plot import training_figure

    figure = training_figure(runs, average)
    with replacing_file(target) as out:
        if target.suffix == ".svg":
            out.write(svg_text(figure).encode())
        else:
            figure.savefig(out, format=target.suffix[1:], dpi=120)


def _show(runs: list[Run], target: Path) -> None:
    table = make_table(
        "", run="left", iterations="right", lines="right", loss="right", last_test="left"
    )
    for run in runs:
        last = {name: curve.values[-1] for name, curve in run.test.items()}
        loss = run.loss
        table.add_row(
            shown(run.name),
            f"{loss.iterations[0]}..{loss.iterations[-1]}" if loss.values else "-",
            str(len(loss.values)),
            f"{loss.values[0]:.4g} -> {loss.values[-1]:.4g}" if loss.values else "-",
            shown(", ".join(f"{name} {value:.4g}" for name, value in last.items())),
        )
    console.print(table)
    console.print(f"written: {shown(target)}", highlight=False, soft_wrap=True)
