"""Activations that Caffe computed: whole blobs of a user's, or samples of the bundled ones."""

from __future__ import annotations

import math
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from deeplab_repro.testing.compare import Agreement, Norms, agreement, relative
from prototxt_import import CaffeImportError


@dataclass(frozen=True)
class Recording:
    """One forward pass of one network."""

    name: str
    file: Path
    model: Path
    prototxt: Path | None

    def blobs(self) -> list[str]:
        """Names of the recorded blobs; a "/" in a name made nested groups in the file."""
        names: list[str] = []

        def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
            if isinstance(item, h5py.Group):
                if "shape" in item.attrs:
                    names.append(name)
            elif "shape" not in item.parent.attrs:
                names.append(name)

        with self._open() as blobs:
            blobs.visititems(visit)
        return names

    def whole(self, blob: str) -> np.ndarray:
        """A blob that was recorded whole, as inputs always are."""
        with self._open() as blobs:
            item = blobs[blob]
            if isinstance(item, h5py.Group) and "full" not in item:
                raise CaffeImportError(f"holds only samples of /blobs/{blob}", file=self.file)
            return self._numbers(item if isinstance(item, h5py.Dataset) else item["full"])

    def agreement(self, blob: str, ours: np.ndarray) -> Agreement:
        """How near `ours` is to what was recorded."""
        with self._open() as blobs:
            item = blobs[blob]
            if isinstance(item, h5py.Group) and "full" not in item:
                return sampled_agreement(ours, item.attrs, item["index"][()], item["value"][()])
        return agreement(ours, self.whole(blob))

    @contextmanager
    def _open(self) -> Iterator[h5py.Group]:
        try:
            file = h5py.File(self.file)
        except OSError as error:
            reason = os.strerror(error.errno) if error.errno else "is no HDF5 file, or damaged"
            raise CaffeImportError(reason, file=self.file) from None
        with file:
            blobs = file.get("blobs")
            if not isinstance(blobs, h5py.Group):
                raise CaffeImportError("holds no activations", file=self.file, expected="/blobs")
            yield blobs

    def _numbers(self, item: h5py.Dataset) -> np.ndarray:
        if item.dtype.kind not in "fiu":
            raise CaffeImportError(
                f"{item.name} holds no numbers", file=self.file, expected="float32", got=item.dtype
            )
        return np.asarray(item)


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
        raise CaffeImportError("holds no .h5 file", file=path)
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
