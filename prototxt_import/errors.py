"""What is raised for input that cannot be used."""

from __future__ import annotations

from typing import TypeVar

__all__ = ["BadInput", "CaffeImportError", "printable"]

#: A message quotes names out of files, which can be of any length.
_MAX_LINE = 2000
_Error = TypeVar("_Error", bound="BadInput")


def printable(text: str) -> str:
    """One line that is safe to show: whitespace runs become a blank, control characters escapes.

    Names in a file may hold newlines, terminal sequences, or halves of surrogate pairs.
    """
    words = " ".join(text.split())
    if words.isprintable():
        return words
    return "".join(
        c if c.isprintable() else c.encode("unicode_escape").decode("ascii") for c in words
    )


class BadInput(ValueError):
    """Something that a user gave and that cannot be used.

    ``str(error)`` is one line: file, layer, what is wrong, what was expected, what was found.
    The parts stay available as attributes.  What is raised is always one of the subclasses, which
    say what kind of thing it was.

    Args:
        message: what is wrong, in words that can follow the name of a file.
        file: where it is wrong.
        layer: the layer of a network that it is about.
        expected: what would have been right.
        got: what was found instead.
    """

    def __init__(
        self,
        message: str,
        *,
        file: object | None = None,
        layer: str | None = None,
        expected: object | None = None,
        got: object | None = None,
    ) -> None:
        self.message = message
        self.file = None if file is None else str(file)
        self.layer = layer
        self.expected = expected
        self.got = got
        super().__init__(message)

    def __str__(self) -> str:
        where = [part for part in (self.file, self.layer and f"layer '{self.layer}'") if part]
        line = ": ".join([*where, self.message])
        if self.expected is not None:
            line += f"; expected {self.expected}"
        if self.got is not None:
            line += f", got {self.got}" if self.expected is not None else f"; got {self.got}"
        line = printable(line)
        if len(line) > _MAX_LINE:
            line = f"{line[: _MAX_LINE * 3 // 4]} ... {line[-_MAX_LINE // 4 :]}"
        return line

    def with_file(self: _Error, file: object) -> _Error:
        """The same error naming ``file``, unless it names one already; for ``raise ... from``."""
        if self.file is None:
            self.file = str(file)
        return self


class CaffeImportError(BadInput):
    """A Caffe file, or a network described by one, that cannot be used."""
