"""HDF5Data, MatRead and MemoryData: numbers that are taken as they are."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.pictures.matlab import VARIABLE, read_mat
from deeplab_repro.train.feeds.draws import Draws, Purpose
from deeplab_repro.train.feeds.lists import Line, read_lines, read_names, require_files
from deeplab_repro.train.feeds.sources import Item, Source
from prototxt_import.hdf5 import dataset_at, open_hdf5, read_dataset
from prototxt_import.layers import HDF5Data, MatRead, MemoryData
from prototxt_import.words import show

__all__ = ["GivenArrays", "HDF5Rows", "MatFiles"]


class HDF5Rows(Source):
    """HDF5Data: the rows of one file after the other, then of the first again.

    (hdf5_data_layer.cpp.)  A batch goes on in the next file.  With ``shuffle`` the files come in
    another order each time round, and so do the rows of each file.

    Args:
        layer: what the prototxt says.
        draws: the layer's random choices.

    Raises:
        BadInput: no list, or a file that lacks a data set or whose data sets do not fit together.
    """

    def __init__(self, layer: HDF5Data, draws: Draws) -> None:
        super().__init__(layer, layer.batch_size)
        self._draws, self._shuffle, self._is_legacy = draws, layer.shuffle, layer.is_legacy
        # Caffe reads the list word by word.
        self._files = [
            (word, line) for line in read_lines(layer.source) for word in line.text.split()
        ]
        require_files(self._files)
        shapes = [self._shapes(file, line) for file, line in self._files]
        self._rows = np.array([shape[0][0] for shape in shapes])
        for (file, line), found in zip(self._files, shapes, strict=True):
            for top, first, own in zip(self.tops, shapes[0], found, strict=True):
                if first[1:] != own[1:]:
                    raise InputError(
                        f"'{top}' has rows of another shape than in {self._files[0][0]} ({line})",
                        file=file,
                        expected=show(first[1:]),
                        got=show(own[1:]),
                    )
        self._loaded: tuple[int, list[NDArray[np.float32]]] | None = None

    def origin(self, number: int) -> str:
        """The file and the row."""
        file, row = self._place(number)
        return f"row {row} of {self._files[file][0]}"

    def item(self, number: int) -> Item:
        """One row of each data set."""
        file, row = self._place(number)
        if self._loaded is None or self._loaded[0] != file:
            self._loaded = None  # one file at a time is in memory, as in Caffe
            self._loaded = file, self._load(self._files[file][0])
        return tuple(values[row] for values in self._loaded[1])

    def _place(self, number: int) -> tuple[int, int]:
        """The file and the row of an item."""
        times, place = divmod(number, int(self._rows.sum()))
        order = np.arange(len(self._files))
        if self._shuffle:
            order = self._draws.permutation(len(order), Purpose.FILES, times)
        ends = self._rows[order].cumsum()
        turn = int(np.searchsorted(ends, place, side="right"))
        file = int(order[turn])
        row = place - int(ends[turn] - self._rows[file])
        if self._shuffle:
            row = int(self._draws.permutation(self._rows[file], Purpose.ROWS, times, turn)[row])
        return file, row

    def _shapes(self, path: str, line: Line) -> list[tuple[int, ...]]:
        with open_hdf5(path) as file:
            shapes = [tuple(dataset_at(file, top, path).shape or ()) for top in self.tops]
        rows = {shape[:1] for shape in shapes}
        if len(rows) != 1 or not min(rows, default=()) or not shapes[0][0]:
            raise InputError(
                f"has no rows, or data sets of different lengths ({line})",
                file=path,
                got=", ".join(
                    f"{top} {show(shape)}" for top, shape in zip(self.tops, shapes, strict=True)
                ),
            )
        return shapes

    def _load(self, path: str) -> list[NDArray[np.float32]]:
        with open_hdf5(path) as file:
            arrays = [
                np.asarray(read_dataset(dataset_at(file, top, path), path, kinds="fiu"), np.float32)
                for top in self.tops
            ]
        if self._is_legacy:  # every blob has four axes
            arrays = [array.reshape((*array.shape, 1, 1, 1)[:4]) for array in arrays]
        return arrays


class MatFiles(Source):
    """MatRead: item after item ``PREFIX NAME _blob_TOP.mat`` (mat_read_layer.cpp of the forks).

    Args:
        layer: what the prototxt says.

    Raises:
        BadInput: no list, or a file that is not there.
    """

    def __init__(self, layer: MatRead) -> None:
        super().__init__(layer, layer.batch_size)
        self._prefix = layer.prefix
        self._names = read_names(layer.source, layer.strip)
        if layer.source is not None and self._names is not None:
            lines = read_lines(layer.source)
            require_files(
                (self._file(number, top), line)
                for number, line in enumerate(lines)
                for top in range(len(self.tops))
            )

    def origin(self, number: int) -> str:
        """The file of its first top."""
        return self._file(number, 0)

    def item(self, number: int) -> Item:
        """The arrays of one file for each top."""
        return tuple(_read_item(self._file(number, top)) for top in range(len(self.tops)))

    def _file(self, number: int, top: int) -> str:
        names = self._names
        name = f"iter_{number}" if names is None else names[number % len(names)]
        return f"{self._prefix}{name}_blob_{top}.mat"


def _read_item(path: str) -> NDArray[np.float32]:
    """(C, H, W); Matlab leaves out last axes of 1, which here are the first."""
    values = read_mat(path, VARIABLE)
    shape = (*(1,) * (4 - values.ndim), *values.shape)
    if len(shape) > 4 or shape[0] != 1:
        raise InputError("is no blob of one item", file=path, expected="1xCxHxW", got=show(shape))
    return np.ascontiguousarray(values, np.float32).reshape(shape[1:])


class GivenArrays(Source):
    """MemoryData: rows of arrays that the caller gives (memory_data_layer.cpp).

    Args:
        layer: what the prototxt says.
        data: (rows, C, H, W), of the layer's sizes, a multiple of the batch size.
        labels: one per row.

    Raises:
        InputError: arrays of other shapes.
    """

    def __init__(self, layer: MemoryData, data: NDArray[Any], labels: NDArray[Any]) -> None:
        super().__init__(layer, layer.batch_size)
        data, labels = np.asarray(data, np.float32), np.asarray(labels, np.float32)
        size = (layer.channels, layer.height, layer.width)
        rows = len(data) if data.ndim else 0
        if data.shape[1:] != size or not rows or rows % self.batch_size:
            raise InputError(
                "the data given do not fit",
                expected=f"a multiple of {self.batch_size} rows of {show(size)}",
                got=show(data.shape),
            )
        if labels.size != rows:
            raise InputError("labels do not fit the data", expected=rows, got=show(labels.shape))
        self._data = data
        self._labels = labels.reshape((rows, 1, 1, 1) if layer.is_legacy else (rows,))

    def origin(self, number: int) -> str:
        """The number of the row, in words."""
        return f"row {number % len(self._data)} of the arrays given"

    def item(self, number: int) -> Item:
        """A row of each."""
        row = number % len(self._data)
        return self._data[row], np.asarray(self._labels[row])
