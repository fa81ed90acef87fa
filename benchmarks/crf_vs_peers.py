"""The dense CRF beside pydensecrf and SimpleCRF: time, memory, bytes.

python benchmarks/crf_vs_peers.py [--threads 1 2] [--cases A B ...] [--full] [--json FILE]

The peers run here and now, in turns with ours; of one that cannot be imported the table says so,
and claims no ratio. A total is the whole call: lattices, 10 iterations and labels. pydensecrf is
asked for the same normalization as ours, which is DeepLab's, and the marginals of both are compared
first. Ours is also timed behind pydensecrf's interface ("drop-in"), without labels. Memory is what
one call takes over what its process held before, in a process of its own.

Pictures come from tests/data/crf: coffee at 500x375, astronaut at 321x321; C and D are enlarged
from these, so that they have fewer lattice vertices than the originals at that size. T is noise
with a fixed seed, with more vertices than pixels. Energies are smooth random ones. --full takes all
cases and batches of eight. On the CPU: a GPU's times are the business of run_on_gpu.sh.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import _capped
import cv2
import numpy as np
import torch
from _crf_peers import PEERS, reason_for_absence, with_pydensecrf
from _crf_problems import (
    ITERATIONS,
    LIMIT,
    Problem,
    corner,
    crf_params,
    energies,
    expected,
    features,
    traffic,
    whole_call,
)
from _live import LiveTable
from _plots import draw
from _timing import (
    Timing,
    arguments,
    compare,
    machine,
    one_and_two,
    parse,
    peak_memory,
    refuse,
    thread_count,
    write_json,
)
from torch import Tensor

from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.ops import permutohedral_build

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "crf"
MB = 1e6
#: Of pydensecrf's time over ours, by number of threads; of our memory over its; of the drop-in's
#: time over that of dense_crf.
GOALS = {"times_faster": {1: 3.5, 2: 6.0}, "memory": 1.0, "drop_in": 1.03}


@dataclass(frozen=True)
class Case:
    """A picture size and the CRF's parameters."""

    picture: str  # file in tests/data/crf, or "noise"
    width: int
    height: int
    labels: int
    params: CRFParams


COFFEE, ASTRONAUT = "dl_g_500x375_c21", "dl_f_321x321_c21"
CASES = {
    "A": Case(COFFEE, 500, 375, 21, crf_params(49, 5)),
    "B": Case(ASTRONAUT, 321, 321, 21, crf_params(49, 5)),
    "C": Case(COFFEE, 1000, 750, 21, crf_params(49, 5)),
    "D": Case(ASTRONAUT, 512, 512, 2, crf_params(49, 5)),
    "E": Case(COFFEE, 500, 375, 21, crf_params(121, 13)),
    "F": Case(COFFEE, 500, 375, 21, crf_params(67, 3, 1)),
    "T": Case("noise", 500, 375, 21, crf_params(49, 5)),
}
#: Those that have goals.
HEADLINES = ("A", "F", "B", "D")


def problem(case: Case, batch: int) -> Problem:
    """The same picture ``batch`` times, each with energies of its own."""
    size = case.width, case.height
    random = np.random.default_rng(0)
    if case.picture == "noise":
        # Smooth shapes under grain: neighbours differ by a few standard deviations of colour.
        shapes = cv2.resize(
            random.uniform(40, 215, (12, 16, 3)), size, interpolation=cv2.INTER_CUBIC
        )
        pixels = np.clip(shapes + random.normal(0, 14, shapes.shape), 0, 255).astype(np.uint8)
    else:
        with np.load(DATA / f"{case.picture}.npz") as file:
            pixels = cv2.imdecode(file["image"], cv2.IMREAD_COLOR)[:, :, ::-1]
        if pixels.shape[1::-1] != size:
            pixels = cv2.resize(pixels, size, interpolation=cv2.INTER_CUBIC)
    image = torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))
    unary = energies(random, batch, case.labels, *size)
    image = image.expand(batch, -1, -1, -1).contiguous()
    return Problem(unary, image, case.params)


def ours(given: Problem, threads: int, iterations: int = ITERATIONS) -> Tensor:
    """The whole call."""
    torch.set_num_threads(threads)
    return whole_call(given._replace(params=replace(given.params, iterations=iterations)))


def build(given: Problem, threads: int) -> None:
    """Both lattices."""
    torch.set_num_threads(threads)
    for points in features(given):
        permutohedral_build(points)


def marginals(given: Problem, threads: int) -> Tensor:
    """Without labels."""
    torch.set_num_threads(threads)
    with torch.inference_mode():
        return dense_crf(*given)


