"""Trainings that Caffe made, made again; and what the solver does around its iterations."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.train import Solver
from prototxt_import import (
    CaffeImportError,
    parse_net,
    read_solverstate,
    read_weights,
    write_weights,
)
from tests.testing.disk import full_disk
from tests.train.runs import RUNS, rel, sampled, seg_run, solver_run, weights

SOLVER = "solver.prototxt"


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def furthest(solver: Solver, final: h5py.Group) -> float:
    """The largest relative difference of a parameter from Caffe's final weights."""
    return max(
        rel(*sampled(values, final[name]))
        if isinstance(final[name], h5py.Group)
        else rel(values, final[name][()])
        for name, values in weights(solver).items()
    )


def edit(text: str, *replaced: tuple[str, str]) -> None:
    """Change the solver file of the working directory."""
    content = Path(SOLVER).read_text()
    for old, new in replaced:
        assert old in content
        content = content.replace(old, new)
    Path(SOLVER).write_text(content + text)


# ------------------------------------------------------------------ against Caffe


@pytest.mark.parametrize("name", RUNS)
def test_every_solver_ends_where_caffe_did(name: str, tmp_path: Path) -> None:
    run = solver_run(name, tmp_path)
    theirs = next(tmp_path.glob("snap_iter_6.solverstate*"))
    resumed = Solver(SOLVER, snapshot=theirs)
    assert resumed.iter == 6
    their_states = {p.name: read_solverstate(p) for p in tmp_path.glob("*.solverstate*")}
    their_weights = read_weights(next(tmp_path.glob("snap_iter_6.caffemodel*")))

    solver = Solver(SOLVER, "init.caffemodel")
    losses = []
    while solver.iter < 12:
        solver.step(1)
        losses.append(float(solver.outputs["loss"]))
        if solver.iter in (6, 12):
            _same_snapshot(solver, their_states, their_weights)
    np.testing.assert_allclose(losses, run["loss"][()], rtol=1e-5)
    assert furthest(solver, run["final"]) < 1e-5
    resumed.step(6)
    assert furthest(resumed, run["final"]) < 1e-5


def _same_snapshot(solver: Solver, states: dict[str, Any], model: dict[str, Any]) -> None:
    """The files that the solver has written hold what Caffe's hold."""
    assert solver.last_snapshot is not None
    name = solver.last_snapshot.name
    if name in states:
        ours, theirs = read_solverstate(name), states[name]
        assert (ours.iter, ours.learned_net, ours.current_step) == (
            theirs.iter, theirs.learned_net, theirs.current_step,
        )  # fmt: skip
        assert [h.shape for h in ours.history] == [h.shape for h in theirs.history]
        for a, b in zip(ours.history, theirs.history, strict=True):
            assert rel(a, b) < 1e-5
    if solver.iter == 6:
        found = read_weights(name.replace("solverstate", "caffemodel"))
        assert {k: [b.shape for b in v] for k, v in found.items()} == {
            k: [b.shape for b in v] for k, v in model.items()
        }


def test_hdf5_snapshots_are_laid_out_as_caffes(tmp_path: Path) -> None:
    solver_run("sgd_poly_hdf5_snapshots", tmp_path)

    def layout(name: str) -> dict[str, Any]:
        found = {}
        with h5py.File(name) as file:
            file.visititems(
                lambda path, item: found.update(
                    {path: (item.shape, item.dtype) if isinstance(item, h5py.Dataset) else "group"}
                )
            )
        return found

    names = ("snap_iter_6.caffemodel.h5", "snap_iter_6.solverstate.h5")
    theirs = [layout(name) for name in names]
    Solver(SOLVER, "init.caffemodel").step(6)
    assert [layout(name) for name in names] == theirs


