"""The one timer of all benchmarks: what is measured, how, and in which form it is kept.

A benchmark checks that its candidates agree, times them in turns with `compare` (or one of them
with `time_cpu`), and writes one JSON file with `write_json`. Every benchmark takes `--json FILE`.
Medians are of wall-clock seconds; on a GPU, of the time between two CUDA events. `gpu_seconds` is
the clock that leaves the launches out.
"""

from __future__ import annotations

import argparse
import functools
import gc
import importlib
import json
import os
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NoReturn

import torch

RESULTS = Path(__file__).resolve().parent / "results"


#: Runs what it is given once and returns the seconds that this took.
Clock = Callable[[Callable[[], Any]], float]


@dataclass(frozen=True)
class Timing:
    """Seconds of one run: the median, the fastest and the 10 % and 90 % points of `runs` runs."""

    median: float
    fastest: float
    low: float
    high: float
    runs: int


def compare(
    candidates: dict[str, Callable[[], Any]],
    device: str = "cpu",
    runs: int = 20,
    warm_up: int = 3,
    max_seconds: float = 60.0,
    clock: Clock | None = None,
    rest: float = 0.0,
) -> dict[str, Timing]:
    """Time the candidates in turns (a, b, a, b, ...), so that a busy spell of the machine hits all.

    The order changes from round to round. Stops before `runs` rounds, but not before three, when
    `max_seconds` are over. On a GPU the L2 cache is emptied before each run. clock: gives the
    seconds of one run; by default those with the launch. rest: seconds of sleep before each run, in
    which threads of another library that wait for work, and take a core meanwhile, give up.
    """
    for run in candidates.values():
        for _ in range(warm_up):
            run()
    flush = _L2Flush() if device == "cuda" else None
    clock = clock or launched_seconds(device)
    seconds: dict[str, list[float]] = {name: [] for name in candidates}
    names = list(candidates)
    started = time.perf_counter()
    collecting = gc.isenabled()
    gc.disable()
    try:
        for turn in range(runs):
            for name in names[turn % len(names) :] + names[: turn % len(names)]:
                if flush:
                    flush()
                time.sleep(rest)
                seconds[name].append(clock(candidates[name]))
            if turn >= 2 and time.perf_counter() - started > max_seconds:
                break
    finally:
        if collecting:
            gc.enable()
    return {name: _summary(values) for name, values in seconds.items()}


def time_cpu(run: Callable[[], Any], repeats: int = 7, warm_up: int = 1) -> dict[str, Any]:
    """The Timing of one candidate on the CPU, as a dict ready for JSON."""
    return asdict(compare({"": run}, "cpu", repeats, warm_up, max_seconds=float("inf"))[""])


def _summary(values: list[float]) -> Timing:
    ordered = sorted(values)
    last = len(ordered) - 1
    return Timing(
        statistics.median(ordered),
        ordered[0],
        ordered[round(0.1 * last)],
        ordered[round(0.9 * last)],
        len(ordered),
    )


