"""The dense CRF beside pydensecrf and SimpleCRF: time, memory, bytes.

python benchmarks/crf_vs_peers.py [--cases A B ...] [--device cpu|cuda] [--runs N] [--json FILE]

Cases A to F are those that the peers were measured with on another machine of this kind; where a
peer is not installed those figures stand in, marked as stored. Pictures come from tests/data/crf:
coffee at 500x375, astronaut at 321x321; C and D are enlarged from these, so that they have fewer
lattice vertices than the originals at that size. T is noise with a fixed seed, with more vertices
than pixels. Energies are smooth random ones. A total is the whole call: lattices, 10 iterations and
labels.
"""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import torch
from _plots import STORED, draw
from _timing import (
    Timing,
    arguments,
    compare,
    parse,
    peak_memory,
    show,
    write_json,
)
from torch import Tensor

from deeplab_repro.crf import CRFParams, dense_crf
from deeplab_repro.crf.features import bilateral_features, spatial_features
from deeplab_repro.ops import permutohedral_build, reference

DATA = Path(__file__).resolve().parent.parent / "tests" / "data" / "crf"
ITERATIONS = 10
GPU_BATCHES = (1, 2, 4, 8, 16, 32)
MB = 1e6


class Stored(NamedTuple):
    """What a peer took, recorded once: ms, and MB over what the process held before."""

    build: float
    iteration: float
    total: float
    memory: float | None


@dataclass(frozen=True)
class Case:
    """A picture size, its parameters, and what the peers took."""

    picture: str  # file in tests/data/crf, or "noise"
    width: int
    height: int
    labels: int
    params: CRFParams
    stored: dict[str, Stored]


def _params(bi_xy_std: float, bi_rgb_std: float, pos_xy_std: float = 3) -> CRFParams:
    return CRFParams(ITERATIONS, 3, pos_xy_std, 4, bi_xy_std, bi_rgb_std)


def _peers(pydensecrf: Stored, simple: Stored | None, program: Stored) -> dict[str, Stored]:
    found = {"pydensecrf": pydensecrf, "SimpleCRF": simple, "densecrf 2011 -O2": program}
    return {name: value for name, value in found.items() if value}


COFFEE, ASTRONAUT = "dl_g_500x375_c21", "dl_f_321x321_c21"
CASES = {
    "A": Case(COFFEE, 500, 375, 21, _params(49, 5), _peers(
        Stored(135, 80.4, 964, 114), Stored(161, 65.6, 816, 49), Stored(108, 98.0, 1166, None))),
    "B": Case(ASTRONAUT, 321, 321, 21, _params(49, 5), _peers(
        Stored(68, 39.3, 473, 69), Stored(139, 51.7, 656, 32), Stored(82, 65.3, 783, None))),
    "C": Case(COFFEE, 1000, 750, 21, _params(49, 5), _peers(
        Stored(572, 325.7, 3920, 420), Stored(806, 266.6, 3472, 170),
        Stored(526, 328.1, 4048, None))),
    "D": Case(ASTRONAUT, 512, 512, 2, _params(49, 5), _peers(
        Stored(219, 36.9, 590, 54), Stored(193, 31.4, 515, 47), Stored(223, 31.7, 550, None))),
    "E": Case(COFFEE, 500, 375, 21, _params(121, 13), _peers(
        Stored(64, 53.5, 617, 97), Stored(165, 45.2, 586, 34), Stored(74, 71.3, 898, None))),
    "F": Case(COFFEE, 500, 375, 21, _params(67, 3, 1), _peers(
        Stored(222, 120.8, 1448, 149), Stored(266, 88.2, 1155, 86),
        Stored(235, 133.8, 1647, None))),
    "T": Case("noise", 500, 375, 21, _params(49, 5), {}),
}  # fmt: skip


class Problem(NamedTuple):
    """Inputs of one case."""

    unary: Tensor  # (N, C, H, W) float32
    image: Tensor  # (N, 3, H, W) uint8
    params: CRFParams


def problem(case: Case, batch: int, device: str = "cpu") -> Problem:
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
    coarse = torch.from_numpy(random.normal(0, 4, (batch, case.labels, 12, 16)).astype(np.float32))
    unary = torch.nn.functional.interpolate(coarse, size[::-1], mode="bicubic")
    image = image.expand(batch, -1, -1, -1).contiguous()
    return Problem(unary.contiguous().to(device), image.to(device), case.params)


def features(given: Problem) -> list[Tensor]:
    """(N, points, d) of the spatial and the bilateral kernel."""
    height, width = given.unary.shape[2:]
    p = given.params
    spatial = spatial_features(height, width, p.pos_xy_std, like=given.unary)
    bilateral = bilateral_features(given.image, p.bi_xy_std, p.bi_rgb_std, dtype=given.unary.dtype)
    return [spatial.flatten(1).t()[None].contiguous(), bilateral.flatten(2).mT.contiguous()]


