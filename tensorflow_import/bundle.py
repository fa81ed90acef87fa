"""Checkpoints: an index of all variables, and one or more files with their values.

``PREFIX.index`` is a sorted string table.  Its empty key holds a header, every other key is the
name of a variable, or the code of a slice of one, and holds where in which of the files
``PREFIX.data-00000-of-00001`` the values lie (tensor_bundle.cc).
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Any, BinaryIO, Final, cast

import numpy as np

from prototxt_import.files import open_file
from prototxt_import.words import number, show
from tensorflow_import.crc32c import crc32c, mask
from tensorflow_import.dtypes import Array, DataType, check_shape, data_type, decoded
from tensorflow_import.errors import Damaged, TensorFlowImportError, naming
from tensorflow_import.limits import (
    MAX_ENTRY_BYTES,
    MAX_INDEX_BYTES,
    MAX_PARAMETER_BYTES,
    MAX_SHARDS,
    MAX_STRINGS,
)
from tensorflow_import.schema import message_class
from tensorflow_import.slices import FULL, SLICE_KEYS, Slice, slice_key
from tensorflow_import.strings import parse_strings
from tensorflow_import.table import read_table

__all__ = ["Bundle", "Entry", "data_file", "read_bundle"]

_INDEX: Final = "checkpoint's index"
_LITTLE_ENDIAN: Final = 0
#: Slices along several axes, whose pairs are compared: half a million of them take a second.
_MOST_BOXES: Final = 1000


@dataclass(frozen=True, slots=True)
class Entry:
    """What the index says of one variable or slice.

    Attributes:
        dtype: the type of its values.
        shape: sizes of its axes.
        shard: in which data file its values lie.
        offset: where in that file they begin.
        size: how many bytes they take there.
        checksum: masked CRC-32C of the values.
        slices: of a partitioned variable: the slices that have the values in its place.
    """

    dtype: DataType
    shape: tuple[int, ...]
    shard: int = 0
    offset: int = 0
    size: int = 0
    checksum: int = 0
    slices: tuple[Slice, ...] = ()


@dataclass
class Bundle:
    """A checkpoint whose index has been read and checked, and whose values have not.

    Attributes:
        prefix: what the names of its files begin with.
        shards: the number of its data files.
        variables: name -> entry, in the order of the index.
        pieces: key -> entry of the slices of partitioned variables.
    """

    prefix: str
    shards: int
    variables: dict[str, Entry] = field(default_factory=dict)
    pieces: dict[bytes, Entry] = field(default_factory=dict)

    def read(self, names: Collection[str] | None = None, *, check: bool = True) -> dict[str, Array]:
        """Name -> values.

        Args:
            names: the variables that are wanted; all if None.
            check: hold the values against their checksums.

        Raises:
            TensorFlowImportError: a data file is missing, cut off or damaged, or has no variable
                of one of these names.
        """
        with naming(f"{self.prefix}.index", _INDEX), _DataFiles(self, check) as files:
            wanted = self._wanted(names)
            total = sum(entry.size for entry in self._stored(wanted))
            MAX_PARAMETER_BYTES.check(total, "holds too much, in bytes")
            return {
                name: self._whole(files, name, entry)
                if entry.slices
                else files.values(entry, f"variable '{name}'")
                for name, entry in wanted.items()
            }

    def _wanted(self, names: Collection[str] | None) -> dict[str, Entry]:
        if names is None:
            return self.variables
        for name in names:
            if name not in self.variables:
                raise TensorFlowImportError(f"has no variable '{name}'")
        return {name: self.variables[name] for name in names}

    def _stored(self, variables: dict[str, Entry]) -> Iterator[Entry]:
        for name, entry in variables.items():
            if not entry.slices:
                yield entry
            for extents in entry.slices:
                yield self.pieces[slice_key(name.encode(), extents)]

    def _whole(self, files: _DataFiles, name: str, entry: Entry) -> Array:
        """A partitioned variable, put together; its slices were checked to cover it."""
        result: Array | None = None
        for extents in entry.slices:
            piece = self.pieces[slice_key(name.encode(), extents)]
            values = files.values(piece, f"a slice of variable '{name}'")
            if result is None:
                result = np.empty(entry.shape, values.dtype)
            result[_where(extents)] = values
        assert result is not None
        return result


def _where(extents: Slice) -> tuple[slice, ...]:
    return tuple(
        slice(None) if length == FULL else slice(start, start + length) for start, length in extents
    )


def data_file(prefix: str, shard: int, shards: int) -> str:
    """The name of a data file."""
    return f"{prefix}.data-{shard:05d}-of-{shards:05d}"


def read_bundle(prefix: str) -> Bundle:
    """Read the index of the checkpoint ``prefix``.

    Raises:
        TensorFlowImportError: no index, or one that is damaged, of another byte order, or beyond
            the limits.
    """
    path = f"{prefix}.index"
    with naming(path, _INDEX):
        with open_file(path) as file:
            size = os.fstat(file.fileno()).st_size
            MAX_INDEX_BYTES.check(size, "too large an index, in bytes")
            content = file.read(size)
        bundle: Bundle | None = None
        for key, value in read_table(content):
            if bundle is None:
                bundle = _header(prefix, key, value)
            elif key.startswith(SLICE_KEYS):
                bundle.pieces[key] = _entry(value, "a slice", bundle.shards)
            else:
                name = _name(key)
                bundle.variables[name] = _entry(value, f"variable '{name}'", bundle.shards)
        if bundle is None:
            raise Damaged("its table is empty")
        _check_slices(bundle)
        _check_places([*bundle.variables.values(), *bundle.pieces.values()])
    return bundle


def _header(prefix: str, key: bytes, value: bytes) -> Bundle:
    if key:
        raise Damaged("its table does not begin with a header")
    header = cast(Any, message_class("BundleHeaderProto")).FromString(value)
    if header.endianness != _LITTLE_ENDIAN:
        raise TensorFlowImportError(
            "was written by a machine of the other byte order", expected="little-endian values"
        )
    if header.version.min_consumer > 1:
        raise TensorFlowImportError(
            "needs a later reader", expected="version 1", got=header.version.min_consumer
        )
    if header.num_shards < 1:
        raise Damaged(f"it states {header.num_shards} data files")
    MAX_SHARDS.check(header.num_shards, "too many data files")
    return Bundle(prefix, header.num_shards)


def _name(key: bytes) -> str:
    try:
        return key.decode("utf-8")
    except UnicodeDecodeError:
        raise Damaged(f"a variable's name is no text: {key[:100]!r}") from None


def _entry(value: bytes, what: str, shards: int) -> Entry:
    MAX_ENTRY_BYTES.check(len(value), f"{what} takes too many bytes of the index")
    stated = cast(Any, message_class("BundleEntryProto")).FromString(value)
    dtype = data_type(stated.dtype, what)
    if stated.shape.unknown_rank:
        raise Damaged(f"{what} has no shape")
    shape = tuple(dim.size for dim in stated.shape.dim)
    count = check_shape(shape, what)
    if stated.slices:
        return Entry(dtype, shape, slices=tuple(_slice(s, shape, what) for s in stated.slices))
    if not 0 <= stated.shard_id < shards:
        raise Damaged(f"{what} lies in data file {stated.shard_id} of {shards}")
    if stated.offset < 0 or stated.size < 0:
        raise Damaged(f"{what} takes {stated.size} bytes at byte {stated.offset}")
    is_string = dtype.stored.kind == "O"
    if is_string:
        MAX_STRINGS.check(count, f"{what} holds too many strings")
    elif stated.size != count * dtype.stored.itemsize:
        raise Damaged(
            f"{what} takes {stated.size} bytes, but {show(shape)} of {dtype.name} takes"
            f" {count * dtype.stored.itemsize}"
        )
    return Entry(dtype, shape, stated.shard_id, stated.offset, stated.size, stated.crc32c)


def _slice(stated: Any, shape: tuple[int, ...], what: str) -> Slice:
    extents = tuple(
        (extent.start, extent.length if extent.HasField("length") else FULL)
        for extent in stated.extent
    )
    if len(extents) != len(shape):
        raise Damaged(f"{what} has {len(shape)} axes, and a slice of {len(extents)}")
    for (start, length), size in zip(extents, shape, strict=True):
        is_inside = start >= 0 and length >= 0 and start + length <= size
        if not (is_inside or (start, length) == (0, FULL)):
            raise Damaged(f"{what} has a slice that reaches out of it")
    return extents


def _check_slices(bundle: Bundle) -> None:
    """Each partitioned variable has all of its slices, and they fill it exactly."""
    used: set[bytes] = set()
    for name, entry in bundle.variables.items():
        if not entry.slices:
            continue
        what = f"variable '{name}'"
        if not entry.shape or entry.dtype.stored.kind == "O":
            raise Damaged(f"{what} is partitioned, which a scalar or strings cannot be")
        filled = 0
        for extents in entry.slices:
            key = slice_key(name.encode(), extents)
            piece = bundle.pieces.get(key)
            if piece is None or key in used:
                raise Damaged(f"{what}: a slice is {'missing' if piece is None else 'repeated'}")
            used.add(key)
            lengths = tuple(
                size if length == FULL else length
                for (_, length), size in zip(extents, entry.shape, strict=True)
            )
            if piece.slices or piece.shape != lengths or piece.dtype != entry.dtype:
                raise Damaged(f"{what}: a slice does not have the shape or type that it should")
            filled += check_shape(lengths, what)
        if filled != check_shape(entry.shape, what) or _overlap(entry):
            raise Damaged(f"{what}: its slices do not fill it exactly")
    if len(used) != len(bundle.pieces):
        raise Damaged("it holds slices of no variable")


def _overlap(entry: Entry) -> bool:
    """Whether two slices have an element in common.

    Partitioners cut along one axis, so that after sorting only neighbours could overlap; slices
    that are cut along several axes are compared in pairs.
    """
    boxes = sorted(
        tuple((0, n) if length == FULL else (start, start + length)
              for (start, length), n in zip(extents, entry.shape, strict=True))
        for extents in entry.slices
    )  # fmt: skip
    cut = [axis for axis, n in enumerate(entry.shape) if any(box[axis] != (0, n) for box in boxes)]
    if len(cut) == 1:
        pairs: Iterable[Any] = pairwise(boxes)
    else:
        if len(boxes) > _MOST_BOXES:
            raise Damaged(f"{len(boxes)} slices along several axes")
        pairs = ((one, other) for i, one in enumerate(boxes) for other in boxes[:i])
    return any(
        all(a < d and c < b for (a, b), (c, d) in zip(one, other, strict=True))
        for one, other in pairs
    )


def _check_places(entries: list[Entry]) -> None:
    """No byte of a data file belongs to two variables: a small file cannot stand for a huge one."""
    reached: dict[int, int] = {}
    for entry in sorted(entries, key=lambda entry: (entry.shard, entry.offset)):
        if entry.size:
            if entry.offset < reached.get(entry.shard, 0):
                raise Damaged(f"two variables share byte {entry.offset} of a data file")
            reached[entry.shard] = entry.offset + entry.size


class _DataFiles(ExitStack):
    """The data files of a checkpoint, opened when they are needed first."""

    def __init__(self, bundle: Bundle, check: bool) -> None:
        super().__init__()
        self._bundle = bundle
        self._check = check
        self._files: dict[int, tuple[BinaryIO, int]] = {}

    def values(self, entry: Entry, what: str) -> Array:
        """The values of an entry with its own shape."""
        with self._opened(entry.shard) as (file, size):
            if entry.offset + entry.size > size:
                raise Damaged(
                    f"{what} reaches to byte {entry.offset + entry.size}, the file ends at {size}"
                )
            if entry.dtype.stored.kind == "O":
                return self._strings(file, entry, what)
            stored = np.empty(entry.shape, entry.dtype.stored)
            content = stored.reshape(-1).view(np.uint8)
            _fill(file, content, entry.offset)
            if self._check and mask(crc32c(content.data)) != entry.checksum:
                raise Damaged(f"the checksum of {what} is wrong")
            return decoded(stored, entry.dtype)

    def _strings(self, file: BinaryIO, entry: Entry, what: str) -> Array:
        content = np.empty(entry.size, np.uint8)
        _fill(file, content, entry.offset)
        result = np.empty(entry.shape, object)
        checksum = entry.checksum if self._check else None
        for i, string in enumerate(parse_strings(content.data, result.size, what, checksum)):
            result.reshape(-1)[i] = string
        return result

    @contextmanager
    def _opened(self, shard: int) -> Iterator[tuple[BinaryIO, int]]:
        path = data_file(self._bundle.prefix, shard, self._bundle.shards)
        if not os.path.exists(path):
            raise self._missing(path)
        with naming(path, "data file of this checkpoint"):
            if shard not in self._files:
                file = self.enter_context(open_file(path))
                self._files[shard] = file, os.fstat(file.fileno()).st_size
            yield self._files[shard]

    def _missing(self, path: str) -> TensorFlowImportError:
        prefix, shards = self._bundle.prefix, self._bundle.shards
        there = sum(os.path.exists(data_file(prefix, i, shards)) for i in range(shards))
        return TensorFlowImportError(
            "No such file",
            file=path,
            expected=f"{number(shards, 'data file')}, as {prefix}.index says",
            got=f"{there} of them",
        )


def _fill(file: BinaryIO, content: Array, offset: int) -> None:
    """Read bytes from ``offset`` on until ``content`` is full; one call reads 2 GB at most."""
    view = content.data
    while len(view):
        count = os.preadv(file.fileno(), [view], offset)
        if not count:
            raise Damaged(f"the file ends at byte {offset}: it was changed meanwhile")
        view = view[count:]
        offset += count
