"""`pytest tests/parity --activations ...` as a user runs it, in a process of its own."""

from __future__ import annotations

import shutil
import subprocess
import sys
import types
from pathlib import Path

import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.parity.comparison import write_activations
from tests.parity.test_activations import recordings_of

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
    command += ["-k", "test_blobs_are"]
    options = {"--activations": activations, "--model": model, "--prototxt": prototxt}
    for option, path in options.items():
        command += [option, str(path)] if path else []
    return subprocess.run(
        command,
        cwd=TEST.parents[2],
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_one_test_per_file(saved: Path) -> None:
    done = run(saved, saved / "weights.caffemodel", saved / "deploy.prototxt")
    assert done.returncode == 0, done.stdout
    assert "2 passed" in done.stdout


@pytest.mark.slow
def test_names_each_blob_that_differs_its_layer_and_distance(saved: Path, tmp_path: Path) -> None:
    """The network is the one that the weights embed."""
    spoilt = tmp_path / "spoilt.h5"
    shutil.copy(saved / "run0.h5", spoilt)
    with h5py.File(spoilt, "r+") as file:
        for name in ("fc8_voc12", "conv3_2"):
            file["blobs"][name][...] *= np.float32(1.01)
    done = run(spoilt, saved / "weights.caffemodel", None)
    assert done.returncode == 1
    assert "1 failed" in done.stdout
    told = done.stdout.splitlines()
    (start,) = (i for i, line in enumerate(told) if line.startswith("2 of 24 blobs differ; "))
    assert "allowed rel 1e-05, max 0.0001; in the order of the network:" in told[start]
    assert told[start + 1].startswith("blob conv3_2, made by layer conv3_2 (Convolution+ReLU): ")
    assert told[start + 2].startswith("blob fc8_voc12, made by layer fc8_voc12 (Convolution): ")
    assert "rel 9.90e-03" in told[start + 2]
    assert not told[start + 3].startswith("blob ")


@pytest.mark.slow
def test_bad_options(saved: Path) -> None:
    model = saved / "weights.caffemodel"
    for activations, given_model, message in (
        (saved / "run0.h5", None, "--activations and --model are given together or not at all"),
        (saved / "none.h5", model, "none.h5: no such file or folder"),
    ):
        options = {"--activations": activations, "--model": given_model, "--prototxt": None}
        with pytest.raises(pytest.UsageError, match=message):
            recordings_of(types.SimpleNamespace(getoption=options.get))
    done = run(saved / "deploy.prototxt", model, None)
    assert done.returncode == pytest.ExitCode.INTERRUPTED  # before any test
    assert "deploy.prototxt: is no HDF5 file, or damaged" in done.stdout
    assert "Traceback" not in done.stderr + done.stdout
