"""Prototxt: ``${NAME}`` placeholders, and text in whichever dialect explains it."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from google.protobuf import text_format
from google.protobuf.message import Message

from prototxt_import.dialect import DialectReport, RawNet, types_against
from prototxt_import.errors import CaffeImportError
from prototxt_import.limits import MAX_LAYERS, MAX_TEXT_BLANKS, MAX_TEXT_BYTES, MAX_TEXT_TOKENS
from prototxt_import.schema import DIALECTS, Dialect, message_class, preferred, unified

__all__ = ["fill_placeholders", "parse_message", "parse_text", "placeholders_in"]

_STRING_COMMENT_OR_PLACEHOLDER = re.compile(
    # The closing quote may be missing: such text is refused later, and demanding the quote here
    # would go through the rest of the line once for every quote in it.
    r"""(?P<string>"(?:\\.|[^"\\\n])*"?|'(?:\\.|[^'\\\n])*'?)|(?P<comment>\#[^\n]*)"""
    r"""|\$\{(?P<name>\w+)\}""",
    re.VERBOSE,
)
_TOKEN = re.compile(r"(?P<layer>\blayers?\b)|\w+|(?P<blanks>[^\S\n]+)|[^\w\s]")
_PLACEHOLDER = re.compile(r"\$\{(\w+)\}")


def fill_placeholders(
    text: str, values: Mapping[str, str] | None = None, *, file: object = None
) -> str:
    """Replace ``${NAME}``, inside strings and out, as the released run scripts did by sed.

    Raises:
        CaffeImportError: a placeholder outside comments has no value; it is named.
    """
    values = values or {}

    def value_of(name: str, at: int) -> str:
        if name not in values:
            line = text.count("\n", 0, at) + 1
            raise CaffeImportError(
                f"line {line}: placeholder ${{{name}}} has no value",
                file=file,
                expected=f"--set {name}=VALUE",
            )
        return values[name]

    def replace(found: re.Match[str]) -> str:
        if found["comment"] is not None:
            return found["comment"]
        if found["string"] is not None:
            return _PLACEHOLDER.sub(
                lambda inner: (
                    value_of(inner[1], found.start() + inner.start())
                    .replace("\\", "\\\\")
                    .replace('"', '\\"')
                    .replace("'", "\\'")
                ),
                found["string"],
            )
        return value_of(found["name"], found.start())

    return _STRING_COMMENT_OR_PLACEHOLDER.sub(replace, text)


def placeholders_in(text: str) -> tuple[str, ...]:
    """The names of all ``${NAME}`` outside comments, each once, in their order."""
    names = (
        name
        for found in _STRING_COMMENT_OR_PLACEHOLDER.finditer(text)
        if found["comment"] is None
        for name in _PLACEHOLDER.findall(found[0])
    )
    return tuple(dict.fromkeys(names))


def parse_text(text: str, *, forced: Dialect | None = None, file: object = None) -> RawNet:
    """Parse a network's prototxt (placeholders filled already).

    Text carries names, not numbers, so a dialect is ruled out only by a name it does not know.
    A network that mixes the layers of several dialects, as later forks do, is read by the union
    of the schemas.

    Raises:
        CaffeImportError: not text format, or names that no dialect knows.
    """
    _check_amount(text, file)
    errors: dict[Dialect, text_format.ParseError] = {}
    readings: dict[Dialect, Message] = {}
    evidence = []
    for dialect in [forced] if forced else DIALECTS:
        try:
            net = _parse(text, message_class(dialect, "NetParameter")(), file)
        except text_format.ParseError as error:
            errors[dialect] = error
            evidence.append(f"not {dialect}: {_describe(error)}")
            continue
        stranger = None
        if not forced and dialect != "dl1":
            stranger = types_against(dialect, (layer.type for layer in net.layer))
        if stranger:
            evidence.append(f"not {dialect}: {stranger}")
        else:
            readings[dialect] = net
    if readings:
        is_v1 = any(net.layers for net in readings.values())
        dialect, *others = preferred(readings, is_v1=is_v1)
        report = DialectReport(dialect, tuple(evidence), tuple(others), forced=bool(forced))
        return _raw(readings[dialect], report, file)
    if not forced:
        try:
            mixed = _parse(text, unified("NetParameter")(), file)
        except text_format.ParseError as error:
            errors.setdefault("bvlc", error)
        else:
            if not mixed.layers:
                report = DialectReport("dl2", (*evidence, "read by the union of all"))
                return _raw(mixed, report, file)
    # The dialect that got farthest is the one that the author meant.
    best = max(errors.values(), key=lambda error: (error.GetLine() or 0, error.GetColumn() or 0))
    raise CaffeImportError(_describe(best), file=file)


