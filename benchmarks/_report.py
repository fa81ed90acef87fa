"""A benchmark's results as one JSON file that is whole after every case, whatever comes next.

A case is entered before it runs, so that one that never ends, or takes the process with it, can be
seen in the file; `resume` goes on behind it.
"""

from __future__ import annotations

import json
import math
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from _timing import write_json

#: Exit code: the GPU takes no more work of this process, but a new one may go on with `resume`.
GPU_LOST = 75
_UNFINISHED = "did not end: the process was stopped, or it crashed"


class Report:
    """Runs cases and keeps what they give.

    Args:
        path: of the JSON file; None is the benchmark's usual place.
        name: the benchmark's.
        seconds: no case is begun later than this after the start.
        resume: keep the cases that the file has, and do not run them again.
    """

    def __init__(
        self, path: Path | None, name: str, seconds: float = math.inf, resume: bool = False
    ):
        self._path, self._name = path, name
        self._until = time.monotonic() + seconds
        self.results: list[dict[str, Any]] = []
        if resume and path is not None and path.is_file():
            self.results = json.loads(path.read_text())["results"]
        self._write()

    def run(self, case: str, measure: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        """Enter what measure() returns under the case's name, or the error that it raised."""
        for result in self.results:
            if result["case"] == case:
                return result
        entry: dict[str, Any] = {"case": case}
        self.results.append(entry)
        if self.seconds_left <= 0:
            entry["left_out"] = "the time was over"
            self._write()
            return entry
        entry["error"] = _UNFINISHED
        self._write()
        started = time.monotonic()
        try:
            found = measure()
        except (Exception, SystemExit) as error:
            entry["error"] = f"{type(error).__name__}: {error}"
            entry["traceback"] = traceback.format_exc().splitlines()[-12:]
        else:
            del entry["error"]
            entry.update(found)
        entry["took_seconds"] = round(time.monotonic() - started, 1)
        self._write()
        print(f"{case}: {entry.get('error', 'done')} ({entry['took_seconds']} s)", flush=True)
        if "error" in entry and _gpu_is_lost():
            print("the GPU takes no more work of this process", file=sys.stderr)
            raise SystemExit(GPU_LOST)
        return entry

    @property
    def seconds_left(self) -> float:
        """Until no more case is begun."""
        return self._until - time.monotonic()

    @property
    def failed(self) -> list[str]:
        """The cases with an error, in themselves or in one of their candidates."""
        return [r["case"] for r in self.results if r.get("error") or r.get("errors")]

    def _write(self) -> None:
        self._path = write_json(self._path, self._name, self.results)


def _gpu_is_lost() -> bool:
    """Whether an error has ended the CUDA context, after which every call gives that error."""
    if not torch.cuda.is_initialized():
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
