"""TensorFlow's variables in ``.safetensors`` and ``.npz``: the same names, layouts and values.

A ``.safetensors`` of variables says so in its metadata:

======================  ==========================================================
metadata key            holds
======================  ==========================================================
``tensorflow.layout``   ``"1"``: the tensors are variables, in TensorFlow's layout
``tensorflow.dtypes``   JSON: name -> TensorFlow's type, where the tensor has another
``tensorflow.strings``  JSON: name -> ``[shape, [base64, ...]]``: strings, which are no tensors
``tensorflow.options``  JSON: what decides the network, as far as whoever wrote the file knew it
======================  ==========================================================

A ``.npz`` has no place for that: there bfloat16 becomes float32 for good, and strings are refused.
"""

from __future__ import annotations

import base64
import json
import lzma
import os
import zipfile
import zlib
from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from math import prod
from typing import Any, BinaryIO, Final, NamedTuple

import numpy as np
import safetensors

from prototxt_import.files import open_file, replacing_file
from prototxt_import.limits import MAX_HDF5_EXPANSION, SMALL_BYTES
from prototxt_import.safetensors_file import DTYPES, write_tensors
from tensorflow_import.dtypes import BY_NAME, Array, check_shape, type_of
from tensorflow_import.errors import Damaged, TensorFlowImportError, naming
from tensorflow_import.limits import MAX_PARAMETER_BYTES, MAX_STRINGS, MAX_VARIABLES

__all__ = [
    "VariableInfo",
    "is_of_tensorflow",
    "list_npz",
    "list_safetensors",
    "read_npz",
    "read_options",
    "read_safetensors",
    "write_npz",
    "write_safetensors",
]

_LAYOUT, _DTYPES, _STRINGS = "tensorflow.layout", "tensorflow.dtypes", "tensorflow.strings"
_OPTIONS = "tensorflow.options"
_NPY: Final = ".npy"
#: What zipfile raises for a damaged archive, and its methods of compression for what they unpack.
_BROKEN: Final = (zipfile.BadZipFile, zlib.error, lzma.LZMAError, NotImplementedError)


class VariableInfo(NamedTuple):
    """What is known of a variable whose values have not been read.

    Attributes:
        dtype: TensorFlow's name of its type: ``"float32"``, ``"bfloat16"``, ``"string"``.
        shape: sizes of its axes, in TensorFlow's order.
    """

    dtype: str
    shape: tuple[int, ...]


# ---------------------------------------------------------------- safetensors


def is_of_tensorflow(path: str | os.PathLike[str]) -> bool:
    """Whether a ``.safetensors`` says that its tensors are TensorFlow's variables.

    Raises:
        TensorFlowImportError: it is no such file.
    """
    with _opened(path) as file:
        return _LAYOUT in (file.metadata() or {})


def read_options(path: str | os.PathLike[str]) -> dict[str, Any] | None:
    """The options of the network in the metadata; None where there are none.

    Raises:
        TensorFlowImportError: it is no such file, or they are no JSON object.
    """
    with _opened(path) as file:
        return _json(file, _OPTIONS) or None


def list_safetensors(path: str | os.PathLike[str]) -> dict[str, VariableInfo]:
    """Name -> type and shape of every tensor, and of the strings in the metadata."""
    with _opened(path) as file:
        return _infos(file) | {
            name: VariableInfo("string", values.shape) for name, values in _strings(file).items()
        }


def read_safetensors(
    path: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, Array]:
    """Name -> values of the tensors, and of the strings in the metadata.

    Raises:
        TensorFlowImportError: damaged, or without one of the ``names``.
    """
    with _opened(path) as file:
        strings = _strings(file)
        known = _infos(file)
        wanted = _chosen([*known, *strings], names)
        total = sum(BY_NAME[i.dtype].stored.itemsize * prod(i.shape) for i in known.values())
        MAX_PARAMETER_BYTES.check(total, "holds too much, in bytes")
        return {
            name: strings[name] if name in strings else file.get_tensor(name) for name in wanted
        }


