"""How long `deeplab-repro evaluate` takes on as many label maps as VOC's val set has.

python benchmarks/evaluate.py [--pictures 1449] [--runs N] [--threads N] [--json FILE]

Makes label maps of 500x375 with objects, void borders and predictions that differ, as palette PNGs,
and times the whole command in a process of its own, start and reading included: with and without
the trimap. The confusion matrix is held against one counted pixel by pixel in another way, and the
trimap against dilation with squares, on some of the pictures.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from _timing import arguments, parse, write_json

from deeplab_repro.data import read_label
from deeplab_repro.evaluation import Trimap
from deeplab_repro.pictures.palette import write_label_png

CLASSES = 21
VOID = 255
_EVALUATE = "import sys; from deeplab_repro.cli import main; sys.exit(main())"


def make_set(folder: Path, pictures: int) -> None:
    """labels/NAME.png and predictions/NAME.png."""
    random = np.random.default_rng(0)
    for kind in ("labels", "predictions"):
        (folder / kind).mkdir()
    for number in range(pictures):
        label, prediction = draw(random, (375, 500) if number % 4 else (500, 375))
        write_label_png(folder / "labels" / f"{number:06d}.png", label)
        write_label_png(folder / "predictions" / f"{number:06d}.png", prediction)


def draw(random: np.random.Generator, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """A label with void borders of five pixels, as VOC's, and a prediction that is a bit off."""
    label, prediction = np.zeros((2, *size), np.uint8)
    for _ in range(int(random.integers(1, 5))):
        kind = int(random.integers(1, CLASSES))
        angles = np.linspace(0, 2 * np.pi, 60, endpoint=False)
        radius = random.uniform(20, 130) * (1 + 0.2 * np.sin(angles * random.integers(2, 7)))
        centre = random.uniform(0, 1, 2) * size[::-1]
        outline = np.stack([np.cos(angles), np.sin(angles)], 1) * radius[:, None] + centre
        cv2.fillPoly(label, [outline.astype(np.int32)], kind)
        cv2.polylines(label, [outline.astype(np.int32)], True, VOID, 5)
        moved = outline + random.normal(0, 4, outline.shape)
        guess = kind if random.random() < 0.9 else int(random.integers(0, CLASSES))
        cv2.fillPoly(prediction, [moved.astype(np.int32)], guess)
    return label, prediction


def counted_otherwise(folder: Path, some: int) -> np.ndarray:
    """The confusion matrix, pixel by pixel; `some` pictures show that the trimap is dilation."""
    matrix = np.zeros((CLASSES, CLASSES), np.int64)
    names = sorted(file.stem for file in (folder / "labels").iterdir())
    trimap, dilated = Trimap(CLASSES, (1, 7, 40)), np.zeros((3, CLASSES, CLASSES), np.int64)
    for number, name in enumerate(names):
        label = read_label(folder / "labels" / f"{name}.png")
        prediction = read_label(folder / "predictions" / f"{name}.png")
        counted = label != VOID
        np.add.at(matrix, (label[counted], prediction[counted]), 1)
        if number < some:
            trimap.add(prediction, label)
            void = (~counted).astype(np.uint8)
            for i, width in enumerate(trimap.widths):
                square = np.ones((2 * width + 1, 2 * width + 1), np.uint8)
                band = counted & cv2.dilate(void, square).astype(bool)
                np.add.at(dilated[i], (label[band], prediction[band]), 1)
    if not np.array_equal(dilated, trimap.matrices):
        raise SystemExit("the trimap is not that of dilated void pixels")
    return matrix


def seconds_of(folder: Path, *options: str) -> tuple[float, float, dict[str, Any]]:
    """Wall-clock seconds of the command, those of all its threads' work, and its report."""
    report = folder / "report.json"
    command = ["evaluate", "--predictions", str(folder / "predictions")]
    command += ["--labels", str(folder / "labels"), "--json", str(report), *options]
    start, before = time.perf_counter(), resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, "-c", _EVALUATE, *command], check=True, stdout=subprocess.DEVNULL
    )
    seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    worked = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return seconds, worked, json.loads(report.read_text())


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=1449, help="default: as in VOC's val set")
    parser.set_defaults(runs=3)
    options = parse(parser)
    workers = [] if options.threads is None else ["--workers", str(options.threads)]
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_set(folder, options.pictures)
        matrix = counted_otherwise(folder, some=20)
        for what, flag in (("with trimap", "--trimap"), ("without trimap", "--no-trimap")):
            runs = [seconds_of(folder, flag, *workers) for _ in range(options.runs)]
            seconds = sorted(run[0] for run in runs)
            if any(run[2]["confusion_matrix"] != matrix.tolist() for run in runs):
                raise SystemExit("the confusion matrix is not that of the pixels")
            results.append(
                {
                    "case": what,
                    "pictures": options.pictures,
                    "workers": options.threads,
                    "seconds": seconds[len(seconds) // 2],
                    "all_seconds": seconds,
                    "cpu_seconds": sorted(run[1] for run in runs)[len(runs) // 2],
                    "pixels_that_agree": int(matrix.sum()),
                }
            )
            print(f"{what}: {results[-1]['seconds']:.1f} s", flush=True)
    print(write_json(options.json, "evaluate", results))


if __name__ == "__main__":
    main()
