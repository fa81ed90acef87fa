"""How a checkpoint stores a variable of strings (tensor_bundle.cc, WriteStringTensor).

The lengths of all strings as varints, a masked checksum of the lengths, and then the strings one
after another.  Both that checksum and the variable's own are taken of the lengths as numbers of 32
bits (of 64, where a length needs them) rather than as varints.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import BinaryIO

from prototxt_import.wire import encode_varint, read_varint
from tensorflow_import.crc32c import crc32c, mask
from tensorflow_import.errors import Damaged

__all__ = ["parse_strings", "write_strings"]


def parse_strings(content: memoryview, count: int, what: str, checksum: int | None) -> list[bytes]:
    """The ``count`` strings in ``content``.

    Args:
        content: all bytes of the variable.
        count: how many strings its shape asks for.
        what: for the message.
        checksum: the masked one that the index states; None leaves both checksums alone.

    Raises:
        Damaged: lengths that do not add up, or a wrong checksum.
        WireError: ``content`` ends inside the lengths.
    """
    lengths, at = [], 0
    for _ in range(count):
        length, at = read_varint(content, at, len(content))
        lengths.append(length)
    begin = at + 4
    if begin + sum(lengths) != len(content):
        raise Damaged(f"{what}: the lengths of its strings do not add up")
    if checksum is not None:
        of_lengths = _checksum(lengths)
        stored = bytes(content[at:begin])
        whole = crc32c(content[begin:], crc32c(stored, of_lengths))
        if _stored(of_lengths) != stored or mask(whole) != checksum:
            raise Damaged(f"the checksum of {what} is wrong")
    strings = []
    for length in lengths:
        strings.append(bytes(content[begin : begin + length]))
        begin += length
    return strings


def write_strings(out: BinaryIO, strings: Sequence[bytes]) -> tuple[int, int]:
    """Write the strings; how many bytes they took, and the masked checksum for the index."""
    lengths = [len(string) for string in strings]
    checksum = _checksum(lengths)
    stored = _stored(checksum)
    checksum = crc32c(stored, checksum)
    size = out.write(b"".join(map(encode_varint, lengths)) + stored)
    for string in strings:
        size += out.write(string)
        checksum = crc32c(string, checksum)
    return size, mask(checksum)


def _checksum(lengths: Iterable[int]) -> int:
    return crc32c(b"".join(n.to_bytes(4 if n < 1 << 32 else 8, "little") for n in lengths))


def _stored(checksum: int) -> bytes:
    return mask(checksum).to_bytes(4, "little")
