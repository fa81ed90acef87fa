"""What a network makes of the drawn pictures that were held back, before and after the CRF.

python benchmarks/synthetic.py --set FOLDER --model FILE [--snapshot FILE] [--like JSON] [--json TO]

The parameters of the CRF are those of a small grid that do best on the first pictures of the train
list; no picture of val takes part in the choice. --snapshot is a trained network whose BatchNorm
and Scale layers are folded into the convolutions first: what is left is written to --model, as the
network of weights/synthetic_largefov/deploy.prototxt. --like is an earlier result: a mean IoU more
than a point away from it is an error. `make train-demo` does all of this.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import arguments, parse, write_json
from numpy.typing import NDArray

from deeplab_repro import load_caffe
from deeplab_repro.crf import CRFParams
from deeplab_repro.data import Dataset, read_label, voc
from deeplab_repro.evaluation import Confusion, Trimap
from deeplab_repro.inference.segmentation import Segmenter, first_maximum, refine
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.voc import VOC_CLASSES
from prototxt_import import read_net, write_weights

Labels = NDArray[Any]
DEPLOY = Path(__file__).parents[1] / "weights" / "synthetic_largefov" / "deploy.prototxt"
#: Weight, std of places and std of colours of the bilateral kernel; weight and std of the other.
GRID = tuple(
    CRFParams(bi_w=w, bi_xy_std=xy, bi_rgb_std=rgb, pos_w=pos_w, pos_xy_std=pos_xy)
    for w, xy, rgb, (pos_w, pos_xy) in product(
        (4, 7), (12, 25), (4, 6, 9), ((3, 1), (3, 2), (6, 2))
    )
)
TOLERANCE = 1.0  # points of mean IoU


@dataclass
class Scored:
    """A picture (H, W, 3), its label (H, W) and the scores (C, H, W) of the network."""

    picture: NDArray[np.uint8]
    label: Labels
    scores: torch.Tensor


class Counts:
    """What is right and wrong, over all pixels and near the void borders."""

    def __init__(self) -> None:
        self.confusion, self.trimap = Confusion(), Trimap(widths=(1, 2, 4, 8))

    def add(self, prediction: Labels, label: Labels) -> None:
        self.confusion.add(prediction, label)
        self.trimap.add(prediction, label)

    def summary(self) -> dict[str, Any]:
        """The figures, in percent; classes that do not occur are left out."""
        classes = zip(VOC_CLASSES, self.confusion.iou.tolist(), strict=True)
        bands = zip(self.trimap.widths, self.trimap.mean_iou.tolist(), strict=True)
        return {
            "mean_iou": 100 * self.confusion.mean_iou,
            "pixel_accuracy": 100 * self.confusion.pixel_accuracy,
            "iou": {name: 100 * iou for name, iou in classes if not math.isnan(iou)},
            "trimap_mean_iou": {str(width): 100 * iou for width, iou in bands},
        }


def scored(segmenter: Segmenter, dataset: Dataset) -> Iterator[Scored]:
    """Every picture of a set, through the network."""
    for sample in dataset:
        assert sample.label is not None
        picture = read_picture(sample.picture)
        (scores,) = segmenter.scores([picture])
        yield Scored(picture, read_label(sample.label), scores)


def refined(item: Scored, params: CRFParams) -> Labels:
    """The labels after the CRF."""
    return first_maximum(refine(item.scores, item.picture, params)).labels


def best_params(items: Iterable[Scored]) -> tuple[CRFParams, float]:
    """The setting of the grid with the highest mean IoU, and that."""
    items = list(items)
    found = []
    for params in GRID:
        confusion = Confusion()
        for item in items:
            confusion.add(refined(item, params), item.label)
        found.append((confusion.mean_iou, params))
    score, params = max(found, key=lambda pair: pair[0])
    return params, score


def score(segmenter: Segmenter, root: Path, tuning: int) -> dict[str, Any]:
    """The CRF chosen on the first `tuning` pictures of train, and what all of val scores."""
    train, val = voc(root, "train")[:tuning], voc(root, "val")
    before, after = Counts(), Counts()
    params, tuned = best_params(scored(segmenter, train))
    for item in scored(segmenter, val):
        before.add(first_maximum(item.scores).labels, item.label)
        after.add(refined(item, params), item.label)
    return {
        "pictures": len(val),
        "crf": asdict(params),
        "crf_chosen_on": f"the first {len(train)} pictures of train",
        "mean_iou_there": 100 * tuned,
        "before": before.summary(),
        "after": after.summary(),
        "gain": 100 * (after.confusion.mean_iou - before.confusion.mean_iou),
    }


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--set", required=True, type=Path, dest="root")
    parser.add_argument("--model", required=True, type=Path)
    parser.add_argument("--snapshot", type=Path)
    parser.add_argument("--tuning", type=int, default=50, help="pictures of train for the CRF")
    parser.add_argument("--like", type=Path)
    options = parse(parser)
    if options.snapshot:
        folded = load_caffe(options.snapshot).eval().fuse()
        write_weights(options.model, folded.weights(), read_net(DEPLOY))
    with torch.inference_mode():
        result = score(Segmenter(load_caffe(options.model)), options.root, options.tuning)
    before, after = (result[when]["mean_iou"] for when in ("before", "after"))
    print(f"mean IoU on val: {before:.2f}, after the CRF {after:.2f} ({after - before:+.2f})")
    write_json(options.json, "synthetic", [result])
    if options.like:
        (earlier,) = json.loads(options.like.read_text())["results"]
        old, refined = (earlier[when]["mean_iou"] for when in ("before", "after"))
        print(f"{options.like}: {old:.2f}, after the CRF {refined:.2f}")
        if max(abs(before - old), abs(after - refined)) > TOLERANCE:
            sys.exit(f"more than {TOLERANCE:g} point away from {options.like}")


if __name__ == "__main__":
    main()
