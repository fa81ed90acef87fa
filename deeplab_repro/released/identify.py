"""Which released model a file holds, and what differs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from deeplab_repro.released.archive import Archive, is_archive, open_archive
from deeplab_repro.released.checkpoints import (
    checkpoint_members,
    files_of,
    index_of,
    is_checkpoint,
    of_same_kind,
)
from deeplab_repro.released.convert import not_finite, read_any_weights
from deeplab_repro.released.manifest import Manifest
from deeplab_repro.released.store import Store, file_sum
from deeplab_repro.released.structure import Structure, nearest_structures
from prototxt_import.files import FileKind, kind_of

__all__ = ["Identity", "identify"]


@dataclass(frozen=True)
class Identity:
    """What is found out about a file with weights.

    Attributes:
        name: Of the file; for one in an archive ARCHIVE: NAME.
        kind: Of the file.
        bytes: Its length, or that of all files of a checkpoint.
        sha256: Its sum in hexadecimal; of a checkpoint, that of its index.
        layers: With weights; a variable of TensorFlow's counts as one.
        values: In all blobs.
        not_finite: Layers with NaN or infinities.
        structures: Comparison with every model, the most alike first.
        known_as: MODEL/NAME of what came into the store before with this sum.
    """

    name: str
    kind: FileKind | Literal["checkpoint", "frozen graph"]
    bytes: int
    sha256: str
    layers: int
    values: int
    not_finite: tuple[str, ...]
    structures: tuple[Structure, ...]
    known_as: tuple[str, ...]

    @property
    def fitting(self) -> tuple[Structure, ...]:
        """The models whose weights these may be."""
        return tuple(structure for structure in self.structures if structure.fits)

    @property
    def starting(self) -> tuple[Structure, ...]:
        """The models whose training may start from these, where they are no model's weights."""
        may_start = (structure for structure in self.structures if structure.fits_as_init)
        return () if self.fitting else tuple(may_start)

    @property
    def usable(self) -> bool:
        """These may be released weights, and all values are finite."""
        return bool(self.fitting or self.starting) and not self.not_finite


def identify(path: Path, manifest: Manifest, store: Store) -> list[Identity]:
    """Look at a file with weights, or at every caffemodel and checkpoint of an archive.

    Args:
        path: The file.
        manifest: The models that it may be.
        store: Whose recorded sums it is held against.

    Raises:
        BadInput: It cannot be read, or is no archive that could be unpacked safely.
    """
    known: dict[str, list[str]] = {}
    for key, record in store.records().items():
        known.setdefault(record.sha256, []).append(key)
    if is_checkpoint(path) or not is_archive(path):
        return [_identity(path, str(path), manifest, known)]
    found = []
    with open_archive(path) as archive:
        for members in _sets_of_weights(archive):
            with tempfile.TemporaryDirectory() as folder:
                files = [Path(folder, f"weights{ending}") for ending in members.values()]
                for name, file in zip(members, files, strict=True):
                    with file.open("wb") as out:
                        archive.copy(name, out)
                first, *_ = members
                found.append(_identity(files[0], f"{path}: {first}", manifest, known))
    return found


def _sets_of_weights(archive: Archive) -> Iterator[dict[str, str]]:
    """Files that belong together -> the endings under which they are unpacked."""
    for name in archive.names:
        if name.endswith(".caffemodel") and not name.rpartition("/")[2].startswith("."):
            yield {name: ""}
    prefixes = [name.removesuffix(".index") for name in archive.names if name.endswith(".index")]
    for prefix in prefixes or [""]:
        if members := checkpoint_members(archive, prefix.rpartition("/")[2]):
            yield members


def _kind(path: Path) -> FileKind | Literal["checkpoint", "frozen graph"]:
    if not is_checkpoint(path) or path.suffix == ".safetensors":
        return kind_of(path)
    return "frozen graph" if path.suffix == ".pb" else "checkpoint"


def _identity(path: Path, name: str, manifest: Manifest, known: dict[str, list[str]]) -> Identity:
    weights = read_any_weights(path)
    sha256 = file_sum(index_of(path))
    models = of_same_kind(path, list(manifest.models.values()))
    return Identity(
        name=name,
        kind=_kind(path),
        bytes=sum(file.stat().st_size for file in files_of(path)),
        sha256=sha256,
        layers=sum(bool(blobs) for blobs in weights.values()),
        values=sum(blob.size for blobs in weights.values() for blob in blobs),
        not_finite=tuple(not_finite(weights)),
        structures=tuple(nearest_structures(models, weights)),
        known_as=tuple(known.get(sha256, ())),
    )
