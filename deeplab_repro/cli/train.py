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
    check_placeholders,
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
    from deeplab_repro.train.training import Training


@click.command("train")
@click.option(
    "--solver",
    "solver_file",
    type=click.Path(),
    metavar="PROTOTXT",
    help="The solver file, in the words of `caffe train`.",
)
@click.option(
    "--flagfile",
    type=click.Path(),
    metavar="FILE",
    help="In place of a solver file: flags of the original train.py of DeepLab v3 and v3+.",
)
@click.option(
    "--weights",
    metavar="FILE[,FILE...]",
    help="Start from these caffemodels; layers are found by name. With --flagfile a checkpoint.",
)
@click.option(
    "--snapshot",
    type=click.Path(),
    metavar="SOLVERSTATE",
    help="Go on from a snapshot, of Caffe's or of ours. With --flagfile a checkpoint.",
)
@click.option(
    "--resume",
    is_flag=True,
    help="Go on from the newest whole snapshot of this training; begin where there is none.",
)
@set_option(
    "Fill the placeholder ${NAME} in the solver file and its networks, or change the flag NAME of"
    " --flagfile"
)
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
    solver_file: str | None,
    flagfile: str | None,
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

    With --flagfile, train DeepLab v3 or v3+ as the original's train.py does, with the same flags
    and checkpoints; --set changes a flag.

    File names in the solver file and its networks, and in flags, are relative to the working
    directory.  Ctrl-C and SIGTERM write a snapshot and stop, SIGHUP writes one and goes on.  Under
    torchrun several processes train one network, with the result of one process.
    """
    if (solver_file is None) == (flagfile is None):
        raise InputError("train", expected="either --solver or --flagfile")
    if log_folder is None and (caffe_log or tensorboard):
        raise InputError("--caffe-log and --tensorboard", expected="--log FOLDER beside them")
    if flagfile is not None and (caffe_log or checkpointing or dialect or not quirks):
        raise InputError(
            "--caffe-log, --checkpoint-activations, --dialect and --no-quirks",
            expected="--solver, not --flagfile",
        )
    with ExitStack() as stack:
        team = stack.enter_context(processes())
        options = {
            "resume": resume,
            "workers": workers,
            "processes": team,
            "algorithm": algorithm,
            "accuracy": accuracy,
            "channels_last": channels_last,
            "precision": precision,
        }
        training: Training
        if flagfile is not None:
            training = _by_flags(flagfile, settings, weights, snapshot, options)
        else:
            assert solver_file is not None
            options |= {"quirks": quirks, "checkpointing": checkpointing}
            training = _by_solver(solver_file, settings, dialect, weights, snapshot, options)
        stack.enter_context(training)
        if team.first:
            _show_start(training)
            if log_folder is not None:
                log = _open_log(training, log_folder, caffe_log, tensorboard)
                training.log = log
                stack.callback(log.close)
            training.watchers.append(stack.enter_context(_Bar(training, team.count)))
        with _signals(training):
            ended = training.solve()
        if team.first:
            _show_end(training, ended)


def _by_solver(
    file: str,
    settings: Sequence[str],
    dialect: Dialect | None,
    weights: str | None,
    snapshot: str | None,
    options: dict[str, Any],
) -> Training:
    from deeplab_repro.train.settings import read_solver
    from deeplab_repro.train.solver import Solver

    what = read_solver(file, placeholders=placeholders_of(settings), dialect=dialect)
    check_placeholders(settings, what.placeholders, f"{file} with its networks")
    return Solver(what, weights, snapshot, **options)


def _by_flags(
    file: str,
    settings: Sequence[str],
    weights: str | None,
    snapshot: str | None,
    options: dict[str, Any],
) -> Training:
    from deeplab_repro.tensorflow.flags import read_flags
    from deeplab_repro.train.recipes import made_trainer

    recipe = read_flags(file, placeholders_of(settings))
    return made_trainer(recipe, weights=weights, snapshot=snapshot, **options)


def _open_log(training: Training, folder: str, caffe: bool, tensorboard: bool) -> Any:
    make = import_module("deeplab_repro.train.log").Log
    return make(
        folder,
        caffe=caffe,
        tensorboard=tensorboard,
        name=training.net.name,
        loss_weights=training.net.loss_weights,
    )


@contextmanager
def _signals(training: Training) -> Iterator[None]:
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
        training.request("stop")
        signal.signal(number, before[number])

    def snapshot(number: int, frame: object) -> None:
        training.request("snapshot")

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

    def __init__(self, training: Training, count: int) -> None:
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
            "training", total=training.settings.max_iter, completed=training.iter, rate=""
        )

    def __enter__(self) -> _Bar:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def __call__(self, training: Training) -> None:
        """After every iteration."""
        now = time.monotonic()
        if self._first is None:  # it has waited for the processes that read, and does not count
            self._first = training.iter, now
        first, since = self._first
        pace = (training.iter - first) / (now - since) if training.iter > first else 0.0
        rate = f"{pace * self._count * training.pictures_per_iteration:.3g} images/s"
        text = f"loss {training.smoothed_loss:.4g}, rate {training.lr:.3g}"
        self._bar.update(self._task, completed=training.iter, description=text, rate=rate)
        display = training.settings.display
        if self._bar.disable and display and training.iter % display == 0:
            left = (training.settings.max_iter - training.iter) / pace if pace else 0.0
            speed = f", {rate}, {_duration(left)} left" if pace else ""
            console.print(
                f"iteration {training.iter}, {text}{speed}",
                highlight=False,
                soft_wrap=True,
            )


def _duration(seconds: float) -> str:
    minutes, seconds = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{seconds:02}"


def _show_start(training: Training) -> None:
    """What the weights came from, and which layers got none."""
    from deeplab_repro.models.v3.variables import VariableMatch
    from deeplab_repro.train.solver import Solver

    report = training.load_report
    if training.iter:
        _say(f"going on from {shown(training.last_snapshot)}, iteration {training.iter}")
    if isinstance(report, VariableMatch):
        _say(str(report))
        return
    if report is None:
        if isinstance(training, Solver):
            _warn_of_zeros(training)
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


def _warn_of_zeros(training: Solver) -> None:
    """Released train nets name no filler for what they take from weights: Caffe fills in zeros."""
    zeros = [
        param.layer
        for param in training.net.learnable_params
        if param.number == 0 and param.lr_mult and not param.value.any()
    ]
    if len(zeros) > 1:
        first = shown(", ".join(zeros[:3]))
        warnings.warn(
            f"the weights of {len(zeros)} layers start from 0, so that they hardly learn: {first}"
            ", ...; --weights names what the training starts from",
            stacklevel=2,
        )


def _show_end(training: Training, ended: bool) -> None:
    from deeplab_repro.train.solver import Solver

    if training.last_snapshot is not None:
        _say(f"snapshot: {shown(training.last_snapshot)}")
    if ended:
        _say(f"done: {training.iter} iterations, loss {training.smoothed_loss:.6g}")
    else:
        # A folder of checkpoints refuses another training: there --resume is all that is needed.
        option = "--snapshot" if isinstance(training, Solver) else "--resume"
        _say(f"stopped after iteration {training.iter}; {option} goes on from there")


def _say(text: str) -> None:
    console.print(text, highlight=False, soft_wrap=True)
