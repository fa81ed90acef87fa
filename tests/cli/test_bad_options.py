"""Options that cannot be meant: one line, exit code 2, and nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "weights" / "largefov_v1_w8"
MODEL = BUNDLED / "weights.caffemodel"
PICTURE = BUNDLED / "picture.png"

ACTIVATIONS = ["activations", MODEL, "--input", PICTURE, "-o", "a.h5"]
SEGMENT = ["segment", PICTURE, "--model", MODEL, "--pad-to", "97", "-o", "o"]
BAD = [
    *([*ACTIVATIONS, "--scale", value, "--scale; expected a finite"] for value in ("nan", "inf")),
    [*ACTIVATIONS, "--scale", "0", "--scale; expected a finite number other than 0"],
    *(
        [*ACTIVATIONS, "--mean", value, "--mean; expected three finite numbers"]
        for value in ("1,2", "1,2,3,4", "5", "nan,1,2", "1,inf,2", "")
    ),
    [*SEGMENT, "--mean", "1,2", "--mean; expected three finite numbers"],
    [*ACTIVATIONS, "--mean", "mean.npy", "is no mean picture; expected finite numbers"],
    [*ACTIVATIONS, "--pad-to", "1000000000", "--pad-to: too many pixels"],
    [*ACTIVATIONS, "--resize", "1000000000x5", "--resize: too many pixels"],
    ["convert", "", "no such file"],  # as of a variable of the shell that is not set
    *(["networks", "write", "largefov", "-o", folder, "is a folder"] for folder in ("", ".")),
    [*SEGMENT, "--crf", "", "no CRF parameters are named ''"],
    [*SEGMENT, "--classes", "", "No such file"],
    ["inspect", MODEL, "--input-shape", "data=1x4x97x97", "expected 8x4x3x3, got 8x3x3x3"],
    *(
        ["inspect", MODEL, "--input-shape", value, "--input-shape; expected BLOB=NxCxHxW"]
        for value in ("data=0x3x9x9", "data=1x3x0x9", "=1x3x9x9", "data=", "data")
    ),
]


@pytest.mark.parametrize("case", BAD, ids=lambda case: f"{case[0]} {case[-3]} {case[-2]}")
def test_refused_in_one_line(case, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("mean.npy", np.full((3, 97, 97), np.nan, np.float32))
    *arguments, message = case
    code, _, err = run(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line.startswith("deeplab-repro: ")
    assert message in line
    assert [path.name for path in tmp_path.iterdir()] == ["mean.npy"]


# ---------------------------------------------------------------- pictures of one name


@pytest.fixture
def folder(tmp_path):
    """``one`` as PNG and as BMP, upside down in this, and ``two``."""
    inside = tmp_path / "pictures"
    inside.mkdir()
    pixels = cv2.imread(str(PICTURE))
    assert cv2.imwrite(str(inside / "one.bmp"), pixels[::-1])
    for name in ("one.png", "two.png"):
        shutil.copy(PICTURE, inside / name)
    return inside


def test_pictures_that_differ_in_their_ending_alone(run, folder, tmp_path):
    out = tmp_path / "o"
    code, _, err = run("segment", folder, "--model", MODEL, "--pad-to", "97", "-o", out)
    assert code == 0
    assert "one.bmp, one.png would have results of one name" in err
    labels = {p.name: cv2.imread(str(p), cv2.IMREAD_UNCHANGED) for p in (out / "labels").iterdir()}
    assert sorted(labels) == ["one.bmp.png", "one.png.png", "two.png"]
    assert np.array_equal(labels["one.png.png"], labels["two.png"])
    assert not np.array_equal(labels["one.bmp.png"], labels["two.png"])


def test_scores_of_pictures_that_differ_in_their_ending_alone(run, folder, tmp_path):
    """Each has its own, where there are such; else those of their common name."""
    scores = tmp_path / "scores"
    scores.mkdir()
    height, width = cv2.imread(str(PICTURE)).shape[:2]
    for name, winner in (("one.bmp", 0), ("one", 1), ("two", 2)):
        values = np.zeros((3, height, width), np.float32)
        values[winner] = 9
        np.save(scores / f"{name}.npy", values)
    out = tmp_path / "o"
    code, _, _ = run("crf", "--image", folder, "--scores", scores, "--iterations", "1", "-o", out)
    assert code == 0
    winners = {}
    for path in (out / "marginals").iterdir():
        with np.load(path) as file:
            winners[path.name] = int(file["marginals"].sum((1, 2)).argmax())
    assert winners == {"one.bmp.npz": 0, "one.png.npz": 1, "two.npz": 2}


def test_pictures_of_one_whole_name_are_refused(run, folder, tmp_path):
    """From two folders: nothing tells their results apart."""
    other = tmp_path / "other"
    shutil.copytree(folder, other)
    code, _, err = run("segment", folder, other, "--model", MODEL, "-o", tmp_path / "o")
    assert code == 2
    assert "labels/one.bmp.png would be written twice" in err
    assert not (tmp_path / "o").exists()
