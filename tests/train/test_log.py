"""Training logs: what is written, and what is read back."""

from __future__ import annotations

import builtins
import json
import math
import os
import re
from pathlib import Path
from typing import Any

import pytest

from deeplab_repro import InputError
from deeplab_repro.train.curves import Curve, read_run
from deeplab_repro.train.log import Log

GLOG = re.compile(r"I\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ (\w+\.cpp:\d+)\] (.*)")

#: As Caffe 1.0 writes it (with its speed), with a loss of weight 0.3 and a blob of three values.
CAFFE = """\
I1121 20:41:47.100000 12345 solver.cpp:273] Learning Rate Policy: poly
I1121 20:41:47.123456 12345 solver.cpp:330] Iteration 0, Testing net (#0)
I1121 20:41:48.123456 12345 solver.cpp:394] Test loss: 3.75
I1121 20:41:48.123456 12345 solver.cpp:397]     Test net output #0: accuracy = 0.25
I1121 20:41:48.123456 12345 solver.cpp:397]     Test net output #1: loss = 3.5 (* 1 = 3.5 loss)
I1121 20:41:48.123456 12345 solver.cpp:330] Iteration 0, Testing net (#1)
I1121 20:41:48.123456 12345 solver.cpp:397]     Test net output #0: accuracy = 0.125
I1121 20:41:49.123456 12345 solver.cpp:218] Iteration 0 (-4.4e+18 iter/s, 3s/20 iters), loss = 4
I1121 20:41:49.123456 12345 solver.cpp:237]     Train net output #0: seg = 0.1
I1121 20:41:49.123456 12345 solver.cpp:237]     Train net output #1: seg = 0.2
I1121 20:41:49.123456 12345 solver.cpp:237]     Train net output #2: seg = 0.3
I1121 20:41:49.123456 12345 solver.cpp:237]     Train net output #3: l/l = 9 (* 0.3 = 2.7 loss)
I1121 20:41:49.123456 12345 sgd_solver.cpp:105] Iteration 0, lr = 0.00025
I1121 20:41:50.123456 12345 solver.cpp:218] Iteration 20 (5 iter/s, 4s/20 iters), loss = 1.5e-05
I1121 20:41:50.123456 12345 solver.cpp:237]     Train net output #0: seg = nan
I1121 20:41:50.123456 12345 solver.cpp:237]     Train net output #1: seg = -nan
I1121 20:41:50.123456 12345 solver.cpp:237]     Train net output #2: seg = inf
I1121 20:41:50.123456 12345 sgd_solver.cpp:105] Iteration 20, lr = 1e-04
I1121 20:41:51.123456 12345 solver.cpp:447] Snapshotting to binary proto file s.caffemodel
I1121 20:41:51.123456 12345 solver.cpp:310] Iteration 40, loss = 0.5
I1121 20:41:51.123456 12345 solver.cpp:315] Optimization Done.
I1121 20:41:52.123456 12345 solver.cpp:218] Iteration 60 (5 iter/s, 4s/20 iters), loss = 0.1"""


def points(curve: Curve) -> dict[int, float]:
    return dict(zip(curve.iterations, curve.values, strict=True))


def test_a_log_of_caffes(tmp_path: Path) -> None:
    """The last line has no end yet: who knows whether 0.1 is all of it."""
    (tmp_path / "train.log").write_text(CAFFE)
    run = read_run(tmp_path)
    assert run.name == tmp_path.name
    assert points(run.loss) == {0: 4, 20: 1.5e-5, 40: 0.5}
    assert points(run.lr) == {0: 0.00025, 20: 1e-4}
    assert set(run.train) == {"seg/0", "seg/1", "seg/2", "l/l"}
    assert points(run.train["l/l"]) == {0: 9}
    assert points(run.train["seg/1"])[0] == 0.2
    assert math.isnan(run.train["seg/0"].values[1])
    assert math.isnan(run.train["seg/1"].values[1])
    assert run.train["seg/2"].values == [0.3, math.inf]
    assert points(run.test["accuracy"]) == {0: 0.25}
    assert points(run.test["accuracy (net 1)"]) == {0: 0.125}
    assert points(run.test["loss"]) == {0: 3.5}
    assert points(run.test["loss (objective)"]) == {0: 3.75}


