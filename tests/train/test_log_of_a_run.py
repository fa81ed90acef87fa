"""A training's logs from the command line on, read by Caffe's rules, TensorBoard and `plot`."""

from __future__ import annotations

import json
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from deeplab_repro.cli import main
from tests.train.runs import solver_run

# What tools/extra/parse_log.py and extract_seconds.py of Caffe look for.
ITERATION = re.compile(r"Iteration (\d+)")
OUTPUT = {
    phase: re.compile(phase + r" net output #(\d+): (\S+) = ([\.\deE+-]+)")
    for phase in ("Train", "Test")
}
RATE = re.compile(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)")


def seconds(line: str) -> float:
    """The time of a line: its first word is a letter, month and day, its second the time."""
    day, time = line.split()[:2]
    return datetime.strptime(f"2024{day[1:]} {time}", "%Y%m%d %H:%M:%S.%f").timestamp()


def parsed(log: Path) -> dict[str, list[dict[str, float]]]:
    """A row for each iteration with outputs, its rate being the last one read before it."""
    lines = log.read_text().splitlines()
    start = next(seconds(line) for line in lines if "Solving" in line)
    rows: dict[str, list[dict[str, float]]] = {"Train": [], "Test": []}
    iteration, rate = -1, float("nan")
    for line in lines:
        if found := ITERATION.search(line):
            iteration = int(found[1])
        if iteration < 0:
            continue
        if found := RATE.search(line):
            rate = float(found[1])
        for phase, pattern in OUTPUT.items():
            if found := pattern.search(line):
                if not rows[phase] or rows[phase][-1]["NumIters"] != iteration:
                    passed = seconds(line) - start
                    rows[phase].append(
                        {"NumIters": iteration, "Seconds": passed, "LearningRate": rate}
                    )
                rows[phase][-1][found[2]] = float(found[3])
    return rows


def run(*arguments: str) -> None:
    with pytest.raises(SystemExit) as ended:
        main(list(arguments))
    assert ended.value.code == 0


@pytest.mark.slow
def test_caffes_parser_tensorboard_and_plot(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Two halves of a run, one behind the other in the same logs."""
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    monkeypatch.chdir(tmp_path)
    caffe = solver_run("sgd_step", tmp_path)
    for left in tmp_path.glob("snap_*"):
        left.unlink()
    text = Path("solver.prototxt").read_text()
    Path("solver.prototxt").write_text(
        text.replace("max_iter: 12", "max_iter: 6")
        + "test_iter: 2 test_interval: 6 test_compute_loss: true\n"
    )
    command = ["train", "--solver", "solver.prototxt", "--workers", "0", "--resume"]
    command += ["--weights", "init.caffemodel", "--log", "run", "--caffe-log", "--tensorboard"]
    run(*command)
    text = Path("solver.prototxt").read_text()
    Path("solver.prototxt").write_text(text.replace("max_iter: 6", "max_iter: 12"))
    run(*command)
    assert "going on from snap_iter_6.solverstate" in capsys.readouterr().out

    rows = parsed(Path("run/caffe.log"))
    losses = caffe["loss"][()].tolist()
    assert [row["NumIters"] for row in rows["Train"]] == list(range(12))
    assert [row["loss"] for row in rows["Train"]] == pytest.approx(losses, rel=1e-5)
    # Caffe writes a rate behind the outputs of its iteration: the row has that of the one before.
    own = [json.loads(line) for line in Path("run/log.jsonl").read_text().splitlines()]
    rates = [entry["lr"] for entry in own if entry["kind"] == "train"]
    assert len(set(rates)) > 1
    assert [row["LearningRate"] for row in rows["Train"][1:]] == pytest.approx(rates[:-1], rel=1e-5)
    assert all(0 <= row["Seconds"] < 600 for kind in rows.values() for row in kind)
    tested = {row["NumIters"]: row["loss"] for row in rows["Test"]}
    tests = {entry["iteration"]: entry for entry in own if entry["kind"] == "test"}
    assert tested.keys() == tests.keys() == {0, 6, 12}
    for iteration, entry in tests.items():
        assert tested[iteration] == pytest.approx(entry["outputs"]["loss"], rel=1e-5)

    events = accumulator.EventAccumulator("run")
    events.Reload()
    curve = {event.step: event.value for event in events.Scalars("loss")}
    assert list(curve) == list(range(12))
    assert list(curve.values()) == pytest.approx(losses, rel=1e-5)
    assert [event.step for event in events.Scalars("test0/loss")] == [0, 6, 12]

    for log in ("run", "run/caffe.log"):
        run("plot", log, "-o", "curves.png", "--json", "curves.json")
        assert Path("curves.png").read_bytes()[:4] == b"\x89PNG"
        drawn: dict[str, Any] = json.loads(Path("curves.json").read_text())[0]
        assert drawn["loss"]["iterations"] == list(range(12))
        assert drawn["loss"]["values"] == pytest.approx(losses, rel=1e-5)
        assert drawn["lr"]["values"] == pytest.approx(rates, rel=1e-5)
        assert drawn["test"]["loss"]["iterations"] == [0, 6, 12]
