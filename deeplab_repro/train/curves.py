"""Training logs read back: our own, and those of `caffe train`."""

from __future__ import annotations

import json
import os
import re
from collections import deque
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

from deeplab_repro.errors import InputError
from deeplab_repro.train.log import CAFFE_LOG, LOG, OBJECTIVE, single_values
from prototxt_import.files import open_file

__all__ = ["Curve", "Run", "read_run"]

_VALUE: Final = r"([-+]?(?:nan|inf|\d+\.?\d*(?:e[-+]?\d+)?))(?=\s|$)"
#: Between number and comma, Caffe 1.0 says how fast it was: (3.47 iter/s, 11.5s/40 iters).
_LOSS: Final = re.compile(r"\] Iteration (\d+)(?: \([^)]*\))?, loss = " + _VALUE)
_RATE: Final = re.compile(r"\] Iteration (\d+), lr = " + _VALUE)
_TESTING: Final = re.compile(r"\] Iteration (\d+), Testing net \(#(\d+)\)")
_OBJECTIVE: Final = re.compile(r"\] Test loss: " + _VALUE)
_OUTPUT: Final = re.compile(r"\]\s+(Train|Test) net output #\d+: (.+?) = " + _VALUE)


@dataclass
class Curve:
    """Values over the iterations of a run.

    A run that goes on from a snapshot repeats the iterations behind it: what it did before falls
    away.
    """

    iterations: list[int] = field(default_factory=list)
    values: list[float] = field(default_factory=list)

    def add(self, iteration: int, value: float) -> None:
        """The next point; what was there of its iteration or later ones goes."""
        while self.iterations and self.iterations[-1] >= iteration:
            self.iterations.pop()
            self.values.pop()
        self.iterations.append(iteration)
        self.values.append(value)

    def averaged(self, count: int) -> Curve:
        """Each point as the mean of the last `count`, or of all where there are fewer.

        As Caffe averages the losses of `average_loss` iterations (solver.cpp, UpdateSmoothedLoss).
        """
        last: deque[float] = deque(maxlen=count)
        means = []
        for value in self.values:
            last.append(value)
            means.append(sum(last) / len(last))
        return Curve(list(self.iterations), means)


@dataclass
class Run:
    """What a log tells of a training run.

    Attributes:
        name: its folder, or its file.
        loss: the objective, as it was displayed.
        lr: the rate.
        train: output of the train net -> its values; blob/0, blob/1, ... where a blob has several.
        test: likewise of the test net; those of a second one are called (net 1) behind the name.
    """

    name: str
    loss: Curve = field(default_factory=Curve)
    lr: Curve = field(default_factory=Curve)
    train: dict[str, Curve] = field(default_factory=dict)
    test: dict[str, Curve] = field(default_factory=dict)

    def add_outputs(self, iteration: int, outputs: Mapping[str, Any], net: int | None) -> None:
        """Outputs of an iteration: of the train net, or of a test net by its number."""
        curves, end = (self.train, "") if net is None else (self.test, f" (net {net})" * (net > 0))
        for name, value in single_values(outputs).items():
            curves.setdefault(name + end, Curve()).add(iteration, float(value))


def read_run(path: str | os.PathLike[str]) -> Run:
    """Read the log of a training.

    Args:
        path: `log.jsonl`, or what `caffe train` wrote to its log or to the terminal; or the folder
            that holds one of them.

    Raises:
        InputError: there is no log, or it tells nothing of a training.
        CaffeImportError: it cannot be read.
    """
    given = Path(path)
    file = _log_in(given) if given.is_dir() else given
    run = Run(given.resolve().name if given.is_dir() else given.name)
    if given.name in (LOG, CAFFE_LOG):  # which would be the name of every run
        run.name = f"{given.resolve().parent.name}/{given.name}"
    with open_file(file) as opened:
        if b"\0" in opened.read(4096):
            raise InputError("is no text", file=file, expected="a training log")
        opened.seek(0)
        is_own = opened.read(1) == b"{"
        opened.seek(0)
        # A last line without its end is one that is being written.
        lines = (line.decode("utf-8", "replace") for line in opened if line.endswith(b"\n"))
        if is_own:
            _read_own(run, lines, file)
        else:
            _read_caffe(run, lines)
    if not run.loss.values and not run.test:
        raise InputError(
            "tells nothing of a training",
            file=file,
            expected=f"{LOG}, or lines of Caffe's such as '] Iteration 20, loss = 1.5'",
        )
    return run


def _log_in(folder: Path) -> Path:
    for name in (LOG, CAFFE_LOG):
        if (folder / name).is_file():
            return folder / name
    others = sorted(p for p in folder.iterdir() if p.suffix in (".log", ".INFO") and p.is_file())
    if len(others) == 1:
        return others[0]
    raise InputError(
        "is a folder without a training log" if not others else "is a folder with several logs",
        file=folder,
        expected=f"{LOG}, {CAFFE_LOG} or one other .log in it" if not others else "one of them",
        got=", ".join(path.name for path in others) or None,
    )


def _read_own(run: Run, lines: Iterable[str], file: Path) -> None:
    for number, line in enumerate(lines, 1):
        try:
            entry = json.loads(line)
            kind, iteration = entry["kind"], int(entry["iteration"])
            if kind == "train":
                run.loss.add(iteration, float(entry["loss"]))
                run.lr.add(iteration, float(entry["lr"]))
                run.add_outputs(iteration, entry["outputs"], None)
            elif kind == "test":
                run.add_outputs(iteration, entry["outputs"], int(entry["net"]))
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            raise InputError(
                f"line {number} is none of a training log's", file=file, got=line[:80]
            ) from None


def _read_caffe(run: Run, lines: Iterable[str]) -> None:
    """Caffe shows an iteration in several lines: what it is, and then a line for each output."""
    iteration, net = 0, None
    outputs: dict[str, list[float]] = {}
    for line in lines:
        if output := _OUTPUT.search(line):
            is_test = output[1] == "Test"
            if is_test == (net is not None):
                outputs.setdefault(output[2], []).append(float(output[3]))
        elif loss := _LOSS.search(line):
            run.add_outputs(iteration, outputs, net)
            iteration, net, outputs = int(loss[1]), None, {}
            run.loss.add(iteration, float(loss[2]))
        elif testing := _TESTING.search(line):
            run.add_outputs(iteration, outputs, net)
            iteration, net, outputs = int(testing[1]), int(testing[2]), {}
        elif objective := _OBJECTIVE.search(line):
            outputs[OBJECTIVE] = [float(objective[1])]
        elif rate := _RATE.search(line):
            run.lr.add(int(rate[1]), float(rate[2]))
    run.add_outputs(iteration, outputs, net)