@pytest.mark.slow
def test_deeplab_from_its_first_weights_and_resumed(tmp_path: Path) -> None:
    """Updates, losses and final weights are Caffe's; our own snapshot resumes to the bit."""
    caffe = seg_run(tmp_path)
    resumed = Solver(SOLVER, snapshot="snap_iter_10.solverstate")
    solver = Solver(SOLVER, "init.caffemodel")
    losses, accuracies = [], []
    while solver.iter < 20:
        solver.step(1)
        losses.append(float(solver.outputs["loss"]))
        accuracies.append(solver.outputs["accuracy"].flatten().tolist())
        if solver.iter == 1:
            for param in solver.net.learnable_params:
                # With momentum 0 behind it, the history is the update.
                update = solver.optimizer.memory(param.value, "history").numpy()
                name = f"update/{param.layer}/{param.number}"
                assert rel(*sampled(update, caffe[name])) < 1e-5, name
    # At the tenth step a value lies so near 0 that in some orders of sums its ReLU lets it through.
    np.testing.assert_allclose(losses[:10], caffe["loss"][:10], rtol=1e-5)
    np.testing.assert_allclose(losses, caffe["loss"][()], rtol=1e-3)
    np.testing.assert_allclose(accuracies, caffe["accuracy"][()], atol=1e-6)
    assert furthest(solver, caffe["final"]) < 1e-4

    losses = []
    while resumed.iter < 20:
        resumed.step(1)
        losses.append(float(resumed.outputs["loss"]))
    np.testing.assert_allclose(losses, caffe["loss"][10:], rtol=1e-5)
    assert furthest(resumed, caffe["final"]) < 1e-5
    again = Solver(SOLVER, snapshot="snap_iter_10.solverstate")  # now our own
    again.step(10)
    assert all(np.array_equal(values, weights(again)[k]) for k, values in weights(solver).items())


# ------------------------------------------------------------------ resuming to the bit


@pytest.mark.parametrize("solver_type", ["Nesterov", "AdaDelta", "Adam"])
def test_a_resumed_run_repeats_dropout_and_data(solver_type: str, tmp_path: Path) -> None:
    solver_run("sgd_step", tmp_path)
    edit(
        "clip_gradients: 0.5 iter_size: 2\n",
        ('type: "SGD"', f'type: "{solver_type}"'),
        ('"step"', '"multistep" stepvalue: 3 stepvalue: 8'),
        ("snapshot: 6", "snapshot: 5"),  # after ten passes of the four that the data have
    )
    net = Path("train.prototxt").read_text()
    dropout = 'layer { name: "drop" type: "Dropout" bottom: "conv" top: "conv" }\n'
    Path("train.prototxt").write_text(
        net.replace('layer { name: "score"', dropout + 'layer { name: "score"')
    )
    straight = Solver(SOLVER, "init.caffemodel")
    straight.step(10)
    resumed = Solver(SOLVER, snapshot="snap_iter_5.solverstate")
    torch.rand(3)  # the caller's random numbers do not matter
    resumed.step(5)
    assert resumed.loss == straight.loss
    assert resumed.lr == straight.lr
    for name, values in weights(straight).items():
        assert np.array_equal(values, weights(resumed)[name]), name
    # The steps that were taken stay taken, whatever the solver file says by now.
    edit("", ("stepvalue: 3", "stepvalue: 300"))
    changed = Solver(SOLVER, snapshot="snap_iter_5.solverstate")
    changed.step(1)
    assert changed.lr == straight.settings.policy.rate(0.02, 5)


def test_the_callers_random_numbers_are_left_alone(tmp_path: Path) -> None:
    solver_run("sgd_fixed", tmp_path)
    torch.manual_seed(5)
    expected = torch.rand(2)
    torch.manual_seed(5)
    Solver(SOLVER).step(1)
    assert torch.equal(torch.rand(2), expected)


# ------------------------------------------------------------------ what a net has to learn


