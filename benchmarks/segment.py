"""How far `segment` of a folder overlaps reading, the network, and the CRF with what is written.

python benchmarks/segment.py [--pictures 4] [--width 1] [--threads 2] [--runs 3] [--json FILE]

LargeFOV of the published width with random weights, padded to 513, with the released CRF, on
pictures of 500 x 375 made from the bundled one; labels and overlays are written. One stage after
the other, picture by picture, and as `Segmenter.stream` does it, in turns; the label files must be
the same. The JSON has the seconds of the stages in the fastest run of each way, and when they ran,
which the picture beside it shows.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from _plots import draw
from _timing import arguments, compare, parse, write_json
from forward import fill
from torch import Tensor

from deeplab_repro import load_caffe
from deeplab_repro.crf import CRFParams
from deeplab_repro.inference.segmentation import Segmenter
from deeplab_repro.models import write_network
from deeplab_repro.pictures.overlay import draw_overlay
from deeplab_repro.pictures.palette import Classes, write_label_png
from deeplab_repro.pictures.reading import read_picture
from prototxt_import import parse_net

BUNDLED = Path(__file__).resolve().parent.parent / "weights" / "largefov_v1_w8" / "picture.png"
NETWORK, CRF = "largefov", "deeplab_largefov"


class TimedSegmenter(Segmenter):
    """Notes when each stage ran."""

    times: list[dict[str, Any]]

    @contextmanager
    def timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.times.append({"stage": stage, "start": start, "end": time.perf_counter()})

    def scores(self, pictures: Sequence[np.ndarray]) -> list[Tensor]:
        with self.timed("network"):
            scores = super().scores(pictures)
            if scores[0].is_cuda:
                torch.cuda.synchronize()
            return scores


class Work:
    """The three stages of `segment` on a folder."""

    def __init__(self, folder: Path, pictures: int, width: int, device: str) -> None:
        net = load_caffe(parse_net(write_network(NETWORK, width=width, input_size=513)))
        fill(net)
        self.segmenter = TimedSegmenter(net.to(device), crf=CRFParams.named(CRF))
        self.classes = Classes.default(21)
        self.paths = [folder / f"{i:03}.jpg" for i in range(pictures)]
        self.out = folder / "out"
        self.out.mkdir()
        picture = cv2.resize(read_picture(BUNDLED), (500, 375), interpolation=cv2.INTER_CUBIC)
        for i, path in enumerate(self.paths):
            cv2.imwrite(str(path), np.roll(picture, 30 * i, 1))

    def read(self, path: Path) -> np.ndarray:
        with self.segmenter.timed("reading"):
            return read_picture(path)

    def finish(self, path: Path, picture: np.ndarray, scores: Tensor) -> None:
        with self.segmenter.timed("CRF and writing"):
            labels = self.segmenter.label(scores, picture).labels
            write_label_png(self.out / f"{path.stem}.png", labels)
            overlay = draw_overlay(picture, labels, self.classes)
            cv2.imwrite(str(self.out / f"{path.stem}_overlay.png"), overlay)

    def one_after_the_other(self) -> None:
        self.segmenter.times = []
        for path in self.paths:
            picture = self.read(path)
            (scores,) = self.segmenter.scores([picture])
            self.finish(path, picture, scores)

    def overlapped(self) -> None:
        self.segmenter.times = []
        for path, result in self.segmenter.stream(self.paths, read=self.read, then=self.finish):
            if isinstance(result, Exception):
                raise SystemExit(f"{path}: {result}")

    def labels(self) -> list[bytes]:
        """What was written last."""
        return [(self.out / f"{path.stem}.png").read_bytes() for path in self.paths]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--pictures", type=int, default=4)
    parser.add_argument("--width", type=int, default=1, help="divides the channels: a quick try")
    parser.set_defaults(runs=3, threads=2)
    options = parse(parser)
    torch.backends.cudnn.allow_tf32 = False
    with tempfile.TemporaryDirectory() as folder:
        work = Work(Path(folder), options.pictures, options.width, options.device)
        ways = {"one after the other": work.one_after_the_other, "overlapped": work.overlapped}
        work.one_after_the_other()  # warms up
        runs: dict[str, list[list[dict[str, Any]]]] = {name: [] for name in ways}
        labels = set()

        def noted(name: str) -> None:
            ways[name]()
            runs[name].append(work.segmenter.times)
            labels.add(b"".join(work.labels()))

        candidates = {name: partial(noted, name) for name in ways}
        timings = compare(candidates, options.device, options.runs, warm_up=0)
    if len(labels) != 1:
        raise SystemExit("the labels differ")
    # The run that was disturbed least.
    timelines = {
        name: min(times, key=lambda entries: summary(entries)["wall"])
        for name, times in runs.items()
    }
    result = {
        "case": f"{NETWORK}@513, width 1/{options.width}, CRF, pictures of 500x375",
        "device": options.device,
        "pictures": options.pictures,
        "width": options.width,
        "seconds": {name: asdict(timing) for name, timing in timings.items()},
        "times_faster": timings["one after the other"].median / timings["overlapped"].median,
        "stages": {name: summary(times) for name, times in timelines.items()},
        "timelines": {name: from_zero(times) for name, times in timelines.items()},
    }
    for name, stages in result["stages"].items():
        print(f"{name}: {stages['sum']:.2f} s of stages in {stages['wall']:.2f} s")
    path = write_json(options.json, "segment", [result])
    print(path, *draw(path), sep="\n")


def summary(times: list[dict[str, Any]]) -> dict[str, float]:
    """Seconds of each stage, of all together, and from the first begun to the last ended."""
    seconds: dict[str, float] = {}
    for entry in times:
        seconds[entry["stage"]] = seconds.get(entry["stage"], 0) + entry["end"] - entry["start"]
    wall = max(entry["end"] for entry in times) - min(entry["start"] for entry in times)
    return {**seconds, "sum": sum(seconds.values()), "wall": wall}


def from_zero(times: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The times in seconds since the first stage began, in the order in which they began."""
    first = min(entry["start"] for entry in times)
    shifted = [
        {**entry, "start": entry["start"] - first, "end": entry["end"] - first} for entry in times
    ]
    return sorted(shifted, key=lambda entry: entry["start"])


if __name__ == "__main__":
    main()
