"""A JSON object whose fields are read by type, for files that people write by hand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Final, cast

from deeplab_repro.errors import InputError

__all__ = ["Fields"]

#: Names become names of files in the store.
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,99}")
_REQUIRED: Final = object()


class Fields:
    """A JSON object whose fields are read by type; errors name the place in the file."""

    def __init__(self, file: Path, place: str, value: Any) -> None:
        if not isinstance(value, dict):
            raise InputError(
                place or "the manifest", file=file, expected="an object", got=_short(value)
            )
        self._file = file
        self._place = place
        self._value = value

    def __contains__(self, name: str) -> bool:
        return name in self._value

    def entries(self) -> Iterator[tuple[str, Fields]]:
        """Every field as an object."""
        for name in self._value:
            yield name, self.fields(name)

    def fields(self, name: str, default: Any = _REQUIRED) -> Fields:
        """A field that is an object itself."""
        return Fields(self._file, self._at(name), self._get(name, dict, "an object", default))

    def items(self, name: str, default: Any = _REQUIRED) -> list[Fields]:
        """A field that is a list of objects."""
        values = self._get(name, list, "a list of objects", default)
        return [Fields(self._file, f"{self._at(name)}[{i}]", v) for i, v in enumerate(values)]

    def texts(self, name: str) -> list[str]:
        """A field that is a list of texts; an empty one where it is absent."""
        return cast(list[str], self._list(name, str, "a list of texts"))

    def text(self, name: str, default: Any = _REQUIRED) -> str:
        """A field that is a text."""
        return cast(str, self._get(name, str, "a text", default))

    def number(self, name: str, default: Any = _REQUIRED) -> float | None:
        """A field that is a number."""
        return cast("float | None", self._get(name, (int, float), "a number", default))

    def numbers(self, name: str) -> list[float]:
        """A field that is a list of numbers; an empty one where it is absent."""
        return [float(value) for value in self._list(name, (int, float), "a list of numbers")]

    def wholes(self, name: str) -> list[int]:
        """A field that is a list of whole numbers from 1 on; an empty one where it is absent."""
        expected = "a list of whole numbers of at least 1"
        values: list[int] = self._list(name, int, expected)
        if any(value < 1 for value in values):
            self.fail(name, expected, values)
        return values

    def mapping(self, name: str) -> dict[str, Any] | None:
        """A field that is an object of any content, or null."""
        value = self._value.get(name)
        if value is not None and not isinstance(value, dict):
            self.fail(name, "an object or null", value)
        return cast("dict[str, Any] | None", value)

    def flag(self, name: str) -> bool:
        """A field that is true or false; false where it is absent."""
        value = self._value.get(name, False)
        if not isinstance(value, bool):
            self.fail(name, "true or false", value)
        return cast(bool, value)

    def count(self, name: str, default: int) -> int:
        """A field that is a whole number of at least 1."""
        value = self._get(name, int, "a whole number", default)
        if name in self._value and value < 1:
            self.fail(name, "at least 1", value)
        return cast(int, value)

    def check_name(self, name: str) -> None:
        """Refuse a name that could not be that of a file in the store."""
        if not _NAME.fullmatch(name) or ".." in name:
            raise InputError(
                f"{self._place}: is no name for a file",
                file=self._file,
                expected="at most 100 letters, digits, '.', '_' and '-'",
                got=_short(name),
            )

    def fail(self, name: str, expected: str, got: Any) -> None:
        """Say what is wrong with a field."""
        raise InputError(self._at(name), file=self._file, expected=expected, got=_short(got))

    def error(self, name: str, reason: str) -> InputError:
        """What to raise where something else says what is wrong with a field."""
        return InputError(f"{self._at(name)}: {reason}", file=self._file)

    def _list(self, name: str, kind: Any, expected: str) -> list[Any]:
        values = self._get(name, list, expected, [])
        for value in values:
            if not isinstance(value, kind) or isinstance(value, bool):
                self.fail(name, expected, value)
        return cast(list[Any], values)

    def _get(self, name: str, kind: Any, expected: str, default: Any) -> Any:
        value = self._value.get(name, default)
        if value is _REQUIRED:
            raise InputError(f"{self._at(name)} is missing", file=self._file, expected=expected)
        if name in self._value and (not isinstance(value, kind) or isinstance(value, bool)):
            self.fail(name, expected, value)
        return value

    def _at(self, name: str) -> str:
        return f"{self._place}.{name}" if self._place else name


def _short(value: Any) -> str:
    text = json.dumps(value) if not isinstance(value, str) else value
    return text if len(text) <= 100 else text[:97] + "..."
