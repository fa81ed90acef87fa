"""``deeplab-repro train``"""

from __future__ import annotations

import signal
import threading
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from importlib import import_module
from typing import TYPE_CHECKING, Any

import click
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from deeplab_repro.cli.common import (
    accuracy_option,
    algorithm_option,
    console,
    placeholders_of,
    quirks_option,
    set_option,
    shown,
)
from deeplab_repro.errors import InputError
from deeplab_repro.processes import processes
from prototxt_import import DIALECTS, Dialect

if TYPE_CHECKING:
    from deeplab_repro.train.precision import Precision
    from deeplab_repro.train.solver import Solver


@click.command("train")
@click.option(
    "--solver",
    "solver_file",
    type=click.Path(),
    required=True,
    metavar="PROTOTXT",
    help="The solver file, in the words of `caffe train`.",
)
@click.option(
    "--weights",
    metavar="FILE[,FILE...]",
    help="Start from these caffemodels; layers are found by name.",
)
@click.option(
    "--snapshot",
    type=click.Path(),
    metavar="SOLVERSTATE",
    help="Go on from a snapshot, of Caffe's or of ours.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest whole snapshot of this solver file; begin where there is none.",
)
@set_option
@click.option("--dialect", type=click.Choice(DIALECTS), help="Overrule the networks' evidence.")
@click.option(
    "--workers",
    type=click.IntRange(min=0),
    default=2,
    show_default=True,
    help="Processes that read pictures ahead.",
)
@click.option(
    "--log",
    "log_folder",
    type=click.Path(),
    metavar="FOLDER",
    help="Append losses, rates and test results to log.jsonl here, for `deeplab-repro plot`.",
)
@click.option("--caffe-log", is_flag=True, help="Write caffe.log too, in Caffe's own lines.")
@click.option("--tensorboard", is_flag=True, help="Write TensorBoard's files too.")
@algorithm_option
@accuracy_option
@click.option(
    "--channels-last/--no-channels-last",
    default=None,
    help="The order in memory; values differ by rounding. Default: what is faster here.",
)
@click.option(
    "--precision",
    type=click.Choice(["float32", "bfloat16", "float16"]),
    default="float32",
    show_default=True,
    help="Numbers of the maps and products; weights stay float32. float16 needs a GPU.",
)
@click.option(
    "--checkpoint-activations",
    "checkpointing",
    is_flag=True,
    help="Compute most maps again in the backward pass: less memory, more time, the same bits.",
)
@quirks_option
def command(
    solver_file: str,
    weights: str | None,
    snapshot: str | None,
    resume: bool,
    settings: Sequence[str],
    dialect: Dialect | None,
    workers: int,
    log_folder: str | None,
    caffe_log: bool,
    tensorboard: bool,
    algorithm: str,
    accuracy: str,
    channels_last: bool | None,
    precision: Precision,
    checkpointing: bool,
    quirks: bool,
) -> None:
    """Train a network as `caffe train` does, with the same solver files and snapshots.

    File names in the solver file and its networks are relative to the working directory.  Ctrl-C
    and SIGTERM write a snapshot and stop, SIGHUP writes one and goes on.  Under torchrun several
    processes train one network, with the result of one process.
    """
    from deeplab_repro.train.settings import read_solver
    from deeplab_repro.train.solver import Solver

    if log_folder is None and (caffe_log or tensorboard):
        raise InputError("--caffe-log and --tensorboard", expected="--log FOLDER beside them")
    with ExitStack() as stack:
        team = stack.enter_context(processes())
        what = read_solver(solver_file, placeholders=placeholders_of(settings), dialect=dialect)
        solver = stack.enter_context(
            Solver(
                what,
                weights,
                snapshot,
                resume=resume,
                workers=workers,
                processes=team,
                quirks=quirks,
                algorithm=algorithm,
                accuracy=accuracy,
                channels_last=channels_last,
                precision=precision,
                checkpointing=checkpointing,
            )
        )
        if team.first:
            _show_start(solver)
            if log_folder is not None:
                log = _open_log(solver, log_folder, caffe_log, tensorboard)
                solver.log = log
                stack.callback(log.close)
            solver.watchers.append(stack.enter_context(_Bar(solver, team.count)))
        with _signals(solver):
            ended = solver.solve()
        if team.first:
            _show_end(solver, ended)


