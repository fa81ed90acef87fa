"""``deeplab-repro surgery`` as people call it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from deeplab_repro.models import load, write_network
from prototxt_import import read_net, read_weights, write_weights
from tests.train.imagenet import VGG16, randomized

NARROW = ("--width", 64)


@pytest.fixture(scope="module")
def vgg(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A checkpoint with torchvision's keys, 64 times as narrow."""
    path = tmp_path_factory.mktemp("vgg") / "vgg16.pth"
    torch.save({"state_dict": randomized(VGG16(64, classes=9)).state_dict(), "epoch": 90}, path)
    return path


@pytest.mark.parametrize("ending", [".caffemodel", ".safetensors", ".pt", ".caffemodel.h5"])
def test_from_torchvision(run: Any, tmp_path: Path, vgg: Path, ending: str) -> None:
    """Any of the formats, with the network inside where it has a place for it."""
    out, report = tmp_path / f"init{ending}", tmp_path / "report.json"
    arguments = ("--network", "largefov", *NARROW, "--num-labels", 5, "--set", "EXP=mine")
    code, shown, err = run("surgery", vgg, *arguments, "-o", out, "--json", report)
    assert (code, err) == (0, "")
    assert "torchvision's VGG-16" in shown
    assert "fc8_mine" in shown
    told = json.loads(report.read_text())
    assert told["source_network"] == "torchvision's VGG-16"
    assert len(told["same"]) == 13
    assert told["changed"]["fc6"] == (
        "64x392 as 64x8x7x7, rows and columns 0, 3, 6 of 7, 16 of 64 filters (random, seed 0)"
    )
    assert told["new"] == {"fc8_mine": "gaussian 0.01"}
    assert told["unused"] == ["fc8"]
    assert told["pixels"] == "conv1_1"
    assert told["notes"][0].startswith("at the border the first convolution differs")
    if ending == ".pt":
        assert load(out).options["num_classes"] == 5
        return
    weights = read_weights(out)
    assert weights["fc6"][0].shape == (16, 8, 3, 3)
    assert weights["fc8_mine"][0].shape == (5, 16, 1, 1)
    if ending != ".caffemodel.h5":
        assert read_net(out)["fc6"].num_output == 16


def test_one_network_from_another(run: Any, tmp_path: Path, vgg: Path) -> None:
    """From a caffemodel, into the network of a prototxt, with other picks."""
    first, second = tmp_path / "plain.caffemodel", tmp_path / "second.caffemodel"
    assert run("surgery", vgg, "--network", "plain", *NARROW, "-o", first)[0] == 0
    net = tmp_path / "train.prototxt"
    net.write_text(write_network("largefov", "TRAIN", "v1", width=64, exp="${EXP}"))
    arguments = ("--prototxt", net, "--set", "EXP=a", "--pick", "every", "-o", second)
    code, shown, err = run("surgery", first, *arguments)
    # A kernel of 4 has no 3 evenly spaced taps from end to end; one of 7 has.
    assert code == 2
    assert f"{first}: layer 'fc6': the source's layer does not fit" in err
    assert "expected a kernel that can be cut to 16x8x3x3, got 64x8x4x4" in err
    assert not second.exists()
    whole = tmp_path / "7x7.caffemodel"
    assert run("surgery", vgg, "--network", "7x7", *NARROW, "-o", whole)[0] == 0
    code, shown, err = run("surgery", whole, *arguments)
    assert (code, err) == (0, "")
    assert "Caffe's layers" in shown
    source, made = read_weights(whole), read_weights(second)
    np.testing.assert_array_equal(made["fc6"][0], source["fc6"][0][::4, :, ::3, ::3])
    np.testing.assert_array_equal(made["fc7"][0], source["fc7"][0][::4, ::4])
    assert made["fc8_a"][1].shape == (1, 1, 1, 21)  # as the v1 fork has its biases


def test_a_deeplab_network_of_a_port(run: Any, tmp_path: Path, vgg: Path) -> None:
    """A state dict of this package's, which no torchvision network has the keys of."""
    init, out = tmp_path / "init.pt", tmp_path / "msc.safetensors"
    assert run("surgery", vgg, "--network", "largefov", *NARROW, "-o", init)[0] == 0
    code, shown, _ = run("surgery", init, "--network", "msc-largefov", *NARROW, "-o", out)
    assert code == 0
    assert "16 layers" in shown
    assert "pool3_ms" in shown
    assert load(out).options["num_classes"] == 21


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the network to make; expected --network or --prototxt, one of them"),
        (["--network", "plain", "--prototxt", "p"], "--network or --prototxt, one of them"),
        (["--network", "no"], "network: expected one of plain, msc"),
        (["--network", "plain", "-o", "x.bin"], "x.bin: unknown kind of output; expected .safe"),
        (["--network", "plain"], "layer 'conv1_1': the source's layer does not fit; expected at"),
        (["--network", "plain", "--set", "A=1"], "--set of a --network; expected EXP=VALUE, got A"),
        (["--network", "plain", "--seed", 2**64], "is not in the range 0<=x<="),
        (["--network", "plain", "--set", "A"], "--set; expected NAME=VALUE, got A"),
        (["--network", "plain", "--mean", "1,b"], "--mean; expected three numbers R,G,B, got 1,b"),
        (["--network", "plain", "--std", "1,1,0"], "deviation of torchvision's pictures; expected"),
        (["--network", "plain", *NARROW, "-o", "no/x.pt"], "no: there is no such folder"),
        (["--network", "resnet101", *NARROW], "layer 'conv1': has nothing to start from"),
    ],
)
def test_bad_input(
    run: Any,
    tmp_path: Path,
    vgg: Path,
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[Any],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    code, _, err = run("surgery", vgg, "-o", "out.pt", *arguments)
    assert (code, err.count("\n")) == (2, 1)
    assert message in err
    assert not list(tmp_path.iterdir())


def test_bad_sources(run: Any, tmp_path: Path, vgg: Path) -> None:
    caffe, copy = tmp_path / "a.caffemodel", tmp_path / "vgg.pt"
    write_weights(caffe, {"conv1_1": [np.ones((1, 3, 3, 3)), np.ones(1)]})
    copy.write_bytes(vgg.read_bytes())
    out = tmp_path / "out.pt"
    for source, target, more, message in (
        (tmp_path / "no.pth", out, [], "no.pth: No such file or directory"),
        (copy, copy, [], "vgg.pt: would replace the source itself; expected another -o"),
        (caffe, out, ["--mean", "0,0,0"], "a.caffemodel: does not go with --mean and --std"),
        (caffe, out, [], "a.caffemodel: layer 'conv1_2': has nothing to start from"),
    ):
        options = ("--network", "plain", *NARROW, *more)
        code, _, err = run("surgery", source, *options, "-o", target)
        assert (code, err.count("\n")) == (2, 1)
        assert message in err
        assert sorted(path.name for path in tmp_path.iterdir()) == ["a.caffemodel", "vgg.pt"]
