"""MatWrite and HDF5Output: what a network's writers put into files."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from types import TracebackType
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray
from torch import Tensor, nn

from deeplab_repro.caffe.layers.sources import Sink
from deeplab_repro.errors import InputError
from deeplab_repro.pictures.matlab import write_mat
from deeplab_repro.train.feeds.lists import read_names
from deeplab_repro.train.feeds.sources import naming
from prototxt_import.files import replacing_file
from prototxt_import.layers import HDF5Output, MatWrite
from prototxt_import.words import show

__all__ = ["Sinks"]

_Blobs = Sequence[NDArray[np.float32]]


class Sinks:
    """Lets the writers of a network write, from now until :meth:`close`.

    Each forward pass of the network counts; what is written is what the writers see when their
    turn comes, before a later layer overwrites it.

    Args:
        net: a :class:`~deeplab_repro.caffe.net.CaffeNet`.

    Raises:
        BadInput: a list of names that is not there; later, from the pass itself, a file that cannot
            be written, or more passes than names.

    Example:
        >>> with Sinks(net), torch.inference_mode():
        ...     for _ in range(test_iter):
        ...         net(**feeds.next())
    """

    def __init__(self, net: nn.Module) -> None:
        self._open = ExitStack()
        with self._open:  # undone unless all of it works
            for module in net.modules():
                if isinstance(module, Sink) and module.layer.role == "writer":
                    with naming(module.layer.name):
                        write = self._writer(module)
                    handle = module.register_forward_pre_hook(_hook(module.layer.name, write))
                    self._open.callback(handle.remove)
            self._open = self._open.pop_all()

    def _writer(self, module: Sink) -> Callable[[_Blobs], None]:
        layer = module.layer
        if isinstance(layer, MatWrite):
            return _MatWriter(layer)
        assert isinstance(layer, HDF5Output), layer.type
        writer = _HDF5Writer(layer)
        self._open.push(writer.finish)
        return writer

    def close(self) -> None:
        """Write no more; HDF5 files are put in their places."""
        self._open.close()

    def __enter__(self) -> Sinks:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._open.__exit__(kind, error, trace)


def _hook(
    layer: str, write: Callable[[_Blobs], None]
) -> Callable[[nn.Module, tuple[Tensor, ...]], None]:
    def hook(module: nn.Module, bottoms: tuple[Tensor, ...]) -> None:
        with naming(layer):
            write([_four_axes(bottom) for bottom in bottoms])

    return hook


def _four_axes(blob: Tensor) -> NDArray[np.float32]:
    """Axes of 1 are added behind (blob.hpp, LegacyShape)."""
    values = blob.detach().float().cpu().numpy()
    if values.ndim > 4:
        raise InputError("a blob of more than four axes", got=show(values.shape))
    return values.reshape((*values.shape, 1, 1, 1, 1)[:4])


class _MatWriter:
    """``PREFIX NAME _blob_BOTTOM.mat`` for every ``period``-th pass (mat_write_layer.cpp).

    Args:
        layer: what the prototxt says.
    """

    def __init__(self, layer: MatWrite) -> None:
        self._layer = layer
        self._names = read_names(layer.source, layer.strip)
        self._passes = 0

    def __call__(self, blobs: _Blobs) -> None:
        """Write the blobs, one file each."""
        number, layer = self._passes, self._layer
        if number % layer.period == 0:
            name = f"iter_{number}"
            if self._names is not None:
                if number >= len(self._names):
                    raise InputError(
                        "has no name for a further pass",
                        file=layer.source,
                        expected=f"at most {len(self._names)} passes",
                    )
                name = self._names[number]
            for i, blob in enumerate(blobs):
                write_mat(f"{layer.prefix}{name}_blob_{i}.mat", blob)
        self._passes += 1


class _HDF5Writer:
    """Data sets ``data`` and ``label`` of two blobs (hdf5_output_layer.cpp).

    Caffe ends with an error at the second pass; here its rows come behind those of the first.

    Args:
        layer: what the prototxt says.
    """

    def __init__(self, layer: HDF5Output) -> None:
        self._path = layer.file_name
        self._open = ExitStack()
        self._file: Any = None

    def __call__(self, blobs: _Blobs) -> None:
        """Add the rows of a pass."""
        if len(blobs) < 2 or len(blobs[0]) != len(blobs[1]):
            raise InputError(
                "needs data and as many labels",
                file=self._path,
                got=" and ".join(show(blob.shape) for blob in blobs),
            )
        if self._file is None:
            self._file = h5py.File(self._open.enter_context(replacing_file(self._path)), "w")
            self._open.enter_context(self._file)
        for name, blob in zip(("data", "label"), blobs, strict=False):
            if name not in self._file:
                self._file.create_dataset(name, data=blob, maxshape=(None, *blob.shape[1:]))
                continue
            rows = self._file[name]
            if rows.shape[1:] != blob.shape[1:]:
                raise InputError(
                    f"'{name}' has rows of another shape than before",
                    file=self._path,
                    expected=show(rows.shape[1:]),
                    got=show(blob.shape[1:]),
                )
            rows.resize(len(rows) + len(blob), axis=0)
            rows[len(rows) - len(blob) :] = blob

    def finish(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Put the file in its place, or drop it after an error."""
        self._open.__exit__(kind, error, trace)
