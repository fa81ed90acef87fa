"""The trainings that Caffe made, ready to be made again in a folder of the test's own."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import h5py
import numpy as np
import torch
from torch import Tensor

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


class Rows:
    """The rows of ``data.h5`` in order, in place of an HDF5Data layer."""

    def __init__(self, layers: Sequence[Any], *, seed: int | None = None) -> None:
        with h5py.File("data.h5") as file:
            self.values = {
                top: torch.from_numpy(file[top][()]) for layer in layers for top in layer.tops
            }
        self.batch = layers[0].batch_size
        self.done = 0

    def next(self) -> Mapping[str, Tensor]:
        """The next batch."""
        rows = len(next(iter(self.values.values())))
        index = [(self.done * self.batch + i) % rows for i in range(self.batch)]
        self.done += 1
        return {top: value[index] for top, value in self.values.items()}

    def seek(self, batches: int) -> None:
        """Make that batch the next one."""
        self.done = batches

    def close(self) -> None:
        """Nothing to give back."""


class Pictures(Rows):
    """The pictures of ``train_sgd_poly`` in order, padded to the crop of 65."""

    def __init__(self, layers: Sequence[Any], *, seed: int | None = None) -> None:
        self.done, self.batch = 0, 2
        data, labels, sizes = [], [], []
        for i in range(6):
            picture = cv2.imread(f"images/{i}.png").astype(np.float32)
            label = cv2.imread(f"labels/{i}.png", cv2.IMREAD_GRAYSCALE).astype(np.float32)
            pad = [(0, 65 - n) for n in label.shape]
            picture -= np.array([104.008, 116.669, 122.675], np.float32)
            data.append(np.pad(picture, [*pad, (0, 0)]).transpose(2, 0, 1))
            labels.append(np.pad(label, pad, constant_values=255)[None])
            sizes.append(np.float32([[label.shape]]))
        blobs = {"data": data, "label": labels, "data_dim": sizes}
        self.values = {top: torch.from_numpy(np.stack(value)) for top, value in blobs.items()}


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
