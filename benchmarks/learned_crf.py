"""What the CRF makes of the bundled network's scores: with searched parameters, and learned ones.

python benchmarks/learned_crf.py --set FOLDER [--pictures N] [--epochs N] [--iterations N]
[--json TO]

FOLDER is what `deeplab-repro data synthesize FOLDER --pictures 2000` has drawn. All parameters come
from the first --pictures pictures of its train list; the 200 pictures of val take no part in any
choice and are scored once for each row. The searched parameters are those of
weights/synthetic_largefov/score.json, the best of a grid on the first 50 pictures.
`deeplab_repro.crf.fit` learns weights, stds and compatibility, from there on and from the published
defaults. Its rate was chosen on pictures 51 to 75 of train. The network and its CRF are trained
together, as CRF-as-RNN, by `deeplab_repro.train.Solver` on all of train. So is the network without
the CRF, for as many iterations, and its scores get the searched CRF: what is between the two is
what the CRF in the training is worth. The result is written after every row, with the rows so far.
"""

from __future__ import annotations

import json
import multiprocessing
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from _timing import arguments, parse, write_json
from synthetic import DEPLOY, Counts, Labels, Scored, scored

from deeplab_repro import load_caffe
from deeplab_repro.caffe.net import CaffeNet
from deeplab_repro.crf import CRFParams, DenseCRF, Example, Objective, dense_crf, fit
from deeplab_repro.data import voc
from deeplab_repro.inference.segmentation import Segmenter, first_maximum
from deeplab_repro.train import Solver

WEIGHTS = DEPLOY.with_name("weights.caffemodel")
#: What benchmarks/synthetic.py has found by its search.
SEARCHED = DEPLOY.with_name("score.json")
LABELS = 21
Task = Callable[[], list[dict[str, Any]]]
#: What is learned, less and more.
LEARNED = (["weights"], ["weights", "stds"], ["weights", "stds", "compatibility"])
#: The parts of train nets and a solver; the network between them is that of deploy.prototxt.
DATA = """
layer {{ name: "data" type: "ImageSegData" top: "data" top: "label" top: "data_dim"
  transform_param {{ mirror: true crop_size: 161
    mean_value: 104.008 mean_value: 116.669 mean_value: 122.675 }}
  image_data_param {{ root_folder: "{root}" source: "{root}/ImageSets/SegmentationAug/train.txt"
    batch_size: {batch} shuffle: true label_type: PIXEL }} }}
"""
CRF = """
layer {{ name: "crf" type: "DenseCRF" bottom: "fc8_interp" bottom: "data_dim" bottom: "data"
  top: "log_q" param {{ lr_mult: 30 decay_mult: 0 }} param {{ lr_mult: 30 decay_mult: 0 }}
  param {{ lr_mult: 30 decay_mult: 0 }}
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
max_iter: {iterations} average_loss: 50 momentum: 0.9 momentum2: 0.999 weight_decay: 0.0001
random_seed: 1 snapshot_prefix: "{folder}/train" snapshot_after_train: false solver_mode: CPU
"""
#: Mean field steps while the network is trained, as in the paper of CRF-as-RNN; 10 when it is used.
STEPS = 5
BATCH = 2


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


def figures(items: Iterable[Scored], refiner: Refiner | None) -> dict[str, Any]:
    """Those over all pictures, before a CRF where there is none."""
    counts = Counts()
    for item in items:
        labels = first_maximum(item.scores).labels if refiner is None else refiner.labels(item)
        counts.add(labels, item.label)
    return counts.summary()


def row(
    name: str,
    seen: Sequence[Scored],
    others: Sequence[Scored],
    refiner: Refiner | None,
    about: dict[str, Any],
) -> dict[str, Any]:
    """What is written of one CRF."""
    result = {"name": name, **about}
    if refiner is not None:
        result["crf"] = asdict(refiner.params)
        if refiner.compatibility is not None:
            result["compatibility_diagonal"] = refiner.compatibility.diagonal().tolist()
    result["mean_iou_on_train"] = figures(seen, refiner)["mean_iou"]
    result["held_back"] = figures(others, refiner)
    print(
        f"{name}: {result['mean_iou_on_train']:.2f} on the pictures of train,"
        f" {result['held_back']['mean_iou']:.2f} on val",
        flush=True,
    )
    return result


def learned(
    items: Sequence[Scored],
    start: CRFParams,
    learn: list[str],
    objective: Objective,
    epochs: int,
    lr: float,
) -> tuple[Refiner, dict[str, Any]]:
    """A CRF learned on pictures, and how that went."""
    crf = DenseCRF(start, learn=learn, labels=LABELS, expnorm="exact")
    began = time.perf_counter()
    examples = [example_of(item) for item in items]
    losses = fit(crf, examples, epochs=epochs, lr=lr, objective=objective)
    mu = None if crf.compatibility is None else crf.compatibility.detach()
    about = {"objective": objective, "pictures": len(items), "epochs": epochs, "lr": lr}
    about |= {"losses": losses}
    return Refiner(crf.learned_params(), mu), {**about, "seconds": time.perf_counter() - began}