def ours(given: Problem, threads: int | None = None, iterations: int = ITERATIONS) -> Tensor:
    """The whole call."""
    if threads:
        torch.set_num_threads(threads)
    p = given.params
    if iterations != ITERATIONS:
        p = CRFParams(iterations, p.pos_w, p.pos_xy_std, p.bi_w, p.bi_xy_std, p.bi_rgb_std)
    with torch.inference_mode():
        return dense_crf(given.unary, given.image, p, output="labels")


def build(given: Problem, threads: int | None = None) -> None:
    """Both lattices."""
    if threads:
        torch.set_num_threads(threads)
    for points in features(given):
        permutohedral_build(points)


def with_pydensecrf(given: Problem, normalization: str, marginals: bool = False) -> np.ndarray:
    """The same problem by pydensecrf: (H, W) labels, or (C, H, W) marginals."""
    import pydensecrf.densecrf as dcrf

    _, labels, height, width = given.unary.shape
    p = given.params
    crf = dcrf.DenseCRF2D(width, height, labels)
    crf.setUnaryEnergy(given.unary[0].reshape(labels, -1).numpy())
    options = {"normalization": getattr(dcrf, normalization)}
    crf.addPairwiseGaussian(sxy=p.pos_xy_std, compat=p.pos_w, **options)
    rgb = np.ascontiguousarray(given.image[0].permute(1, 2, 0).numpy())
    crf.addPairwiseBilateral(
        sxy=p.bi_xy_std, srgb=p.bi_rgb_std, rgbim=rgb, compat=p.bi_w, **options
    )
    q = np.array(crf.inference(p.iterations))
    return q.reshape(labels, height, width) if marginals else q.argmax(0).reshape(height, width)


def with_simplecrf(given: Problem) -> np.ndarray:
    """The same problem by SimpleCRF, which takes probabilities: (H, W) labels."""
    import denseCRF

    p = given.params
    rgb = np.ascontiguousarray(given.image[0].permute(1, 2, 0).numpy())
    probabilities = (-given.unary[0]).softmax(0).permute(1, 2, 0).contiguous().numpy()
    settings = (p.bi_w, p.bi_xy_std, p.bi_rgb_std, p.pos_w, p.pos_xy_std, float(p.iterations))
    return np.asarray(denseCRF.densecrf(rgb, probabilities, settings))


def check(name: str, case: Case, device: str) -> dict[str, float]:
    """Mean difference of marginals to the torch reference, and to pydensecrf; or SystemExit."""
    whole = problem(case, 1, device)
    part = Problem(whole.unary[..., :120, :160], whole.image[..., :120, :160], whole.params)
    q = dense_crf(*part)
    kernels = [reference.permutohedral_build(points) for points in features(part)]
    weights = part.unary.new_tensor(part.params.weights)
    shared = ([None] * 2, ["after"] * 2)
    expected = reference.mean_field(part.unary.flatten(2), kernels, weights, *shared)
    found = {"reference": float((q.flatten(2) - expected).abs().mean())}
    if device == "cpu" and importlib.util.find_spec("pydensecrf"):
        theirs = with_pydensecrf(whole, "NORMALIZE_AFTER", marginals=True)
        found["pydensecrf"] = float(np.abs(dense_crf(*whole)[0].numpy() - theirs).mean())
    for other, difference in found.items():
        if not difference < 1e-5:
            raise SystemExit(f"{name}: marginals differ from {other}'s by {difference:.1e}")
    return found


