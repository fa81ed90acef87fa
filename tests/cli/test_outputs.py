"""Where results cannot be written, a command says so at once, before hours of work."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from deeplab_repro.cli import common

#: What is to be worked on is not there either, which would be said if any of it were looked at.
TO_A_FILE = {
    "activations": ["activations", "no.caffemodel", "--input", "no.png", "-o"],
    "compare --html": ["compare", "no.caffemodel", "--activations", "no.h5", "--html"],
    "compare --json": ["compare", "no.caffemodel", "--activations", "no.h5", "--json"],
    "convert": ["convert", "no.caffemodel", "-o"],
    "evaluate --html": ["evaluate", "--predictions", "no", "--labels", "no", "--html"],
    "export": ["export", "no.caffemodel", "-o"],
    "inspect --svg": ["inspect", "no.caffemodel", "--svg"],
    "plot": ["plot", "no.log", "-o"],
    "surgery": ["surgery", "no.caffemodel", "--network", "plain", "-o"],
}
TO_A_FOLDER = {
    "crf": ["crf", "--image", "no.png", "--scores", "no.npy", "-o"],
    "data decode": ["data", "decode", "no.png", "-o"],
    "data prepare-voc": ["data", "prepare-voc", "--voc", "no", "--sbd", "no", "-o"],
    "reproduce": ["reproduce", "deeplab_largefov", "--voc", "no", "-o"],
    "segment": ["segment", "no.png", "--model", "no.caffemodel", "-o"],
}


@pytest.fixture(autouse=True)
def _places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("folder", "locked"):
        Path(name).mkdir()
    Path("file").touch()
    os.mkfifo("pipe")
    # The tests may run as a user who may do everything.
    real = os.access
    monkeypatch.setattr(
        common.os, "access", lambda path, mode: Path(path).name != "locked" and real(path, mode)
    )


def refusal(run, *arguments: str) -> str:
    """The one line that a command says."""
    code, _, err = run(*arguments)
    assert code == 2
    (line,) = err.splitlines()
    assert sorted(os.listdir()) == ["file", "folder", "locked", "pipe"]
    return line.removeprefix("deeplab-repro: ")


@pytest.mark.parametrize("command", TO_A_FILE)
def test_a_file_that_cannot_be_written(command, run):
    given = TO_A_FILE[command]
    expected = "expected the name of a file to write"
    assert refusal(run, *given, "folder") == f"folder: is a folder; {expected}"
    assert refusal(run, *given, "pipe") == f"pipe: is a pipe or a device; {expected}"
    assert refusal(run, *given, "none/x") == "none: there is no such folder"
    assert refusal(run, *given, "file/x") == "file: there is no such folder"
    assert refusal(run, *given, "locked/x").startswith("locked: there is no permission")


@pytest.mark.parametrize("command", TO_A_FOLDER)
def test_a_folder_that_cannot_be_made(command, run):
    given = TO_A_FOLDER[command]
    assert refusal(run, *given, "file") == "file: is no folder"
    assert refusal(run, *given, "file/a/b") == "file: is no folder"
    assert refusal(run, *given, "locked/a/b").startswith("locked: there is no permission")
