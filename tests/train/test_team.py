"""Several processes train as one does: the same losses and weights from the same total batch."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplab_repro.caffe.net import load_caffe
from deeplab_repro.processes import Processes
from deeplab_repro.train import Solver
from deeplab_repro.train.team import Team
from prototxt_import import parse_net, read_weights
from tests.testing.warm import Warm
from tests.train.runs import rel, solver_run, weights

ROOT = Path(__file__).parents[2]
PROGRAM = """
import json
from deeplab_repro.processes import processes
from deeplab_repro.train import Solver

class Told:
    def train(self, iteration, lr, loss, outputs):
        told.append(outputs["loss"])

    def test(self, iteration, net, outputs):
        tests.append(outputs)

told, tests, losses = [], [], []
with processes() as team:
    with Solver("solver.prototxt", "init.caffemodel", processes=team, log=Told()) as solver:
        for _ in range(12):
            solver.step(1)
            losses.append(solver.loss)
    if team.first:
        print(json.dumps({"losses": losses, "told": told, "tests": tests}))
"""


class Told:
    """Remembers the tests."""

    def __init__(self, tests: list[dict[str, Any]]) -> None:
        self._tests = tests

    def train(self, *values: Any) -> None:
        """See `Journal`."""

    def test(self, iteration: int, net: int, outputs: Any) -> None:
        """See `Journal`."""
        self._tests.append(outputs)


def alone(tests: list[dict[str, Any]]) -> tuple[Solver, list[float]]:
    solver = Solver("solver.prototxt", "init.caffemodel", log=Told(tests))
    losses = []
    for _ in range(12):
        solver.step(1)
        losses.append(solver.loss)
    return solver, losses


def torchrun(count: int, *arguments: str) -> list[str]:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*command, "--nproc-per-node", str(count), *arguments]


def together(count: int, warm: Warm) -> dict[str, Any]:
    Path("program.py").write_text(PROGRAM)
    team = warm.team(count, "program.py", stdout=subprocess.PIPE)
    said = b"".join([process.communicate()[0] for process in team])
    assert [process.returncode for process in team] == [0] * count
    found: dict[str, Any] = json.loads(said)
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
    name: str, batch: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm
) -> None:
    monkeypatch.chdir(tmp_path)
    solver_run(name, tmp_path)
    net = Path("train.prototxt").read_text().replace("batch_size: 4", f"batch_size: {batch}")
    Path("train.prototxt").write_text(net)
    # Five batches for three processes, and one for them all; the list is as long as four or two.
    with open("solver.prototxt", "a") as file:
        file.write("\ntest_iter: 5 test_iter: 1 test_interval: 5 test_compute_loss: true\n")
    tests: list[dict[str, Any]] = []
    solver, losses = alone(tests)
    found = together(3, warm)
    assert len(found["tests"]) == 6  # two nets before iterations 0, 5 and 10
    for ours, theirs in zip(found["tests"], tests, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-5)
    np.testing.assert_allclose(found["losses"], losses, rtol=1e-5)
    if batch == 4:  # one pass an iteration: its outputs are the whole batch's
        np.testing.assert_allclose(found["told"], losses, rtol=1e-5)
    resumed = Solver("solver.prototxt", snapshot="snap_iter_12.solverstate")
    assert all(rel(weights(resumed)[k], v) < 1e-5 for k, v in weights(solver).items())


def process_of_rank(rank: int) -> int:
    """The process that has this rank, of the processes of this folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            here = (path / "cwd").resolve() == Path.cwd()
            if here and f"\0RANK={rank}\0".encode() in (path / "environ").read_bytes():
                return int(path.name)
        except OSError:  # ended meanwhile, or another user's
            continue
    raise AssertionError(f"no process of rank {rank}")


@pytest.mark.slow
def test_a_worker_that_is_killed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, warm: Warm
) -> None:
    """The restart goes on from the last whole snapshot, and ends as a run that was not killed."""
    for name in ("straight", "killed"):
        (tmp_path / name).mkdir()
        monkeypatch.chdir(tmp_path / name)
        solver_run("sgd_step", Path.cwd())
        text = Path("solver.prototxt").read_text()
        for old, new in (("max_iter: 12", "max_iter: 120"), ("snapshot: 6", "snapshot: 15")):
            assert old in text
            text = text.replace(old, new)
        Path("solver.prototxt").write_text(text.replace("display: 1", "display: 0"))
        for left in Path().glob("snap_*"):  # of Caffe's run
            left.unlink()
    train = ["train", "--solver", "solver.prototxt", "--workers", "0"]
    train += ["--weights", "init.caffemodel", "--resume"]
    undisturbed = warm.team(2, *train, cwd=tmp_path / "straight", stdout=subprocess.DEVNULL)
    assert [process.wait() for process in undisturbed] == [0, 0]
    command = torchrun(2, "--max-restarts", "1", "-m", "deeplab_repro", *train)
    # Or else torchrun hands the addresses of the dead processes to the new ones (pytorch issue
    # 135712).
    environment = {**os.environ, "TORCH_DISABLE_SHARE_RDZV_TCP_STORE": "1"}
    with subprocess.Popen(command, text=True, stdout=-1, stderr=-1, env=environment) as run:
        while not Path("snap_iter_30.solverstate").is_file():
            time.sleep(0.02)
            assert run.poll() is None
        os.kill(process_of_rank(1), signal.SIGKILL)
        out, errors = run.communicate()
    assert run.returncode == 0, errors
    assert "going on from snap_iter_" in out
    straight, killed = (
        read_weights(tmp_path / name / "snap_iter_120.caffemodel")
        for name in ("straight", "killed")
    )
    for name, blobs in straight.items():
        for one, other in zip(blobs, killed[name], strict=True):
            assert np.array_equal(one, other)


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
