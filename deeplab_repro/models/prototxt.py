"""Protobuf text format from nested Python values."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias


class Enum(str):
    """A string written without quotes, as protobuf text writes enum values."""


Scalar: TypeAlias = bool | int | float | str
Value: TypeAlias = "Scalar | Message | Sequence[Scalar | Message]"
Message: TypeAlias = Mapping[str, Value]  # field -> value; a sequence is a repeated field


def to_text(message: Message) -> str:
    """The message as text, one field per line, in the order of the mapping."""
    return "".join(line + "\n" for line in _lines(message, ""))


def _lines(message: Message, indent: str) -> Iterator[str]:
    for field, value in message.items():
        repeated = isinstance(value, Sequence) and not isinstance(value, str)
        for item in value if repeated else (value,):  # type: ignore[union-attr]
            if isinstance(item, Mapping):
                yield f"{indent}{field} {{"
                yield from _lines(item, indent + "  ")
                yield f"{indent}}}"
            else:
                yield f"{indent}{field}: {_scalar(item)}"  # type: ignore[arg-type]


def _scalar(value: Scalar) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, Enum):
        return str(value)
    if isinstance(value, str):
        escaped = value.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
        return f'"{escaped}"'
    return f"{value:.9g}" if isinstance(value, float) else str(value)