def trained(
    root: Path, folder: Path, start: CRFParams | None, iterations: int
) -> tuple[CaffeNet, dict[str, Any]]:
    """The bundled network trained on, with a CRF as its last layer or without, and how long."""
    text = DEPLOY.read_text()
    layers = text[text.index("layer {") :].replace("dropout_ratio: 0.5", "dropout_ratio: 0.1")
    crf = "" if start is None else CRF.format(**{**asdict(start), "iterations": STEPS})
    loss = LOSS.format(scores="fc8_interp" if start is None else "log_q")
    (folder / "train.prototxt").write_text(
        DATA.format(root=root, batch=BATCH) + layers + crf + loss
    )
    (folder / "solver.prototxt").write_text(SOLVER.format(folder=folder, iterations=iterations))
    began = time.perf_counter()
    with closing(Solver(folder / "solver.prototxt", WEIGHTS)) as solver:
        losses = []
        while solver.iter < iterations:
            solver.step(min(50, iterations - solver.iter))
            losses.append(solver.smoothed_loss)
        assert isinstance(solver.net, CaffeNet)
        about = {"iterations": iterations, "batch": BATCH, "losses": losses}
        return solver.net, {**about, "seconds": time.perf_counter() - began}


def fitted_row(
    seen: Sequence[Scored],
    others: Sequence[Scored],
    start: tuple[str, CRFParams],
    learn: list[str],
    objective: Objective,
    epochs: int,
    lr: float,
) -> list[dict[str, Any]]:
    """One row: what was learned on the scores as they are."""
    name = f"{', '.join(learn)} learned from the {start[0]} on, by {objective}"
    return [row(name, seen, others, *learned(seen, start[1], learn, objective, epochs, lr))]


def trained_rows(
    root: Path, pictures: int, start: CRFParams, with_crf: bool, iterations: int
) -> list[dict[str, Any]]:
    """Rows of a network that was trained on: before the CRF, and behind it."""
    with tempfile.TemporaryDirectory() as folder:
        net, about = trained(root, Path(folder), start if with_crf else None, iterations)
    deploy = load_caffe(DEPLOY)
    deploy.load_weights(
        {name: [b.numpy(force=True) for b in own] for name, own in net.params.items()}
    )
    seen, others = scored_parts(deploy, root, pictures)
    if not with_crf:
        name = "network trained on without the CRF"
        return [
            row(f"{name}, before the CRF", seen, others, None, about),
            row(f"{name}, searched CRF", seen, others, Refiner(start), {}),
        ]
    name = "network and CRF trained together"
    own = replace(net.layers.crf.crf_params(), iterations=start.iterations)
    refiner = Refiner(own, net.params["crf"][2].detach())
    return [
        row(f"{name}, before the CRF", seen, others, None, about),
        row(f"{name}, its CRF", seen, others, refiner, {}),
    ]


def scored_parts(net: CaffeNet, root: Path, pictures: int) -> tuple[list[Scored], list[Scored]]:
    """The first pictures of train and all of val, through the network."""
    with torch.no_grad():
        segmenter = Segmenter(net)
        train, val = voc(root, "train")[:pictures], voc(root, "val")
        return list(scored(segmenter, train)), list(scored(segmenter, val))


def first_rows(
    seen: Sequence[Scored], others: Sequence[Scored], params: CRFParams, chosen_on: str
) -> list[dict[str, Any]]:
    """Rows of what needs no learning."""
    return [
        row("before the CRF", seen, others, None, {}),
        row("published defaults", seen, others, Refiner(CRFParams()), {}),
        row("searched", seen, others, Refiner(params), {"chosen_on": chosen_on}),
    ]


def call(task: tuple[int, Task]) -> tuple[int, list[dict[str, Any]]]:
    """For a pool of processes: the number of a task, and its rows."""
    return task[0], task[1]()


def main() -> None:
    parser = arguments(__doc__.splitlines()[0])
    parser.add_argument("--set", required=True, type=Path, dest="root")
    parser.add_argument("--pictures", type=int, default=50, help="of train, for search and fit")
    parser.add_argument("--epochs", type=int, default=1, help="of fit")
    parser.add_argument("--lr", type=float, default=0.02, help="of fit")
    parser.add_argument("--iterations", type=int, default=100, help="of each network's training")
    parser.add_argument("--workers", type=int, default=2, help="rows at a time")
    options = parse(parser)
    torch.set_num_threads(1)
    root = options.root.resolve()
    seen, others = scored_parts(load_caffe(DEPLOY, WEIGHTS), root, options.pictures)
    (before,) = json.loads(SEARCHED.read_text())["results"]
    params = CRFParams(**before["crf"])
    everything = LEARNED[-1]
    tasks: list[Task] = [
        partial(first_rows, seen, others, params, before["crf_chosen_on"]),
        *(
            partial(fitted_row, seen, others, start, learn, objective, options.epochs, options.lr)
            for start, learn, objective in (
                *((("search", params), learn, "likelihood") for learn in LEARNED),
                (("search", params), everything, "iou"),
                (("defaults", CRFParams()), everything, "likelihood"),
            )
        ),
        partial(trained_rows, root, options.pictures, params, False, options.iterations),
        partial(trained_rows, root, options.pictures, params, True, options.iterations),
    ]
    # Forked, they have the pictures and scores without a copy; the longest begins first.
    done: dict[int, list[dict[str, Any]]] = {}
    with multiprocessing.get_context("fork").Pool(options.workers) as pool:
        for i, rows in pool.imap_unordered(call, reversed([*enumerate(tasks)])):
            done[i] = rows
            results = [row for i in sorted(done) for row in done[i]]
            path = write_json(options.json, "learned_crf", results)
    print(path)


if __name__ == "__main__":
    main()
