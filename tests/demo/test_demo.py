"""The bundled network that was trained on drawn pictures, and the page of `make demo`."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from deeplab_repro import load_caffe
from deeplab_repro.crf import CRFParams
from deeplab_repro.data.synthetic import CLASSES, draw
from deeplab_repro.evaluation import Confusion
from deeplab_repro.inference.segmentation import Segmenter, first_maximum, refine
from deeplab_repro.models import write_network
from prototxt_import import read_net, read_weights
from tests.testing.html_tags import Tags

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "weights" / "synthetic_largefov"
WEIGHTS = BUNDLED / "weights.caffemodel"
(SCORE,) = json.loads((BUNDLED / "score.json").read_text())["results"]


def convolutions(file):
    """Name, channels, kernel, padding and rate of a network's convolutions, in their order."""
    return [
        (layer.name, layer.num_output, layer.kernel, layer.pad, layer.dilation)
        for layer in read_net(file).layers
        if layer.type == "Convolution"
    ]


def test_it_is_the_largefov_of_the_tables():
    text = (BUNDLED / "deploy.prototxt").read_text()
    assert text == write_network("largefov", width=8, input_size=217, exp="synthetic")
    deployed = convolutions(BUNDLED / "deploy.prototxt")
    assert convolutions(BUNDLED / "train.prototxt") == deployed
    assert convolutions(BUNDLED / "test.prototxt") == deployed
    assert list(read_weights(WEIGHTS)) == [name for name, *_ in deployed]
    assert WEIGHTS.stat().st_size < 3e6


def test_its_score():
    assert SCORE["pictures"] == 200
    assert set(SCORE["before"]["iou"]) == {"background", *CLASSES}
    assert SCORE["before"]["mean_iou"] > 70
    assert SCORE["gain"] > 2
    assert SCORE["gain"] == pytest.approx(SCORE["after"]["mean_iou"] - SCORE["before"]["mean_iou"])


def test_the_demo_refines_by_the_parameters_of_the_score():
    text = (ROOT / "weights" / "demo.sh").read_text()
    options = re.findall(r"--((?:bi|pos)-\S+) (\S+)", text)
    assert len(options) == 5
    for name, value in options:
        assert SCORE["crf"][name.replace("-", "_")] == float(value)


@pytest.mark.slow
def test_it_finds_things_in_pictures_that_nobody_has_seen():
    segmenter, params = Segmenter(load_caffe(WEIGHTS)), CRFParams(**SCORE["crf"])
    before, after = Confusion(), Confusion()
    for number in range(10):
        picture, labels = draw(np.random.default_rng([1234, number]))
        picture = cv2.cvtColor(picture, cv2.COLOR_RGB2BGR)
        (scores,) = segmenter.scores([picture])
        before.add(first_maximum(scores).labels, labels)
        after.add(first_maximum(refine(scores, picture, params)).labels, labels)
    assert before.mean_iou > 0.6
    assert after.mean_iou > before.mean_iou + 0.02


@pytest.mark.slow
def test_make_demo(tmp_path, warm):
    """The script itself, in a folder of its own."""
    (tmp_path / "weights").symlink_to(ROOT / "weights")
    bin_folder = tmp_path / "bin"
    bin_folder.mkdir()
    (bin_folder / "deeplab-repro").symlink_to(warm.folder / "deeplab-repro")
    (bin_folder / "python").write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
    (bin_folder / "python").chmod(0o755)
    env = {**os.environ, "BIN": str(bin_folder), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["sh", "weights/demo.sh"], cwd=tmp_path, env=env, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    out = tmp_path / "demo_output"
    scores = [json.loads((out / f"{name}.json").read_text()) for name in ("before", "after")]
    assert scores[1]["mean_iou"] > scores[0]["mean_iou"] + 0.02
    assert json.loads((out / "compare.json").read_text())["equal"]
    tags = Tags()
    tags.feed((out / "index.html").read_text())
    assert not tags.open
    assert not tags.wrong
    pictures = [address for address in tags.addresses if address.startswith("data:image/png")]
    assert len(pictures) == 4 * 12
    others = set(tags.addresses) - set(pictures)
    assert others == {"before.html", "after.html", "compare.html"}
    assert all((out / name).is_file() for name in others)
    banner = cv2.imread(str(out / "before_after.png"))
    assert banner.shape == (3 * 180, 32 + 6 * 240, 3)
    margins = banner.reshape(3, 180, -1, 3)[:, :, :32]  # each row has a name, another one
    assert all((margin < 128).any() and (margin == 255).mean() > 0.7 for margin in margins)
    assert len({margin.tobytes() for margin in margins}) == 3