def drop_in(given: Problem, threads: int) -> np.ndarray:
    """The same behind pydensecrf's interface."""
    torch.set_num_threads(threads)
    return with_pydensecrf(given, "deeplab_repro.crf.pydensecrf.densecrf")


def check(name: str, whole: Problem) -> dict[str, float]:
    """Mean difference of marginals to the torch reference, and to pydensecrf; or SystemExit."""
    part = corner(whole)
    found = {"reference": float((dense_crf(*part).flatten(2) - expected(part)).abs().mean())}
    modules = {"drop-in": "deeplab_repro.crf.pydensecrf.densecrf"}
    if not reason_for_absence("pydensecrf"):
        modules["pydensecrf"] = "pydensecrf.densecrf"
    for other, module in modules.items():
        theirs = with_pydensecrf(whole, module)
        found[other] = float(np.abs(dense_crf(*whole)[0].numpy() - theirs).mean())
    for other, difference in found.items():
        if not difference < LIMIT:
            raise SystemExit(f"{name}: marginals differ from {other}'s by {difference:.1e}")
    return found


def copy_bandwidth(threads: int) -> float:
    """GB/s of a copy that no cache holds, read and written bytes together."""
    torch.set_num_threads(threads)
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    timing = compare({"copy": lambda: target.copy_(source)}, runs=7, warm_up=1)["copy"]
    return 2 * source.numel() * 4 / timing.median / 1e9


