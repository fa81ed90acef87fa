"""Activations that Caffe computed: whole blobs of a user's, or samples of the bundled ones."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from deeplab_repro.errors import InputError
from deeplab_repro.parity.agreement import Agreement, Norms, agreement, relative
from prototxt_import.hdf5 import (
    children,
    dataset_at,
    group_at,
    member,
    open_hdf5,
    read_dataset,
    walk_groups,
)

#: What a group holds of a blob that is not one array.
_PARTS = ("full", "index", "value", "labels")


@dataclass(frozen=True)
class Recording:
    """One forward pass of one network."""

    name: str
    file: Path
    model: Path
    prototxt: Path | None

    def blobs(self) -> list[str]:
        """Names of the recorded blobs; a "/" in a name made nested groups in the file."""
        with self._open() as blobs:
            names = [name for name, item in children(blobs, self.file) if not _is_group(item)]
            for name, group, members in walk_groups(blobs, self.file):
                inner = [n for n, item in members if not _is_group(item)]
                if "shape" in group.attrs:  # one blob in parts; names of others may begin with it
                    names.append(name)
                    inner = [n for n in inner if n not in _PARTS]
                names += [f"{name}/{n}" for n in inner]
        return names

    def whole(self, blob: str) -> np.ndarray:
        """A blob that was recorded whole, as inputs always are."""
        with self._open() as blobs:
            item = member(blobs, blob, self.file)
            if isinstance(item, h5py.Group) and "full" not in item:
                raise InputError(f"holds only samples of /blobs/{blob}", file=self.file)
            data = item if isinstance(item, h5py.Dataset) else dataset_at(item, "full", self.file)
            return read_dataset(data, self.file, kinds="fiu")

    def agreement(self, blob: str, ours: np.ndarray) -> Agreement:
        """How near `ours` is to what was recorded."""
        with self._open() as blobs:
            item = member(blobs, blob, self.file)
            if isinstance(item, h5py.Group) and "full" not in item:
                index, value = (
                    read_dataset(dataset_at(item, name, self.file), self.file, kinds="fiu")
                    for name in ("index", "value")
                )
                return sampled_agreement(ours, item.attrs, index, value)
        return agreement(ours, self.whole(blob))

    @contextmanager
    def _open(self) -> Iterator[h5py.Group]:
        with open_hdf5(self.file) as file:
            if "blobs" not in file:
                raise InputError("holds no activations", file=self.file, expected="/blobs")
            yield group_at(file, "blobs", self.file)


def _is_group(item: object) -> bool:
    return isinstance(item, h5py.Group)


def sampled_agreement(
    ours: np.ndarray, whole: Mapping[str, float], index: np.ndarray, value: np.ndarray
) -> Agreement:
    """As `agreement`, from some of the reference's values and the norms of all of them.

    A blob that is right where it was sampled and wrong elsewhere still shows in its 2-norm.
    """
    if ours.shape != tuple(whole["shape"]):  # type: ignore[arg-type]
        return Agreement(
            math.inf,
            math.inf,
            f"shape {ours.shape}, expected {tuple(whole['shape'])}",  # type: ignore[arg-type]
        )
    wide = ours.astype(np.float64).ravel()
    if not np.isfinite(wide).all():
        return Agreement(math.nan, math.nan, "holds NaN or infinity")
    norms = Norms()
    norms.add(wide)
    difference = Norms()
    difference.add(wide[index] - value)
    # The samples' share of the reference's squares, if they are like the rest.
    share = math.sqrt(index.size / wide.size)
    there = relative(difference, Norms(whole["l2"] * share, whole["largest"]))
    return Agreement(
        max(there.rel, _off(norms.l2, whole["l2"])),
        max(there.max, _off(norms.largest, whole["largest"])),
    )


def _off(ours: float, reference: float) -> float:
    if ours == reference:
        return 0.0
    return abs(ours - reference) / reference if reference else math.inf


def find_recordings(path: Path, model: Path, prototxt: Path | None) -> list[Recording]:
    """The recordings in a file or a folder."""
    files = sorted(path.rglob("*.h5")) if path.is_dir() else [path]
    if not files:
        raise InputError("holds no .h5 file", file=path)
    return [Recording(file.stem, file, model, prototxt) for file in files]


def bundled_recordings(data: Path) -> list[Recording]:
    """The networks that `tests/make_data.py` bundled together with their weights."""
    return [
        Recording(
            folder.name, folder / "activations_sampled.h5", weights, folder / "deploy.prototxt"
        )
        for folder in sorted((data / "caffe").iterdir())
        if (weights := folder / "weights.caffemodel").exists()
    ]