def _cpu_seconds(run: Callable[[], Any]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def _cuda_seconds(run: Callable[[], Any]) -> float:
    start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize()
    start.record()
    run()
    end.record()
    end.synchronize()
    return start.elapsed_time(end) / 1000


def launched_seconds(device: str) -> Clock:
    """A clock of one call on an idle device, from before the first launch to the last result."""
    return _cuda_seconds if device == "cuda" else _cpu_seconds


def gpu_seconds(device: str) -> Clock:
    """A clock of the device's own work; on the CPU, where nothing is launched, as the other."""
    return _BehindSleep() if device == "cuda" else _cpu_seconds


class _BehindSleep:
    """Lets the GPU sleep until the host has queued the whole run, which then has no gaps.

    A run that itself waits for the GPU cannot be queued; its time is that with the launches.
    """

    CYCLES = 2e9  # of a second: more than the clock of any GPU today
    LONGEST = 0.05  # seconds

    def __init__(self) -> None:
        self._seconds = 0.0005

    def __call__(self, run: Callable[[], Any]) -> float:
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        while True:
            torch.cuda.synchronize()
            torch.cuda._sleep(int(self._seconds * self.CYCLES))
            start.record()
            run()
            end.record()
            slept_long_enough = not start.query()
            end.synchronize()
            if slept_long_enough or self._seconds >= self.LONGEST:
                return start.elapsed_time(end) / 1000
            self._seconds *= 2


class _L2Flush:
    """Writes a buffer larger than the GPU's L2 cache."""

    def __init__(self) -> None:
        size = torch.cuda.get_device_properties(0).L2_cache_size
        self._buffer = torch.empty(max(2 * size, 1), dtype=torch.uint8, device="cuda")

    def __call__(self) -> None:
        self._buffer.zero_()


def peak_memory(run: Callable[[], Any], device: str = "cpu") -> int:
    """Bytes at the highest point while run() runs, above what was in use before.

    GPU: by torch's allocator. CPU: resident memory of this process, by the kernel's own high-water
    mark where it may be reset, else sampled every millisecond. Memory that the process had freed
    but kept may be used again unseen: for exact numbers measure the first thing a process does.
    """
    gc.collect()
    if device == "cuda":
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        run()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before
    before = _status_bytes("VmRSS")
    if _reset_high_water_mark():
        run()
        return max(0, _status_bytes("VmHWM") - before)
    with _Sampler() as sampler:
        run()
    return max(0, sampler.peak - before)


def process_peak() -> int:
    """Bytes of this process's highest resident memory so far (since the last reset)."""
    return _status_bytes("VmHWM")


def _status_bytes(field: str) -> int:
    found = re.search(rf"^{field}:\s+(\d+) kB", Path("/proc/self/status").read_text(), re.MULTILINE)
    if found is None:
        raise RuntimeError(f"/proc/self/status has no {field}: this needs Linux")
    return int(found[1]) * 1024


def _reset_high_water_mark() -> bool:
    try:
        Path("/proc/self/clear_refs").write_text("5")
    except OSError:
        return False
    # Some sandboxes accept the write and change nothing.
    return _status_bytes("VmHWM") <= _status_bytes("VmRSS") + (1 << 20)


class _Sampler:
    def __enter__(self) -> _Sampler:
        self.peak = _status_bytes("VmRSS")
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def _watch(self) -> None:
        while not self._done.wait(0.001):
            self.peak = max(self.peak, _status_bytes("VmRSS"))

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.peak = max(self.peak, _status_bytes("VmRSS"))


def check_agreement(name: str, ours: torch.Tensor, theirs: torch.Tensor, limit: float) -> float:
    """Return |ours - theirs| / |theirs|; SystemExit where it is over `limit`."""
    theirs = theirs.to(ours.device, torch.float64)
    difference = (ours.double() - theirs).norm() / theirs.norm().clamp_min(1e-30)
    if not difference <= limit:
        raise SystemExit(f"{name}: relative difference {difference:.2e} is over {limit:.0e}")
    return float(difference)


def machine() -> dict[str, Any]:
    """What a number depends on: processor, cores, threads, GPU, versions, commit."""
    cpu = re.search(r"^model name\s*:\s*(.+)$", _read("/proc/cpuinfo"), re.MULTILINE)
    memory = re.search(r"^MemTotal:\s+(\d+) kB", _read("/proc/meminfo"), re.MULTILINE)
    described = {
        "cpu": cpu[1] if cpu else platform.processor() or platform.machine(),
        "cores": len(os.sched_getaffinity(0)),
        "threads": torch.get_num_threads(),
        "memory_gib": round(int(memory[1]) / 2**20, 1) if memory else None,
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }
    if torch.cuda.is_available():
        gpu = torch.cuda.get_device_properties(0)
        described |= {
            "gpu": gpu.name,
            "cuda": torch.version.cuda,
            "gpu_multiprocessors": gpu.multi_processor_count,
        }
    return described


def _read(path: str) -> str:
    try:
        return Path(path).read_text()
    except OSError:
        return ""


@functools.cache
def _commit() -> str | None:
    root = Path(__file__).resolve().parent.parent

    def git(*args: str) -> str | None:
        try:
            result = subprocess.run(["git", "-C", str(root), *args], capture_output=True, text=True)
        except OSError:
            return None
        return result.stdout.strip() if result.returncode == 0 else None

    commit = git("rev-parse", "--short=12", "HEAD")
    # Results are written into the tree themselves; they make no other program of it.
    changed = git("status", "--porcelain", "--", ".", ":!benchmarks/results")
    return f"{commit}, with changes" if commit and changed else commit


def machine_name() -> str:
    """A folder name: the GPU, or the processor and its number of cores."""
    about = machine()
    text = about.get("gpu") or f"{about['cpu']} {about['cores']} cores"
    return re.sub(r"[^a-z0-9]+", "-", re.sub(r"\((r|tm)\)", "", text.lower())).strip("-")


def arguments(description: str | None, several_threads: bool = False) -> argparse.ArgumentParser:
    """The options that every benchmark has.

    several_threads: --threads takes several numbers, one after another in the same run.
    """
    form = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=description, formatter_class=form)
    parser.add_argument("--json", type=Path, help="default: results/<machine>/<name>.json")
    parser.add_argument(
        "--threads",
        type=_threads,
        nargs="+" if several_threads else None,
        metavar="N",
        help="CPU threads" if several_threads else "CPU threads (default: torch's own choice)",
    )
    parser.add_argument("--runs", type=int, default=20, help="timed runs of each candidate")
    devices = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]
    parser.add_argument("--device", choices=devices, default=devices[-1])
    return parser


