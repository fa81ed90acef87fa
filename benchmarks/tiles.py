"""What tiles change, and how much memory they need.

python benchmarks/tiles.py [--seams HxW] [--large HxW] [--tile N] [--params NAME...] [--json FILE]

Seams: a picture with scores of 21 labels is refined whole and in tiles, and labels and marginals
that differ are counted. Large: `segment --tile --crf` labels and refines a picture with the bundled
network in a process of its own, whose peak of resident memory is measured.
"""

from __future__ import annotations

import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _timing import arguments, parse, write_json
from crf_search import make_picture

from deeplab_repro.crf import CRFParams
from deeplab_repro.inference.segmentation import refine
from deeplab_repro.inference.tiled import Tiling, refine_tiles
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.score_parts import open_scores

MODEL = Path(__file__).parents[1] / "weights/largefov_v1_w8/weights.caffemodel"


def seams(folder: Path, size: tuple[int, int], side: int, name: str) -> dict[str, Any]:
    """Labels and marginals that tiles change."""
    item = make_picture(folder, "seams", size, seed=3)
    picture, params = read_picture(item.picture), CRFParams.named(name)
    start = time.perf_counter()
    whole = refine(torch.from_numpy(np.load(item.scores)), picture, params).numpy()
    seconds_whole = time.perf_counter() - start
    labels, changed, worst = whole.argmax(0), 0, 0.0
    start, count = time.perf_counter(), 0
    with open_scores(item.scores) as scores:
        for tile, _, q in refine_tiles(scores, picture, params, Tiling(side)):
            changed += int((q.argmax(0) != labels[tile.kept]).sum())
            worst = max(worst, float(np.abs(q - whole[(slice(None), *tile.kept)]).max()))
            count += 1
    return {
        "case": f"seams {name}",
        "size": size,
        "side": side,
        "tiles": count,
        "labels_changed_by_crf": float((labels != np.load(item.scores).argmax(0)).mean()),
        "labels_changed_by_tiles": changed / labels.size,
        "largest_change_of_a_marginal": worst,
        "seconds_whole": seconds_whole,
        "seconds_tiles": time.perf_counter() - start,
    }


def large(folder: Path, size: tuple[int, int], side: int, name: str) -> dict[str, Any]:
    """Peak memory of the command on a large picture."""
    noise = np.random.default_rng(0).integers(0, 256, (size[0] // 90, size[1] // 90, 3), np.uint8)
    cv2.imwrite(str(folder / "large.jpg"), cv2.resize(noise, size[::-1]))
    command = ["segment", str(folder / "large.jpg"), "--model", str(MODEL), "--tile", str(side)]
    command += ["--crf", name, "-o", str(folder / "out")]
    start = time.perf_counter()
    subprocess.run([sys.executable, "-m", "deeplab_repro", *command], check=True)
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    if read_picture(folder / "out" / "labels" / "large.png").shape[:2] != size:
        raise SystemExit("the labels have another size")
    return {
        "case": f"large {name}",
        "size": size,
        "side": side,
        "labels": 21,
        "seconds": seconds,
        "threads": os.environ.get("OMP_NUM_THREADS"),
        "peak_memory_gb": peak / 1e9,
    }


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--seams", default="1000x1500", help="size of the picture; 0 leaves it out")
    parser.add_argument("--large", default="4000x6000", help="likewise")
    parser.add_argument("--tile", type=int, default=1025)
    parser.add_argument("--seams-tile", type=int, default=640)
    parser.add_argument(
        "--params", nargs="+", default=["deeplab_v2_resnet101", "deeplab_largefov", "deeplab"]
    )
    options = parse(parser)
    results = []
    with tempfile.TemporaryDirectory() as name:
        if options.seams != "0":
            height, width = map(int, options.seams.split("x"))
            for params in options.params:
                results.append(seams(Path(name), (height, width), options.seams_tile, params))
                print(results[-1], flush=True)
        if options.large != "0":
            height, width = map(int, options.large.split("x"))
            results.append(large(Path(name), (height, width), options.tile, options.params[0]))
            print(results[-1], flush=True)
    print(write_json(options.json, "tiles", results))


if __name__ == "__main__":
    main()
