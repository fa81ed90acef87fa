"""Which thresholds the rules of "auto" should have, from what was measured.

python benchmarks/tune_rules.py FILE ... [--check]

Reads results of `atrous_vs_cudnn.py --full`, with --isa or without, from any number of machines,
and prints for each instruction set, forward: from how many channels `winograd` pays (of the smaller
of channels and filters), with filters that a layer keeps and with filters that are transformed for
each call, exact and fast; and where `direct` pays among the others, in each memory format. Behind
each stands the geometric mean of the time of that choice over the time of the best algorithm of
each case. --check fails where the rules in deeplab_repro/ops/_atrous_rules.py choose worse than
these thresholds by more than 1 %.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from unittest.mock import patch

import torch
from _conv_candidates import CHANNELS_LAST, LIBRARY
from _timing import refuse

from deeplab_repro.native import backends
from deeplab_repro.ops._atrous_rules import Problem, choose

NEVER = math.inf
MOST_WORSE = 1.01
#: Grids of what `direct` may ask for: least channels, more filters than, less useful than.
CHANNELS, FILTERS, USEFUL = (1, 64, 128, 256, 512), (0, 64), (0.5, 0.6, 0.7, 0.8, 0.9, 1.01)


class Case(NamedTuple):
    """A problem and the seconds of each algorithm for it."""

    isa: str
    problem: Problem
    seconds: dict[str, float]

    @property
    def narrowest(self) -> int:
        return min(self.problem.channels, self.problem.filters)


Choice = Callable[[Case], str]


def cases(content: dict[str, Any]) -> Iterator[Case]:
    """Of one file: each result in both memory formats, exact and fast, with filters kept or not."""
    for r in content["results"]:
        if r.get("direction") != "forward" or "seconds" not in r:
            continue
        seconds = {name: timing["median"] for name, timing in r["seconds"].items()}
        for last, fast, kept in itertools.product((False, True), repeat=3):
            suffix = CHANNELS_LAST * last
            names = {
                "library": LIBRARY + suffix,
                "direct": "direct fp32" + suffix,
                "winograd": "winograd" + " fast" * fast + " anew" * (not kept) + suffix,
            }
            if all(name in seconds for name in names.values()):
                found = {algorithm: seconds[name] for algorithm, name in names.items()}
                yield Case(r["instruction_set"], problem_of(r, last, fast, kept), found)


def problem_of(r: dict[str, Any], channels_last: bool, fast: bool, kept: bool) -> Problem:
    """As the rules see it."""
    size, pad = (r["size"], r["size"]), (r["rate"], r["rate"])
    return Problem(
        direction="forward",
        device="cpu",
        dtype=torch.float32,
        channels_last=channels_last,
        batch=r["batch"],
        channels=r["channels"],
        filters=r["filters"],
        image_size=size,
        out_size=size,
        kernel_size=(3, 3),
        stride=(1, 1),
        padding=pad,
        rate=pad,
        groups=1,
        kept=kept,
        fast=fast,
    )


def loss(some: Sequence[Case], choice: Choice) -> float:
    """Geometric mean of the chosen algorithm's time over the best one's."""
    logs = [math.log(c.seconds[choice(c)] / min(c.seconds.values())) for c in some]
    return math.exp(math.fsum(logs) / len(logs)) if logs else 1.0


def least_for_winograd(some: Sequence[Case]) -> float:
    """From which smaller number of channels and filters it pays; else the best of the others."""

    def total(least: float) -> float:
        return loss(some, lambda c: "winograd" if c.narrowest >= least else _best_other(c))

    return min([NEVER, *sorted({c.narrowest for c in some}, reverse=True)], key=total)


def _best_other(case: Case) -> str:
    return min(("library", "direct"), key=case.seconds.__getitem__)


class Direct(NamedTuple):
    """It is taken from so many channels on, for more filters than, where less is useful than."""

    channels: float
    filters: int
    useful: float

    def takes(self, problem: Problem) -> bool:
        return (
            problem.channels >= self.channels
            and problem.filters > self.filters
            and problem.useful < self.useful
        )

    def __str__(self) -> str:
        if self.channels == NEVER:
            return "never"
        least = f"channels >= {self.channels:.0f}, filters > {self.filters}"
        return f"{least}, useful < {self.useful:g}" if self.useful <= 1 else least


def when_direct(some: Sequence[Case]) -> Direct:
    """Where it pays, for cases that `winograd` does not take."""
    grid = [Direct(*values) for values in itertools.product(CHANNELS, FILTERS, USEFUL)]
    # The first of equals: what takes it least often.
    grid.sort(key=lambda d: (-d.channels, -d.filters, d.useful))
    return min(
        [Direct(NEVER, 0, 0), *grid],
        key=lambda d: loss(some, lambda c: "direct" if d.takes(c.problem) else "library"),
    )


class Thresholds(NamedTuple):
    """For one instruction set."""

    winograd: dict[tuple[bool, bool], float]  # (fast, kept) -> least channels
    direct: dict[bool, Direct]  # channels last -> where

    def choose(self, case: Case) -> str:
        p = case.problem
        if case.narrowest >= self.winograd[p.fast, p.kept]:
            return "winograd"
        return "direct" if self.direct[p.channels_last].takes(p) else "library"


def fitted(some: Sequence[Case]) -> Thresholds:
    """The best thresholds for these cases, which are of one instruction set."""
    kinds = list(itertools.product((False, True), repeat=2))
    winograd = {
        (fast, kept): least_for_winograd(
            [c for c in some if (c.problem.fast, c.problem.kept) == (fast, kept)]
        )
        for fast, kept in kinds
    }
    others = [c for c in some if c.narrowest < winograd[c.problem.fast, c.problem.kept]]
    direct = {
        last: when_direct([c for c in others if c.problem.channels_last == last])
        for last in (False, True)
    }
    return Thresholds(winograd, direct)


def rules(case: Case) -> str:
    """What the rules in the code choose on a processor of the case's kind."""
    with patch.object(backends, "instruction_set", lambda: case.isa):
        return choose(case.problem)