def test_frozen_and_unreached_parameters(tmp_path: Path) -> None:
    """lr_mult 0: no update.  Not reached by the objective: decay acts all the same, as in Caffe."""
    solver_run("sgd_fixed", tmp_path)
    net = Path("train.prototxt").read_text()
    aside = """layer { name: "aside" type: "Convolution" bottom: "conv" top: "aside"
      convolution_param { num_output: 2 kernel_size: 1 weight_filler { type: "xavier" } } }
      layer { name: "silence" type: "Silence" bottom: "aside" }"""
    Path("train.prototxt").write_text(
        net.replace("lr_mult: 10 decay_mult: 1", "lr_mult: 0 decay_mult: 1", 1) + aside
    )
    solver = Solver(SOLVER, "init.caffemodel")
    before = weights(solver)
    solver.step(1)
    after = weights(solver)
    assert np.array_equal(after["score/0"], before["score/0"])
    assert not np.array_equal(after["score/1"], before["score/1"])
    # One step of rate 0.01 with decay 0.005.
    np.testing.assert_allclose(after["aside/0"], before["aside/0"] * (1 - 5e-5), rtol=3e-7)
    names = [(param.layer, param.number) for param in solver.net.learnable_params]
    assert names == [(n, i) for n in ("conv", "score", "aside") for i in (0, 1)]


BATCH_NORM = """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv"
  param { lr_mult: 0 } param { lr_mult: 0 } param { lr_mult: 0 }
  batch_norm_param { %s moving_average_fraction: 0.5 } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "score\""""


@pytest.mark.parametrize("frozen", [True, False])
def test_statistics_of_batch_norm(frozen: bool, tmp_path: Path) -> None:
    """use_global_stats keeps them; otherwise they follow the batches, and never the solver."""
    solver_run("sgd_fixed", tmp_path)
    net = Path("train.prototxt").read_text()
    option = "use_global_stats: true" if frozen else "use_global_stats: false"
    Path("train.prototxt").write_text(net.replace('layer { name: "score"', BATCH_NORM % option))
    statistics = {"bn": [np.ones(6, np.float32), np.full(6, 4, np.float32), np.ones(1, np.float32)]}
    write_weights("bn.caffemodel", statistics)
    solver = Solver(SOLVER, "init.caffemodel,bn.caffemodel", quirks=False)
    solver.step(2)
    found = weights(solver)
    if frozen:
        assert all(np.array_equal(found[f"bn/{i}"], statistics["bn"][i]) for i in range(3))
    else:
        # Decayed twice and filled up twice: 1 / 4 + 1 / 2 + 1.
        np.testing.assert_allclose(found["bn/2"], [1.75])
        assert not np.array_equal(found["bn/0"], statistics["bn"][0])
    solver.snapshot()
    history = read_solverstate(solver.last_snapshot or "").history
    assert [h.shape for h in history[2:5]] == [(6,), (6,), (1,)]
    assert not any(h.any() for h in history[2:5])


def test_shared_parameters_are_updated_once(tmp_path: Path) -> None:
    solver_run("sgd_fixed", tmp_path)
    net = Path("train.prototxt").read_text()
    twin = (
        net.replace('param { lr_mult: 10 decay_mult: 1 } param { lr_mult: 20 decay_mult: 0 }',
                    'param { name: "w" lr_mult: 10 } param { name: "b" lr_mult: 20 decay_mult: 0 }')
        + """layer { name: "again" type: "Convolution" bottom: "conv" top: "again"
        param { name: "w" lr_mult: 10 } param { name: "b" lr_mult: 20 decay_mult: 0 }
        convolution_param { num_output: 4 kernel_size: 1 } }
        layer { name: "loss2" type: "SoftmaxWithLoss" bottom: "again" bottom: "label" top: "loss2"
        loss_param { ignore_label: 255 } }"""
    )  # fmt: skip
    Path("train.prototxt").write_text(twin)
    solver = Solver(SOLVER, "init.caffemodel")
    assert len(solver.net.learnable_params) == 4
    # Two equal losses: as one of twice the weight.
    Path("train.prototxt").write_text(net.replace('top: "loss" ', 'top: "loss" loss_weight: 2 '))
    double = Solver(SOLVER, "init.caffemodel")
    for one in (solver, double):
        one.step(3)
    for name, values in weights(double).items():
        assert rel(weights(solver)[name], values) < 1e-6
    assert solver.snapshot().is_file()
    assert len(read_solverstate("snap_iter_3.solverstate").history) == 4
    written = read_weights("snap_iter_3.caffemodel")
    assert np.array_equal(written["score"][0], written["again"][0])

    Path("train.prototxt").write_text(twin.replace('"b" lr_mult: 20', '"b" lr_mult: 5', 1))
    with pytest.raises(CaffeImportError, match="layer 'score'.*another lr_mult; got 5 and 20"):
        Solver(SOLVER)


