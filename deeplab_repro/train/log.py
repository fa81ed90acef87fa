"""What a training run writes down: our own log, Caffe's lines, TensorBoard's files.

Our own log is `log.jsonl`: one JSON object a line, appended, so that a resumed run goes on in it.

    {"kind": "train", "iteration": 20, "time": 1.7e9, "lr": 0.001, "loss": 1.2, "outputs": {...}}
    {"kind": "test", "iteration": 100, "time": 1.7e9, "net": 0, "outputs": {"accuracy": [0.9, 0.6]}}

A blob of one value is a number and one of several, such as the three of SegAccuracy, a list.  What
is no finite number stands as a string ("nan", "inf", "-inf"), for JSON has no such numbers.
`deeplab_repro.train.curves` reads these logs, and Caffe's.
"""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, TypeAlias

from deeplab_repro.errors import InputError
from deeplab_repro.train.closing import Closing

if TYPE_CHECKING:
    from torch.utils.tensorboard.writer import SummaryWriter

__all__ = ["CAFFE_LOG", "LOG", "OBJECTIVE", "Log", "Outputs", "json_ready", "single_values"]

#: Names of the logs in the folder of a run.
LOG: Final = "log.jsonl"
CAFFE_LOG: Final = "caffe.log"
#: A test net's mean objective among its outputs, where `test_compute_loss` asks for it.
OBJECTIVE: Final = "loss (objective)"

#: Blob -> its value, or its values where it has several.
Outputs: TypeAlias = "Mapping[str, float | Sequence[float]]"


class Log(Closing):
    """The log of a training run, appended to what is there.

    Args:
        folder_or_path: the folder of the run, which is made if it is not there, for `log.jsonl` and
            the others in it; or the path of the log itself, which ends in `.jsonl`, with the others
            beside it.
        caffe: write `caffe.log` too, in Caffe's words and glog's form.
        tensorboard: write TensorBoard's event files too.
        name: of the network, for Caffe's log.
        loss_weights: blob -> its weight in the objective, for Caffe's log, which shows the weighted
            value of a loss beside it.

    Raises:
        InputError: a file cannot be opened, or the package tensorboard is not there.
    """

    def __init__(
        self,
        folder_or_path: str | os.PathLike[str],
        *,
        caffe: bool = False,
        tensorboard: bool = False,
        name: str = "",
        loss_weights: Mapping[str, float] | None = None,
    ) -> None:
        given = Path(folder_or_path)
        self.path = given if given.suffix == ".jsonl" else given / LOG
        folder = self.path.parent
        self._loss_weights = dict(loss_weights or {})
        self._board = _Board(folder) if tensorboard else None
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(error.strerror or "cannot be made", file=folder) from None
        self._own = _Lines(self.path)
        self._caffe = _Lines(folder / CAFFE_LOG) if caffe else None
        if self._caffe is not None:
            # tools/extra/parse_log.py of Caffe counts the seconds from this line on.
            self._caffe.write(_glog("solver.cpp:273", f"Solving {name}".rstrip()))

    def train(self, iteration: int, lr: float, loss: float, outputs: Outputs) -> None:
        """What an iteration gave, before its update.

        Args:
            iteration: its number, 0 the first.
            lr: the rate of its update.
            loss: the objective, as Caffe displays it: the mean of the last `average_loss` ones.
            outputs: the blobs that no layer reads, of the iteration's last pass.
        """
        self._put("train", iteration, {"lr": lr, "loss": loss}, outputs)
        if self._caffe is not None:
            first = f"Iteration {iteration}, loss = {_number(loss)}"
            lines = [_glog("solver.cpp:218", first)]
            lines += self._output_lines("Train", "solver.cpp:237", outputs)
            lines.append(_glog("sgd_solver.cpp:105", f"Iteration {iteration}, lr = {_number(lr)}"))
            self._caffe.write("".join(lines))
        if self._board is not None:
            self._board.add(iteration, "", {"loss": loss, "lr": lr})
            self._board.add(iteration, "train/", single_values(outputs))

    def test(self, iteration: int, net: int, outputs: Outputs) -> None:
        """The mean outputs of a test net.

        Args:
            iteration: how many updates the tested weights have seen.
            net: which of the solver's test nets, 0 the first.
            outputs: the means of the blobs that no layer reads, over `test_iter` passes; and of the
                objective under `OBJECTIVE`.
        """
        self._put("test", iteration, {"net": net}, outputs)
        if self._caffe is not None:
            first = f"Iteration {iteration}, Testing net (#{net})"
            lines = [_glog("solver.cpp:330", first)]
            blobs = {name: values for name, values in outputs.items() if name != OBJECTIVE}
            if len(blobs) < len(outputs):
                objective = _number(single_values(outputs)[OBJECTIVE])
                lines.append(_glog("solver.cpp:394", f"Test loss: {objective}"))
            lines += self._output_lines("Test", "solver.cpp:397", blobs)
            self._caffe.write("".join(lines))
        if self._board is not None:
            self._board.add(iteration, f"test{net}/", single_values(outputs))

    def close(self) -> None:
        """Close the files; a second call does nothing."""
        for part in (self._own, self._caffe, self._board):
            if part is not None:
                part.close()

    def _put(self, kind: str, iteration: int, values: Mapping[str, Any], outputs: Outputs) -> None:
        line = {"kind": kind, "iteration": iteration, "time": round(time.time(), 3), **values}
        line["outputs"] = dict(outputs)
        self._own.write(json.dumps(json_ready(line), allow_nan=False) + "\n")

    def _output_lines(self, phase: str, place: str, outputs: Outputs) -> list[str]:
        """A line for each value, numbered over all blobs (solver.cpp, Step and Test)."""
        lines: list[str] = []
        for name, values in outputs.items():
            weight = self._loss_weights.get(name, 0)
            for value in values if isinstance(values, Sequence) else (values,):
                text = f"    {phase} net output #{len(lines)}: {name} = {_number(value)}"
                if weight:
                    text += f" (* {_number(weight)} = {_number(weight * value)} loss)"
                lines.append(_glog(place, text))
        return lines