def test_a_log_of_the_v1_forks_days(tmp_path: Path) -> None:
    """2014: no speed, and other lines of the source; here as `tee` saved it, with \\r\\n."""
    (tmp_path / "a.txt").write_text(
        "I0710 07:38:12.300302 35476 solver.cpp:240] Iteration 398900, loss = 0.0158956\r\n"
        "I0710 07:38:12.301368 35476 solver.cpp:255]     Train net output #0: loss = 0.00447209"
        " (* 1 = 0.00447209 loss)\r\n"
        "I0710 07:38:12.301380 35476 solver.cpp:640] Iteration 398900, lr = 0.00442368\r\n"
    )
    run = read_run(tmp_path / "a.txt")
    assert points(run.loss) == {398900: 0.0158956}
    assert points(run.lr) == {398900: 0.00442368}
    assert points(run.train["loss"]) == {398900: 0.00447209}


def write(folder: Path, **options: Any) -> None:
    """A run that was killed behind iteration 30 and went on from the snapshot of iteration 20."""
    weights = {"loss_res1": 0.5}
    with Log(folder, name="net", loss_weights=weights, **options) as log:
        log.test(0, 0, {"accuracy": 0.25})
        for i in (0, 10, 20, 30):
            outputs = {"seg": [0.1, 0.2, 0.25], "loss_res1": i + 1.0}
            log.train(i, 0.001, 100.0 + i, outputs)
    with open(folder / "log.jsonl", "ab") as file:
        file.write(b'{"kind": "train", "itera')
    with Log(folder, name="net", loss_weights=weights, **options) as log:
        for i in (20, 30):
            log.train(i, 1 / 3, math.nan if i == 20 else 7.0, {"seg": [math.inf, 0, 0]})
        log.test(40, 1, {"accuracy": 0.5})


@pytest.mark.parametrize("which", ["log.jsonl", "caffe.log"])
def test_what_is_written_is_read(tmp_path: Path, which: str) -> None:
    write(tmp_path / "run", caffe=True)
    run = read_run(tmp_path / "run" / which)
    assert points(run.lr) == pytest.approx({0: 1e-3, 10: 1e-3, 20: 1 / 3, 30: 1 / 3}, rel=1e-5)
    assert run.loss.iterations == [0, 10, 20, 30]
    assert [run.loss.values[i] for i in (0, 1, 3)] == [100, 110, 7]
    assert math.isnan(run.loss.values[2])
    assert run.train["seg/0"].values == [0.1, 0.1, math.inf, math.inf]
    assert points(run.train["loss_res1"]) == {0: 1, 10: 11, 20: 21, 30: 31}
    assert points(run.test["accuracy"]) == {0: 0.25}
    assert points(run.test["accuracy (net 1)"]) == {40: 0.5}


def test_our_own_log_is_json(tmp_path: Path) -> None:
    """Of every line, in the strict sense: NaN is none."""

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    write(tmp_path)
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    entries = [json.loads(line, parse_constant=refuse) for line in lines]
    assert [entry["kind"] for entry in entries] == ["test", *["train"] * 6, "test"]
    last = entries[-2]
    assert last.pop("time") > 1e9
    assert last == {
        "kind": "train",
        "iteration": 30,
        "lr": 1 / 3,
        "loss": 7,
        "outputs": {"seg": ["inf", 0, 0]},
    }
    assert entries[5]["loss"] == "nan"


