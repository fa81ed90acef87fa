"""Files are replaced as a whole, and only files are."""

from __future__ import annotations

import os
import stat
from pathlib import Path

import pytest

from prototxt_import import CaffeImportError
from prototxt_import.files import replacing


def test_a_file_is_replaced_when_all_is_written(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("old")
    with replacing(path) as temporary:
        temporary.write_text("new")
        assert path.read_text() == "old"
    assert path.read_text() == "new"
    with pytest.raises(KeyError), replacing(path) as temporary:
        write_and_fail(temporary)
    assert path.read_text() == "new"
    assert os.listdir(tmp_path) == ["a"]


def write_and_fail(path: Path) -> None:
    path.write_text("newer")
    raise KeyError


def test_a_pipe_stays_one(tmp_path: Path) -> None:
    """As /dev/null and /dev/stdout should: who may do everything could replace these."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("pipe")
    for name in ("pipe", "link"):
        with pytest.raises(CaffeImportError, match="is a pipe or a device"):
            replacing(tmp_path / name).__enter__()
    assert stat.S_ISFIFO(os.stat(tmp_path / "link").st_mode)
    assert sorted(os.listdir(tmp_path)) == ["link", "pipe"]


def test_a_link_stays_one(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    link, target = tmp_path / "link", tmp_path / "elsewhere" / "target"
    link.symlink_to("elsewhere/target")
    for text in ("first", "second"):  # the first time it points to nothing
        with replacing(link) as temporary:
            temporary.write_text(text)
        assert link.is_symlink()
        assert target.read_text() == text
    assert os.listdir(tmp_path / "elsewhere") == ["target"]
