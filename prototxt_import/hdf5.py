"""HDF5 as Caffe writes it, above all ``.caffemodel.h5``: ``/data/LAYER/0``, ``/data/LAYER/1``, ...

(net.cpp, ToHDF5.)  HDF5 can do much more: point into other files, hold groups inside themselves,
state terabytes that it does not store.  The functions here read what a file itself stores, as far
as the limits go, and refuse the rest.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from math import prod
from typing import BinaryIO, TypeAlias

import h5py
import numpy as np
from numpy.typing import NDArray

from prototxt_import.caffemodel import Array, Weights
from prototxt_import.errors import BadInput, CaffeImportError
from prototxt_import.files import open_file, replacing_file
from prototxt_import.limits import (
    MAX_BLOB_AXES,
    MAX_HDF5_DEPTH,
    MAX_HDF5_EXPANSION,
    MAX_HDF5_OBJECTS,
    SMALL_BYTES,
)

__all__ = [
    "Item",
    "children",
    "dataset_at",
    "group_at",
    "member",
    "numbered_arrays",
    "open_hdf5",
    "read_dataset",
    "read_hdf5",
    "walk_groups",
    "write_hdf5",
]

Item: TypeAlias = h5py.Group | h5py.Dataset


class _Bounded:
    """A file that refuses to be read beyond its end.

    A damaged address or size makes the HDF5 library ask for gigabytes and, reading the file by
    itself, fill what is not there with zeros.  Asked for more than there is, this gives nothing.
    """

    def __init__(self, file: BinaryIO) -> None:
        self._file = file
        self._size = os.fstat(file.fileno()).st_size

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        return self._file.seek(offset, whence)

    def tell(self) -> int:
        return self._file.tell()

    def read(self, size: int = -1) -> bytes:
        return self._file.read(size)

    def readinto(self, buffer: memoryview) -> int:
        if self._file.tell() + len(buffer) > self._size:
            raise OSError("it points beyond the end of the file")
        return self._file.readinto(buffer)  # type: ignore[attr-defined]


@contextmanager
def open_hdf5(path: str | os.PathLike[str]) -> Iterator[h5py.File]:
    """Open for reading; whatever h5py finds wrong meanwhile is one clear error."""
    try:
        with open_file(path) as opened, h5py.File(_Bounded(opened), "r") as file:
            yield file
    except BadInput as error:
        raise error.with_file(path) from None
    except (OSError, RuntimeError, LookupError, ValueError, TypeError, MemoryError) as error:
        # A damaged file shows at any call, and h5py raises what fits the place.
        raise CaffeImportError(f"is no HDF5 file, or damaged ({error})", file=path) from None


def children(group: h5py.Group, path: object) -> list[tuple[str, Item]]:
    """(name, group or data set) of what lies directly in ``group``.

    Raises:
        CaffeImportError: a soft or external link, which would lead elsewhere or to another file;
            a name that is no text; more members than ``MAX_HDF5_OBJECTS``.
    """
    MAX_HDF5_OBJECTS.check(len(group), f"too many members in {group.name}", file=path)
    found = []
    for name in group:
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise CaffeImportError(
                f"'{name}' in {group.name} is a link",
                file=path,
                expected="groups and data sets of the file itself",
            )
        try:
            name.encode("utf-8")
        except UnicodeEncodeError:
            raise CaffeImportError(f"a name in {group.name} is not UTF-8", file=path) from None
        item = group[name]
        if isinstance(item, (h5py.Group, h5py.Dataset)):
            found.append((name, item))
    return found


def member(
    group: h5py.Group,
    name: str,
    path: object,
    kind: type | tuple[type, ...] = (h5py.Group, h5py.Dataset),
) -> Item:
    """The member of ``group`` called ``name``, which may be a path; CaffeImportError if none."""
    item = group
    for part in filter(None, name.split("/")):
        link = item.get(part, getlink=True) if isinstance(item, h5py.Group) else None
        item = item[part] if isinstance(link, h5py.HardLink) else None
    if not isinstance(item, kind):
        what = "group" if kind is h5py.Group else "data set"
        raise CaffeImportError(f"{group.name} holds no {what} {name}", file=path)
    return item


def group_at(group: h5py.Group, name: str, path: object) -> h5py.Group:
    """The group of that name; CaffeImportError if there is none."""
    return member(group, name, path, h5py.Group)


def dataset_at(group: h5py.Group, name: str, path: object) -> h5py.Dataset:
    """The data set of that name; CaffeImportError if there is none."""
    return member(group, name, path, h5py.Dataset)


def walk_groups(
    top: h5py.Group, path: object
) -> Iterator[tuple[str, h5py.Group, list[tuple[str, Item]]]]:
    """(name below ``top``, group, its :func:`children`) of all groups below ``top``, parents first.

    Raises:
        CaffeImportError: groups that hold each other, or more than the limits let through.
    """
    seen = 0
    # Depth first in the file's order; an explicit stack, so that nesting costs no recursion.
    stack = [("", top, 0)]
    while stack:
        name, group, depth = stack.pop()
        MAX_HDF5_DEPTH.check(depth, f"groups nested too deeply, or in a circle, at {name}",
                             file=path)  # fmt: skip
        members = children(group, path)
        seen += len(members)
        MAX_HDF5_OBJECTS.check(seen, "too many groups and data sets", file=path)
        if group is not top:
            yield name, group, members
        below = [(n, item) for n, item in members if isinstance(item, h5py.Group)]
        for child, item in reversed(below):
            stack.append((f"{name}/{child}" if name else child, item, depth + 1))


def read_dataset(
    data: h5py.Dataset, path: object, *, kinds: str = "f", layer: str | None = None
) -> NDArray[np.generic]:
    """The values of a data set, floats as float32 or float64.

    Args:
        data: the data set.
        path: of the file, for messages.
        kinds: numpy's letters of the types to accept.
        layer: for messages.

    Raises:
        CaffeImportError: another type; values that lie in other files; more of them than the
            file stores, beyond ``MAX_HDF5_EXPANSION``.
    """
    if data.dtype.kind not in kinds or data.shape is None:
        what = "floats" if kinds == "f" else "text" if "S" in kinds else "numbers"
        raise CaffeImportError(f"{data.name} holds no {what}", file=path, layer=layer,
                               got=data.dtype)  # fmt: skip
    if data.is_virtual or data.external:
        raise CaffeImportError(
            f"the values of {data.name} lie in another file", file=path, layer=layer
        )
    if len(data.shape) > MAX_BLOB_AXES:
        raise CaffeImportError(
            f"{data.name} has too many axes",
            file=path,
            layer=layer,
            expected=f"at most {MAX_BLOB_AXES}",
            got=len(data.shape),
        )
    floats = data.dtype.kind == "f"
    dtype = (np.float64 if data.dtype.itemsize > 4 else np.float32) if floats else data.dtype
    size = prod(data.shape) * max(data.dtype.itemsize, np.dtype(dtype).itemsize)
    if size > SMALL_BYTES:
        # A damaged file may claim to store more than it is long.
        stored = min(data.id.get_storage_size(), data.file.id.get_filesize())
        times = -(-size // max(1, stored))
        MAX_HDF5_EXPANSION.check(
            times, f"{data.name} is larger than what the file stores of it, so many times",
            file=path, layer=layer,
        )  # fmt: skip
    values: NDArray[np.generic] = (data.astype(dtype) if floats else data)[()]
    return np.asarray(values)


def numbered_arrays(group: h5py.Group, path: object, layer: str | None = None) -> list[Array]:
    """The data sets ``0``, ``1``, ... of a group, none left out.

    Raises:
        CaffeImportError: a number is missing, or something that is no float array.
    """
    return _numbered(group, children(group, path), path, layer)


def _numbered(
    group: h5py.Group, members: list[tuple[str, Item]], path: object, layer: str | None
) -> list[Array]:
    data = {name: item for name, item in members if isinstance(item, h5py.Dataset)}
    arrays: list[Array] = []
    for i in range(len(data)):
        if str(i) not in data:
            raise CaffeImportError(
                f"{group.name} lacks data set {i}", file=path, layer=layer, got=sorted(data)[:10]
            )
        values = read_dataset(data[str(i)], path, layer=layer)
        arrays.append(values)  # type: ignore[arg-type]
    return arrays


def read_hdf5(path: str | os.PathLike[str]) -> Weights:
    """The weights of a ``.caffemodel.h5``, layers in the file's order.

    Raises:
        CaffeImportError: no ``/data`` group, blobs that are not numbered from 0, or something
            else than groups and float arrays of the file's own.
    """
    weights: Weights = {}
    total = 0
    with open_hdf5(path) as file:
        allowed = SMALL_BYTES + MAX_HDF5_EXPANSION.value * file.id.get_filesize()
        # A "/" in a layer's name makes nested groups, so a layer is any group with data sets.
        for name, group, members in walk_groups(group_at(file, "data", path), path):
            arrays = _numbered(group, members, path, name)
            # One data set under many names is read as often as it is named.
            total += sum(array.nbytes for array in arrays)
            if total > allowed:
                times = -(-total // file.id.get_filesize())
                MAX_HDF5_EXPANSION.check(
                    times, "the weights are larger than the file, so many times", file=path
                )
            if arrays:
                weights[name] = arrays
    return weights


def write_hdf5(path: str | os.PathLike[str], weights: Mapping[str, Sequence[Array]]) -> None:
    """Write a ``.caffemodel.h5``.

    Raises:
        CaffeImportError: a layer whose name Caffe would not find in it, or that HDF5 cannot hold.
    """
    for layer in weights:
        if "/" in layer or layer in ("", "."):
            # HDF5 makes nested groups of such a name.  Caffe looks for layers among the groups of
            # /data only, and passes over those it does not know (net.cpp,
            # CopyTrainedLayersFromHDF5): it would keep its old values without a word.
            raise CaffeImportError(
                "Caffe would not find a layer of this name in an HDF5 file",
                file=path,
                layer=layer,
                expected="another kind of output, such as .caffemodel or .safetensors",
            )
    with replacing_file(path) as out, h5py.File(out, "w", track_order=True) as file:
        data = file.create_group("data", track_order=True)
        for layer, blobs in weights.items():
            try:
                group = data.create_group(layer)
                for i, blob in enumerate(blobs):
                    group.create_dataset(str(i), data=blob)
            except (ValueError, TypeError) as error:  # a NUL in the name
                raise CaffeImportError(
                    f"cannot be written as HDF5 ({error})", file=path, layer=layer
                ) from None
