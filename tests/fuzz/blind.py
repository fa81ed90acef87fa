"""Spoils bytes without knowing what they are."""

from __future__ import annotations

import random
from collections.abc import Callable

Mutation = Callable[[random.Random, bytes], bytes]

NUMBERS = [0, 1, 2, 3, 127, 128, 255, 65535, 1 << 20, 10**9, 2**31 - 1, 2**31, 2**32 - 1]
NUMBERS += [2**63 - 1, 2**63, 2**64 - 1, -1, -2, -(2**31), -(2**63)]


def _truncate(rng: random.Random, data: bytes) -> bytes:
    return data[: rng.randrange(len(data) + 1)]


def flip(rng: random.Random, data: bytes) -> bytes:
    out = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 8, 64))):
        if out:
            out[rng.randrange(len(out))] ^= 1 << rng.randrange(8)
    return bytes(out)


def absurd(rng: random.Random, data: bytes) -> bytes:
    number = rng.choice(NUMBERS) & (2**64 - 1)
    word = number.to_bytes(8, rng.choice(("little", "big")))[: rng.choice((1, 2, 4, 8))]
    at = rng.randrange(len(data) + 1)
    return data[:at] + word + data[at + len(word) :]


def _copy(rng: random.Random, data: bytes) -> bytes:
    start, at = (rng.randrange(len(data) + 1) for _ in range(2))
    piece = data[start : start + rng.choice((1, 4, 16, 200))] * rng.choice((1, 1, 2, 50))
    return data[:at] + piece + data[at + rng.choice((0, len(piece))) :]


def _cut(rng: random.Random, data: bytes) -> bytes:
    at = rng.randrange(len(data) + 1)
    return data[:at] + data[at + rng.choice((1, 2, 8, 100)) :]


BLIND: list[Mutation] = [_truncate, flip, flip, absurd, _copy, _cut]