def measure(
    name: str, case: Case, batch: int, options: argparse.Namespace, bandwidth: dict[int, float]
) -> dict[str, Any]:
    """One row: with each number of threads, and at batch 1 beside the peers."""
    given, threads = problem(case, batch), options.threads
    agreement = check(name, given if batch == 1 else problem(case, 1))
    candidates: dict[str, Callable[[], Any]] = {}
    for t in threads:
        candidates[f"ours, {t} threads"] = partial(ours, given, t)
        candidates[f"no iterations, {t} threads"] = partial(ours, given, t, 0)
        candidates[f"build, {t} threads"] = partial(build, given, t)
        if batch == 1:
            candidates[f"marginals, {t} threads"] = partial(marginals, given, t)
            candidates[f"drop-in, {t} threads"] = partial(drop_in, given, t)
    peers = [p for p in PEERS if batch == 1 and not reason_for_absence(p)]
    candidates |= {peer: partial(PEERS[peer].labels, given) for peer in peers}
    seconds = compare(candidates, "cpu", max(3, options.runs // batch), 1, options.max_seconds)
    whole, start = (
        {t: seconds[f"{what}, {t} threads"].median for t in threads}
        for what in ("ours", "no iterations")
    )
    per_iteration = {t: (whole[t] - start[t]) / ITERATIONS for t in threads}
    vertices = [permutohedral_build(points).neighbours.shape[1] for points in features(given)]
    # The spatial lattice is that of one picture, read once for each.
    moved = traffic(given, [vertices[0] * batch, vertices[1]])
    memory = {
        who: memory_in_fresh_process(name, batch, who, threads[-1]) for who in ("ours", *peers)
    }
    return {
        "case": name,
        "device": "cpu",
        "batch": batch,
        "size": [case.width, case.height],
        "labels": case.labels,
        "vertices": vertices,
        "mean_difference": agreement,
        "seconds": seconds,
        "build_ms": {t: 1e3 * seconds[f"build, {t} threads"].median for t in threads},
        "per_iteration_ms": {t: 1e3 * s for t, s in per_iteration.items()},
        "bytes_per_iteration": moved,
        "share_of_copy_bandwidth": {
            t: moved["compulsory"] / s / 1e9 / bandwidth[t] for t, s in per_iteration.items()
        },
        "memory_mb": memory["ours"],
        "peers_memory_mb": {peer: memory[peer] for peer in peers},
        "times_faster": {
            peer: {t: seconds[peer].median / whole[t] for t in threads} for peer in peers
        },
        "drop_in_over_ours": drop_in_cost(seconds, threads) if batch == 1 else {},
        "missing_peers": {peer: why for peer in PEERS if (why := reason_for_absence(peer))},
    }


def drop_in_cost(seconds: dict[str, Timing], threads: list[int]) -> dict[int, float]:
    """The drop-in's time over that of dense_crf, both without labels."""
    return {
        t: seconds[f"drop-in, {t} threads"].median / seconds[f"marginals, {t} threads"].median
        for t in threads
    }


def memory_in_fresh_process(name: str, batch: int, who: str, threads: int) -> float:
    """MB that one call takes over what the process held before, inputs included."""
    command = [sys.executable, __file__, "--memory", name, "--batch", str(batch), "--of", who]
    command += ["--threads", str(threads)]
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
    return float(done.stdout.split()[-1])


def memory(name: str, batch: int, who: str, threads: int) -> float:
    """The same, in this process, which should be a fresh one."""
    call = partial(ours, threads=threads) if who == "ours" else PEERS[who].labels
    call(Problem(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4).byte(), CRFParams()))  # loads it
    given = problem(CASES[name], batch)
    return peak_memory(lambda: call(given)) / MB


def table(threads: list[int]) -> LiveTable:
    """Its columns; `cells` fills a row."""
    headings = [""]
    for t in threads:
        about = thread_count(t).replace(" ", "\n")
        headings += [f"{about}:\nours", "\n\nratio"]
    headings += ["pyden-\nsecrf", "drop-\nin", "MB", "of its\nMB"]
    if not reason_for_absence("SimpleCRF"):
        headings += [f"ratio to\nSimpleCRF\n{thread_count(t)}" for t in threads]
    about = (
        f"ms of the dense CRF, 10 iterations, and pydensecrf's time over ours, {machine()['cpu']}"
    )
    return LiveTable(about, headings, first_width=22)


def cells(result: dict[str, Any], threads: list[int]) -> list[str]:
    """One row of the table: "-" where nothing was measured."""
    width, height = result["size"]
    p = CASES[result["case"]].params
    about = f"{result['case']} {width}x{height}x{result['labels']} {p.bi_xy_std:g}/{p.bi_rgb_std:g}"
    found = [about if result["batch"] == 1 else f"{about} x{result['batch']}"]
    seconds, over = result["seconds"], result["times_faster"]
    for t in threads:
        ratio = over.get("pydensecrf", {}).get(t)
        found.append(f"{1e3 * seconds[f'ours, {t} threads'].median:.0f}")
        found.append(f"{ratio:.2f}" if ratio else "-")
    cost = result["drop_in_over_ours"].get(threads[0])
    theirs = result["peers_memory_mb"].get("pydensecrf")
    found.append(f"{1e3 * seconds['pydensecrf'].median:.0f}" if "pydensecrf" in seconds else "-")
    found.append(f"{cost - 1:+.1%}" if cost else "-")
    found.append(f"{result['memory_mb']:.0f}")
    found.append(f"{result['memory_mb'] / theirs:.2f}" if theirs else "-")
    if "SimpleCRF" not in result["missing_peers"]:
        found += [f"{r:.2f}" if (r := over.get("SimpleCRF", {}).get(t)) else "-" for t in threads]
    return found


def parsed() -> argparse.Namespace:
    """The options."""
    parser = arguments(__doc__, several_threads=True)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=None)
    parser.add_argument("--full", action="store_true", help="all cases, and batches of eight")
    parser.add_argument("--max-seconds", type=float, default=30.0, help="of a case's timing")
    parser.add_argument("--memory", choices=CASES, help="only the memory of one call, in MB")
    parser.add_argument("--of", choices=("ours", *PEERS), default="ours", help="with --memory")
    parser.add_argument("--batch", type=int, default=1, help="with --memory")
    _capped.add_option(parser)
    parser.set_defaults(device="cpu", runs=7)
    options = parse(parser)
    if options.device != "cpu":
        refuse("the peers run on the CPU; for a GPU: run_on_gpu.sh --stage crf")
    options.threads = options.threads or one_and_two()
    options.cases = options.cases or list(CASES if options.full else HEADLINES)
    return options


def main() -> None:
    options = parsed()
    _capped.obey(options.isa)
    if options.memory:
        print(memory(options.memory, options.batch, options.of, options.threads[-1]))
        return
    results: list[dict[str, Any]] = []
    bandwidth = {threads: copy_bandwidth(threads) for threads in options.threads}
    with table(options.threads) as rows:
        for name in options.cases:
            for batch in (1, 8) if options.full else (1,):
                found = measure(name, CASES[name], batch, options, bandwidth)
                rows.add(*cells(found, options.threads))
                results.append(found)
    goals = ", ".join(f"{goal} on {thread_count(t)}" for t, goal in GOALS["times_faster"].items())
    print(
        f"Goals: pydensecrf's time over ours {goals}; our memory over its {GOALS['memory']};"
        f" the drop-in {GOALS['drop_in'] - 1:+.0%}."
    )
    for peer, why in results[0]["missing_peers"].items():
        print(f"{peer} was not measured: {why}. No ratio is claimed.")
    variant = f"_{options.isa}" if options.isa else ""
    path = write_json(options.json, "crf_vs_peers", results, variant)
    print(path, *draw(path), sep="\n")


if __name__ == "__main__":
    main()
