"""What each command does where the disk is full: one line, exit code 2, and nothing left behind."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest

from deeplab_repro.cli import main
from tests.testing.disk import full_disk

ROOT = Path(__file__).parents[2]
BUNDLED = ROOT / "weights" / "largefov_v1_w8"
MODEL = BUNDLED / "weights.caffemodel"
PICTURE = BUNDLED / "picture.png"
CAFFE = BUNDLED / "activations.h5"


#: Command line with OUT for the file or folder to write, and what of it is named in the error.
COMMANDS = {
    "convert": (["convert", MODEL, "-o", "OUT.safetensors"], "OUT.safetensors"),
    "convert to torch": (["convert", MODEL, "-o", "OUT.pt"], "OUT.pt"),
    "convert to caffemodel": (["convert", MODEL, "-o", "OUT.caffemodel"], "OUT.caffemodel"),
    "convert to HDF5": (["convert", MODEL, "-o", "OUT.caffemodel.h5"], "OUT.caffemodel.h5"),
    "activations": (["activations", MODEL, "--input", CAFFE, "-o", "OUT.h5"], "OUT.h5"),
    "compare --html": (["compare", MODEL, "--activations", CAFFE, "--html", "OUT"], "OUT"),
    "compare --json": (["compare", MODEL, "--activations", CAFFE, "--json", "OUT"], "OUT"),
    "inspect --svg": (["inspect", MODEL, "--svg", "OUT"], "OUT"),
    "inspect --json": (["inspect", MODEL, "--json", "OUT"], "OUT"),
    "networks list": (["networks", "list", "--json", "OUT"], "OUT"),
    "networks write": (["networks", "write", "largefov", "-o", "OUT"], "OUT"),
    "weights list": (["weights", "list", "--json", "OUT"], "OUT"),
    "weights verify": (["weights", "verify", MODEL, "--json", "OUT"], "OUT"),
    "doctor": (["doctor", "--json", "OUT"], "OUT"),
    "segment": (
        ["segment", PICTURE, "--model", MODEL, "--pad-to", "97", "-o", "OUT"],
        "OUT/labels/picture.png",
    ),
    "crf": (
        ["crf", "--image", PICTURE, "--scores", "scores.npy", "-o", "OUT"],
        "OUT/labels/picture.png",
    ),
    "export": (
        ["export", MODEL, "--input-shape", "data=1x3x33x33", "-o", "OUT.onnx"],
        "OUT.onnx",
    ),
}


@pytest.fixture
def run_in_memory(capsys):
    """As ``run``; what is printed does not go to a file, which could not grow either."""

    def call(most_bytes, *arguments):
        with full_disk(most_bytes), pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        return stopped.value.code, capsys.readouterr().err

    return call


@pytest.mark.parametrize("command", COMMANDS)
@pytest.mark.sampled(4)
def test_full_disk(command, run_in_memory, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    arguments, named = COMMANDS[command]
    if command == "crf":
        height, width = cv2.imread(str(PICTURE)).shape[:2]
        np.save("scores.npy", np.zeros((3, height, width), np.float32))
    before = set(tmp_path.rglob("*"))
    code, err = run_in_memory(64, *arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert line == f"deeplab-repro: {named}: File too large"
    left = set(tmp_path.rglob("*")) - before
    assert [path for path in left if not path.is_dir()] == []


@pytest.mark.parametrize("ending", [".safetensors", ".pt", ".caffemodel", ".caffemodel.h5"])
def test_a_disk_that_fills_up_half_way(ending, run_in_memory, tmp_path):
    """HDF5 has written half of its file by then, and torch.save its first records."""
    out = tmp_path / f"w{ending}"
    out.write_bytes(b"old")
    code, err = run_in_memory(MODEL.stat().st_size // 2, "convert", MODEL, "-o", out)
    assert (code, err) == (2, f"deeplab-repro: {out}: File too large\n")
    assert out.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [out]
