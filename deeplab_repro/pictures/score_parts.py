"""Scores of pictures too large for the memory: in a file, read and written in parts."""

from __future__ import annotations

import os
import shutil
import tempfile
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.pictures.reading import load_npy_header
from deeplab_repro.pictures.scores import read_scores
from prototxt_import.files import open_file, replacing_file

__all__ = ["PARTWISE", "ScoreFile", "ScoreParts", "open_scores", "scratch_scores"]

Array = NDArray[np.float32]
#: Kinds of files that :class:`ScoreFile` becomes.
PARTWISE: Final = (".npy", ".npz")
_FLOAT: Final = np.dtype("<f4")
_BLOCK: Final = 1 << 24  # bytes that are copied at a time


class ScoreParts(Protocol):
    """Scores of which a part is in memory at a time.

    Attributes:
        shape: labels, height and width.
    """

    @property
    def shape(self) -> tuple[int, int, int]: ...

    def part(self, rows: slice, columns: slice) -> Array:
        """(C, rows, columns) float32 of some rows and columns, a copy."""


class _InMemory:
    """Scores of a kind of file that is read whole."""

    def __init__(self, scores: Array) -> None:
        self._scores = scores
        self.shape: tuple[int, int, int] = scores.shape

    def part(self, rows: slice, columns: slice) -> Array:
        return np.ascontiguousarray(self._scores[:, rows, columns])


class ScoreFile:
    """(C, H, W) float32 as they lie in an ``.npy``.

    Rows are read and written by themselves, and not through a map of the file, whose pages would
    count as memory of the process.

    Args:
        file: open for reading, or for both.
        shape: labels, height and width.
        offset: bytes before the first score.
    """

    def __init__(self, file: BinaryIO, shape: tuple[int, int, int], offset: int) -> None:
        self.shape = shape
        self._file, self._offset = file, offset

    def part(self, rows: slice, columns: slice) -> Array:
        """See :class:`ScoreParts`."""
        sizes = rows.stop - rows.start, columns.stop - columns.start
        values = np.empty((self.shape[0], *sizes), _FLOAT)
        for channel, row in np.ndindex(*values.shape[:2]):
            self._seek(channel, rows.start + row, columns.start)
            if self._file.readinto(values[channel, row]) != values[channel, row].nbytes:  # type: ignore[attr-defined]
                raise InputError("the file of scores is cut off")
        return values

    def put(self, rows: slice, columns: slice, values: Array) -> None:
        """Write (C, rows, columns)."""
        values = np.ascontiguousarray(values, _FLOAT)
        for channel, row in np.ndindex(*values.shape[:2]):
            self._seek(channel, rows.start + row, columns.start)
            self._file.write(values[channel, row].data)

    def save(self, path: str | os.PathLike[str], name: str = "scores") -> None:
        """Write a copy, whole or not at all.

        Args:
            path: an ``.npy`` or ``.npz``.
            name: of the array in an ``.npz``.
        """
        self._file.seek(0)
        with replacing_file(path) as out:
            if Path(path).suffix == ".npz":
                with (
                    zipfile.ZipFile(out, "w") as archive,
                    archive.open(f"{name}.npy", "w", force_zip64=True) as entry,
                ):
                    shutil.copyfileobj(self._file, entry, _BLOCK)
            else:
                shutil.copyfileobj(self._file, out, _BLOCK)

    def _seek(self, channel: int, row: int, column: int) -> None:
        _, height, width = self.shape
        place = (channel * height + row) * width + column
        self._file.seek(self._offset + place * _FLOAT.itemsize)


@contextmanager
def open_scores(path: str | os.PathLike[str], key: str | None = None) -> Iterator[ScoreParts]:
    """The scores of one picture, to be read in parts.

    Of an ``.npy`` of float32 only the parts are in memory; any other file is read whole.

    Args:
        path, key: as of :func:`~deeplab_repro.pictures.scores.read_scores`.

    Raises:
        BadInput: as :func:`~deeplab_repro.pictures.scores.read_scores`.
    """
    found = load_npy_header(path) if Path(path).suffix.lower() == ".npy" else None
    if found is not None:
        shape, dtype, offset = found
        shape = shape[1:] if len(shape) == 4 and shape[0] == 1 else shape
        if dtype == _FLOAT and len(shape) == 3 and 0 not in shape:
            with open_file(path) as file:
                yield ScoreFile(file, (shape[0], shape[1], shape[2]), offset)
            return
    yield _InMemory(read_scores(path, key))


@contextmanager
def scratch_scores(folder: Path, shape: tuple[int, int, int]) -> Iterator[ScoreFile]:
    """Scores (C, H, W) in a temporary file, to be put and read in parts.

    Args:
        folder: where it lies; it is there.
        shape: labels, height and width.

    Raises:
        InputError: there is no room on the disk, or no right to write.
    """
    try:
        # A file without a name is gone with its process, however that ends.
        with tempfile.TemporaryFile(dir=folder) as file:
            header = {"descr": _FLOAT.str, "fortran_order": False, "shape": shape}
            np.lib.format.write_array_header_1_0(file, header)
            offset = file.tell()
            file.truncate(offset + _FLOAT.itemsize * int(np.prod(shape)))
            yield ScoreFile(file, shape, offset)
    except OSError as error:
        raise InputError(error.strerror or "cannot be written", file=folder) from error
