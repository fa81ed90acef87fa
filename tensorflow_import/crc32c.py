"""CRC-32C, the checksum of TensorFlow's files, fast enough in numpy for hundreds of megabytes.

The checksum is the remainder of the data, read as a polynomial over GF(2), by Castagnoli's
polynomial.  Of two halves ``A`` and ``B`` the polynomial is ``A * x^(bits of B) + B``, where ``+``
is exclusive or; so the data is folded in half again and again, all its 32-bit words at once, and
multiplying by a power of ``x`` takes two look-ups in tables.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Final

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    from typing_extensions import Buffer

__all__ = ["crc32c", "mask"]

#: Castagnoli's polynomial in reversed order of bits: bit 31 is the coefficient of x^0.
_POLYNOMIAL: Final = 0x82F63B78
#: Words that are folded at once: their checksums and the tables stay in the second-level cache.
_LANES: Final = 1 << 14
#: Below this many bytes the plain loop is the faster one.
_FEW: Final = 192

_Words = NDArray[np.uint32]


def crc32c(data: Buffer, previous: int = 0) -> int:
    """The CRC-32C of ``data``.

    Args:
        data: contiguous bytes, or an array of them.
        previous: the checksum of what comes before ``data``.

    Example:
        >>> hex(crc32c(b"123456789"))
        '0xe3069283'
        >>> crc32c(b"6789", crc32c(b"12345")) == crc32c(b"123456789")
        True
    """
    content = memoryview(data).cast("B")
    register = previous ^ 0xFFFF_FFFF
    done = 0
    if len(content) >= _FEW:
        done = len(content) & ~3
        words: _Words = np.frombuffer(content[:done], dtype="<u4")
        register = int(_advanced(_remainder(words, register), 1)[0])
    table = _byte_table()
    for byte in content[done:]:
        register = register >> 8 ^ table[(register ^ byte) & 0xFF]
    return register ^ 0xFFFF_FFFF


def mask(checksum: int) -> int:
    """The form in which a checksum is stored: turned by 15 bits, plus a constant.

    TensorFlow has it from LevelDB, where data that holds its own checksum made trouble.
    """
    return ((checksum >> 15 | checksum << 17) + 0xA282_EAD8) & 0xFFFF_FFFF


def _remainder(words: _Words, register: int) -> _Words:
    """The remainder of ``words``, of which the first was combined with ``register``; one word."""
    lanes = min(_LANES, 1 << (len(words) - 1).bit_length())
    # Zeros in front of the first word make the first row a whole one and change nothing.
    first = len(words) % lanes or lanes
    total = np.zeros(lanes, np.uint32)
    total[lanes - first :] = words[:first]
    total[lanes - first] ^= np.uint32(register)
    for start in range(first, len(words), lanes):
        total = _advanced(total, lanes)
        total ^= words[start : start + lanes]
    while lanes > 1:
        lanes //= 2
        total = _advanced(total[:lanes], lanes) ^ total[lanes:]
    return total


def _advanced(values: _Words, words: int) -> _Words:
    """Each value times ``x`` to the power of 32 * ``words``."""
    low, high = _tables(words)
    result: _Words = low[values & 0xFFFF]
    result ^= high[values >> 16]
    return result


@cache
def _tables(words: int) -> tuple[_Words, _Words]:
    """What :func:`_advanced` makes of every low and every high half of a value."""
    if words > 1:
        # A power of two: twice as far is the same step taken again.
        half = _tables(words // 2)
        images = [half[0][1 << i] for i in range(16)] + [half[1][1 << i] for i in range(16)]
        images = list(_advanced(np.array(images, np.uint32), words // 2))
    else:
        images = []
        for i in range(32):
            value = 1 << i
            for _ in range(32):
                value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
            images.append(np.uint32(value))
    return _sums(images[:16]), _sums(images[16:])


def _sums(images: list[np.uint32]) -> _Words:
    """Entry ``n``: the exclusive or of the images of the bits that are set in ``n``."""
    table = np.zeros(1, np.uint32)
    for image in images:
        table = np.concatenate([table, table ^ image])
    return table


@cache
def _byte_table() -> list[int]:
    """What one byte does to the register."""
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (_POLYNOMIAL if value & 1 else 0)
        table.append(value)
    return table
