"""What the CRF makes of the bundled network's scores: with searched parameters, and learned ones.

python benchmarks/learned_crf.py --set FOLDER [--pictures N] [--epochs N] [--iterations N]
[--json TO]

FOLDER is what `deeplab-repro data synthesize FOLDER --pictures 2000` has drawn. All parameters come
from the first --pictures pictures of its train list; the 200 pictures of val take no part in any
choice and are scored once for each row. The search is that of benchmarks/synthetic.py, on its grid.
`deeplab_repro.crf.fit` then learns weights, stds and compatibility, from the published defaults and
from what the search found. At last the network and its CRF are trained together, as CRF-as-RNN, by
`deeplab_repro.train.Solver` on all of train, and so is the network without the CRF, for as many
iterations, whose scores get the searched CRF: what is between the two is what the CRF in the
training is worth.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from _timing import arguments, parse, write_json
from synthetic import DEPLOY, Counts, Scored, best_params, scored

from deeplab_repro import load_caffe
from deeplab_repro.crf import CRFParams, DenseCRF, Example, fit
from deeplab_repro.data import voc
from deeplab_repro.inference.segmentation import Segmenter
from deeplab_repro.train import Solver
from prototxt_import import read_weights, write_weights

WEIGHTS = DEPLOY.with_name("weights.caffemodel")
LABELS = 21
#: What is learned, less and more.
LEARNED = (["weights"], ["weights", "stds"], ["weights", "stds", "compatibility"])
#: The parts of train nets and a solver that are written here; the network is that of deploy.prototxt.
DATA = """
layer {{ name: "data" type: "ImageSegData" top: "data" top: "label" top: "data_dim"
  transform_param {{ mirror: true crop_size: 161
    mean_value: 104.008 mean_value: 116.669 mean_value: 122.675 }}
  image_data_param {{ root_folder: "{root}" source: "{root}/ImageSets/SegmentationAug/train.txt"
    batch_size: 2 shuffle: true label_type: PIXEL }} }}
"""
CRF = """
layer {{ name: "crf" type: "DenseCRF" bottom: "fc8_interp" bottom: "data_dim" bottom: "data"
  top: "log_q" param {{ lr_mult: 100 decay_mult: 0 }} param {{ lr_mult: 100 decay_mult: 0 }}
  param {{ lr_mult: 100 decay_mult: 0 }}
  dense_crf_param {{ max_iter: {iterations} output_probability: false
    pos_w: {pos_w} pos_xy_std: {pos_xy_std}
    bi_w: {bi_w} bi_xy_std: {bi_xy_std} bi_rgb_std: {bi_rgb_std} }} }}
"""
LOSS = """
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "{scores}" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 255 }} }}
"""
SOLVER = """
train_net: "{folder}/train.prototxt" type: "Adam" base_lr: 0.0001 lr_policy: "poly" power: 0.9
max_iter: {iterations} momentum: 0.9 momentum2: 0.999 weight_decay: 0.0001 random_seed: 1
snapshot_prefix: "{folder}/train" snapshot_after_train: false solver_mode: CPU
"""
#: Mean field steps while the network is trained, as in the paper of CRF-as-RNN; 10 when it is used.
STEPS = 5


@dataclass
class Refiner:
    """Parameters of a CRF and, where it was learned, its compatibility."""

    params: CRFParams
    compatibility: torch.Tensor | None = None

    def labels(self, item: Scored) -> Labels:
        """What the CRF says, as `deeplab-repro crf` computes it."""
        example = example_of(item)
        found = dense_crf(
            example.unary[None], example.image[None], self.params, self.compatibility,
            output="labels",
        )  # fmt: skip
        return found[0].numpy()


def example_of(item: Scored) -> Example:
    """What a picture teaches."""
    image = torch.from_numpy(np.ascontiguousarray(item.picture[:, :, ::-1])).permute(2, 0, 1)
    return Example(-item.scores, image, torch.from_numpy(item.label))


def summary(items: Iterable[Scored], refiner: Refiner | None) -> dict[str, Any]:
    """The figures over all pictures, before a CRF where there is none."""
    counts = Counts()
    for item in items:
        labels = first_maximum(item.scores).labels if refiner is None else refiner.labels(item)
        counts.add(labels, item.label)
    return counts.summary()


def learned(
    items: Sequence[Scored], start: CRFParams, learn: list[str], epochs: int, lr: float
) -> tuple[Refiner, dict[str, Any]]:
    """A CRF learned on pictures, and how that went."""
    crf = DenseCRF(start, learn=learn, labels=LABELS, expnorm="exact")
    began = time.perf_counter()
    losses = fit(crf, [example_of(item) for item in items], epochs=epochs, lr=lr)
    mu = None if crf.compatibility is None else crf.compatibility.detach()
    about = {"epochs": epochs, "lr": lr, "losses": losses, "seconds": time.perf_counter() - began}
    return Refiner(crf.learned_params(), mu), about


def trained(
    root: Path, folder: Path, start: CRFParams | None, iterations: int
) -> tuple[CaffeNet, dict[str, Any]]:
    """The bundled network trained on, with a CRF as its last layer or without, as a deploy net."""
    text = DEPLOY.read_text()
    head, _, layers = text.partition("layer {")
    layers = f"layer {{{layers}".replace("dropout_ratio: 0.5", "dropout_ratio: 0.1")
    crf = "" if start is None else CRF.format(**{**asdict(start), "iterations": STEPS})
    loss = LOSS.format(scores="fc8_interp" if start is None else "log_q")
    (folder / "train.prototxt").write_text(DATA.format(root=root) + layers + crf + loss)
    (folder / "solver.prototxt").write_text(SOLVER.format(folder=folder, iterations=iterations))
    began = time.perf_counter()
    with closing(Solver(folder / "solver.prototxt", WEIGHTS)) as solver:
        losses = []
        while solver.iter < iterations:
            solver.step(1)
            losses.append(solver.loss)
    return solver.net, {"iterations": iterations, "seconds": time.perf_counter() - began}


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--set", required=True, type=Path, dest="root")
    parser.add_argument("--pictures", type=int, default=50, help="of train, for search and fit")
    parser.add_argument("--epochs", type=int, default=6, help="of fit")
    parser.add_argument("--lr", type=float, default=0.05, help="of fit")
    parser.add_argument("--iterations", type=int, default=300, help="of each network's training")
    options = parse(parser)
    root = options.root.resolve()
    train, val = voc(root, "train")[: options.pictures], voc(root, "val")
    bundled = load_caffe(DEPLOY, WEIGHTS)
    seen, others = ([*scored(Segmenter(bundled), part)] for part in (train, val))
