"""Small networks of the catalogue, as prototxt and as plain model, with the same weights."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from deeplab_repro.models import create_model, write_network
from prototxt_import import write_weights

SOLVER = "solver.prototxt"


def prepare(name: str, size: int, iterations: int, *, solver: str = "", width: int = 16) -> None:
    """A solver file, the train net and random weights, in the working directory."""
    text = write_network(name, "TRAIN", num_labels=5, width=width, input_size=size, batch=2)
    Path("train.prototxt").write_text(text)
    Path(SOLVER).write_text(
        f'train_net: "train.prototxt" lr_policy: "poly" power: 0.9 base_lr: 1e-3 momentum: 0.9'
        f" weight_decay: 5e-4 max_iter: {iterations} display: 1 random_seed: 3"
        f' snapshot_prefix: "snap" snapshot_after_train: false solver_mode: CPU {solver}\n'
    )
    torch.manual_seed(1)
    write_weights("init.caffemodel", create_model(name, 5, width=width).caffe_weights())


def batches(size: int, count: int) -> list[dict[str, Tensor]]:
    """Pictures and labels, some of them void."""
    random = torch.Generator().manual_seed(5)
    made = []
    for _ in range(count):
        label = torch.randint(0, 6, (2, 1, size, size), generator=random).float()
        data = torch.randn(2, 3, size, size, generator=random) * 50
        made.append({"data": data, "label": label.where(label < 5, 255)})
    return made
