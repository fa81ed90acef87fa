"""``weights list|fetch|add|verify`` as people call them, and MODEL by name in other commands."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from deeplab_repro.released.store import file_sum
from prototxt_import import read_weights, write_weights
from tests.released.conftest import Shelf, twin, write_caffemodel, zipped
from tests.released.server import Page, Server


def test_list(run, tmp_path, monkeypatch):
    """The models of this package: nothing is here, and no address is asked."""
    monkeypatch.setenv("DEEPLAB_REPRO_WEIGHTS", str(tmp_path / "store"))
    code, out, err = run("weights", "list", "--json", tmp_path / "l.json")
    assert (code, err) == (0, "")
    rows = {line.split()[0]: line for line in out.splitlines() if line}
    assert "76.35, 77.69 with CRF" in rows["deeplab_v2_resnet101"]
    assert "176." in rows["deeplab_v2_resnet101"]  # megabytes
    assert "trainval_aug, saw val" in rows["train2_iter_20000"]
    report = json.loads((tmp_path / "l.json").read_text())
    resnet = report["deeplab_v2_resnet101"]
    assert (resnet["test_size"], resnet["input_rule"]) == (513, [32, 1])
    assert [each["saw_val"] for each in resnet["weights"]] == [False, True, False]
    assert resnet["weights"][0]["path"] is None
    first, second = resnet["downloads"][0]["sources"]
    assert first["confirmed"]
    assert not second["confirmed"]
    assert not (tmp_path / "store").exists()


@pytest.mark.slow
def test_fetch_add_verify_and_segment(
    run,
    shelf: Shelf,
    server: Server,
    caffemodel: Path,
    tmp_path: Path,
):
    page = Page(caffemodel.read_bytes(), breaks=[100_000])
    shelf.put(small=twin(server.url("/gone"), server.url("/a", page)), v2=zipped())
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.zeros((40, 50, 3), np.uint8))
    segment = ("segment", picture, "--model", "small", "--pad-to", "97", "-o", tmp_path / "out")
    code, _, err = run(*segment)
    assert code == 2
    assert "`deeplab-repro weights fetch small` before" in err

    code, out, err = run("weights", "fetch", "small", "--json", tmp_path / "f.json")
    assert code == 0
    assert "small/val_iter converted: " in out
    assert f"SHA-256 {file_sum(caffemodel)} of what came from {server.url('/a')}" in out
    assert "no published sum exists: it is recorded now" in out
    assert "a note" in err  # on the terms of use
    assert "404 Not Found" in err
    assert "trying again in 1 s" in err
    (obtained,) = json.loads((tmp_path / "f.json").read_text())
    assert obtained["source"]["sha256"] == file_sum(caffemodel)
    assert run(*segment)[0] == 0
    assert (tmp_path / "out" / "labels" / "p.png").is_file()
    assert run("inspect", "small")[0] == 0
    for _ in range(2):  # the second time the file is there
        assert run("convert", "small", "-o", tmp_path / "c.caffemodel")[0] == 0

    code, out, _ = run("weights", "fetch", "small", "--all")
    assert code == 0
    assert "small/val_iter is here already" in out
    assert "small/test_iter converted" in out
    assert "trained on trainval_aug: not to be scored on val" in out
    assert run(*segment[:3], "small/test_iter", *segment[4:])[0] == 0

    code, out, _ = run("weights", "verify", caffemodel, "--json", tmp_path / "v.json")
    assert code == 0
    assert "small/test_iter.caffemodel" in out
    assert json.loads((tmp_path / "v.json").read_text())[0]["is"] == ["small"]
    (yes,) = [line for line in run("weights", "list")[1].splitlines() if "val_iter" in line][:1]
    assert yes.rstrip().endswith("yes")


def test_add(run, shelf: Shelf, caffemodel: Path):
    shelf.put(small=twin())
    code, out, err = run("weights", "add", caffemodel)
    assert (code, out) == (2, "")
    assert "expected --model NAME and --file FILE that say which" in err
    code, out, _ = run("weights", "add", caffemodel, "--model", "small", "--file", "val_iter")
    assert code == 0
    assert f"of what came from {caffemodel}" in out
    assert caffemodel.is_file()


def test_fetch_by_model_and_file(run, shelf: Shelf, server: Server, caffemodel: Path, tmp_path):
    """MODEL/FILE, as everywhere else; `--file` adds others."""
    shelf.put(small=twin(server.url("/a", Page(caffemodel.read_bytes()))))
    report = tmp_path / "f.json"

    def fetched(*arguments: str) -> list[str]:
        assert run("weights", "fetch", *arguments, "--json", report)[0] == 0
        return [each["weights"] for each in json.loads(report.read_text())]

    assert fetched("small/test_iter") == ["test_iter"]
    assert fetched("small/test_iter", "--file", "val_iter") == ["test_iter", "val_iter"]


def test_verify_of_another_network(run, shelf: Shelf, tmp_path: Path):
    """No model is most like it where no layer is shared; labels are told where there are any."""
    shelf.put(small=twin())
    path = tmp_path / "x.caffemodel"
    weights = read_weights(write_caffemodel(path, "largefov"))
    write_weights(path, {f"other_{layer}": blobs for layer, blobs in weights.items()})
    code, out, _ = run("weights", "verify", path)
    assert code == 1
    assert "no released model: it shares no layer with any" in out
    assert "most like" not in out
    code, _, err = run("weights", "add", path)
    assert (code, "holds the weights of no released model, and not one layer of any" in err) == (
        2,
        True,
    )
    del weights["fc8_voc12"], weights["conv1_1"]
    write_weights(path, weights)
    code, out, _ = run("weights", "verify", path)
    (line,) = [line for line in out.splitlines() if line.startswith("most like")]
    assert (code, line.split()) == (1, ["most", "like", "small"])


def test_verify_says_what_differs(run, shelf: Shelf, tmp_path: Path):
    shelf.put(small=twin())
    path = write_caffemodel(tmp_path / "x.caffemodel", "largefov", num_labels=5)
    weights = read_weights(path)
    del weights["fc7"]
    weights["conv1_1"][0][:] = np.inf
    weights["more"] = weights["conv1_1"]
    weights["conv1_2"] = [blob[..., :2] for blob in weights["conv1_2"]]
    write_weights(path, weights)
    code, out, _ = run("weights", "verify", path, "--json", tmp_path / "v.json")
    assert code == 1
    for words in (
        "small, 5 labels",
        "layer 'conv1_2', blob 0 is 4x4x3x2 in place of 4x4x3x3",
        "layer 'fc7' is missing",
        "layer 'more' is not in the model",
    ):
        assert words in out
    (line,) = [line for line in out.splitlines() if line.startswith("not finite")]
    assert line.split()[2:] == ["conv1_1,", "more"]
    (report,) = json.loads((tmp_path / "v.json").read_text())
    assert (report["is"], report["not_finite"]) == ([], ["conv1_1", "more"])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["fetch", "smal"], "no released model is named 'smal'; expected small"),
        (["fetch", "xyz"], "no released model is named 'xyz'; expected one of small, v2"),
        (["fetch", "small", "--file", "x"], "the model small has no weights of this name"),
        (["fetch", "small", "--source", "ftp://x"], "--source; expected http://... or https://"),
        (["fetch", "small/x"], "the model small has no weights of this name"),
        (["fetch", "small", "--timeout", "0"], "0.0 is not in the range x>=0.1"),
        (["fetch", "small", "--timeout", "nan"], "--timeout; expected a finite number of seconds"),
        (["fetch", "small", "--timeout", "inf"], "--timeout; expected a finite number of seconds"),
        (
            ["add", "empty.zip", "--file", "zz"],
            "deeplab-repro: no released model has weights named 'zz'; expected one of val_iter, ",
        ),
        (["fetch", "small"], "`deeplab-repro weights add FILE`); got no address"),
        (["add", "none.caffemodel"], "none.caffemodel: No such file or directory"),
        (["verify", "none.caffemodel"], "none.caffemodel: No such file or directory"),
        (["verify", "manifest.json"], "manifest.json: is a text; expected weights"),
        (["verify", "empty.zip"], "empty.zip: holds no caffemodel"),
        (["list", "--manifest", "none.json"], "deeplab-repro: none.json: No such file or"),
        (["list", "--manifest", "empty.zip"], "empty.zip: is no"),
    ],
)
def test_bad_arguments(run, shelf: Shelf, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    shelf.put(small=twin(), v2=zipped())
    Path("empty.zip").write_bytes(b"PK\x05\x06" + bytes(18))
    code, out, err = run("weights", *arguments)
    assert (code, out) == (2, "")
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err
    assert not Path("store").exists()