# ------------------------------------------------------------------ finetuning


def test_finetuning_says_what_was_copied(tmp_path: Path) -> None:
    solver_run("sgd_fixed", tmp_path)
    first = read_weights("init.caffemodel")
    write_weights("conv.caffemodel", {"conv": first["conv"], "fc9": [np.ones(3, np.float32)]})
    with pytest.warns(UserWarning, match="no weights for 1 layer, which keeps .*: score"):
        solver = Solver(SOLVER, "conv.caffemodel")
    report = solver.load_report
    assert report is not None
    assert (report.copied, report.unused, report.missing) == (["conv"], ["fc9"], ["score"])
    write_weights("score.caffemodel", {"score": first["score"]})
    both = Solver(SOLVER, "conv.caffemodel, score.caffemodel")
    assert both.load_report is not None
    assert not both.load_report.missing
    assert np.array_equal(weights(both)["score/0"], first["score"][0])


def test_weights_that_do_not_fit_are_told_with_their_file(tmp_path: Path) -> None:
    solver_run("sgd_fixed", tmp_path)
    write_weights("other.caffemodel", {"conv": [np.ones((5, 3, 3, 3), np.float32)] * 2})
    with pytest.raises(
        CaffeImportError, match="^other.caffemodel: layer 'conv': blob 0 .*expected 6x3x3x3, got 5x"
    ):
        Solver(SOLVER, "other.caffemodel")


def test_a_snapshot_is_a_model_of_its_own(tmp_path: Path) -> None:
    """It holds the layers of the TRAIN phase alone, so that its network can be loaded from it."""
    solver_run("sgd_fixed", tmp_path)
    net = Path("train.prototxt").read_text()
    test_data = 'layer { name: "data" type: "HDF5Data" top: "data" include { phase: TEST }'
    test_data += ' hdf5_data_param { source: "none.txt" batch_size: 1 } }'
    trained = net.replace('top: "label" hdf5', 'top: "label" include { phase: TRAIN } hdf5')
    Path("train.prototxt").write_text(trained + test_data)
    solver = Solver(SOLVER, "init.caffemodel", channels_last=True)
    solver.step(6)
    again = load_caffe("snap_iter_6.caffemodel", phase="TRAIN")
    again.to(memory_format=torch.channels_last)  # layers round by the order in memory
    batch = solver._batches.next(torch.device("cpu"), True)
    assert torch.equal(again(**batch)["loss"], solver.net(**batch)["loss"])


def test_writers_write(tmp_path: Path) -> None:
    """A MatWrite layer of a test net gets the scores of the weights in training."""
    solver_run("sgd_fixed", tmp_path)
    edit("test_iter: 2 test_interval: 20\n")
    net = Path("train.prototxt").read_text()
    writer = """layer { name: "mat" type: "MatWrite" bottom: "score" include { phase: TEST }
      mat_write_param { prefix: "scores/" source: "names.txt" } }"""
    Path("train.prototxt").write_text(net + writer)
    Path("names.txt").write_text("".join(f"row{i}\n" for i in range(2)))
    Path("scores").mkdir()
    with Solver(SOLVER, "init.caffemodel") as solver:
        solver.step(1)
        written = sorted(path.name.split("_")[0] for path in Path("scores").iterdir())
        assert written == ["row0", "row1"]  # one a pass


# ------------------------------------------------------------------ testing, logging, stopping


class Told:
    """Remembers what a log is told."""

    def __init__(self) -> None:
        self.trains: list[tuple[Any, ...]] = []
        self.tests: list[tuple[Any, ...]] = []

    def train(self, *values: Any) -> None:
        """See `Journal`."""
        self.trains.append(values)

    def test(self, *values: Any) -> None:
        """See `Journal`."""
        self.tests.append(values)


