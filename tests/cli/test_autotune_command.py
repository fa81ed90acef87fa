"""`autotune`, and `segment --autotune` that takes what it has measured."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest

from deeplab_repro import autotuning
from deeplab_repro.ops import _atrous_tuned
from deeplab_repro.ops._atrous_timing import candidates

BUNDLED = Path(__file__).parents[2] / "weights" / "largefov_v1_w8"
MODEL = BUNDLED / "weights.caffemodel"
PICTURE = BUNDLED / "picture.png"
CHECKPOINT = Path(__file__).parents[1] / "data" / "tensorflow" / "checkpoints" / "network.ckpt-2"
OPTIONS = {"model_variant": "mobilenet_v2", "depth_multiplier": 0.1, "aspp_convs_filters": 32}


@pytest.fixture(autouse=True)
def measured(tmp_path, monkeypatch):
    """The problems that were measured; the library takes 1 ms each time, the others 2."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(_atrous_tuned, "_choices", {})
    found = []

    def measure(problem, seconds):
        found.append(problem)
        return {name: 1.0 if name == "library" else 2.0 for name in candidates(problem)}

    monkeypatch.setattr(autotuning, "measure", measure)
    return found


def test_the_table_and_the_report(run, tmp_path, measured):
    report = tmp_path / "r.json"
    options = ("--size", "65x97", "--batch", 2, "--accuracy", "fast", "--json", report)
    code, out, err = run("autotune", MODEL, *options)
    assert (code, err) == (0, "")
    assert "conv1_1" in out
    assert "3 -> 8, 3x3, 65x97, 2 pictures" in out
    assert "fast; all convolutions of a pass: 16 as chosen" in " ".join(out.split())
    assert {(p.batch, p.fast) for p in measured} == {(2, True)}
    content = json.loads(report.read_text())
    assert len(content["timings"]) == len(measured)
    assert Path(content["cache"]).parent == tmp_path / "cache" / "deeplab-repro" / "autotune"
    count = len(measured)
    assert run("autotune", MODEL, *options)[0] == 0
    assert len(measured) == count
    assert run("autotune", MODEL, *options, "--no-cache")[0] == 0
    assert len(measured) == 2 * count
    assert run("autotune", MODEL, *options, "--fuse")[0] == 0
    assert len(measured) > 2 * count  # channels are last there


def test_segment_takes_what_it_has_measured(run, tmp_path, measured):
    arguments = ("segment", PICTURE, "--model", MODEL, "--pad-to", 97, "-o", tmp_path / "o")
    assert run(*arguments)[0] == 0
    assert not measured
    assert run("autotune", MODEL, "--size", 97)[0] == 0
    count = len(measured)
    code, out, err = run(*arguments, "--autotune")
    assert (code, err) == (0, "")
    assert "dog          49.2 %" in out
    assert len(measured) == count
    assert run(*arguments, "--autotune", "--scales", 0.5, 1)[0] == 0
    assert {p.image_size for p in measured if p.channels == 3} == {(97, 97)}
    assert run(*arguments, "--autotune", "--accuracy", "fast")[0] == 0
    assert len(measured) == 2 * count


def test_segment_takes_what_was_measured_of_a_checkpoint(run, tmp_path, measured):
    """Of the fused network, as `segment` runs it, and of the crop that the options state."""
    options = tmp_path / "options.json"
    options.write_text(json.dumps({**OPTIONS, "crop_size": [65, 97]}))
    words = ("--options", options)
    assert run("autotune", CHECKPOINT, *words)[0] == 0
    count = len(measured)
    assert max(p.image_size for p in measured) == (65, 97)
    picture = tmp_path / "p.png"
    cv2.imwrite(str(picture), np.zeros((60, 90, 3), np.uint8))
    segment = ("segment", picture, "--model", CHECKPOINT, *words, "-o", tmp_path / "o")
    code, _, err = run(*segment, "--autotune")
    assert (code, err) == (0, "")
    assert len(measured) == count
    assert run("autotune", CHECKPOINT, *words, "--no-fuse")[0] == 0
    assert len(measured) > count
    code, _, err = run("autotune", CHECKPOINT, *words, "--size", 97)
    assert (code, len(err.splitlines())) == (2, 1)
    assert "expected 65x97, the options' crop_size; got 97x97" in err


def test_segment_measures_for_the_networks_own_size_by_default(run, tmp_path, measured):
    assert run("segment", PICTURE, "--model", MODEL, "-o", tmp_path / "o", "--autotune")[0] == 0
    assert {p.image_size for p in measured if p.channels == 3} == {(513, 513)}


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--size", "0"], "--size; expected N or HxW of at least 1x1, got 0"),
        (["--size", "big"], "--size; expected N or HxW of at least 1x1, got big"),
        (["--batch", "0"], "0 is not in the range"),
        (["--accuracy", "quick"], "'quick' is not one of 'exact', 'fast'"),
    ],
)
def test_bad_arguments(run, arguments, message):
    code, out, err = run("autotune", MODEL, *arguments)
    assert (code, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err