def _open_log(solver: Solver, folder: str, caffe: bool, tensorboard: bool) -> Any:
    make = import_module("deeplab_repro.train.log").Log
    return make(
        folder,
        caffe=caffe,
        tensorboard=tensorboard,
        name=solver.net.name,
        loss_weights=solver.net.loss_weights,
    )


@contextmanager
def _signals(solver: Solver) -> Iterator[None]:
    """Ctrl-C and SIGTERM stop with a snapshot, SIGHUP asks for one; the second one ends at once."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before: dict[int, Any] = {}

    def stop(number: int, frame: object) -> None:
        click.echo(
            f"deeplab-repro: {signal.Signals(number).name}: stopping after this iteration, with a"
            " snapshot",
            err=True,
        )
        solver.request("stop")
        signal.signal(number, before[number])

    def snapshot(number: int, frame: object) -> None:
        solver.request("snapshot")

    wanted = {signal.SIGINT: stop, signal.SIGTERM: stop, signal.SIGHUP: snapshot}
    for number, handler in wanted.items():
        before[int(number)] = signal.signal(number, handler)
    try:
        yield
    finally:
        for number in wanted:
            signal.signal(number, before[int(number)])


class _Bar:
    """How far the training is: a bar on a terminal, elsewhere a line every ``display`` ones."""

    def __init__(self, solver: Solver, count: int) -> None:
        self._first: tuple[int, float] | None = None
        self._count = count
        errors = Console(stderr=True)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[rate]}"),
            TimeRemainingColumn(),
            console=errors,
            transient=True,
            disable=not errors.is_terminal,
        )
        self._task = self._bar.add_task(
            "training", total=solver.settings.max_iter, completed=solver.iter, rate=""
        )

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, solver: Solver) -> None:
        """After every iteration."""
        now = time.monotonic()
        if self._first is None:  # it has waited for the processes that read, and does not count
            self._first = solver.iter, now
        first, since = self._first
        pace = (solver.iter - first) / (now - since) if solver.iter > first else 0.0
        rate = f"{pace * self._count * solver.pictures_per_iteration:.3g} images/s"
        text = f"loss {solver.smoothed_loss:.4g}, rate {solver.lr:.3g}"
        self._bar.update(self._task, completed=solver.iter, description=text, rate=rate)
        display = solver.settings.display
        if self._bar.disable and display and solver.iter % display == 0:
            left = (solver.settings.max_iter - solver.iter) / pace if pace else 0.0
            speed = f", {rate}, {_duration(left)} left" if pace else ""
            console.print(
                f"iteration {solver.iter}, {text}{speed}",
                highlight=False,
                soft_wrap=True,
            )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _show_start(solver: Solver) -> None:
    """What the weights came from, and which layers got none."""
    report = solver.load_report
    if solver.iter:
        _say(f"going on from {shown(solver.last_snapshot)}, iteration {solver.iter}")
    if report is None:
        _warn_of_zeros(solver)
        return
    _say(f"{_layers(report.copied)} copied")
    lists = {
        "not in the file, left at initial values": report.missing,
        "in the file, but not in the network": report.unused,
        "copied into another shape": report.reshaped,
    }
    for what, names in lists.items():
        if names:
            _say(f"{_layers(names)} {what}: {shown(', '.join(names))}")


def _layers(names: Sequence[str]) -> str:
    return f"{len(names)} layer{'' if len(names) == 1 else 's'}"


def _warn_of_zeros(solver: Solver) -> None:
    """Released train nets name no filler for what they take from weights: Caffe fills in zeros."""
    zeros = [
        param.layer
        for param in solver.net.learnable_params
        if param.number == 0 and param.lr_mult and not param.value.any()
    ]
    if len(zeros) > 1:
        first = shown(", ".join(zeros[:3]))
        warnings.warn(
            f"the weights of {len(zeros)} layers start from 0, so that they hardly learn: {first}"
            ", ...; --weights names what the training starts from",
            stacklevel=2,
        )


def _show_end(solver: Solver, ended: bool) -> None:
    if solver.last_snapshot is not None:
        _say(f"snapshot: {shown(solver.last_snapshot)}")
    if ended:
        _say(f"done: {solver.iter} iterations, loss {solver.smoothed_loss:.6g}")
    else:
        _say(f"stopped after iteration {solver.iter}; --snapshot goes on from there")


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