def parse(parser: argparse.ArgumentParser) -> argparse.Namespace:
    options = parser.parse_args()
    if isinstance(options.threads, int):
        torch.set_num_threads(options.threads)
    return options


def one_and_two() -> list[int]:
    """The numbers of threads that the goals are for, as far as there are cores."""
    return [1, 2] if len(os.sched_getaffinity(0)) > 1 else [1]


def thread_count(threads: int) -> str:
    """As "1 thread", "2 threads"."""
    return f"{threads} thread{'s' * (threads > 1)}"


def why_not(module: str) -> str:
    """Why a peer's module cannot be imported, in one line; "" where it can."""
    try:
        importlib.import_module(module)
    except Exception as error:  # a build for another Python raises what it likes
        return f"{type(error).__name__}: {str(error).splitlines()[0]}"
    return ""


def refuse(message: str) -> NoReturn:
    """End the program for input that it cannot take: one line, exit code 2."""
    print(f"{Path(sys.argv[0]).name}: {message}", file=sys.stderr)
    raise SystemExit(2)


def _threads(text: str) -> int:
    if not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a number of threads from 1 on, got {text!r}")
    return int(text)


def write_json(
    path: Path | None, name: str, results: list[dict[str, Any]], variant: str = ""
) -> Path:
    """Write {name, machine, command, results} as JSON, whole or not at all; returns the path.

    path: None = results/<machine>/<name><variant>.json beside this file.
    """
    path = path or RESULTS / machine_name() / f"{name}{variant}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    command = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *_without_json(sys.argv)])
    content = {"name": name, "machine": machine(), "command": command, "results": results}
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.write_text(json.dumps(content, indent=2, default=_plain) + "\n")
    os.replace(temporary, path)
    return path


def _without_json(argv: list[str]) -> list[str]:
    """The arguments but --json, a path that only this machine has."""
    kept, skip = [], False
    for argument in argv[1:]:
        if not skip and argument != "--json" and not argument.startswith("--json="):
            kept.append(argument)
        skip = argument == "--json"
    return kept


def _plain(value: Any) -> Any:
    if isinstance(value, Timing):
        return asdict(value)
    raise TypeError(f"cannot write {type(value).__name__} as JSON")


def show(row: str, timings: dict[str, Timing], note: Callable[[Timing], str] | None = None) -> None:
    """One line: each candidate's median and 10-90 % range in ms, and a note such as GB/s."""
    parts = []
    for name, t in timings.items():
        text = f"{name} {t.median * 1e3:.3f} ms ({t.low * 1e3:.3f}-{t.high * 1e3:.3f})"
        parts.append(f"{text} {note(t)}" if note else text)
    print(f"{row}: " + " | ".join(parts), flush=True)
