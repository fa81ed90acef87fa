"""Slices of a partitioned variable, and the keys that the index has for them.

Such a variable has an entry of its own that lists its slices and holds no values; each slice has
an entry with values, whose key is an order-preserving code of name and slice (ordered_code.cc):
the number 0, the name, the number of axes, and for each axis where the slice starts and how long
it is.  Being codes of 0 first, these keys begin with a zero byte and come before all names.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

__all__ = ["FULL", "SLICE_KEYS", "Slice", "slice_key"]

#: Per axis: where the slice starts and how many indices it has.
Slice = tuple[tuple[int, int], ...]
#: In place of the length: the whole axis.
FULL: Final = -1
#: What the key of every slice begins with.
SLICE_KEYS: Final = b"\0"
_ESCAPES: Final = {0x00: b"\x00\xff", 0xFF: b"\xff\x00"}


def slice_key(name: bytes, extents: Sequence[tuple[int, int]]) -> bytes:
    """The key under which the index has this slice of the variable ``name``."""
    escaped = b"".join(_ESCAPES.get(byte, bytes([byte])) for byte in name)
    axes = bytes([1, len(extents)]) if extents else b"\0"
    numbers = b"".join(_signed(number) for extent in extents for number in extent)
    return b"\0" + escaped + b"\0\1" + axes + numbers


def _signed(value: int) -> bytes:
    """A signed number in as few bytes as it needs, ordered as the numbers are.

    Of ``n`` bytes, the first ``n`` bits are ones (zeros if it is negative) and say how many bytes
    there are; ``7 n`` bits are left, one of them for the sign.
    """
    bits = (value if value >= 0 else ~value).bit_length()
    count = bits // 7 + 1
    header = ((1 << count) - 1) << (7 * count)
    return ((value & (1 << 8 * count) - 1) ^ header).to_bytes(count, "big")
