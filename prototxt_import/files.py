"""Opening, recognising and safely replacing files."""

from __future__ import annotations

import codecs
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final, Literal

from prototxt_import.errors import CaffeImportError

__all__ = ["FileKind", "kind_of", "replacing"]

FileKind = Literal["prototxt", "protobuf", "hdf5", "safetensors"]
_HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
_TEXT_ENDINGS: Final = (".prototxt", ".pbtxt", ".txt")


def kind_of(path: str | os.PathLike[str]) -> FileKind:
    """What a file is: by its first bytes, and for the two protobuf forms by its name.

    Raises:
        CaffeImportError: no such file, a folder, or an empty file.
    """
    path = Path(path)
    try:
        with path.open("rb") as file:
            head = file.read(512)
    except OSError as error:
        raise CaffeImportError(error.strerror or "cannot be read", file=path) from None
    if head.startswith(_HDF5_SIGNATURE):
        return "hdf5"
    if path.suffix in _TEXT_ENDINGS:
        return "prototxt"
    if not head:
        raise CaffeImportError("is empty", file=path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < path.stat().st_size:
        return "safetensors"
    # A serialized NetParameter starts with its name (field 1) or a layer, never with a printable
    # identifier and a colon or brace: '\n' is the tag of field 1.
    return "prototxt" if head[0] not in b"\n\x12\x1a" and _is_text(head) else "protobuf"


def _is_text(head: bytes) -> bool:
    try:
        text = codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\t\r\n" for character in text)


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path in the folder of ``path`` that takes its place if the block succeeds.

    Whatever was at ``path`` stays as it was until then, and if the block fails.
    """
    path = Path(path)
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent or ".")
    except OSError as error:
        raise CaffeImportError(error.strerror or "cannot be written", file=path) from None
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files that only their owner can read; give the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(path)
    finally:
        temporary.unlink(missing_ok=True)
