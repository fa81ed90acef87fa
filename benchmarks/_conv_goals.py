"""The groups of convolutions whose speed has a goal, and the tables that show both."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from _conv_candidates import CHANNELS_LAST, LIBRARY
from _live import LiveTable, table
from _timing import thread_count
from rich.table import Table

Results = list[dict[str, Any]]


class Group(NamedTuple):
    """Some of the convolutions; the goals are geometric means of the library's time over ours."""

    name: str
    has: Callable[[dict[str, Any]], bool]
    goal: float
    fast_goal: float | None = None


def _wide(*rates: int) -> Callable[[dict[str, Any]], bool]:
    """Those of many filters at the published size, 41 x 41."""
    return lambda r: (
        (r["channels"], r["filters"]) in ((512, 512), (512, 1024))
        and r["size"] == 41
        and r["rate"] in rates
    )


GROUPS = (
    Group("all", lambda r: True, 1.4, 1.8),
    Group("512 to 512|1024 r1-6", _wide(1, 2, 4, 6), 1.6, 2.2),
    Group("512 to 1024 r12", _wide(12), 1.35, 1.8),
    Group("512 to 1024 r18", _wide(18), 1.35),
    Group("512 to 1024 r24", _wide(24), 1.35),
    Group("2048 to 21", lambda r: (r["channels"], r["filters"]) == (2048, 21), 1.2),
)
#: Of all, where the instruction set of both sides is capped.
CAPPED_GOAL = 1.35


def ratios(result: dict[str, Any]) -> dict[str, float]:
    """How many times as long the library takes, in full float32, as ours and others do."""
    seconds = result["best_seconds"]
    return {name: seconds[LIBRARY] / value for name, value in seconds.items()}


def useful_rate(result: dict[str, Any], name: str) -> float:
    """GFLOP/s, of the multiply-adds inside the map alone."""
    passes = 1 if result["direction"] == "forward" else 2
    flop = 2 * passes * result["batch"] * result["useful_multiply_adds"]
    return float(flop / result["best_seconds"][name] / 1e9)


def means(results: Results, peaks: dict[int, float], capped: bool) -> Results:
    """A row of geometric means for each group, pass, batch and number of threads."""
    rows = []
    keys = dict.fromkeys((r["batch"], r["direction"], r["threads"]) for r in results)
    for key in keys:
        batch, direction, threads = key
        some = [r for r in results if (r["batch"], r["direction"], r["threads"]) == key]
        for group in GROUPS:
            if not (members := [r for r in some if group.has(r)]):
                continue
            row = {
                "group": group.name,
                "batch": batch,
                "direction": direction,
                "threads": threads,
                "cases": len(members),
                "library_over": _mean_of_each([ratios(r) for r in members]),
            }
            if direction == "forward" and batch == 1 and members[0]["device"] == "cpu":
                row["goal"] = CAPPED_GOAL if capped and group.name == "all" else group.goal
                row["fast_goal"] = None if capped else group.fast_goal
            if threads in peaks:
                row["share_of_product_peak"] = _mean_of_each(
                    [
                        {name: useful_rate(r, name) / peaks[threads] for name in r["best_seconds"]}
                        for r in members
                    ]
                )
            rows.append(row)
    return rows


def _mean_of_each(rows: list[dict[str, float]]) -> dict[str, float]:
    """Geometric means, of what all rows have."""
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: math.exp(sum(math.log(r[name]) for r in rows) / len(rows)) for name in names}


class ShapeTable:
    """A row for each shape, and in it the figures of every number of threads.

    The letter behind ours is that of the algorithm that "auto" took in its better memory format.
    """

    def __init__(self, title: str, threads: list[int]):
        headings = ["", "\n\ninside"]
        for count in threads:
            about = thread_count(count).replace(" ", "\n")
            headings += [f"{about}:\ntorch", "\n\nours  ", "\n\nratio", "\n\nfast"]
        self._table = LiveTable(title, headings)

    def __enter__(self) -> ShapeTable:
        self._table.__enter__()
        return self

    def __exit__(self, *problem: object) -> None:
        self._table.__exit__(*problem)

    def add(self, results: Results) -> None:
        """What was measured of one shape, by number of threads."""
        first = results[0]
        name = first["shape"]
        if first["batch"] > 1:
            name += f" x{first['batch']}"
        if first["direction"] == "backward":
            name += " back"
        cells = [name, f"{first['useful_multiply_adds'] / first['multiply_adds']:.0%}"]
        for r in results:
            best, over = r["best_seconds"], ratios(r)
            cells += [f"{best[LIBRARY] * 1e3:.1f}", f"{best['auto'] * 1e3:.1f} {_taken(r)}"]
            cells += [f"{over['auto']:.2f}", _number(over.get("auto fast"))]
        self._table.add(*cells)


def _taken(result: dict[str, Any]) -> str:
    """The first letter of each algorithm that "auto" took, in the format that it was faster in."""
    seconds = {name: timing.median for name, timing in result["seconds"].items()}
    last = seconds.get("auto" + CHANNELS_LAST, math.inf) < seconds["auto"]
    taken = result["auto_takes"].items()
    return "".join(algorithm[0] for way, algorithm in taken if way.endswith(CHANNELS_LAST) == last)


def means_tables(rows: Results) -> Iterator[Table]:
    """One table for each pass and batch: the means, the goals beside them, and the share of peak.

    A share is of the plain product's speed, and counts what is inside the map; minimal filtering
    multiplies less than that, so it may pass 100 %.
    """
    for direction, batch in dict.fromkeys((row["direction"], row["batch"]) for row in rows):
        some = [r for r in rows if (r["direction"], r["batch"]) == (direction, batch)]
        others = [name for name in ("direct fp32", "winograd") if name in some[0]["library_over"]]
        headings = ["", "threads", "auto", "goal", "fast", "goal"]
        headings += [name.removesuffix(" fp32") for name in others]
        title = f"Geometric means of torch's time over ours, {direction}, batch {batch}"
        found = table(title, [*headings, "of peak\nauto", "\ntorch"])
        for r in some:
            over, share = r["library_over"], r.get("share_of_product_peak", {})
            cells = [r["group"], str(r["threads"]), _number(over.get("auto"))]
            cells += [_number(r.get("goal")), _number(over.get("auto fast"))]
            cells += [_number(r.get("fast_goal"))]
            cells += [_number(over.get(name)) for name in others]
            cells += [_percent(share.get("auto")), _percent(share.get(LIBRARY))]
            found.add_row(*cells)
        yield found


def all_means(row: dict[str, Any]) -> str:
    """Every candidate of a group, in a line."""
    about = f"{row['direction']}, batch {row['batch']}, {thread_count(row['threads'])}"
    values = ", ".join(f"{name} {ratio:.2f}" for name, ratio in row["library_over"].items())
    return f"torch's time over others', {about}: {values}"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def _percent(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
