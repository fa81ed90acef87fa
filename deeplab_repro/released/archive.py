"""Taking files out of zip and tar archives that nobody vouches for.

Nothing is ever written under a name that an archive chooses: the caller names a file in it, and
gives the open file that its bytes go to.  An archive that tries to write elsewhere, that unpacks to
far more than it is, or that holds anything but files and folders is refused as a whole.
"""

from __future__ import annotations

import bz2
import gzip
import lzma
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

from deeplab_repro.errors import InputError
from prototxt_import.files import open_file
from prototxt_import.limits import SMALL_BYTES, Limit
from prototxt_import.words import megabytes

__all__ = ["Archive", "is_archive", "open_archive"]

#: Files and folders in an archive.
MAX_ARCHIVE_MEMBERS: Final = Limit("MAX_ARCHIVE_MEMBERS", 10_000)
#: What an archive unpacks to.  The largest released one holds three networks of half a gigabyte.
MAX_ARCHIVE_BYTES: Final = Limit("MAX_ARCHIVE_BYTES", 16 << 30)
#: How many times larger a file is than what the archive stores of it: weights shrink by a tenth,
#: text to a twentieth, and zeros to a thousandth.
MAX_ARCHIVE_EXPANSION: Final = Limit("MAX_ARCHIVE_EXPANSION", 100)

_CHUNK: Final = 1 << 20
_ZIP: Final = b"PK\x03\x04"
_EMPTY_ZIP: Final = b"PK\x05\x06"
#: First bytes of a compressed file -> what opens it.
_COMPRESSED: Final[Mapping[bytes, Callable[[IO[bytes]], Any]]] = {
    b"\x1f\x8b": gzip.open,
    b"BZh": bz2.open,
    b"\xfd7zXZ\x00": lzma.open,
}
_DAMAGED: Final = (
    zipfile.BadZipFile,
    tarfile.TarError,
    zlib.error,
    lzma.LZMAError,
    EOFError,
    gzip.BadGzipFile,
    NotImplementedError,  # zipfile's, for a method of compression that it does not know
    RuntimeError,  # zipfile's, for a file that is encrypted
    UnicodeDecodeError,
)


@dataclass(frozen=True)
class _Member:
    name: str
    size: int
    open: Callable[[], IO[bytes] | None]


class Archive:
    """An open archive whose contents have been looked over.

    Attributes:
        path: where it lies.
        names: of the files in it, with their folders.
    """

    def __init__(self, path: Path, members: list[_Member]) -> None:
        self.path = path
        self._members = {member.name: member for member in members}
        self.names = tuple(self._members)

    def find(self, name: str) -> str | None:
        """The whole name of a file, whatever folder it is in; None if there is none of this name.

        Raises:
            InputError: Several folders hold one.
        """
        found = [each for each in self.names if each.rpartition("/")[2] == name]
        if len(found) > 1:
            raise InputError(f"holds {name} more than once", file=self.path, got=", ".join(found))
        return found[0] if found else None

    def copy(self, name: str, out: BinaryIO) -> None:
        """Write the bytes of one file.

        Args:
            name: One of `names`.
            out: An open file.

        Raises:
            InputError: The archive is damaged there.
            OSError: `out` cannot be written to.
        """
        member = self._members[name]
        with self._guarded(name):
            source = member.open()
        if source is None:
            raise InputError(f"{name} cannot be opened", file=self.path)
        left = member.size
        with source:
            while True:
                with self._guarded(name):
                    chunk = source.read(_CHUNK)
                left -= len(chunk)
                if left < 0 or (left and not chunk):
                    raise InputError(f"{name} is not as long as stated", file=self.path)
                if not chunk:
                    return
                out.write(chunk)

    @contextmanager
    def _guarded(self, name: str) -> Iterator[None]:
        try:
            yield
        except _DAMAGED as error:
            raise InputError(f"{name} in it is damaged ({error})", file=self.path) from None


def is_archive(path: Path) -> bool:
    """Whether a file is a zip, or a tar that may be compressed; by its first bytes.

    Raises:
        CaffeImportError: It cannot be read.
    """
    with open_file(path) as file:
        head = file.read(512)
    compressed = any(head.startswith(magic) for magic in _COMPRESSED)
    return head.startswith((_ZIP, _EMPTY_ZIP)) or compressed or head[257:262] == b"ustar"


