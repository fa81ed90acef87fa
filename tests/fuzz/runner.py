"""Runs spoilt files through the readers, in processes of their own that may crash or hang.

A case is a number: together with the seed it fixes the file and who reads it, so that a failure is
repeated by ``python -m tests.fuzz.runner --seed S --first N --last N --keep FOLDER``.
"""

from __future__ import annotations

import argparse
import json
import os
import queue
import random
import re
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np

from prototxt_import.limits import MAX_BLOB_BYTES, MAX_PARAMETER_BYTES
from tests.fuzz.bundles import unpack
from tests.fuzz.mutate import mutate
from tests.fuzz.readers import (
    COMMANDS,
    MODELS,
    READERS,
    VARIABLE_COMMANDS,
    VARIABLES,
    command_line,
    read,
)
from tests.fuzz.seeds import CURRENT, ENDINGS, make_seeds

ROOT = Path(__file__).parents[2]
#: Processor seconds that one case may take; waiting for the processor does not count.
SECONDS = 5.0
#: Seconds after which a case that sleeps rather than computes is a hang too.
PATIENCE = 60.0
#: Memory that one case may take: so many times the file, plus so many bytes.
FACTOR, SLACK = 4, 200_000_000
#: A network as such may ask for more than that in earnest: of its parameters and blobs 40 MB each
#: are granted here, and what is beyond must be refused before it is allocated.
GRANTED = "40000000"
#: Whose files -> (reader or command, kind of file), taken in turns.
TARGETS = {
    "caffe": [
        *[(kind, kind) for kind in READERS if kind not in VARIABLES] * 3,
        *[(command, kind) for command in COMMANDS for kind in MODELS],
        *[(command, "activations_h5") for command in ("activations", "compare")],
    ],
    "tensorflow": [
        *[(kind, kind) for kind in VARIABLES],
        # Which have by far the most to get wrong.
        *[(kind, kind) for kind in ("tf_checkpoint", "tf_graph")] * 4,
        *[(command, kind) for command in VARIABLE_COMMANDS for kind in VARIABLES],
    ],
}


def run(
    seed: int, first: int, last: int, jobs: int = 1, whose: str = "caffe"
) -> Iterator[dict[str, Any]]:
    """The outcome of the cases ``first`` to ``last``, in any order.

    Args:
        seed: makes the cases, together with their numbers.
        first: the number of the first case.
        last: that of the last.
        jobs: processes at a time.
        whose: files of ``"caffe"``, pictures and scores among them, or of ``"tensorflow"``.

    Yields:
        dicts with ``case``, ``target``, ``kind``, ``bytes``, ``outcome`` ("result", "refused" or
        "failed"), ``seconds`` of processor time, ``memory`` in bytes and, if failed, ``reason``.
    """
    outcomes: queue.Queue[dict[str, Any] | Exception | None] = queue.Queue()
    ranges = np.linspace(first, last + 1, jobs + 1).astype(int)
    threads = [
        threading.Thread(
            target=_supervise, args=(seed, int(a), int(b) - 1, whose, outcomes), daemon=True
        )
        for a, b in pairwise(ranges)
    ]
    for thread in threads:
        thread.start()
    running = len(threads)
    while running:
        outcome = outcomes.get()
        if outcome is None:
            running -= 1
        elif isinstance(outcome, Exception):
            raise outcome
        else:
            yield outcome


def _supervise(seed: int, first: int, last: int, whose: str, outcomes: queue.Queue) -> None:
    try:
        while first <= last:
            first = _one_worker(seed, first, last, whose, outcomes) + 1
    except Exception as error:  # for the caller: here it would end this thread and say nothing
        outcomes.put(error)
    else:
        outcomes.put(None)


def _one_worker(seed: int, first: int, last: int, whose: str, outcomes: queue.Queue) -> int:
    """Run cases until all are done or one kills the worker; the last case that was run."""
    command = [sys.executable, "-m", "tests.fuzz.runner", "--worker"]
    command += ["--seed", str(seed), "--first", str(first), "--last", str(last), "--whose", whose]
    limits = {limit.variable: GRANTED for limit in (MAX_PARAMETER_BYTES, MAX_BLOB_BYTES)}
    environment = os.environ | limits | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    with tempfile.TemporaryFile("w+") as errors:
        process = subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=errors, text=True, cwd=ROOT, env=environment
        )
        lines: queue.Queue[str] = queue.Queue()
        threading.Thread(target=_pump, args=(process, lines), daemon=True).start()
        case, reason = first - 1, ""
        since, used = time.monotonic(), 0.0
        while True:
            try:
                line = lines.get(timeout=0.5)
            except queue.Empty:
                computed = _processor_seconds(process.pid) - used
                if case >= first and (
                    computed > 2 * SECONDS or time.monotonic() - since > PATIENCE
                ):
                    reason = f"hangs: {computed:.1f} s of processor time so far"
                    process.kill()
                continue
            if not line:
                break
            message = json.loads(line)
            if "outcome" in message:
                outcomes.put(message)
                first = case + 1
                if message["case"] == last:
                    process.wait()
                    return last
            else:
                case, started = message["case"], message
                since, used = time.monotonic(), _processor_seconds(process.pid)
        code = process.wait()
        if case < first:  # between two cases
            errors.seek(0)
            raise RuntimeError(f"the fuzzing process itself fails: {errors.read()[-2000:]}")
        reason = reason or f"the process died with code {code}"
        outcomes.put({**started, "outcome": "failed", "seconds": 0.0, "memory": 0,
                      "reason": reason})  # fmt: skip
        return case