def test_tests_and_log(tmp_path: Path) -> None:
    """A test has the weights in training, is the mean of test_iter batches, and comes before."""
    run = solver_run("sgd_fixed", tmp_path)
    edit(
        "test_iter: 3 test_interval: 5 test_compute_loss: true average_loss: 3\n",
        ("display: 1", "display: 4"),
    )
    told = Told()
    solver = Solver(SOLVER, "init.caffemodel", log=told)
    assert solver.solve()
    losses = run["loss"][()]
    first = told.tests[0][2]
    assert [test[:2] for test in told.tests] == [(0, 0), (5, 0), (10, 0)]
    assert first["loss (objective)"] == pytest.approx(first["loss"], rel=1e-6)
    assert first["loss"] != told.tests[1][2]["loss"]
    assert [train[0] for train in told.trains] == [0, 4, 8]
    smooth = [np.mean(losses[max(0, i - 2) : i + 1]) for i in (0, 4, 8)]
    np.testing.assert_allclose([train[2] for train in told.trains], smooth, rtol=1e-5)
    assert told.trains[0][1] == pytest.approx(0.01)
    assert told.trains[1][3] == {"loss": pytest.approx(losses[4], rel=1e-5)}

    # A resumed run tests on the batches that the other one tested on.
    again = Told()
    Solver(SOLVER, snapshot="snap_iter_6.solverstate", log=again).solve()
    assert again.tests == told.tests[2:]


def test_stop_and_snapshot_on_request(tmp_path: Path) -> None:
    solver_run("sgd_fixed", tmp_path)
    edit("snapshot_after_train: false\n", ("snapshot: 6", "snapshot: 0"))
    solver = Solver(SOLVER, "init.caffemodel")

    def watch(solver: Solver) -> None:
        if solver.iter == 2:
            solver.request("snapshot")
        if solver.iter == 5:
            solver.request("stop")

    solver.watchers.append(watch)
    assert not solver.solve()
    assert solver.iter == 5
    ours = sorted(path.name for path in tmp_path.glob("snap_iter_[25].*"))
    assert ours == [f"snap_iter_{i}.{e}" for i in (2, 5) for e in ("caffemodel", "solverstate")]
    solver.watchers.clear()
    assert solver.solve()
    assert solver.iter == 12


def test_stop_in_the_middle_of_a_test(tmp_path: Path) -> None:
    """What the test found so far is nothing; the snapshot is that of the iteration before."""
    solver_run("sgd_fixed", tmp_path)
    edit("test_iter: 50 test_interval: 5\n")
    told = Told()
    solver = Solver(SOLVER, "init.caffemodel", log=told)
    batches = solver._tests.batches[0]
    take, taken = batches.next, []

    def counted(*arguments: Any) -> dict[str, torch.Tensor]:
        taken.append(solver.iter)
        if taken.count(5) == 3:
            solver.request("stop")
        return take(*arguments)

    batches.next = counted  # type: ignore[method-assign]
    assert not solver.solve()
    assert taken.count(5) == 3
    assert [test[0] for test in told.tests] == [0]
    assert Path("snap_iter_5.solverstate").is_file()


def test_a_full_disk_leaves_the_old_snapshots_whole(tmp_path: Path) -> None:
    solver_run("sgd_fixed", tmp_path)
    solver = Solver(SOLVER, "init.caffemodel")
    solver.step(6)
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = r"snap_iter_12.caffemodel: File too large .*whole one: snap_iter_6.solverstate\)"
    with full_disk(500), pytest.raises(CaffeImportError, match=said):
        solver.step(6)
    (tmp_path / "snap_iter_12.solverstate").unlink(missing_ok=True)
    before.pop("snap_iter_12.solverstate", None)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


# ------------------------------------------------------------------ bad input


