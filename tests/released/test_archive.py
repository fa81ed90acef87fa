"""Archives that nobody vouches for: what is good comes out, and everything else is refused."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import stat
import struct
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.released.archive import is_archive, open_archive

CONTENT = bytes(range(256)) * 4000
BIG = bytes(40 << 20)


def make_tar(path: Path, *members: tarfile.TarInfo, **files: bytes) -> Path:
    with tarfile.open(path, "w") as archive:
        for member in members:
            archive.addfile(member, io.BytesIO(bytes(member.size)))
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return path


def make_zip(path: Path, *entries: tuple[str | zipfile.ZipInfo, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries:
            archive.writestr(name, content, zipfile.ZIP_DEFLATED)
    return path


def special(kind: bytes, name: str = "x", target: str = "/etc/passwd") -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type, member.linkname = kind, target
    return member


def zip_special(kind: int) -> zipfile.ZipInfo:
    entry = zipfile.ZipInfo("x")
    entry.create_system, entry.external_attr = 3, (kind | 0o777) << 16
    return entry


def copied(path: Path, name: str) -> bytes:
    out = io.BytesIO()
    with open_archive(path) as archive:
        found = archive.find(name)
        assert found is not None
        archive.copy(found, out)
    return out.getvalue()


@pytest.mark.parametrize("kind", ["zip", "tar", "gz", "bz2", "xz"])
def test_files_come_out(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "any name"
    if kind == "zip":
        make_zip(path, ("d/", b""), ("d/a", CONTENT), ("d/.a", b"x"), ("b", b""))
    else:
        folder = tarfile.TarInfo("d")
        folder.type = tarfile.DIRTYPE
        make_tar(path, folder, **{"d/a": CONTENT, "d/.a": b"x", "b": b""})
        packed = {"tar": bytes, "gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress}
        path.write_bytes(packed[kind](path.read_bytes()))
    assert is_archive(path)
    assert copied(path, "a") == CONTENT
    assert copied(path, "b") == b""
    with open_archive(path) as archive:
        assert archive.names == ("d/a", "d/.a", "b")
        assert archive.find("c") is None


def escapes(name: str) -> dict[str, Callable[[Path], object]]:
    return {
        f"zip {name}": lambda path: make_zip(path, (name, b"x")),
        f"tar {name}": lambda path: make_tar(path, **{name: b"x"}),
    }


def state_size(path: Path, size: int) -> None:
    """A zip whose directory states another size than what follows."""
    content = make_zip(path, ("x", CONTENT)).read_bytes()
    at = content.rindex(b"PK\x01\x02") + 24
    path.write_bytes(content[:at] + struct.pack("<I", size) + content[at + 4 :])


def pax_bomb(path: Path) -> None:
    """An extended header that claims a gigabyte."""
    header = tarfile.TarInfo("h")
    header.type, header.size = tarfile.XHDTYPE, 1 << 30
    path.write_bytes(header.tobuf(tarfile.USTAR_FORMAT) + bytes(4096))


HOSTILE: dict[str, tuple[Callable[[Path], object], str]] = {
    **{
        title: (make, "name leads out of its folder")
        for name in ("../x", "a/../../x", "/x", "\\x", "..\\x", "C:\\x", "c:x")
        for title, make in escapes(name).items()
    },
    "tar: a symbolic link": (
        lambda path: make_tar(path, special(tarfile.SYMTYPE)),
        "no file and no folder",
    ),
    "tar: a hard link": (
        lambda path: make_tar(path, special(tarfile.LNKTYPE)),
        "no file and no folder",
    ),
    "tar: a device": (
        lambda path: make_tar(path, special(tarfile.CHRTYPE)),
        "no file and no folder",
    ),
    "tar: a pipe": (
        lambda path: make_tar(path, special(tarfile.FIFOTYPE)),
        "no file and no folder",
    ),
    "tar: a sparse file": (
        lambda path: path.write_bytes(
            special(tarfile.GNUTYPE_SPARSE).tobuf(tarfile.GNU_FORMAT) + bytes(1024)
        ),
        "no file and no folder",
    ),
    "zip: a symbolic link": (
        lambda path: make_zip(path, (zip_special(stat.S_IFLNK), b"/etc/passwd")),
        "no file and no folder",
    ),
    "zip: a device": (
        lambda path: make_zip(path, (zip_special(stat.S_IFCHR), b"")),
        "no file and no folder",
    ),
    "zip: a bomb": (lambda path: make_zip(path, ("x", BIG)), "unpacks to 41.9 MB, so many times"),
    "tar: a bomb": (
        lambda path: path.write_bytes(
            gzip.compress(make_tar(path.with_name("t"), x=BIG).read_bytes())
        ),
        "unpacks to 41.9 MB, so many times",
    ),
    "tar: a header of a gigabyte": (pax_bomb, "a header of 1073741824 bytes"),
    "zip: one name twice": (lambda path: make_zip(path, ("x", b"1"), ("x", b"2")), "a file twice"),
    "tar: one name twice": (
        lambda path: make_tar(path, tarfile.TarInfo("x"), x=b"2"),
        "a file twice",
    ),
    "zip: too many": (
        lambda path: make_zip(path, *((f"{i}", b"") for i in range(12))),
        "too many files; expected at most 10",
    ),
    "tar: too many": (
        lambda path: make_tar(path, *(tarfile.TarInfo(f"{i}") for i in range(12))),
        "too many files; expected at most 10",
    ),
    "zip: too large": (
        lambda path: make_zip(path, ("x", CONTENT * 60)),
        "unpacks to too many bytes; expected at most 60000000",
    ),
    "zip: a size that is too small": (lambda path: state_size(path, 5), "x in it is damaged"),
    "zip: a size that is too large": (
        lambda path: state_size(path, len(CONTENT) + 9),
        "x is not as long as stated",
    ),
    "zip: cut": (
        lambda path: path.write_bytes(make_zip(path, ("x", CONTENT)).read_bytes()[:-10]),
        "damaged archive",
    ),
    "tar: cut": (
        lambda path: path.write_bytes(make_tar(path, x=CONTENT).read_bytes()[:2000]),
        "damaged|not as long",
    ),
    "tar: cut, compressed": (
        lambda path: path.write_bytes(gzip.compress(make_tar(path, x=CONTENT).read_bytes())[:-200]),
        "damaged",
    ),
    "a gzip of something else": (lambda path: path.write_bytes(gzip.compress(CONTENT)), "damaged"),
}


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_ARCHIVE_MEMBERS", "10")
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_ARCHIVE_BYTES", "60000000")
    make, message = HOSTILE[name]
    path = tmp_path / "inside" / "archive"
    path.parent.mkdir()
    make(path)
    assert is_archive(path)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(BadInput, match=message) as error:
        copied(path, "x")
    assert str(path) in str(error.value)
    assert sorted(tmp_path.rglob("*")) == before


def test_the_contents_are_damaged(tmp_path: Path) -> None:
    """The directory is whole, so that only the check sum tells."""
    path = make_zip(tmp_path / "a.zip", ("x", CONTENT))
    content = bytearray(path.read_bytes())
    content[200] ^= 255
    path.write_bytes(content)
    with pytest.raises(InputError, match="x in it is damaged"):
        copied(path, "x")


def test_encrypted(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ("x", CONTENT))
    content = bytearray(path.read_bytes())
    content[content.rindex(b"PK\x01\x02") + 8] |= 1
    path.write_bytes(content)
    with pytest.raises(InputError, match="x in it is encrypted"):
        copied(path, "x")


def test_the_same_file_in_two_folders(tmp_path: Path) -> None:
    path = make_zip(tmp_path / "a.zip", ("one/x", b"1"), ("two/x", b"2"))
    with pytest.raises(InputError, match="holds x more than once; got one/x, two/x"):
        copied(path, "x")


@pytest.mark.parametrize("content", [b"", b"PK", b"name: 'x'", bytes(600), b"\n\x03abc"])
def test_no_archive(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_bytes(content)
    assert not is_archive(path)
