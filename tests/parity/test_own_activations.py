"""`pytest tests/parity --activations ...` as a user runs it, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.parity.comparison import write_activations

TEST = Path(__file__).with_name("test_activations.py")
NETWORK = "largefov_v2_w8"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    """A folder with a network, its weights and two files of whole activations."""
    folder = tmp_path_factory.mktemp("own")
    for name in ("deploy.prototxt", "weights.caffemodel"):
        shutil.copy(data / "caffe" / NETWORK / name, folder)
    net = load_caffe(folder / "deploy.prototxt", folder / "weights.caffemodel")
    for i, size in enumerate((49, 33)):
        x = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(i)) * 50
        with torch.inference_mode():
            write_activations(folder / f"run{i}.h5", net.blobs(data=x))
    return folder


def run(
    activations: Path | None, model: Path | None, prototxt: Path | None
) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", str(TEST)]
    command += ["-k", "test_blob_is"]
    options = {"--activations": activations, "--model": model, "--prototxt": prototxt}
    for option, path in options.items():
        command += [option, str(path)] if path else []
    return subprocess.run(
        command,
        cwd=TEST.parents[2],
        capture_output=True,
        text=True,
    )


def test_one_test_per_blob_and_file(saved: Path) -> None:
    done = run(saved, saved / "weights.caffemodel", saved / "deploy.prototxt")
    assert done.returncode == 0, done.stdout
    assert "48 passed" in done.stdout  # 24 blobs, two files


def test_the_network_may_be_embedded(saved: Path) -> None:
    done = run(saved / "run0.h5", saved / "weights.caffemodel", None)
    assert done.returncode == 0, done.stdout
    assert "24 passed" in done.stdout


def test_names_layer_blob_and_distance(saved: Path, tmp_path: Path) -> None:
    spoilt = tmp_path / "spoilt.h5"
    shutil.copy(saved / "run0.h5", spoilt)
    with h5py.File(spoilt, "r+") as file:
        for name in ("conv3_2", "fc8_voc12"):
            file["blobs"][name][...] *= np.float32(1.01)
    done = run(spoilt, saved / "weights.caffemodel", saved / "deploy.prototxt")
    assert done.returncode == 1
    assert "2 failed, 22 passed" in done.stdout
    assert "blob fc8_voc12, made by layer fc8_voc12 (Convolution): rel 9.90e-03" in done.stdout
    assert "First blob of the network that differs: conv3_2" in done.stdout


def test_bad_options(saved: Path) -> None:
    model = saved / "weights.caffemodel"
    for activations, given_model, message in (
        (saved / "run0.h5", None, "--activations and --model are given together or not at all"),
        (saved / "none.h5", model, "none.h5: no such file or folder"),
        (saved / "deploy.prototxt", model, "deploy.prototxt: is no HDF5 file, or damaged"),
    ):
        done = run(activations, given_model, None)
        assert done.returncode != 0
        assert message in done.stderr + done.stdout
        assert "Traceback" not in done.stderr + done.stdout
