"""Several processes train as one does: the same losses and weights from the same total batch."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplab_repro.caffe.net import load_caffe
from deeplab_repro.processes import Processes
from deeplab_repro.train import Solver
from deeplab_repro.train.team import Team
from prototxt_import import parse_net
from tests.train.runs import rel, solver_run, weights

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from deeplab_repro.processes import processes
from deeplab_repro.train import Solver

class Told:
    def train(self, iteration, lr, loss, outputs):
        told.append(outputs["loss"])

told, losses = [], []
with processes() as team:
    with Solver("solver.prototxt", "init.caffemodel", processes=team, log=Told()) as solver:
        for _ in range(12):
            solver.step(1)
            losses.append(solver.loss)
    if team.first:
        print(json.dumps({"losses": losses, "told": told}))
"""


def alone() -> tuple[Solver, list[float]]:
    solver = Solver("solver.prototxt", "init.caffemodel")
    losses = []
    for _ in range(12):
        solver.step(1)
        losses.append(solver.loss)
    return solver, losses


def together(count: int) -> dict[str, Any]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(count), "program.py"]
    Path("program.py").write_text(PROGRAM)
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    found: dict[str, Any] = json.loads(done.stdout)
    return found


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "batch"),
    [
        ("sgd_step", 4),  # split in 1, 1 and 2 rows, of which different numbers of pixels count
        ("sgd_poly_iter_size", 2),  # three passes of two rows: dealt out whole
    ],
)
def test_three_processes_train_as_one(
    name: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    solver_run(name, tmp_path)
    net = Path("train.prototxt").read_text().replace("batch_size: 4", f"batch_size: {batch}")
    Path("train.prototxt").write_text(net)
    solver, losses = alone()
    found = together(3)
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
    if batch == 4:  # one pass an iteration: its outputs are the whole batch's
        np.testing.assert_allclose(found["told"], losses, rtol=1e-5)
    resumed = Solver("solver.prototxt", snapshot="snap_iter_12.solverstate")
    assert all(rel(weights(resumed)[k], v) < 1e-5 for k, v in weights(solver).items())


LOSSES = """
layer {{ name: "loss" type: "{type}" bottom: "x" bottom: "y" {third} top: "loss" {options} }}"""


@pytest.mark.parametrize(
    ("loss", "labels", "options"),
    [
        ("SoftmaxWithLoss", "class", "loss_param { ignore_label: 2 }"),
        ("SoftmaxWithLoss", "class", "loss_param { normalization: FULL }"),
        ("SoftmaxWithLoss", "class", "loss_param { normalization: BATCH_SIZE }"),
        ("SoftmaxWithLoss", "class", "loss_param { normalization: NONE }"),
        ("MultinomialLogisticLoss", "class", ""),
        ("HingeLoss", "class", ""),
        ("EuclideanLoss", "x", ""),
        ("SigmoidCrossEntropyLoss", "x", ""),
        ("ContrastiveLoss", "pair", ""),
    ],
)
def test_parts_of_a_batch_add_up_to_its_loss(loss: str, labels: str, options: str) -> None:
    """Of two parts of different sizes, each divided by what both have."""
    y = {"class": "dim: 5", "x": "dim: 5 dim: 3", "pair": "dim: 5 dim: 3"}[labels]
    text = f'input: "x" input_shape {{ dim: 5 dim: 3 }} input: "y" input_shape {{ {y} }}'
    third = 'bottom: "s"' if labels == "pair" else ""
    if third:
        text += ' input: "s" input_shape { dim: 5 }'
    text += LOSSES.format(type=loss, third=third, options=options)
    net = load_caffe(parse_net(text, "TRAIN", "bvlc"))
    x = torch.rand(5, 3) + 0.1
    blobs = {
        "x": x,
        "y": torch.tensor([0.0, 2, 2, 1, 0]) if labels == "class" else torch.rand(5, 3),
    }
    if third:
        blobs["s"] = torch.tensor([0.0, 1, 1, 0, 1])

    def gradient(part: slice) -> tuple[torch.Tensor, torch.Tensor]:
        given = {name: value[part].clone() for name, value in blobs.items()}
        given["x"].requires_grad_()
        value = net.loss(net(**given))
        value.backward()
        return value.detach(), given["x"].grad

    whole, slope = gradient(slice(0, 5))
    (module,) = (m for m in net.modules() if hasattr(m, "total"))
    parts = (slice(0, 2), slice(2, 5))
    counted: list[Any] = []
    module.total = lambda number: counted.append(number) or number
    for part in parts:
        gradient(part)
    module.total = lambda number: sum(counted)
    values, slopes = zip(*map(gradient, parts), strict=True)
    torch.testing.assert_close(sum(values), whole)
    torch.testing.assert_close(torch.cat(slopes), slope)


def test_one_process_is_a_team_of_its_own() -> None:
    team = Team(Processes())
    assert team.any(True, False) == (True, False)
    tensor = torch.ones(2)
    team.add_up([tensor])
    assert tensor.tolist() == [1, 1]
    assert team.agreed(5) == 5
