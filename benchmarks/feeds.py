"""Whether a training step waits for its pictures.

python benchmarks/feeds.py [--width N] [--batch N] [--workers N] [--runs N] [--threads N]

Makes JPEGs and palette PNGs of VOC's size, 500x375, and reads them by the data layer of
DeepLab-LargeFOV's train prototxt (crop 321, mirror), with random scales and without: alone, in this
process and in workers; and then between training steps, forward and backward, taking the time that
each step waits for its batch. The batches of the workers are held against those read here.
"""

from __future__ import annotations

import tempfile
import time
from pathlib import Path
from statistics import median

import cv2
import numpy as np
import torch
from _timing import arguments, parse, write_json
from evaluate import draw

from deeplab_repro import load_caffe
from deeplab_repro.caffe.net import CaffeNet
from deeplab_repro.models.write import write_network
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.train.feeds import Feeds

SCALES = " ".join(f"scale_factors: {factor}" for factor in (0.5, 0.75, 1, 1.25, 1.5))


def make_set(folder: Path, pictures: int) -> None:
    """pictures/NAME.jpg, labels/NAME.png and list/train.txt."""
    random = np.random.default_rng(0)
    for kind in ("pictures", "labels", "list"):
        (folder / kind).mkdir()
    lines = []
    for number in range(pictures):
        label, _ = draw(random, (375, 500))
        noise = random.integers(0, 256, (47, 63, 3), np.uint8)
        picture = cv2.resize(noise, (500, 375), interpolation=cv2.INTER_CUBIC)
        picture = cv2.add(picture, random.integers(0, 24, picture.shape, np.uint8))
        cv2.imwrite(str(folder / "pictures" / f"{number}.jpg"), picture)
        write_label_png(folder / "labels" / f"{number}.png", label)
        lines.append(f"/pictures/{number}.jpg /labels/{number}.png\n")
    (folder / "list" / "train.txt").write_text("".join(lines))


def network(folder: Path, batch: int, width: int, scales: bool) -> CaffeNet:
    """LargeFOV as published, in the TRAIN phase."""
    text = write_network("largefov", "TRAIN", batch=batch, width=width, exp=str(folder),
                         data_root=str(folder), train_set="train")  # fmt: skip
    if scales:
        text = text.replace("transform_param {", f"transform_param {{ {SCALES}", 1)
    file = folder / "train.prototxt"
    file.write_text(text)
    return load_caffe(file, phase="TRAIN")


def reading(feeds: Feeds, batches: int) -> float:
    """Seconds per batch."""
    feeds.next()  # the start of the workers
    start = time.perf_counter()
    for _ in range(batches):
        feeds.next()
    return (time.perf_counter() - start) / batches


def training(net: CaffeNet, feeds: Feeds, steps: int) -> tuple[list[float], list[float]]:
    """Seconds that each step waits for its batch, and seconds that it takes then."""
    waits, works = [], []
    for _ in range(steps + 1):
        start = time.perf_counter()
        batch = feeds.next()
        ready = time.perf_counter()
        net.zero_grad()
        net.loss(net(**batch)).backward()
        waits.append(ready - start)
        works.append(time.perf_counter() - ready)
    return waits[1:], works[1:]


def main() -> None:
    parser = arguments(__doc__)
    parser.add_argument("--width", type=int, default=1, help="divides the channels: a quick try")
    parser.add_argument("--batch", type=int, default=2)
    parser.add_argument("--workers", type=int, default=1)
    parser.set_defaults(runs=3)
    options = parse(parser)
    results = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        make_set(folder, 40)
        for scales in (False, True):
            net = network(folder, options.batch, options.width, scales)
            layers = net.net.data_layers
            with Feeds(layers, seed=1) as here, Feeds(layers, seed=1, workers=options.workers) as w:
                pairs = [(here.next(), w.next()) for _ in range(4)]
                if not all(torch.equal(a[blob], b[blob]) for a, b in pairs for blob in a):
                    raise SystemExit("the workers give other batches")
                alone, ahead = reading(here, 20), reading(w, 20)
                waits, works = training(net, w, options.runs)
            results.append(
                {
                    "case": "random scales" if scales else "one scale",
                    "batch": options.batch,
                    "workers": options.workers,
                    "seconds_per_batch_in_this_process": alone,
                    "seconds_per_batch_from_workers": ahead,
                    "seconds_per_step": median(works),
                    "seconds_waited_per_step": waits,
                    "share_waited": sum(waits) / (sum(waits) + sum(works)),
                }
            )
            print(
                f"{results[-1]['case']}: a batch of {options.batch} takes {alone * 1e3:.1f} ms to"
                f" read here, {ahead * 1e3:.1f} ms from {options.workers} workers; a step takes"
                f" {median(works):.2f} s and waits {max(waits) * 1e3:.2f} ms at most",
                flush=True,
            )
    print(write_json(options.json, "feeds", results))


if __name__ == "__main__":
    main()
