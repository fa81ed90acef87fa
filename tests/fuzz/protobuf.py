"""Spoils protobuf messages of any kind, at any depth."""

from __future__ import annotations

import random
import struct
from pathlib import Path

from tests.fuzz import hostile
from tests.fuzz.blind import NUMBERS, flip

Field = tuple[int, int, "int | bytes | list"]


def _varint(value: int) -> bytes:
    value &= 2**64 - 1
    out = bytearray()
    while value > 0x7F:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*out, value])


def _parse(data: bytes, depth: int = 0) -> list[Field] | None:
    """The message's fields, those that look like messages taken apart too; None if it is none."""
    fields: list[Field] = []
    at = 0

    def number() -> int:
        nonlocal at
        value = shift = 0
        while True:
            byte = data[at]
            at += 1
            value |= (byte & 0x7F) << shift
            shift += 7
            if byte < 0x80:
                return value

    try:
        while at < len(data):
            tag = number()
            kind = tag & 7
            if kind == 0:
                fields.append((tag >> 3, kind, number()))
                continue
            length = {1: 8, 5: 4}.get(kind) if kind != 2 else number()
            if length is None or at + length > len(data):
                return None
            piece = data[at : at + length]
            at += length
            inner = _parse(piece, depth + 1) if kind == 2 and depth < 4 and len(piece) > 1 else None
            fields.append((tag >> 3, kind, piece if inner is None else inner))
    except IndexError:
        return None
    return fields


def _write(fields: list[Field]) -> bytes:
    out = bytearray()
    for number, kind, value in fields:
        out += _varint(number << 3 | kind)
        if isinstance(value, int):
            out += _varint(value)
        else:
            piece = _write(value) if isinstance(value, list) else value
            out += (_varint(len(piece)) if kind == 2 else b"") + piece
    return bytes(out)


def protobuf(
    rng: random.Random, data: bytes, seeds: dict[str, list[bytes]], scratch: Path
) -> bytes:
    """Fields changed, renumbered, repeated, left out, nested, at any depth."""
    tree = _parse(data)
    if not tree:
        return flip(rng, data)
    if rng.random() < 0.1:
        return data + rng.choice(hostile.MESSAGES)
    fields = tree
    while True:
        at = rng.randrange(len(fields))
        number, kind, value = fields[at]
        if not (isinstance(value, list) and value and rng.random() < 0.75):
            break
        fields = value
    roll = rng.randrange(9)
    if roll == 0:
        del fields[at]
    elif roll == 1:
        fields[at : at + 1] = [fields[at]] * rng.choice((2, 3, 40, 3000))
    elif roll == 2:
        other = rng.randrange(len(fields))
        fields[at], fields[other] = fields[other], fields[at]
    elif roll == 3:
        fields[at] = (rng.choice((number + 1, 5, 7, 17, 18, 100, 143, 2**28)), kind, value)
    elif roll == 4:
        deep: list[Field] = []
        for _ in range(rng.choice((3, 100, 400))):
            deep = [(rng.choice((1, 2, 7, 100)), 2, deep)]
        fields[at] = (number, 2, deep)
    elif isinstance(value, int):
        fields[at] = (number, 0, rng.choice(NUMBERS))
    elif kind == 5:
        fields[at] = (number, 5, struct.pack("<f", rng.choice((float("nan"), float("inf"), -1e38))))
    elif isinstance(value, bytes) and roll < 7:
        name = rng.choice(hostile.NAMES).encode("utf-8", "surrogateescape")
        fields[at] = (number, kind, name if kind == 2 else value[::-1])
    elif isinstance(value, bytes):
        # As many numbers, but NaN; or another count.
        spoilt = b"\xff" * len(value) if rng.random() < 0.5 else value[: len(value) // 2]
        fields[at] = (number, kind, spoilt if kind == 2 else value)
    else:
        value.append((rng.randrange(1, 150), 0, rng.choice(NUMBERS)))
    return _write(tree)
