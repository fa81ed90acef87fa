"""Spoilt files of every kind: are all read or refused, how fast, and in how much memory?

    python benchmarks/fuzz.py --cases 20000
    python benchmarks/fuzz.py --cases 10000 --whose tensorflow

Every case is one spoilt file and one reader or command; `tests/fuzz/` makes and runs them, in
processes of their own. Each must end in a result or one clear error within 5 s of processor time
and with no more memory than 4 times the file plus 200 MB. The exit code is 1 if one does not.
"""

from __future__ import annotations

import statistics
import sys
from collections import defaultdict
from pathlib import Path
from typing import Any

from _timing import arguments, parse, write_json

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.fuzz.runner import FACTOR, SECONDS, SLACK, TARGETS, run


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cases", type=int, default=20_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--whose", choices=tuple(TARGETS), default="caffe", help="whose files")
    parser.add_argument("--jobs", type=int, default=2, help="processes at a time")
    options = parse(parser)
    outcomes: dict[tuple[str, str], list[dict[str, Any]]] = defaultdict(list)
    failed = []
    cases = run(options.seed, 0, options.cases - 1, options.jobs, options.whose)
    for done, outcome in enumerate(cases, 1):
        outcomes[outcome["target"], outcome["kind"]].append(outcome)
        if outcome["outcome"] == "failed":
            failed.append(outcome)
            print(f"\n{outcome}", flush=True)
        if done % 100 == 0 or done == options.cases:
            print(f"\r{done} of {options.cases} cases, {len(failed)} failed", end="", flush=True)
    print()
    results = [_summary(*target, cases) for target, cases in sorted(outcomes.items())]
    for row in results:
        print(
            f"{row['reader']:>16} {row['file']:<16} {row['cases']:>6} cases {row['read']:>6} read"
            f" {row['refused']:>6} refused, slowest {row['slowest_seconds']:.2f} s,"
            f" most memory {row['most_memory'] / 1e6:.0f} MB"
        )
    whole = {
        "cases": options.cases,
        "seed": options.seed,
        "limits": {"seconds": SECONDS, "times_the_file": FACTOR, "plus_bytes": SLACK},
        "failed": failed,
    }
    name = "fuzz" if options.whose == "caffe" else f"fuzz_{options.whose}"
    write_json(options.json, name, [whole, *results])
    raise SystemExit(1 if failed else 0)


def _summary(target: str, kind: str, cases: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "reader": target,
        "file": kind,
        "cases": len(cases),
        "read": sum(case["outcome"] == "result" for case in cases),
        "refused": sum(case["outcome"] == "refused" for case in cases),
        "failed": sum(case["outcome"] == "failed" for case in cases),
        "median_seconds": statistics.median(case["seconds"] for case in cases),
        "slowest_seconds": max(case["seconds"] for case in cases),
        "most_memory": max(case["memory"] for case in cases),
    }


if __name__ == "__main__":
    main()
