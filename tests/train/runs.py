"""The trainings that Caffe made, ready to be made again in a folder of the test's own."""

from __future__ import annotations

import shutil
from pathlib import Path

import h5py
import numpy as np

from deeplab_repro.train import Solver

CAFFE = Path(__file__).parents[1] / "data" / "caffe"
RUNS = sorted(path.name for path in (CAFFE / "solvers").iterdir() if path.is_dir())


def solver_run(name: str, folder: Path) -> h5py.Group:
    """Lay out ``caffe/solvers/NAME`` in ``folder``; what Caffe found, to be read from."""
    for source in ("adagrad", name):  # the network and the first weights are the same in all
        for file in (CAFFE / "solvers" / source).iterdir():
            if source == name or not file.name.startswith("snap"):
                shutil.copy(file, folder / file.name)
    run: h5py.Group = h5py.File(CAFFE / "solvers" / "runs.h5")[name]
    with h5py.File(folder / "data.h5", "w") as data:
        for blob in ("data", "label"):
            data[blob] = run[blob][()]
    (folder / "list.txt").write_text("data.h5\n")
    return run


def seg_run(folder: Path) -> h5py.File:
    """Lay out ``caffe/train_sgd_poly`` in ``folder``; what Caffe found, to be read from."""
    shutil.copytree(CAFFE / "train_sgd_poly", folder, dirs_exist_ok=True)
    return h5py.File(CAFFE / "train_sgd_poly" / "training.h5")


def rel(found: np.ndarray, expected: np.ndarray) -> float:
    """||found - expected|| / ||expected||."""
    found, expected = found.astype(np.float64), expected.astype(np.float64)
    return float(np.linalg.norm(found - expected) / np.linalg.norm(expected))


def sampled(values: np.ndarray, expected: h5py.Group) -> tuple[np.ndarray, np.ndarray]:
    """The values that `tests/make_data.py` kept of a blob: ours and Caffe's."""
    if "full" in expected:
        return values, expected["full"][()]
    return values.ravel()[expected["index"][()]], expected["value"][()]


def weights(solver: Solver) -> dict[str, np.ndarray]:
    """``LAYER/i`` -> values."""
    return {
        f"{layer}/{i}": blob.detach().numpy().copy()
        for layer, blobs in solver.net.params.items()
        for i, blob in enumerate(blobs)
    }
