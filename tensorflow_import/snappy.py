"""Decompression of snappy blocks, which a table may hold though TensorFlow itself writes none.

Format: the length of the result as a varint, then elements.  The two low bits of an element's
first byte tell a literal (0) from a copy of earlier output with an offset of 11 bits (1), of
16 bits (2) or of 32 bits (3).
"""

from __future__ import annotations

from prototxt_import.wire import read_varint
from tensorflow_import.errors import Damaged

__all__ = ["decompress", "stated_length"]


def stated_length(data: memoryview) -> int:
    """How many bytes the block says that it decompresses to.

    Raises:
        WireError: it is cut off before it has said so.
    """
    return read_varint(data, 0, len(data))[0]


def decompress(data: memoryview) -> bytes:
    """The content of a compressed block.

    The result never grows beyond what the block states at its beginning; compare that with what
    memory there is (:func:`stated_length`) before calling this.

    Raises:
        Damaged: no such block.
        WireError: it is cut off in its first number.
    """
    length, at = read_varint(data, 0, len(data))
    out = bytearray()
    end = len(data)
    while at < end:
        tag = data[at]
        at += 1
        kind = tag & 3
        if kind == 0:
            count = (tag >> 2) + 1
            if count > 60:
                width = count - 60
                count = int.from_bytes(data[at : at + width], "little") + 1
                at += width
            if at + count > end:
                raise Damaged(f"compressed block ends inside a literal, at byte {end}")
            piece = bytes(data[at : at + count])
            at += count
        else:
            width = (1, 2, 4)[kind - 1]
            if at + width > end:
                raise Damaged(f"compressed block ends inside a copy, at byte {end}")
            offset = int.from_bytes(data[at : at + width], "little")
            count = (tag >> 2) + 1
            if kind == 1:
                offset |= (tag >> 5) << 8
                count = (tag >> 2 & 7) + 4
            at += width
            start = len(out) - offset
            if not 0 <= start < len(out):
                raise Damaged(f"compressed block copies from {offset} bytes before, at byte {at}")
            piece = bytes(out[start : start + count])
            if len(piece) < count:  # the copy reaches into what it writes: a pattern that repeats
                piece = (piece * (count // len(piece) + 1))[:count]
        if len(out) + len(piece) > length:
            raise Damaged(f"compressed block holds more than the {length} bytes that it states")
        out += piece
    if len(out) != length:
        raise Damaged(f"compressed block states {length} bytes and holds {len(out)}")
    return bytes(out)
