"""Plain models in the solver: step for step what it makes of the prototxt of the same network."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader

from deeplab_repro import InputError
from deeplab_repro.models import DeepLab, create_model, load
from deeplab_repro.train import Solver
from deeplab_repro.train.model_net import ModelNet
from prototxt_import import CaffeImportError, read_solverstate, read_weights
from tests.train.feeding import write_pictures
from tests.train.plain import SOLVER, batches, prepare
from tests.train.runs import rel, weights


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def largefov(**options: Any) -> DeepLab:
    return create_model("largefov", 5, width=16, **options)


def same(ours: Solver, theirs: Solver) -> None:
    found, expected = weights(ours), weights(theirs)
    assert found.keys() == expected.keys()
    assert all(rel(found[name], expected[name]) < 1e-6 for name in found if expected[name].any())


@pytest.mark.slow
@pytest.mark.parametrize("name", ["largefov", "msc-largefov", "aspp-l", "resnet101-msc"])
def test_a_plain_model_trains_as_its_prototxt(name: str) -> None:
    """Losses, weights, multipliers, order of the history; each goes on from the other's snapshot.

    Rate, dropout, decay and several passes an iteration are in it.
    """
    size = 65 if "resnet" in name else 97  # 32k + 1 with three scales
    prepare(name, size, iterations=4, solver="iter_size: 2 snapshot: 2")
    given = batches(size, 3)
    prototxt = Solver(SOLVER, "init.caffemodel", batches=given)
    plain = Solver(SOLVER, "init.caffemodel", model=create_model(name, 5, width=16), batches=given)
    for ours, theirs in zip(plain.net.learnable_params, prototxt.net.learnable_params, strict=True):
        assert (ours.layer, ours.number, ours.lr_mult) == (
            theirs.layer, theirs.number, theirs.lr_mult,
        )  # fmt: skip
        assert ours.decay_mult == theirs.decay_mult or not theirs.lr_mult
    for _ in range(2):
        plain.step(1)
        prototxt.step(1)
        assert plain.loss == pytest.approx(prototxt.loss, rel=1e-6)
    same(plain, prototxt)
    if "resnet" in name:  # whose making takes longest
        return

    # plain has written over prototxt's snapshot; now the other way round.
    plain.snapshot()
    state = read_solverstate("snap_iter_2.solverstate")
    crossed = Solver(SOLVER, snapshot="snap_iter_2.solverstate", batches=given)
    prototxt.snapshot()
    theirs = read_solverstate("snap_iter_2.solverstate")
    assert [h.shape for h in state.history] == [h.shape for h in theirs.history]
    back = Solver(
        SOLVER, snapshot="snap_iter_2.solverstate", model=create_model(name, 5, width=16),
        batches=given,
    )  # fmt: skip
    for solver in (prototxt, plain, crossed, back):
        solver.step(2)
        assert solver.loss == pytest.approx(prototxt.loss, rel=1e-6)
    same(plain, prototxt)
    same(crossed, prototxt)
    same(back, prototxt)


PICTURES = """image_data_param { source: "list.txt" root_folder: "./" batch_size: 2
  label_type: PIXEL shuffle: true }
  transform_param { mirror: true crop_size: 97 mean_value: 104 mean_value: 117 mean_value: 123 }"""


@pytest.mark.slow
def test_data_layers_and_test_nets_of_the_solver_file(tmp_path: Path) -> None:
    """They serve a plain model too; its snapshot is a model that runs; it resumes to the bit."""
    prepare("largefov", 97, 4)
    write_pictures(tmp_path, 6, (100, 110))
    for path in tmp_path.glob("*_l.png"):
        import cv2

        cv2.imwrite(str(path), cv2.imread(str(path), cv2.IMREAD_UNCHANGED) % 5)
    net = Path("train.prototxt").read_text()
    start, end = net.index("  transform_param"), net.index('layer {\n  name: "conv1_1"')
    net = f"{net[:start]}{PICTURES} }}\n{net[end:]}"
    Path("train.prototxt").write_text(net.replace("  include {\n    phase: TRAIN\n  }\n", ""))
    solver = Path(SOLVER).read_text().replace("train_net:", "net:")
    Path(SOLVER).write_text(solver + "test_iter: 2 test_interval: 2 test_compute_loss: true\n")
    prototxt = Solver(SOLVER, "init.caffemodel")
    plain = Solver(SOLVER, "init.caffemodel", model=largefov())
    for one in (plain, prototxt):
        one.step(3)
    same(plain, prototxt)
    tests = [one.test()[0] for one in (plain, prototxt)]
    assert "loss (objective)" in tests[1]
    for name, value in tests[1].items():
        assert tests[0][name] == pytest.approx(value, rel=1e-6)

    plain.snapshot()
    again = Solver(SOLVER, resume=True, model=largefov())
    for one in (plain, again):
        one.step(1)
    assert all(np.array_equal(v, weights(plain)[k]) for k, v in weights(again).items())
    written = load("snap_iter_3.caffemodel")
    assert written.name == "deeplab_v1_vgg16_largefov"


def test_batches_of_ones_own() -> None:
    """A solver file without a network; a DataLoader read again and again; resumed in the middle."""
    prepare("largefov", 65, 3)
    Path(SOLVER).write_text(Path(SOLVER).read_text().replace('train_net: "train.prototxt"', ""))
    items = [
        {"data": batch["data"][0], "label": batch["label"][0, 0].long()} for batch in batches(65, 2)
    ]
    loader: Any = DataLoader(items, batch_size=1)
    solver = Solver(SOLVER, model=largefov(), batches=loader)
    solver.step(3)
    solver.snapshot()
    resumed = Solver(SOLVER, snapshot="snap_iter_3.solverstate", model=largefov(), batches=loader)
    for one in (solver, resumed):
        one.step(1)
    assert resumed.loss == solver.loss
    with pytest.raises(CaffeImportError, match="names no network to train"):
        Solver(SOLVER, model=largefov())
    with pytest.raises(InputError, match="batches have come to an end"):
        Solver(SOLVER, model=largefov(), batches=iter(items[:0])).step(1)


def test_parts_that_were_replaced_are_layers_of_their_own() -> None:
    """They learn, are in the snapshot, and come back out of it, statistics included."""
    prepare("largefov", 65, 3)

    def model() -> DeepLab:
        made = largefov()
        made.head = nn.Sequential(
            nn.Conv2d(32, 6, 1), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 5, 1)
        )
        return made

    given = batches(65, 2)
    first = model()
    solver = Solver(SOLVER, model=first, batches=given)
    before = weights(solver)
    assert {"conv1_1/0", "head.0/0", "head.1/3", "head.3/1"} <= before.keys()
    assert not any(name.startswith("fc") for name in before)
    solver.step(2)
    assert not np.array_equal(weights(solver)["head.1/2"], before["head.1/2"])
    solver.snapshot()
    assert read_weights("snap_iter_2.caffemodel").keys() == solver.net.params.keys()
    other = model()
    resumed = Solver(SOLVER, snapshot="snap_iter_2.solverstate", model=other, batches=given)
    assert torch.equal(other.head[1].running_mean, first.head[1].running_mean)
    for one in (solver, resumed):
        one.step(1)
    assert all(np.array_equal(v, weights(resumed)[k]) for k, v in weights(solver).items())
    # Released weights fill what is still there, and say what is not.
    report = Solver(SOLVER, "init.caffemodel", model=model(), batches=given).load_report
    assert report is not None
    assert "fc6" in report.unused
    assert "head.0" in report.missing
    wide = create_model("largefov", 5, width=8)
    with pytest.raises(CaffeImportError, match="init.caffemodel: .*layer 'conv1_1'"):
        Solver(SOLVER, "init.caffemodel", model=wide, batches=given)


def test_losses_of_parts_of_a_batch_add_up() -> None:
    """Several processes divide by what all of them have."""
    net = ModelNet(largefov())
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    (batch,) = batches(65, 1)
    batch["label"][0, :, :40] = 255
    parts = [{name: value[i : i + 1] for name, value in batch.items()} for i in (0, 1)]
    whole = net.loss(net(**batch))
    counts: list[Any] = []
    net.total = lambda number: counts.append(number) or number
    for part in parts:
        net(**part)
    net.total = lambda number: sum(counts)
    torch.testing.assert_close(sum(net.loss(net(**part)) for part in parts), whole)