def write_safetensors(
    path: str | os.PathLike[str],
    variables: Mapping[str, Array],
    dtypes: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write variables, with the metadata that this module describes.

    Args:
        path: the file.
        variables: name -> values.
        dtypes: name -> TensorFlow's type, of variables whose array has another.
        options: of the network, if they are known.

    Raises:
        TensorFlowImportError: a type that the format does not have, or the file cannot be written.
    """
    tensors: dict[str, Array] = {}
    strings: dict[str, Any] = {}
    with naming(path, "safetensors"):
        for name, array in variables.items():
            array = np.asarray(array)
            if array.dtype.kind == "O":
                coded = [base64.b64encode(value).decode() for value in array.reshape(-1)]
                strings[name] = [list(array.shape), coded]
            elif array.dtype in DTYPES:
                tensors[name] = array
            else:
                raise TensorFlowImportError(
                    f"variable '{name}' is of a type that the format does not have",
                    got=array.dtype,
                )
        metadata = {_LAYOUT: "1"}
        if dtypes:
            metadata[_DTYPES] = json.dumps(dict(dtypes))
        if strings:
            metadata[_STRINGS] = json.dumps(strings)
        if options:
            metadata[_OPTIONS] = json.dumps(dict(options), default=list)
        write_tensors(path, tensors, metadata)


@contextmanager
def _opened(path: str | os.PathLike[str]) -> Iterator[Any]:
    with naming(path, "safetensors of variables"):
        open_file(path).close()
        try:
            with safetensors.safe_open(path, framework="numpy") as file:
                MAX_VARIABLES.check(len(file.keys()), "too many variables")
                yield file
        except (safetensors.SafetensorError, OSError, TypeError) as error:
            raise Damaged(str(error)) from None


def _infos(file: Any) -> dict[str, VariableInfo]:
    short_names = {short: dtype.name for dtype, short in DTYPES.items()}
    stated = _json(file, _DTYPES)
    found = {}
    for name in file.keys():  # noqa: SIM118 - no dictionary
        tensor = file.get_slice(name)
        dtype = short_names.get(tensor.get_dtype())
        if dtype is None:
            raise TensorFlowImportError(
                f"tensor '{name}' is of a type that cannot be read", got=tensor.get_dtype()
            )
        given = stated.get(name, dtype)
        if given not in BY_NAME or not _holds(dtype, given):
            raise Damaged(f"tensor '{name}' of {dtype} cannot hold {str(given)[:100]!r}")
        found[name] = VariableInfo(given, tuple(tensor.get_shape()))
        check_shape(found[name].shape, f"tensor '{name}'")
    return found


def _holds(dtype: str, given: str) -> bool:
    """Whether tensors of ``dtype`` stand for variables of the type ``given``."""
    if given == "bfloat16":
        return dtype == "float32"
    is_quantised = given.startswith("q") and BY_NAME[given].stored == BY_NAME[dtype].stored
    return dtype == given or is_quantised


def _strings(file: Any) -> dict[str, Array]:
    found = {}
    for name, value in _json(file, _STRINGS).items():
        try:
            shape, coded = value
            check_shape(shape, f"variable '{name}'")
            MAX_STRINGS.check(len(coded), f"variable '{name}' holds too many strings")
            decoded = [base64.b64decode(text, validate=True) for text in coded]
            array = np.empty(len(decoded), object)
            array[:] = decoded
            found[name] = array.reshape(shape)
        except (ValueError, TypeError):
            raise Damaged(f"the strings of '{name[:100]}' in its metadata") from None
    return found


def _json(file: Any, key: str) -> dict[str, Any]:
    try:
        content = json.loads((file.metadata() or {}).get(key, "{}"))
    except (ValueError, RecursionError):
        content = None
    if not isinstance(content, dict):
        raise Damaged(f"{key} in its metadata")
    return content


def _chosen(known: Collection[str], names: Collection[str] | None) -> Collection[str]:
    if names is None:
        return known
    for name in names:
        if name not in known:
            raise TensorFlowImportError(f"has no variable '{name}'")
    return names


# ---------------------------------------------------------------- npz


def list_npz(path: str | os.PathLike[str]) -> dict[str, VariableInfo]:
    """Name -> type and shape of every array."""
    with _archive(path) as archive:
        return {name: _npy_header(archive, name)[0] for name in _members(archive)}


def read_npz(
    path: str | os.PathLike[str], names: Collection[str] | None = None
) -> dict[str, Array]:
    """Name -> values of the arrays.

    Raises:
        TensorFlowImportError: damaged, an array of anything but numbers, or without one of the
            ``names``.
    """
    with _archive(path) as archive:
        return {name: _npy(archive, name) for name in _chosen(_members(archive), names)}


def write_npz(path: str | os.PathLike[str], variables: Mapping[str, Array]) -> None:
    """Write variables, not compressed.

    Raises:
        TensorFlowImportError: strings, or the file cannot be written.
    """
    with (
        naming(path, ".npz"),
        replacing_file(path) as out,
        zipfile.ZipFile(out, "w", allowZip64=True) as archive,
    ):
        # As numpy.savez, to which a variable must not be called "file".
        for name, array in variables.items():
            if np.asarray(array).dtype.kind == "O":
                raise TensorFlowImportError(
                    f"variable '{name}' holds strings", expected="numbers, in a .npz"
                )
            with archive.open(f"{name}{_NPY}", "w", force_zip64=True) as member:
                np.lib.format.write_array(member, np.asarray(array), allow_pickle=False)


@contextmanager
def _archive(path: str | os.PathLike[str]) -> Iterator[zipfile.ZipFile]:
    with naming(path, ".npz of variables"), open_file(path) as file:
        try:
            with zipfile.ZipFile(file) as archive:
                _check_archive(archive, os.fstat(file.fileno()).st_size)
                yield archive
        except (TensorFlowImportError, Damaged):
            raise
        except (*_BROKEN, EOFError, OSError, RuntimeError) as error:
            raise Damaged(str(error)) from None


def _check_archive(archive: zipfile.ZipFile, size: int) -> None:
    MAX_VARIABLES.check(len(archive.infolist()), "too many variables")
    total = sum(member.file_size for member in archive.infolist())
    MAX_PARAMETER_BYTES.check(total, "holds too much, in bytes")
    if total > SMALL_BYTES:
        MAX_HDF5_EXPANSION.check(total // max(size, 1), "expands too far, so many times")


def _members(archive: zipfile.ZipFile) -> list[str]:
    return [name.removesuffix(_NPY) for name in archive.namelist()]


def _npy_header(archive: zipfile.ZipFile, name: str) -> tuple[VariableInfo, bool, np.dtype[Any]]:
    with _member(archive, name) as member:
        return _parsed_header(member, name)


def _npy(archive: zipfile.ZipFile, name: str) -> Array:
    with _member(archive, name) as member:
        info, is_fortran, dtype = _parsed_header(member, name)
        # The archive states the member's size, and its total was held against the limits.
        left = archive.getinfo(name + _NPY).file_size - member.tell()
        if left != prod(info.shape) * dtype.itemsize:
            raise Damaged(f"array '{name}' has {left} bytes, which its shape does not ask for")
        content = member.read(left)
        if len(content) != left:
            raise Damaged(f"array '{name}' is cut off")
    values = np.frombuffer(bytearray(content), dtype)
    values = values.astype(dtype.newbyteorder("="), copy=False)
    return values.reshape(info.shape[::-1]).T if is_fortran else values.reshape(info.shape)


@contextmanager
def _member(archive: zipfile.ZipFile, name: str) -> Iterator[BinaryIO]:
    if name + _NPY not in archive.namelist():
        raise Damaged(f"its member '{name}' is no array")
    with archive.open(name + _NPY) as member:
        yield member  # type: ignore[misc]


def _parsed_header(member: BinaryIO, name: str) -> tuple[VariableInfo, bool, np.dtype[Any]]:
    try:
        version = np.lib.format.read_magic(member)
        reading = {
            (1, 0): np.lib.format.read_array_header_1_0,
            (2, 0): np.lib.format.read_array_header_2_0,
        }[version]
        shape, is_fortran, dtype = reading(member)
    except Exception as error:
        # numpy reads the header as a Python literal; bad ones raise whatever Python's parser does.
        raise Damaged(f"array '{name}': {error}") from None
    known = type_of(np.empty(0, dtype))
    if known is None or known.name == "string":
        raise TensorFlowImportError(f"array '{name}' holds no numbers", got=dtype)
    check_shape(shape, f"array '{name}'")
    return VariableInfo(known.name, tuple(shape)), is_fortran, dtype