def parse_message(text: str, name: str, *, file: object = None) -> Any:
    """Parse what is no network but, for instance, a solver (placeholders filled already).

    Args:
        text: in text format.
        name: the type of the message, such as ``"SolverParameter"``.
        file: for messages.

    Returns:
        a message of the union of all dialects, see :func:`~prototxt_import.schema.unified`.

    Raises:
        CaffeImportError: not text format, or names that no dialect knows.
    """
    _check_amount(text, file)
    try:
        return _parse(text, unified(name)(), file)
    except text_format.ParseError as error:
        raise CaffeImportError(_describe(error), file=file) from None


def _check_amount(text: str, file: object) -> None:
    """Refuse what would take the parser long, before every dialect's turn."""
    MAX_TEXT_BYTES.check(len(text), "too large for a prototxt, in characters", file=file)
    tokens = layers = 0
    most_tokens, most_layers = MAX_TEXT_TOKENS.value, 2 * MAX_LAYERS.value
    most_blanks = MAX_TEXT_BLANKS.value
    for token in _TOKEN.finditer(text):
        if token.lastgroup == "blanks":
            blanks = token.end() - token.start()
            if blanks > most_blanks:
                MAX_TEXT_BLANKS.check(blanks, "too many blanks", file=file)
            continue
        tokens += 1
        # A parameter may be called so as well: the layers are counted exactly once parsed.
        layers += token.lastgroup == "layer"
        if tokens > most_tokens:
            MAX_TEXT_TOKENS.check(tokens, "too many words and marks for a prototxt", file=file)
        if layers > most_layers:
            MAX_LAYERS.check(layers, "too many layers", file=file)


def _parse(text: str, into: Any, file: object) -> Any:
    """``text_format.Parse``, whose every refusal of bad text is a ParseError or one of ours."""
    try:
        return text_format.Parse(text, into)
    except text_format.ParseError:
        raise
    except (ValueError, TypeError, RecursionError) as error:
        # Halves of surrogate pairs, numbers of thousands of digits, deep nesting.
        raise CaffeImportError(f"is no prototxt ({error})", file=file) from None


def _raw(net: Any, report: DialectReport, file: object) -> RawNet:
    is_dl1 = report.dialect == "dl1"
    if net.layers and not is_dl1 and net.layer:
        raise CaffeImportError(
            "both 'layers' and 'layer' in one network", file=file, expected="one of them"
        )
    layers = tuple(net.layers) if is_dl1 or net.layers else tuple(net.layer)
    MAX_LAYERS.check(len(layers), "too many layers", file=file)
    header = net.__class__()
    header.CopyFrom(net)
    header.ClearField("layers")
    if not is_dl1:
        header.ClearField("layer")
    return RawNet(report, header, layers)


def _describe(error: text_format.ParseError) -> str:
    """``line L, column C: what``, without the message names of a dialect's package."""
    what = re.sub(r"^\d+:\d+ : ", "", str(error))
    what = re.sub(r"caffe(_(bvlc|dl1|dl2))?\.", "", what)
    line, column = error.GetLine(), error.GetColumn()
    return f"line {line}, column {column}: {what}" if line else what
