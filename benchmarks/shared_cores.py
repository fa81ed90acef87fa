"""What two threads are worth where other processes want the cores, too.

python benchmarks/shared_cores.py [--busy 0 2 4] [--threads 1 2] [--runs N] [--json FILE]

The dense CRF (500x375, 21 labels, 10 iterations) and one convolution (512 to 512 channels, rate 2,
41x41, in channels-last; ours as a layer in evaluation mode, and torch's), each with one and with
two threads, beside processes that compute all the time. Threads that wait for each other without
giving way make two threads slower there than one. Candidates run in turns; times are medians.
"""

from __future__ import annotations

import argparse
import functools
import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from _conv_candidates import LIBRARY, candidates, passes
from _convolutions import Shape, make
from _crf_problems import whole_call
from _live import LiveTable
from _timing import arguments, compare, machine, one_and_two, parse, thread_count, write_json
from crf_vs_peers import CASES, problem

#: Of the time with two threads over that with one, by busy processes.
GOALS = {2: 0.65, 4: 0.8}
SHAPE, SIZE = "512-512-r2@41", (500, 375)
#: It ends with the process that started it, however that ends.
BUSY = """
import os, sys
while os.getppid() == int(sys.argv[1]):
    for _ in range(1_000_000):
        pass
"""


def work(options: argparse.Namespace) -> dict[str, Callable[[], Any]]:
    """What is timed, by name."""
    shape = Shape.named(options.shape)
    tensors = make(shape, 1, "cpu")
    found: dict[str, Callable[[], Any]] = {}
    for candidate in candidates(shape, "cpu", "forward", full=False):
        if candidate.channels_last and candidate.name in ("auto", LIBRARY):
            name = "convolution" if candidate.name == "auto" else "torch's convolution"
            found[name] = passes(candidate, tensors, "forward")
    width, height = options.size
    given = problem(replace(CASES["A"], width=width, height=height), 1)
    return {"CRF": functools.partial(whole_call, given), **found}


@contextmanager
def busy(count: int) -> Iterator[list[subprocess.Popen]]:
    """As many processes that compute all the time."""
    command = [sys.executable, "-c", BUSY, str(os.getpid())]
    others = [subprocess.Popen(command) for _ in range(count)]
    try:
        yield others
    finally:
        for other in others:
            other.kill()
            other.wait()


def measure(options: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One result for each piece of work and number of busy processes."""
    pieces = work(options)

    def with_threads(run: Callable[[], Any], threads: int) -> None:
        torch.set_num_threads(threads)
        run()

    for others in options.busy:
        with busy(others):
            for name, run in pieces.items():
                timings = compare(
                    {str(t): functools.partial(with_threads, run, t) for t in options.threads},
                    runs=options.runs,
                    warm_up=1,
                    max_seconds=options.max_seconds,
                )
                first = timings[str(options.threads[0])].median
                yield {
                    "work": name,
                    "busy_processes": others,
                    "seconds": timings,
                    "over_fewest_threads": {t: s.median / first for t, s in timings.items()},
                    "goal": GOALS.get(others),
                }


def main() -> None:
    parser = arguments(__doc__, several_threads=True)
    parser.add_argument("--busy", type=int, nargs="+", default=[0, 2, 4], metavar="N")
    parser.add_argument("--shape", default=SHAPE, help="of the convolution")
    parser.add_argument("--size", type=int, nargs=2, default=SIZE, help="of the CRF's picture")
    parser.add_argument("--max-seconds", type=float, default=12.0, help="of a case's timing")
    parser.set_defaults(device="cpu", threads=one_and_two(), runs=15)
    options = parse(parser)
    about = machine()
    title = f"ms beside busy processes, {about['cores']} cores of {about['cpu']}"
    headings = ["", "busy", *(thread_count(t).replace(" ", "\n") for t in options.threads)]
    results = []
    with LiveTable(title, [*headings, "ratio", "goal"], 20) as table:
        for result in measure(options):
            ratio = result["over_fewest_threads"][str(options.threads[-1])]
            table.add(
                result["work"],
                str(result["busy_processes"]),
                *(f"{1e3 * timing.median:.1f}" for timing in result["seconds"].values()),
                f"{ratio:.2f}",
                f"{result['goal']:.2f}" if result["goal"] else "-",
            )
            results.append(result)
    print(write_json(options.json, "shared_cores", results))


if __name__ == "__main__":
    main()
