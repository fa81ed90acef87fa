"""The text files that name what a data layer reads."""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass

from deeplab_repro.errors import InputError
from prototxt_import.files import open_file

__all__ = ["Line", "read_lines", "read_names", "require_files"]


@dataclass(frozen=True)
class Line:
    """A line of a list.

    Attributes:
        file: the list.
        number: of the line, from 1.
        text: without blanks at its ends.
    """

    file: str
    number: int
    text: str

    def __str__(self) -> str:
        return f"line {self.number} of {self.file}"


def read_lines(path: str) -> list[Line]:
    """The lines of a list that are not empty.

    Raises:
        BadInput: no such file, no text, or no line at all.
    """
    if not path:
        raise InputError("has no source", expected="a list of files")
    with open_file(path) as file:
        try:
            texts = file.read().decode("utf-8").split("\n")
        except UnicodeDecodeError:
            raise InputError("is no text", file=path, expected="a list of files in UTF-8") from None
    lines = [Line(path, i, text.strip()) for i, text in enumerate(texts, 1) if text.strip()]
    if not lines:
        raise InputError("is empty", file=path, expected="a list of files")
    return lines


def read_names(source: str | None, strip: int) -> list[str] | None:
    """The names of MatRead and MatWrite: the first word of each line, less ``strip`` characters.

    Args:
        source: the list; None where the layer has none.
        strip: such as 4 for a list of picture files.

    Returns:
        the names, or None without a list.

    Raises:
        BadInput: no list, or a name that is no longer than ``strip``.
    """
    if source is None:
        return None
    if strip < 0:
        raise InputError("strip cannot be negative", got=strip)
    names = []
    for line in read_lines(source):
        word = line.text.split()[0]
        if len(word) <= strip:
            raise InputError(
                f"line {line.number} is too short to lose {strip} characters",
                file=source,
                got=word,
            )
        names.append(word[: len(word) - strip])
    return names


def require_files(named: Iterable[tuple[str, Line]]) -> None:
    """Refuse the first file that is not there, long before its turn would come.

    Args:
        named: each file, and the line that names it.

    Raises:
        InputError: naming the file and the line.
    """
    for file, line in named:
        if "\0" in file or not os.path.isfile(file):
            raise InputError(f"is not there, and {line} names it", file=file, expected="a file")
