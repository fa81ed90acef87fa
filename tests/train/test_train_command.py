"""``deeplab-repro train``: what it prints, signals, mistakes."""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
import types
from pathlib import Path
from typing import Any

import cv2
import pytest

from deeplab_repro.cli import main
from deeplab_repro.train import Solver
from prototxt_import import read_weights
from tests.testing.warm import Warm
from tests.train.runs import seg_run, solver_run


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def train(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(["train", "--solver", "solver.prototxt", "--workers", "0", *arguments])
    assert isinstance(caught.value.code, int)
    return caught.value.code


def test_a_training_and_its_lines(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver_run("sgd_step", tmp_path)
    assert train("--weights", "init.caffemodel") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "2 layers copied"
    assert lines[1].startswith("iteration 1, loss ")
    assert lines[2].startswith("iteration 2, loss ")
    assert "images/s" in lines[2]
    assert lines[-2] == "snapshot: snap_iter_12.solverstate"
    assert lines[-1].startswith("done: 12 iterations, loss ")
    final = read_weights("snap_iter_12.caffemodel")
    assert train("--snapshot", "snap_iter_6.solverstate") == 0
    assert "going on from snap_iter_6.solverstate, iteration 6" in capsys.readouterr().out
    again = read_weights("snap_iter_12.caffemodel")
    assert all((a == b).all() for n in final for a, b in zip(final[n], again[n], strict=True))


def test_a_start_from_zeros_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """As of a released train net without the weights that it is meant to start from."""
    solver_run("sgd_step", tmp_path)
    assert train() == 0
    (line,) = capsys.readouterr().err.splitlines()
    assert "the weights of 2 layers start from 0, so that they hardly learn: conv, score" in line
    net = Path("train.prototxt")
    param = "convolution_param {"
    net.write_text(net.read_text().replace(param, f'{param} weight_filler {{ type: "xavier" }}'))
    assert train() == 0
    assert not capsys.readouterr().err


def test_lists_of_what_was_copied(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    solver_run("sgd_step", tmp_path)
    net = Path("train.prototxt")
    net.write_text(net.read_text().replace('"score"', '"score2"'))
    assert train("--weights", "init.caffemodel") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[:3] == [
        "1 layer copied",
        "1 layer not in the file, left at initial values: score2",
        "1 layer in the file, but not in the network: score",
    ]


def test_the_log_is_told_everything(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    solver_run("sgd_step", tmp_path)
    told: list[Any] = []

    class Log:
        def __init__(self, folder: str, **options: Any) -> None:
            told.append((folder, options))

        def train(self, *values: Any) -> None:
            told.append(values)

        def close(self) -> None:
            told.append("closed")

    module = types.ModuleType("deeplab_repro.train.log")
    module.Log = Log  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "deeplab_repro.train.log", module)
    assert train("--weights", "init.caffemodel", "--log", "run", "--caffe-log") == 0
    options = {"caffe": True, "tensorboard": False, "name": "tiny", "loss_weights": {"loss": 1.0}}
    assert told[0] == ("run", options)
    assert [values[0] for values in told[1:-1]] == list(range(12))
    assert set(told[1][3]) == {"loss"}
    assert told[-1] == "closed"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--weights", "gone.caffemodel"], "gone.caffemodel: No such file"),
        (["--snapshot", "init.caffemodel"], "init.caffemodel: holds weights"),
        (["--weights", "init.caffemodel", "--snapshot", "snap_iter_6.solverstate"], "both given"),
        (["--tensorboard"], "--caffe-log and --tensorboard; expected --log FOLDER"),
        (["--precision", "float16"], "precision float16 needs a GPU; expected bfloat16"),
        (["--accuracy", "quick"], "'quick' is not one of 'exact', 'fast'"),
        (["--set", "X"], "--set; expected NAME=VALUE, got X"),
        (["--set", "X=1"], "with its networks: has no placeholder ${X}; expected no --set"),
    ],
)
def test_one_line_for_each_mistake(
    arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    solver_run("sgd_step", tmp_path)
    assert train(*arguments) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("deeplab-repro: ")
    assert message in line


def test_a_label_that_no_class_has_is_traced(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    seg_run(tmp_path)
    label = cv2.imread("labels/1.png", cv2.IMREAD_UNCHANGED)
    label[:24, :24] = 77
    cv2.imwrite("labels/1.png", label)
    assert train("--weights", "init.caffemodel") == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "layer 'loss'" in line
    assert "unexpected label 77" in line
    assert "labels/1.png" in line


def test_signals_in_mid_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGHUP: a snapshot, and on; SIGTERM: a snapshot, and the end."""
    solver_run("sgd_step", tmp_path)
    iterate = Solver._iterate

    def watched(solver: Solver) -> None:
        iterate(solver)
        if solver.iter == 2:
            os.kill(os.getpid(), signal.SIGHUP)
        if solver.iter == 4:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(Solver, "_iterate", watched)
    before = signal.getsignal(signal.SIGTERM)
    assert train("--weights", "init.caffemodel") == 0
    printed = capsys.readouterr()
    assert "SIGTERM: stopping after this iteration, with a snapshot" in printed.err
    assert "stopped after iteration 4; --snapshot goes on from there" in printed.out
    assert Path("snap_iter_2.solverstate").is_file()
    assert Path("snap_iter_4.solverstate").is_file()
    assert signal.getsignal(signal.SIGTERM) == before


def test_resume_takes_the_newest_whole_snapshot(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """None: from the weights. Damaged ones, and those of other runs, are left out."""
    solver_run("sgd_step", tmp_path)
    text = Path("solver.prototxt").read_text()
    Path("solver.prototxt").write_text(text.replace("snapshot: 6", "snapshot: 3"))
    for left in tmp_path.glob("snap_*"):
        left.unlink()
    arguments = ["--weights", "init.caffemodel", "--resume"]
    assert train(*arguments) == 0
    assert capsys.readouterr().out.startswith("2 layers copied\n")
    final = read_weights("snap_iter_12.caffemodel")
    Path("snap_iter_12.solverstate").unlink()
    Path("snap_iter_9.caffemodel").write_bytes(Path("snap_iter_9.caffemodel").read_bytes()[:-9])
    shutil.copy("snap_iter_6.solverstate", "snap_iter_x.solverstate")
    shutil.copy("snap_iter_6.solverstate", "other_iter_20.solverstate")
    Path("snap_iter_30.solverstate").write_bytes(b"no state")
    assert train(*arguments) == 0
    printed = capsys.readouterr()
    assert [line.split(": ")[2] for line in printed.err.splitlines()] == [
        "snap_iter_30.solverstate", "snap_iter_9.caffemodel",
    ]  # fmt: skip
    assert "left out" in printed.err
    assert "going on from snap_iter_6.solverstate, iteration 6" in printed.out
    again = read_weights("snap_iter_12.caffemodel")
    assert all((a == b).all() for n in final for a, b in zip(final[n], again[n], strict=True))


@pytest.mark.slow
def test_killed_and_started_again(tmp_path: Path, warm: Warm) -> None:
    """A run that was killed goes on from its last snapshot and ends as one that was not."""
    solver_run("sgd_fixed", tmp_path)
    text = Path("solver.prototxt").read_text()
    Path("solver.prototxt").write_text(
        text.replace("max_iter: 12", "max_iter: 240").replace("snapshot: 6", "snapshot: 20")
    )
    command = ["train", "--solver", "solver.prototxt", "--workers", "0"]
    with warm.start(*command, "--weights", "init.caffemodel") as run:
        while not Path("snap_iter_40.solverstate").is_file():
            time.sleep(0.02)
            assert run.poll() is None
        run.kill()
    states = {int(path.stem.split("_")[-1]): path for path in tmp_path.glob("*.solverstate")}
    assert max(states) < 240
    assert warm.start(*command, "--snapshot", states[max(states)]).wait() == 0
    resumed = read_weights("snap_iter_240.caffemodel")
    with Solver("solver.prototxt", "init.caffemodel") as straight:
        straight.step(240)
    for name, blobs in straight.net.params.items():
        for ours, theirs in zip(blobs, resumed[name], strict=True):
            assert (ours.detach().numpy() == theirs).all()
