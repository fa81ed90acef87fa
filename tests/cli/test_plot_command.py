"""``deeplab-repro plot`` as people call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from deeplab_repro.train.curves import read_run
from deeplab_repro.train.log import Log
from deeplab_repro.train.plot import training_figure


def write(folder: Path, offset: float = 0) -> Path:
    with Log(folder) as log:
        for i in range(0, 100, 10):
            values = [offset, i / 100, i / 200]
            log.train(i, 0.1 / (i + 1), offset + 100 - i, {"accuracy": values, "$a_{": 1.0})
        log.test(90, 0, {"accuracy": 0.5})
    return folder


@pytest.mark.slow
def test_pictures(run: Any, tmp_path: Path) -> None:
    one, two = write(tmp_path / "one"), write(tmp_path / "_two$x^", 5)
    code, out, err = run("plot", one, "--average", 3)
    assert (code, err) == (0, "")
    assert "0..90" in out
    assert "100 -> 10" in out
    assert "accuracy 0.5" in out
    with Image.open(one / "training.png") as picture:
        assert picture.size == (1488, 792)
    code, _, _ = run("plot", one, two / "log.jsonl", "-o", tmp_path / "both.svg")
    assert code == 0
    drawn = (tmp_path / "both.svg").read_text()
    for text in ("one: loss", "_two$x^/log.jsonl: rate", "one: test accuracy", "output $a_{"):
        assert f">{text}<" in drawn
    report = tmp_path / "curves.json"
    assert run("plot", one, "-o", tmp_path / "x.pdf", "--json", report)[0] == 0
    assert json.loads(report.read_text())[0]["loss"] == {
        "iterations": list(range(0, 100, 10)),
        "values": list(range(100, 0, -10)),
    }


def test_what_is_drawn(tmp_path: Path) -> None:
    """Lines and their legends: every curve of every run, each run in its colour."""
    runs = [read_run(write(tmp_path / name, offset)) for name, offset in (("a", 0), ("b", 5))]
    loss, rate, accuracy, other = training_figure(runs, average=2).axes
    assert [list(line.get_ydata()) for line in loss.lines[:2]] == [
        list(range(100, 0, -10)),
        [100, *range(95, 10, -10)],
    ]
    assert len({line.get_color() for line in loss.lines}) == 2
    shown = [text.get_text() for text in loss.get_legend().get_texts()]
    assert shown == ["a: loss, mean of 2", "b: loss, mean of 2"]
    assert len(rate.lines) == 2
    shown = [text.get_text() for text in accuracy.get_legend().get_texts()]
    assert shown[:4] == [f"a: train accuracy/{i}" for i in range(3)] + ["a: test accuracy"]
    assert len(accuracy.lines) == 8
    assert other.get_title() == "output $a_{"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["-o", "a.jpg"], "a.jpg: unknown kind of picture; expected .png or .svg or .pdf"),
        (["no.log"], "no.log: No such file or directory"),
        (["--average", 0], "0 is not in the range x>=1"),
        (["-o", "no/a.png"], "no: there is no such folder"),
    ],
)
def test_bad_input(
    run: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, arguments: list[Any], message: str
) -> None:
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "one")
    code, _, err = run("plot", "one", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert [path.name for path in tmp_path.iterdir()] == ["one"]
