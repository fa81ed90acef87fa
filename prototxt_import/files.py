"""Opening, recognising and safely replacing files."""

from __future__ import annotations

import codecs
import io
import os
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, BinaryIO, Final, Literal

from prototxt_import.errors import CaffeImportError
from prototxt_import.limits import MAX_TEXT_BYTES

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = [
    "FileKind",
    "check_replaceable",
    "kind_of",
    "open_file",
    "read_text",
    "replacing",
    "replacing_file",
]

FileKind = Literal["prototxt", "protobuf", "hdf5", "safetensors", "torch"]
_HDF5_SIGNATURE: Final = b"\x89HDF\r\n\x1a\n"
#: Files of torch.save: zip archives, and the pickles of old versions, which start with a number.
_TORCH_SIGNATURES: Final = (b"PK\x03\x04", b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19.")
_TEXT_ENDINGS: Final = (".prototxt", ".pbtxt", ".txt")


def open_file(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a regular file for reading: no folder, and no pipe or device, which may never end.

    Raises:
        CaffeImportError: it is not there, may not be read, or is something else than a file.
    """
    try:
        # Without O_NONBLOCK the opening of a pipe would wait for somebody to write into it.
        file = open(path, "rb", opener=lambda p, flags: os.open(p, flags | os.O_NONBLOCK))  # noqa: SIM115
    except OSError as error:
        raise CaffeImportError(error.strerror or "cannot be read", file=path) from None
    except ValueError as error:  # a NUL in the name
        raise CaffeImportError(f"is no file name ({error})", file=path) from None
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise CaffeImportError("is a pipe or a device", file=path, expected="a file")
    return file


def read_text(path: str | os.PathLike[str]) -> str:
    """The text of a prototxt, a list or options, UTF-8.

    Raises:
        CaffeImportError: not readable, larger than ``MAX_TEXT_BYTES``, or not UTF-8.
    """
    with open_file(path) as file:
        size = os.fstat(file.fileno()).st_size
        MAX_TEXT_BYTES.check(size, "too large for a prototxt, in bytes", file=path)
        content = file.read(size)
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError:
        raise CaffeImportError("is no text", file=path, expected="text in UTF-8") from None


def kind_of(path: str | os.PathLike[str]) -> FileKind:
    """What a file is: by its first bytes, and for the two protobuf forms by its name.

    Raises:
        CaffeImportError: no such file, a folder, or an empty file.
    """
    path = Path(path)
    with open_file(path) as file:
        head, size = file.read(512), os.fstat(file.fileno()).st_size
    if head.startswith(_HDF5_SIGNATURE):
        return "hdf5"
    if head.startswith(_TORCH_SIGNATURES):
        return "torch"
    if path.suffix in _TEXT_ENDINGS:
        return "prototxt"
    if not head:
        raise CaffeImportError("is empty", file=path)
    if head[8:9] == b"{" and int.from_bytes(head[:8], "little") < size:
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


def check_replaceable(path: str | os.PathLike[str]) -> None:
    """Refuse what no file can take the place of: a folder, and a pipe or device as /dev/null.

    Raises:
        CaffeImportError: it is one of these.
    """
    path = Path(path)  # in which no name is the folder itself
    if path.is_dir():
        what = "is a folder"
    elif path.exists() and not path.is_file():
        what = "is a pipe or a device"
    else:
        return
    raise CaffeImportError(what, file=path, expected="the name of a file to write")


@contextmanager
def replacing(path: str | os.PathLike[str]) -> Iterator[Path]:
    """A temporary path beside ``path`` that takes its place if the block succeeds.

    Whatever was at ``path`` stays as it was until then, and if the block fails; then nothing else
    is left behind.  A link stays one, and what it points to is replaced.

    Raises:
        CaffeImportError: the file cannot be written, as on a full disk, or cannot take the place
            of what is there.
    """
    check_replaceable(path)
    temporary: Path | None = None
    try:
        target = Path(os.path.realpath(path))
        handle, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
        temporary = Path(name)
        os.close(handle)
        yield temporary
        # mkstemp makes files that only their owner can read; give the usual permissions.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        temporary.replace(target)
    except OSError as error:
        raise CaffeImportError(error.strerror or "cannot be written", file=path) from error
    except ValueError as error:
        if temporary is not None:  # raised by the block
            raise
        raise CaffeImportError(f"is no file name ({error})", file=path) from None  # a NUL in it
    finally:
        if temporary is not None:
            temporary.unlink(missing_ok=True)


@contextmanager
def replacing_file(path: str | os.PathLike[str]) -> Iterator[BinaryIO]:
    """As :func:`replacing`, an open file: for libraries that do not survive a failed write.

    HDF5 cannot close a file that it could not write to and may end the process, and ``torch.save``
    reports a position in place of the reason.  What the file gets therefore never fails for them:
    the first error is kept, what follows it is dropped, and the error is raised behind the block.
    """
    with replacing(path) as temporary, _PatientFile(temporary, "w+b") as file:
        try:
            yield file
        except Exception:
            # Without what was dropped a library may stumble over its own file.
            if file.error is None:
                raise
        if file.error is not None:
            raise file.error


class _PatientFile(io.FileIO):
    """A file that keeps the first error of a write for later."""

    error: OSError | None = None

    def write(self, content: Buffer) -> int:
        """Write all of ``content``; or, once a write has failed, none of it."""
        rest = memoryview(content).cast("B")
        size = len(rest)
        try:
            while len(rest) and self.error is None:
                rest = rest[super().write(rest) :]
        except OSError as error:
            self.error = error
        return size

    def truncate(self, size: int | None = None) -> int:
        """Cut or lengthen the file; once a write has failed it stays as it is."""
        try:
            return super().truncate(size) if self.error is None else size or 0
        except OSError as error:
            self.error = error
            return size or 0