def test_caffes_lines(tmp_path: Path) -> None:
    """In the words, and the order, of `caffe train`; numbers as C++ prints them."""
    with Log(
        tmp_path / "run.jsonl", caffe=True, name="LargeFOV", loss_weights={"loss": 1, "l": 0.3}
    ) as log:
        log.test(0, 0, {"accuracy": 0.5, "loss (objective)": 2})
        log.train(20, 0.00025, 1.23456789, {"seg": [0.1, 1e-5], "loss": 1e6, "l": -math.nan})
    lines = [GLOG.fullmatch(x) for x in (tmp_path / "caffe.log").read_text().splitlines()]
    assert [(m and m[1], m and m[2]) for m in lines] == [
        ("solver.cpp:273", "Solving LargeFOV"),
        ("solver.cpp:330", "Iteration 0, Testing net (#0)"),
        ("solver.cpp:394", "Test loss: 2"),
        ("solver.cpp:397", "    Test net output #0: accuracy = 0.5"),
        ("solver.cpp:218", "Iteration 20, loss = 1.23457"),
        ("solver.cpp:237", "    Train net output #0: seg = 0.1"),
        ("solver.cpp:237", "    Train net output #1: seg = 1e-05"),
        ("solver.cpp:237", "    Train net output #2: loss = 1e+06 (* 1 = 1e+06 loss)"),
        ("solver.cpp:237", "    Train net output #3: l = nan (* 0.3 = nan loss)"),
        ("sgd_solver.cpp:105", "Iteration 20, lr = 0.00025"),
    ]
    assert (tmp_path / "run.jsonl").exists()


def test_the_average_of_the_last() -> None:
    assert Curve([0, 5, 9], [1, 3, 8]).averaged(2).values == [1, 2, 5.5]


def test_without_tensorboard(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Said before anything is written."""
    known = builtins.__import__

    def absent(name: str, *rest: Any) -> Any:
        if "tensorboard" in name:
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return known(name, *rest)

    monkeypatch.setattr(builtins, "__import__", absent)
    with pytest.raises(InputError) as refused:
        Log(tmp_path / "run", tensorboard=True)
    assert str(refused.value) == (
        "TensorBoard's files need the Python package tensorboard;"
        " expected pip install 'deeplab-repro[tensorboard]'"
    )
    assert not list(tmp_path.iterdir())


@pytest.mark.slow
def test_tensorboards_files(tmp_path: Path) -> None:
    """As TensorBoard itself reads them: what a killed run wrote behind its snapshot is hidden."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    write(tmp_path, tensorboard=True)
    events = accumulator.EventAccumulator(str(tmp_path))
    events.Reload()

    def curve(tag: str) -> dict[int, float]:
        return {event.step: event.value for event in events.Scalars(tag)}

    assert list(curve("loss")) == [0, 10, 20, 30]
    assert curve("loss")[30] == 7
    assert curve("lr")[20] == pytest.approx(1 / 3)
    assert curve("train/seg/2") == {0: 0.25, 10: 0.25, 20: 0, 30: 0}
    assert curve("test0/accuracy") == {0: 0.25}
    assert curve("test1/accuracy") == {40: 0.5}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "tells nothing of a training; expected log.jsonl, or lines of Caffe's"),
        (b"hello\nworld\n", "tells nothing of a training"),
        (b"\0\1\2", "is no text; expected a training log"),
        (b'{"kind": "train", "iteration": 0}\n', "line 1 is none of a training log's; got {"),
        (b'{"kind": "test"\n', "line 1 is none of a training log's; got {"),
    ],
)
def test_no_logs(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "a.log"
    path.write_bytes(content)
    with pytest.raises(InputError) as refused:
        read_run(path)
    assert str(refused.value).startswith(f"{path}: {message}")


def test_folders_without_a_log(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="is a folder without a training log; expected log.jsonl"):
        read_run(tmp_path)
    for name in "ab":
        (tmp_path / f"{name}.log").write_text(CAFFE)
    with pytest.raises(InputError, match="several logs; expected one of them, got a.log, b.log"):
        read_run(tmp_path)


def test_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "run").write_text("mine")
    with pytest.raises(InputError, match=f"{tmp_path}/run: File exists"):
        Log(tmp_path / "run")
    (tmp_path / "folder" / "log.jsonl").mkdir(parents=True)
    with pytest.raises(InputError, match="log.jsonl: Is a directory"):
        Log(tmp_path / "folder")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="has no disk that is always full")
def test_a_full_disk_is_said_with_the_name(tmp_path: Path) -> None:
    log = Log(tmp_path)
    os.dup2(os.open("/dev/full", os.O_WRONLY), log._own._file.fileno())
    with pytest.raises(InputError, match=f"{tmp_path}/log.jsonl: No space left on device"):
        log.train(0, 0.1, 1.0, {})
