"""How long `deeplab-repro crf-search` takes for each setting and picture.

python benchmarks/crf_search.py [--pictures N] [--settings N] [--height N] [--width N] [--threads N]
[--json FILE]

Makes pictures with objects, and scores of 21 labels as of a network that sees every eighth pixel,
and times a search of one round: reading, lattices, mean field and counting. The counts of the best
setting are held against those of `dense_crf`.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
import torch
from _timing import arguments, parse, write_json

from deeplab_repro.crf import dense_crf
from deeplab_repro.data import read_label
from deeplab_repro.data.parallel import cores
from deeplab_repro.evaluation import Confusion
from deeplab_repro.evaluation.crf_search import Grid, ScoredPicture, Search, search_crf
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.pictures.reading import read_picture

CLASSES = 21
WEIGHTS = (3, 4, 5, 6)


def make_picture(folder: Path, name: str, size: tuple[int, int], seed: int) -> ScoredPicture:
    """Objects in colours of their own, with shading and noise, and scores a bit off."""
    random = np.random.default_rng(seed)
    label = np.zeros(size, np.uint8)
    shades = random.integers(40, 215, (CLASSES, 3))
    for _ in range(5):
        centre = random.integers(0, size[::-1], 2).tolist()
        axes = random.integers(min(size) // 12, min(size) // 3, 2).tolist()
        kind = int(random.integers(1, CLASSES))
        cv2.ellipse(label, centre, axes, float(random.uniform(0, 180)), 0, 360, kind, -1)
    light = cv2.resize(random.normal(0, 25, (4, 4)), size[::-1], interpolation=cv2.INTER_CUBIC)
    picture = shades[label] + light[..., None] + random.normal(0, 6, (*size, 3))
    cells = (size[1] // 8 + 1, size[0] // 8 + 1)
    coarse = np.stack([cv2.resize((label == kind) * 8.0, cells) for kind in range(CLASSES)], 2)
    coarse += random.normal(0, 1.2, coarse.shape)
    scores = cv2.resize(coarse, size[::-1]).transpose(2, 0, 1).astype(np.float32)
    files = [folder / f"{name}{ending}" for ending in (".jpg", ".npy", ".png")]
    cv2.imwrite(str(files[0]), np.clip(picture, 0, 255).astype(np.uint8))
    np.save(files[1], scores)
    write_label_png(files[2], label)
    return ScoredPicture(name, *files)


def check(found: Search, pictures: list[ScoredPicture]) -> None:
    """Hold the best setting's matrix against labels of `dense_crf`."""
    confusion = Confusion(CLASSES)
    for item in pictures:
        rgb = read_picture(item.picture)[:, :, ::-1].transpose(2, 0, 1).copy()
        unary = torch.from_numpy(-np.load(item.scores))[None]
        labels = dense_crf(unary, torch.from_numpy(rgb)[None], found.params, output="labels")
        confusion.add(labels[0].numpy(), read_label(item.label))
    if not np.array_equal(confusion.matrix, found.found[found.best].matrix):
        raise SystemExit("the search counts other labels than those of dense_crf")


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=50)
    parser.add_argument("--settings", type=int, default=60, help="a multiple of 4")
    parser.add_argument("--height", type=int, default=161, help="of a picture")
    parser.add_argument("--width", type=int, default=161)
    options = parse(parser)
    pairs = options.settings // len(WEIGHTS)
    grid = Grid(WEIGHTS, tuple(np.linspace(30, 100, -(-pairs // 3))), (3, 4, 5)[: min(3, pairs)])
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        size = (options.height, options.width)
        pictures = [make_picture(folder, f"{i:04d}", size, i) for i in range(options.pictures)]
        start, worked = time.perf_counter(), time.process_time()
        found = search_crf(pictures, folder / "search", grid, rounds=1, workers=options.threads)
        seconds, worked = time.perf_counter() - start, time.process_time() - worked
        check(found, pictures)
    count = len(found.found) * len(pictures)
    result = {
        "case": f"{len(found.found)} settings, {len(pictures)} pictures of {size[0]}x{size[1]}",
        "workers": options.threads or cores(),
        "seconds": seconds,
        "cpu_seconds_per_setting_and_picture": worked / count,
        "mean_iou_before": found.before.mean_iou,
        "mean_iou_best": found.found[found.best].mean_iou,
    }
    print(
        f"{result['case']}: {seconds:.1f} s, {1000 * worked / count:.0f} ms of a core for each"
        f" setting and picture; mean IoU {100 * found.before.mean_iou:.2f} ->"
        f" {100 * result['mean_iou_best']:.2f}"
    )
    print(write_json(options.json, "crf_search", [result]))


if __name__ == "__main__":
    main()