def traffic(given: Problem, vertices: list[int]) -> dict[str, float]:
    """Bytes of one iteration: from memory at the least, and rows that the cores load and store."""
    batch, labels, height, width = given.unary.shape
    points, row = batch * height * width, 4 * (labels if labels <= 4 else -(-labels // 8) * 8)
    compulsory, rows = 3.0 * points * labels * 4, 0.0
    for d, count in zip((2, 5), vertices, strict=True):
        compulsory += 16 * points * (d + 1) + (2 + 2 * (d + 1)) * count * row + 8 * count * (d + 1)
        rows += 3 * points * (d + 1) * row + 4 * count * (d + 1) * row
    return {"compulsory": compulsory, "rows": rows}


def copy_bandwidth(threads: int) -> float:
    """GB/s of a copy that no cache holds, read and written bytes together."""
    torch.set_num_threads(threads)
    source = torch.zeros(1 << 26)
    target = torch.empty_like(source)
    timing = compare({"copy": lambda: target.copy_(source)}, runs=7, warm_up=1)["copy"]
    return 2 * source.numel() * 4 / timing.median / 1e9


def on_cpu(
    name: str, case: Case, batch: int, runs: int, bandwidth: dict[int, float]
) -> dict[str, Any]:
    """One row: with 1 and 2 threads, and at batch 1 beside the peers."""
    agreement = check(name, case, "cpu")
    given = problem(case, batch)
    candidates: dict[str, Callable[[], Any]] = {}
    for t in (1, 2):
        candidates[f"ours, {t} threads"] = partial(ours, given, t)
        candidates[f"no iterations, {t} threads"] = partial(ours, given, t, 0)
        candidates[f"build, {t} threads"] = partial(build, given, t)
    if batch == 1 and importlib.util.find_spec("pydensecrf"):
        candidates["pydensecrf"] = partial(with_pydensecrf, given, "NORMALIZE_SYMMETRIC")
    if batch == 1 and importlib.util.find_spec("denseCRF"):
        candidates["SimpleCRF"] = partial(with_simplecrf, given)
    timings = compare(candidates, "cpu", max(3, runs // batch), 1)
    totals = {k: t for k, t in timings.items() if "iterations" not in k and "build" not in k}
    show(f"{name} batch {batch}", totals)
    whole, start = (
        {t: timings[f"{what}, {t} threads"].median for t in (1, 2)}
        for what in ("ours", "no iterations")
    )
    per_iteration = {t: (whole[t] - start[t]) / ITERATIONS for t in (1, 2)}
    vertices = [permutohedral_build(points).neighbours.shape[1] for points in features(given)]
    # The spatial lattice is that of one picture, read once for each.
    moved = traffic(given, [vertices[0] * batch, vertices[1]])
    return {
        "case": name,
        "device": "cpu",
        "batch": batch,
        "size": [case.width, case.height],
        "labels": case.labels,
        "vertices": vertices,
        "mean_difference": agreement,
        "seconds": timings,
        "build_ms": {t: 1e3 * timings[f"build, {t} threads"].median for t in (1, 2)},
        "per_iteration_ms": {t: 1e3 * s for t, s in per_iteration.items()},
        "bytes_per_iteration": moved,
        "share_of_copy_bandwidth": {
            t: moved["compulsory"] / s / 1e9 / bandwidth[t] for t, s in per_iteration.items()
        },
        "memory_mb": memory_in_fresh_process(name, batch),
        "times_faster": faster(case, timings) if batch == 1 else {},
    }


def faster(case: Case, timings: dict[str, Timing]) -> dict[str, dict[str, float]]:
    """Peer -> how many times longer it takes than ours with 1 and with 2 threads."""
    theirs = {f"{peer} {STORED}": figures.total / 1e3 for peer, figures in case.stored.items()}
    for peer in ("pydensecrf", "SimpleCRF"):
        if peer in timings:
            theirs.pop(f"{peer} {STORED}", None)
            theirs[peer] = timings[peer].median
    return {
        peer: {t: seconds / timings[f"ours, {t} threads"].median for t in (1, 2)}
        for peer, seconds in theirs.items()
    }


def memory_in_fresh_process(name: str, batch: int) -> float:
    """MB that one call takes over what the process held before, inputs included."""
    command = [sys.executable, __file__, "--memory", name, "--batch", str(batch)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(done.stdout.split()[-1])


def on_gpu(name: str, case: Case, runs: int) -> list[dict[str, Any]]:
    """Pictures per second over the batch size."""
    agreement = check(name, case, "cuda")
    found = []
    for batch in GPU_BATCHES:
        given = problem(case, batch, "cuda")
        timing = compare({"ours": lambda given=given: ours(given)}, "cuda", runs)["ours"]
        show(f"{name} batch {batch}", {"ours": timing})
        found.append(
            {
                "case": name,
                "device": "cuda",
                "batch": batch,
                "mean_difference": agreement,
                "seconds": {"ours": timing},
                "ms_per_picture": 1e3 * timing.median / batch,
                "pictures_per_second": batch / timing.median,
                "memory_mb": peak_memory(lambda given=given: ours(given), "cuda") / MB,
            }
        )
    return found


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--cases", nargs="+", choices=CASES, default=list(CASES))
    parser.add_argument("--memory", choices=CASES, help="only the memory of one call, in MB")
    parser.add_argument("--batch", type=int, default=1, help="with --memory")
    options = parse(parser)
    if options.memory:
        tiny = Problem(torch.zeros(1, 2, 4, 4), torch.zeros(1, 3, 4, 4), CRFParams())
        ours(tiny)  # loads the library
        given = problem(CASES[options.memory], options.batch)
        print(peak_memory(lambda: ours(given)) / MB)
        return
    results: list[dict[str, Any]] = []
    if options.device == "cuda":
        for name in options.cases:
            results += on_gpu(name, CASES[name], options.runs)
    else:
        bandwidth = {threads: copy_bandwidth(threads) for threads in (1, 2)}
        print(json.dumps({"copy_gb_per_s": bandwidth}))
        for name in options.cases:
            for batch in (1, 8):
                results.append(on_cpu(name, CASES[name], batch, options.runs, bandwidth))
    path = write_json(options.json, "crf_vs_peers", results)
    print(path, *draw(path), sep="\n")


if __name__ == "__main__":
    main()
