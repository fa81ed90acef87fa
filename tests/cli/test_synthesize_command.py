"""`data synthesize`: a set that `data check` accepts, and a folder that is not written over."""

from __future__ import annotations

import json


def test_draws_a_set(run, tmp_path):
    root, report = tmp_path / "set", tmp_path / "report.json"
    options = ["--pictures", 10, "--workers", 1, "--json", report]
    code, out, _ = run("data", "synthesize", root, *options)
    assert code == 0
    assert "9 pictures for training and 1 held back" in out
    lists = {"train": 9, "val": 1, "trainval": 10}
    assert json.loads(report.read_text()) == {"pictures": 10, "seed": 0, "lists": lists}
    code, out, _ = run("data", "check", root, "--split", "trainval")
    assert code == 0
    assert "nothing wrong" in out
    code, _, err = run("data", "synthesize", root, "--pictures", 10)
    assert code == 2
    assert f"{root}: is there already; expected a new or an empty folder" in err
    assert len(err.splitlines()) == 1