class _Lines:
    """A text file that grows by whole lines.  A line that a killed run left unfinished goes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        try:
            self._file: IO[bytes] = open(path, "ab", buffering=0)  # noqa: SIM115
            self._cut_unfinished()
        except OSError as error:
            raise InputError(error.strerror or "cannot be written", file=path) from None

    def write(self, lines: str) -> None:
        """Append whole lines; they are in the file when this returns.

        Raises:
            InputError: they cannot be written, as on a full disk.
        """
        content = lines.encode()
        try:
            written = self._file.write(content)
            if written < len(content):  # a disk that fills up takes a part, and then nothing
                self._file.write(content[written:])
        except OSError as error:
            raise InputError(error.strerror or "cannot be written", file=self._path) from None

    def close(self) -> None:
        self._file.close()

    def _cut_unfinished(self) -> None:
        with open(self._path, "rb") as file:
            end = file.seek(0, os.SEEK_END)
            start = end
            while start:
                step = min(start, 4096)
                start -= step
                file.seek(start)
                newline = file.read(step).rfind(b"\n")
                if newline >= 0:
                    start += newline + 1
                    break
        if start < end:
            self._file.truncate(start)


class _Board:
    """TensorBoard's event files, made at the first value.

    A resumed run has written some of its iterations before: `purge_step` hides these.
    """

    def __init__(self, folder: Path) -> None:
        try:
            from torch.utils.tensorboard.writer import SummaryWriter
        except ImportError:
            raise InputError(
                "TensorBoard's files need the Python package tensorboard",
                expected="pip install 'deeplab-repro[tensorboard]'",
            ) from None
        self._make = SummaryWriter
        self._folder = folder
        self._writer: SummaryWriter | None = None

    def add(self, iteration: int, prefix: str, values: Mapping[str, float]) -> None:
        """One point of each curve; the prefix is that of the curves' names."""
        if self._writer is None:
            self._writer = self._make(str(self._folder), purge_step=iteration)
        for name, value in values.items():
            self._writer.add_scalar(prefix + name, value, iteration)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()


def single_values(outputs: Outputs) -> dict[str, float]:
    """Outputs as single values: blob/0, blob/1, ... where a blob has several."""
    found = {}
    for name, values in outputs.items():
        if isinstance(values, Sequence) and not isinstance(values, str):
            several = len(values) > 1
            found.update({f"{name}/{i}" if several else name: v for i, v in enumerate(values)})
        else:
            found[name] = values
    return found


def json_ready(value: Any) -> Any:
    """The value as JSON can have it: what is no finite number becomes a string."""
    if isinstance(value, Mapping):
        return {name: json_ready(item) for name, item in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [json_ready(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return str(value)
    return value


def _number(value: float) -> str:
    """As C++ streams print a number: six digits."""
    return f"{value:g}"


def _glog(place: str, text: str) -> str:
    """A line as glog writes it: I, month and day, time, thread, file and line."""
    return f"I{datetime.now():%m%d %H:%M:%S.%f} {os.getpid():5d} {place}] {text}\n"