def _pump(process: subprocess.Popen[str], lines: queue.Queue[str]) -> None:
    assert process.stdout is not None
    for line in process.stdout:
        lines.put(line)
    lines.put("")


def _processor_seconds(pid: int) -> float:
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return 0.0
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


# ---------------------------------------------------------------- in the worker


def worker(seed: int, first: int, last: int, whose: str, keep: Path | None) -> None:
    """Run cases one after the other; tells on stdout what is begun and how it ended."""
    out = os.fdopen(os.dup(1), "w")  # stdout is taken while the command line runs
    with tempfile.TemporaryDirectory() as folder_name:
        folder = Path(folder_name)
        seeds = make_seeds(folder)
        (folder / "sound.prototxt").write_text(CURRENT)
        (folder / "in.npy").write_bytes(seeds["npy"][0])
        (folder / "sound.bundle").write_bytes(seeds["tf_checkpoint"][0])
        unpack(folder / "sound.bundle")
        (folder / "recorded.h5").write_bytes(seeds["activations_h5"][0])
        targets = TARGETS[whose]
        _warm_up(folder, seeds, targets)
        for case in range(first, last + 1):
            target, kind = targets[case % len(targets)]
            data = mutate(kind, random.Random(f"{seed}:{case}"), seeds, folder)
            path = folder / f"case{ENDINGS[kind]}"
            path.write_bytes(data)
            if keep:
                (keep / f"{case}{ENDINGS[kind]}").write_bytes(data)
            about = {"case": case, "target": target, "kind": kind, "bytes": len(data)}
            print(json.dumps(about), file=out, flush=True)
            print(json.dumps(about | _watched(target, kind, path, folder)), file=out, flush=True)


def _warm_up(folder: Path, seeds: dict[str, list[bytes]], targets: list[tuple[str, str]]) -> None:
    """Imports and first calls take memory that is no case's fault."""
    for target, kind in dict.fromkeys(targets):
        path = folder / f"case{ENDINGS[kind]}"
        path.write_bytes(seeds[kind][0])
        _run(target, kind, path, folder)
    # Far beyond what a case may take, so that what would bring the machine down is an error here.
    here = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (here + (4 << 30), here + (4 << 30)))


def _run(target: str, kind: str, path: Path, folder: Path) -> str:
    if target in READERS:
        return read(kind, path)
    return command_line(target, kind, path, folder)


def _watched(target: str, kind: str, path: Path, folder: Path) -> dict[str, Any]:
    size = path.stat().st_size
    before, highest = _memory()
    used = time.process_time()
    found: dict[str, Any]
    try:
        found = {"outcome": _run(target, kind, path, folder)}
    except Exception as error:
        frames = []
        at = error.__traceback__
        while at:
            frames.append(f"{Path(at.tb_frame.f_code.co_filename).name}:{at.tb_lineno}")
            at = at.tb_next
        reason = f"{type(error).__name__}: {str(error)[:300]} at {' '.join(frames[-4:])}"
        found = {"outcome": "failed", "reason": reason}
    seconds = time.process_time() - used
    now, peak = _memory()
    # The mark rises only: a case that stays below it took less than one that was in order.
    memory = max(0, peak - before) if peak > highest else max(0, now - before)
    if found["outcome"] != "failed":
        if seconds > SECONDS:
            found = {"outcome": "failed", "reason": f"takes {seconds:.1f} s"}
        elif memory > FACTOR * size + SLACK:
            found = {"outcome": "failed", "reason": f"takes {memory / 1e6:.0f} MB"}
    return {**found, "seconds": round(seconds, 4), "memory": memory}


def _memory() -> tuple[int, int]:
    """Resident bytes of this process now, and at most so far."""
    status = Path("/proc/self/status").read_text()
    now, peak = (re.search(rf"{name}:\s+(\d+)", status) for name in ("VmRSS", "VmHWM"))
    return int(now[1]) * 1024, int(peak[1]) * 1024


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0)
    parser.add_argument("--last", type=int, default=999)
    parser.add_argument("--whose", choices=tuple(TARGETS), default="caffe")
    parser.add_argument("--keep", type=Path, help="write the spoilt files here")
    parser.add_argument("--worker", action="store_true", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.worker or options.keep:
        worker(options.seed, options.first, options.last, options.whose, options.keep)
        return
    for outcome in run(options.seed, options.first, options.last, whose=options.whose):
        if outcome["outcome"] == "failed":
            print(outcome)


if __name__ == "__main__":
    main()