def report(isa: str, some: Sequence[Case]) -> float:
    """Print the thresholds of one instruction set; returns how much worse the rules choose."""
    found = fitted(some)
    print(f"{isa}, forward, {len(some)} cases; behind each the time over that of the best choice")
    for (fast, kept), least in found.winograd.items():
        kind = [c for c in some if (c.problem.fast, c.problem.kept) == (fast, kept)]
        name = f"winograd {'fast' if fast else 'exact'}, {'kept' if kept else 'not kept'}"
        when = "never" if least == NEVER else f"min(channels, filters) >= {least:.0f}"
        print(f"  {name:<26} {when:<44} {loss(kind, found.choose):.3f}")
    for last, direct in found.direct.items():
        name = f"direct, {'channels last' if last else 'contiguous'}"
        kind = [c for c in some if c.problem.channels_last == last]
        print(f"  {name:<26} {direct!s:<44} {loss(kind, found.choose):.3f}")
    fit, code = loss(some, found.choose), loss(some, rules)
    print(f"  all: {fit:.3f}; the rules in the code {code:.3f}; the library {_library(some):.3f}")
    return code / fit


def _library(some: Sequence[Case]) -> float:
    return loss(some, lambda c: "library")


def read(path: Path) -> list[Case]:
    """The cases of a file; one without any is refused."""
    try:
        found = list(cases(json.loads(path.read_text(encoding="utf-8"))))
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        refuse(f"{path}: expected a result of atrous_vs_cudnn.py --full, got {error!r}")
    if not found:
        refuse(f"{path}: expected a result of atrous_vs_cudnn.py --full, got no case of it")
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("files", type=Path, nargs="+", metavar="FILE")
    parser.add_argument("--check", action="store_true", help="fail where the rules are worse")
    options = parser.parse_args()
    everything = [case for path in options.files for case in read(path)]
    worse = {
        isa: report(isa, [c for c in everything if c.isa == isa])
        for isa in dict.fromkeys(c.isa for c in everything)
    }
    bad = [isa for isa, ratio in worse.items() if ratio > MOST_WORSE]
    if options.check and bad:
        print(f"the rules for {', '.join(bad)} choose worse than the thresholds above")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
