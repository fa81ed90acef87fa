"""Writes checkpoints that TensorFlow restores."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
from numpy.typing import ArrayLike

from prototxt_import.files import replacing
from tensorflow_import.bundle import data_file
from tensorflow_import.crc32c import crc32c, mask
from tensorflow_import.dtypes import BY_NAME, Array, DataType, bfloat16_bits, type_of
from tensorflow_import.errors import TensorFlowImportError, naming
from tensorflow_import.limits import MAX_AXES, MAX_NAME_BYTES
from tensorflow_import.schema import message_class
from tensorflow_import.strings import write_strings
from tensorflow_import.table import write_table

__all__ = ["write_checkpoint"]


def write_checkpoint(
    prefix: str | os.PathLike[str],
    variables: Mapping[str, ArrayLike],
    *,
    dtypes: Mapping[str, str] | None = None,
) -> None:
    """Write ``prefix.index`` and ``prefix.data-00000-of-00001``, as TensorFlow's Saver does.

    The variables lie in the data file in the order of their names, without gaps.  Both files are
    complete before they replace older ones, the index last.  The text file ``checkpoint``, in which
    the Saver keeps track of what it has written, is left as it is.

    Args:
        prefix: the name that TensorFlow knows the checkpoint by; an ending ``.index`` is left out.
        variables: name -> values in TensorFlow's layout.  Arrays of objects hold strings, as bytes
            or text.
        dtypes: name -> TensorFlow's name of the type to write, for what numpy has no type for:
            ``bfloat16`` (of float32 values that it holds exactly), ``qint8`` and its relatives.

    Raises:
        TensorFlowImportError: a name or a type that a checkpoint cannot hold, or the files cannot
            be written.

    Example:
        >>> write_checkpoint("model.ckpt-7", {"global_step": np.int64(7)})
        >>> read_variables("model.ckpt-7")
        {'global_step': array(7)}
    """
    prefix = os.fspath(prefix).removesuffix(".index")
    index = f"{prefix}.index"
    with naming(index, "checkpoint"):
        if Path(prefix).name == "":
            raise TensorFlowImportError("is no name for a checkpoint", file=prefix)
        for name in dtypes or ():
            if name not in variables:
                raise TensorFlowImportError(f"has no variable '{name}' to give a type to")
        ordered = sorted((_key(name), name) for name in variables)
        entries = [(b"", _header())]
        data = data_file(prefix, 0, 1)
        with replacing(index) as new_index, replacing(data) as new_data:
            with new_data.open("wb") as out:
                offset = 0
                for key, name in ordered:
                    array, dtype = _typed(name, variables[name], (dtypes or {}).get(name))
                    size, checksum = _write_values(out, array, dtype)
                    entries.append((key, _entry(array, dtype, offset, size, checksum)))
                    offset += size
            new_index.write_bytes(write_table(entries))


def _key(name: str) -> bytes:
    try:
        key = name.encode("utf-8")
    except UnicodeEncodeError:
        key = b""
    if not key or key.startswith(b"\0"):  # which is how the header and slices begin
        raise TensorFlowImportError("cannot hold a variable of this name", got=repr(name))
    MAX_NAME_BYTES.check(len(key), "too long a name of a variable, in bytes")
    return key


def _typed(name: str, values: ArrayLike, wanted: str | None) -> tuple[Array, DataType]:
    """The values as they are stored, and the type that they are stored as."""
    array = np.asarray(values)
    what = f"variable '{name}'"
    dtype = type_of(array) if wanted is None else BY_NAME.get(wanted)
    if dtype is None:
        got = array.dtype if wanted is None else wanted
        raise TensorFlowImportError(f"{what} is of a type that TensorFlow does not have", got=got)
    if array.ndim > MAX_AXES:
        raise TensorFlowImportError(
            f"{what} has too many axes", expected=f"at most {MAX_AXES}", got=array.ndim
        )
    if dtype.name == "bfloat16":
        return bfloat16_bits(array, what), dtype
    given = type_of(array)
    is_string = dtype.name == "string"
    if given is None or (given.name == "string") != is_string:
        raise TensorFlowImportError(f"{what} cannot become {dtype.name}", got=array.dtype)
    if is_string:
        return _as_bytes(array, what), dtype
    if given.stored != dtype.stored or (given is not dtype and dtype.name[0] != "q"):
        raise TensorFlowImportError(
            f"{what} cannot become {dtype.name}", expected=dtype.stored, got=array.dtype
        )
    return array, dtype


def _as_bytes(array: Array, what: str) -> Array:
    result = np.empty(array.shape, object)
    for i, value in enumerate(array.reshape(-1)):
        if not isinstance(value, str | bytes):
            raise TensorFlowImportError(
                f"{what} is an array of objects", expected="bytes or text", got=type(value).__name__
            )
        result.reshape(-1)[i] = value.encode() if isinstance(value, str) else bytes(value)
    return result


def _write_values(out: BinaryIO, array: Array, dtype: DataType) -> tuple[int, int]:
    """Write the values of a variable; how many bytes they took, and their masked checksum."""
    if dtype.name == "string":
        return write_strings(out, array.reshape(-1).tolist())
    little = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    content = little.reshape(-1).view(np.uint8)
    out.write(content.data)
    return content.size, mask(crc32c(content.data))


def _header() -> bytes:
    header = cast(Any, message_class("BundleHeaderProto"))(num_shards=1)
    header.version.producer = 1
    content: bytes = header.SerializeToString(deterministic=True)
    return content


def _entry(array: Array, dtype: DataType, offset: int, size: int, checksum: int) -> bytes:
    entry = cast(Any, message_class("BundleEntryProto"))(
        dtype=dtype.number, offset=offset, size=size, crc32c=checksum
    )
    entry.shape.SetInParent()  # a scalar's shape is there, and empty
    for length in array.shape:
        entry.shape.dim.add(size=length)
    content: bytes = entry.SerializeToString(deterministic=True)
    return content