@contextmanager
def open_archive(path: Path) -> Iterator[Archive]:
    """Open an archive and look over what it holds.

    Raises:
        InputError: It is none, is damaged, or holds what no archive of weights holds: names that
            lead out of their folder, links, devices, a name twice, encrypted files, or more files
            or bytes than the limits allow.
    """
    with ExitStack() as stack:
        file = stack.enter_context(open_file(path))
        size = path.stat().st_size
        head = file.read(512)
        file.seek(0)
        try:
            if head.startswith((_ZIP, _EMPTY_ZIP)):
                archive = stack.enter_context(zipfile.ZipFile(file))
                members = list(_zip_members(archive, path))
            else:
                members = list(_tar_members(stack, file, head, path, size))
        except _DAMAGED as error:
            raise InputError(f"is a damaged archive ({error})", file=path) from None
        names = [member.name for member in members]
        if len(set(names)) != len(names):
            twice = next(name for name in names if names.count(name) > 1)
            raise InputError("names a file twice", file=path, got=twice)
        yield Archive(path, members)


def _zip_members(archive: zipfile.ZipFile, path: Path) -> Iterator[_Member]:
    entries = archive.infolist()
    MAX_ARCHIVE_MEMBERS.check(len(entries), "holds too many files", file=path)
    total = 0
    for entry in entries:
        kind = stat.S_IFMT(entry.external_attr >> 16)
        folder = entry.is_dir()
        _check_name(entry.filename, path)
        if kind not in (0, stat.S_IFDIR if folder else stat.S_IFREG):
            raise InputError(f"{entry.filename} in it is no file and no folder", file=path)
        if entry.flag_bits & 1:
            raise InputError(f"{entry.filename} in it is encrypted", file=path)
        total += entry.file_size
        _check_size(entry.filename, entry.file_size, entry.compress_size, total, path)
        if not folder:
            yield _Member(entry.filename, entry.file_size, _opener(archive, entry))


def _opener(archive: zipfile.ZipFile, entry: zipfile.ZipInfo) -> Callable[[], IO[bytes]]:
    return lambda: archive.open(entry)


def _tar_members(
    stack: ExitStack, file: BinaryIO, head: bytes, path: Path, size: int
) -> Iterator[_Member]:
    """Compressed ones are unpacked once to find what they hold: sizes are looked at before that."""
    plain: Any = file
    for magic, opener in _COMPRESSED.items():
        if head.startswith(magic):
            plain = stack.enter_context(opener(file))
    archive = stack.enter_context(tarfile.TarFile(fileobj=cast(IO[bytes], _Bounded(plain))))
    total = 0
    for number, entry in enumerate(archive, 1):
        MAX_ARCHIVE_MEMBERS.check(number, "holds too many files", file=path)
        _check_name(entry.name, path)
        if not (entry.isdir() or entry.isreg()) or entry.issparse():
            raise InputError(f"{entry.name} in it is no file and no folder", file=path)
        total += entry.size
        _check_size(entry.name, total, size, total, path)
        if entry.isreg():
            yield _Member(entry.name, entry.size, _tar_opener(archive, entry))


def _tar_opener(archive: tarfile.TarFile, entry: tarfile.TarInfo) -> Callable[[], IO[bytes] | None]:
    return lambda: archive.extractfile(entry)


class _Bounded:
    """A file of which no more than `SMALL_BYTES` are read at once.

    tarfile reads the extended header of a file as a whole, whose length the archive states.
    """

    def __init__(self, file: IO[bytes]) -> None:
        self._file = file
        self.tell, self.seek = file.tell, file.seek

    def read(self, size: int = -1) -> bytes:
        if not 0 <= size <= SMALL_BYTES:
            raise tarfile.ReadError(f"a header of {size} bytes")
        return self._file.read(size)


def _check_name(name: str, path: Path) -> None:
    parts = name.replace("\\", "/").split("/")
    if not name or "\0" in name or parts[0] == "" or ".." in parts or ":" in parts[0]:
        raise InputError(
            "holds a file whose name leads out of its folder", file=path, got=name or "no name"
        )


def _check_size(name: str, size: int, stored: int, total: int, path: Path) -> None:
    """Refuse what was made to fill a disk.

    Args:
        name: For the message.
        size: Bytes that come out of the archive.
        stored: Bytes in the archive that they come from.
        total: Bytes of all files up to this one.
        path: For the message.
    """
    MAX_ARCHIVE_BYTES.check(total, "unpacks to too many bytes", file=path)
    if size > SMALL_BYTES:
        MAX_ARCHIVE_EXPANSION.check(
            size // max(stored, 1),
            f"{name} in it unpacks to {megabytes(size)}, so many times what is stored of it",
            file=path,
        )