def test_snapshots_of_something_else(tmp_path: Path) -> None:
    solver_run("adam_step", tmp_path)

    def refused(snapshot: str, message: str) -> None:
        with pytest.raises(CaffeImportError, match=message):
            Solver(SOLVER, snapshot=snapshot)

    refused("init.caffemodel", r"init.caffemodel: holds weights; expected a .solverstate")
    refused("gone.solverstate", "gone.solverstate: No such file")
    Path("snap_iter_6.caffemodel").unlink()
    refused(
        "snap_iter_6.solverstate", "names weights that are not there; got snap_iter_6.caffemodel"
    )
    solver_run("sgd_step", tmp_path)  # SGD remembers half of what Adam does
    state = (tmp_path / "snap_iter_6.solverstate").read_bytes()
    solver_run("adam_step", tmp_path)
    Path("sgd.solverstate").write_bytes(state)
    refused("sgd.solverstate", "another network or solver; expected 8 arrays, got 4")
    with pytest.raises(CaffeImportError, match="weights and a snapshot are both given"):
        Solver(SOLVER, "init.caffemodel", "snap_iter_6.solverstate")
    net = Path("train.prototxt").read_text()
    Path("train.prototxt").write_text(net.replace("num_output: 6", "num_output: 5"))
    refused(
        "snap_iter_6.solverstate", "layer 'conv': history 0 does not fit blob 0; expected 5x3x3x3"
    )


def test_snapshots_that_moved_together_are_found(tmp_path: Path) -> None:
    solver_run("sgd_step", tmp_path)
    moved = tmp_path / "elsewhere"
    moved.mkdir()
    for name in ("snap_iter_6.caffemodel", "snap_iter_6.solverstate"):
        Path(name).rename(moved / name)
    assert Solver(SOLVER, snapshot=moved / "snap_iter_6.solverstate").iter == 6


def test_a_prefix_that_cannot_be_written_is_told_at_once(tmp_path: Path) -> None:
    solver_run("sgd_step", tmp_path)
    edit("", ('"snap"', '"gone/snap"'))
    with pytest.raises(CaffeImportError, match=r"snapshot_prefix; expected a folder .*got gone"):
        Solver(SOLVER)


def test_a_net_that_reads_no_data(tmp_path: Path) -> None:
    solver_run("sgd_step", tmp_path)
    deploy = 'input: "data" input_shape { dim: 1 dim: 3 dim: 9 dim: 9 }\n'
    net = Path("train.prototxt").read_text().splitlines()
    Path("train.prototxt").write_text(deploy + "\n".join(net[2:-1]))
    with pytest.raises(CaffeImportError, match="input 'data' is the top of no data layer"):
        Solver(SOLVER)


# ------------------------------------------------------------------ what CaffeNet lends


def test_a_shared_buffer_stays_one_tensor_when_the_net_moves() -> None:
    """BatchNorm's statistics, shared by name, must not become two by a conversion."""
    bn = """layer { name: "%s" type: "BatchNorm" bottom: "x" top: "%s"
      param { name: "a" lr_mult: 0 } param { name: "b" lr_mult: 0 } param { name: "c" lr_mult: 0 } }
      """
    text = 'input: "x" input_shape { dim: 1 dim: 2 dim: 3 dim: 3 }' + bn % ("p", "p")
    net = load_caffe(parse_net(text + bn % ("q", "q"), "TRAIN")).double()
    for i in range(3):
        assert net.params["p"][i] is net.params["q"][i]
        assert net.params["p"][i].dtype == torch.float64
    assert [(p.layer, p.number, p.lr_mult) for p in net.learnable_params] == [
        ("p", 0, 0.0), ("p", 1, 0.0), ("p", 2, 0.0),
    ]  # fmt: skip


def test_weights_are_shared_with_a_test_net_or_refused() -> None:
    def net(outputs: int, phase: str) -> CaffeNet:
        return load_caffe(
            parse_net(
                'input: "x" input_shape { dim: 1 dim: 2 dim: 3 dim: 3 } layer { name: "conv"'
                ' type: "Convolution" bottom: "x" top: "y" convolution_param { kernel_size: 1'
                f" num_output: {outputs} }} }}",
                phase,
            )
        )

    train, test = net(3, "TRAIN"), net(3, "TEST")
    test.share_weights(train)
    assert all(a is b for a, b in zip(test.params["conv"], train.params["conv"], strict=True))
    with pytest.raises(CaffeImportError, match="layer 'conv': cannot share .*4x2x1x1.*got 3x2x1x1"):
        net(4, "TEST").share_weights(train)
