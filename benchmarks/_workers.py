"""Candidates in processes of their own that run when they are told to, so in turns.

A network keeps transformed filters up to a limit of its process, and other libraries have pools of
threads: side by side in one process, candidates would not be as fast as alone.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from _timing import Clock


class Worker:
    """A process that has called :func:`serve`.

    Args:
        words: its command line behind the interpreter.

    Attributes:
        about: what it gave to :func:`serve`.
    """

    def __init__(self, words: Sequence[str]):
        command = [sys.executable, *words]
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True)
        self.about: dict[str, Any] = json.loads(self._answer())

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()  # which closes its input

    def run(self) -> float:
        """One run; the seconds that it took there."""
        assert self._process.stdin is not None
        self._process.stdin.write("run\n")
        self._process.stdin.flush()
        return float(self._answer())

    def _answer(self) -> str:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"{self._process.args}: exit code {self._process.wait()}")
        return line


def serve(run: Callable[[], Any], about: dict[str, Any], clock: Clock) -> None:
    """Tell `about`, then run and tell the seconds for each line of input."""
    print(json.dumps(about), flush=True)
    for _ in sys.stdin:
        print(clock(run), flush=True)


def seconds_there(run: Callable[[], float]) -> float:
    """The clock for :meth:`Worker.run`."""
    return run()
