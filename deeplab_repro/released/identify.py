"""Which released model a file holds, and what differs."""

from __future__ import annotations

import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, cast

from deeplab_repro.released.archive import is_archive, open_archive
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
        bytes: Its length.
        sha256: Its sum in hexadecimal.
        layers: With weights.
        values: In all blobs.
        not_finite: Layers with NaN or infinities.
        structures: Comparison with every model, the most alike first.
        known_as: MODEL/NAME of what came into the store before with this sum.
    """

    name: str
    kind: FileKind
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
    """Look at a file with weights, or at every caffemodel of an archive.

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
    if not is_archive(path):
        return [_identity(path, str(path), manifest, known)]
    found = []
    with open_archive(path) as archive:
        for name in archive.names:
            if name.endswith(".caffemodel") and not name.rpartition("/")[2].startswith("."):
                with tempfile.NamedTemporaryFile() as out:
                    archive.copy(name, cast(BinaryIO, out))
                    out.flush()
                    found.append(_identity(Path(out.name), f"{path}: {name}", manifest, known))
    return found


def _identity(path: Path, name: str, manifest: Manifest, known: dict[str, list[str]]) -> Identity:
    weights = read_any_weights(path)
    sha256 = file_sum(path)
    return Identity(
        name=name,
        kind=kind_of(path),
        bytes=path.stat().st_size,
        sha256=sha256,
        layers=sum(bool(blobs) for blobs in weights.values()),
        values=sum(blob.size for blobs in weights.values() for blob in blobs),
        not_finite=tuple(not_finite(weights)),
        structures=tuple(nearest_structures(list(manifest.models.values()), weights)),
        known_as=tuple(known.get(sha256, ())),
    )
