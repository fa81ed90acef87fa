"""What was measured on this machine before: a file in the user's cache.

One file for each machine and number of threads (`deeplab-repro/autotune` in XDG_CACHE_HOME, or else
in ~/.cache). DEEPLAB_REPRO_AUTOTUNE_CACHE=0 neither reads nor writes any.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import warnings
from collections.abc import Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from deeplab_repro.native import backends, build
from deeplab_repro.native.processor import processor_name
from deeplab_repro.ops._atrous_rules import Problem
from prototxt_import import CaffeImportError
from prototxt_import.files import replacing

Milliseconds = dict[str, float]  # of each algorithm
_UNUSABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RecursionError)


def is_wanted() -> bool:
    """Whether DEEPLAB_REPRO_AUTOTUNE_CACHE does not forbid the cache."""
    return os.environ.get("DEEPLAB_REPRO_AUTOTUNE_CACHE", "") != "0"


def machine(device: str) -> dict[str, Any]:
    """All that the times depend on, apart from the problem."""
    try:
        own = version("deeplab-repro")
    except PackageNotFoundError:
        own = "running from its sources"
    return {
        "processor": processor_name(),
        "gpu": torch.cuda.get_device_name() if device == "cuda" else None,
        "instructions": backends.instruction_set(),
        "torch's instructions": torch.backends.cpu.get_cpu_capability(),
        "backends": [name for name, b in backends.backends().items() if b.available],
        "threads": torch.get_num_threads(),
        "torch": str(torch.__version__),
        "deeplab-repro": own,
        "sources": build.source_hash(),
    }


class TimingsFile:
    """The times of one machine.

    Attributes:
        path: of the file, which need not be there.
    """

    def __init__(self, device: str) -> None:
        self._machine = machine(device)
        words = json.dumps(self._machine).encode()
        name = f"{hashlib.sha256(words).hexdigest()[:16]}.json"
        self.path = build.user_cache() / "autotune" / name

    def read(self) -> dict[Problem, Milliseconds]:
        """What is there; nothing, with a warning, of a file that cannot be used."""
        try:
            return self._read()
        except _UNUSABLE as error:
            _warn(f"{self.path} cannot be used, all is measured anew: {error!r}")
            return {}

    def add(self, found: Mapping[Problem, Milliseconds]) -> None:
        """Put new times beside those that are there; a warning where that is not possible."""
        try:
            there = self._read()  # another process may have written meanwhile
        except _UNUSABLE:
            there = {}
        timings = [
            {"problem": _as_json(problem), "milliseconds": milliseconds}
            for problem, milliseconds in {**there, **found}.items()
        ]
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with replacing(self.path) as temporary:
                text = json.dumps({"machine": self._machine, "timings": timings}, indent=1)
                temporary.write_text(text + "\n", encoding="utf-8")
        except (OSError, CaffeImportError) as error:
            _warn(f"what was measured is not kept: {error}")

    def _read(self) -> dict[Problem, Milliseconds]:
        try:
            text = self.path.read_text(encoding="utf-8")
        except FileNotFoundError:
            return {}
        return dict(_entry(entry) for entry in json.loads(text)["timings"])


def _as_json(problem: Problem) -> dict[str, Any]:
    return {**problem._asdict(), "dtype": str(problem.dtype).removeprefix("torch.")}


def _entry(entry: Any) -> tuple[Problem, Milliseconds]:
    """As :meth:`TimingsFile.add` wrote it.

    Raises:
        ValueError, TypeError, KeyError, AttributeError: it did not.
    """
    fields: dict[str, Any] = {
        name: tuple(map(int, value)) if isinstance(value, list) else value
        for name, value in entry["problem"].items()
    }
    fields["dtype"] = dtype = getattr(torch, fields["dtype"])
    milliseconds = {str(name): float(value) for name, value in entry["milliseconds"].items()}
    if not isinstance(dtype, torch.dtype) or not all(
        math.isfinite(value) and value >= 0 for value in milliseconds.values()
    ):
        raise ValueError(f"{entry} is no timing")
    return Problem(**fields), milliseconds


def _warn(message: str) -> None:
    warnings.warn(f"autotune: {message}", stacklevel=4)
