"""Sorted string tables: LevelDB's file of keys and values, which a checkpoint's index is.

A table is a row of blocks.  Data blocks hold entries in ascending order of keys; a block of block
handles (offset and size) finds them, and the footer finds that one::

    data block, ..., data block, (empty) block of metadata, index block, footer of 48 bytes

Behind each block stand one byte for its compression and four for a checksum of both.  An entry
states how many bytes its key shares with the key before; at every 16th, a restart point, none.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Final

from prototxt_import.wire import encode_varint, read_varint
from tensorflow_import.crc32c import crc32c, mask
from tensorflow_import.errors import Damaged
from tensorflow_import.limits import MAX_INDEX_BYTES, MAX_VARIABLES
from tensorflow_import.snappy import decompress, stated_length

__all__ = ["FOOTER", "MAGIC", "read_table", "write_table"]

FOOTER: Final = 48
MAGIC: Final = bytes.fromhex("57fb808b247547db")
_TRAILER: Final = 5
_UNCOMPRESSED, _SNAPPY = 0, 1
#: TensorFlow's table::Options.
_BLOCK_SIZE: Final = 1 << 18
_RESTART_INTERVAL: Final = 16


def read_table(data: bytes) -> Iterator[tuple[bytes, bytes]]:
    """The keys and values of a table, in its order.

    Raises:
        Damaged, WireError: no table, a wrong checksum, keys that do not ascend, or blocks that
            overlap.
        CaffeImportError: more entries or bytes than the limits let through.
    """
    view = memoryview(data)
    if len(data) < FOOTER or data[-len(MAGIC) :] != MAGIC:
        raise Damaged("the mark of a table is missing at its end")
    body = len(data) - FOOTER
    footer_end = len(data) - len(MAGIC)
    blocks = _Blocks(view[:body])
    offset, at = read_varint(view, body, footer_end)
    size, at = read_varint(view, at, footer_end)
    for _ in blocks.entries(offset, size):
        pass  # metadata, of which this format has none
    offset, at = read_varint(view, at, footer_end)
    size, _ = read_varint(view, at, footer_end)
    previous: bytes | None = None
    bound: bytes | None = None
    reached = 0
    for next_bound, handle in blocks.entries(offset, size):
        offset, at = read_varint(memoryview(handle), 0, len(handle))
        size, _ = read_varint(memoryview(handle), at, len(handle))
        # Blocks that overlap would let a small file stand for a huge one.
        if offset < reached:
            raise Damaged(f"the block at byte {offset} lies inside the one before")
        reached = offset + size + _TRAILER
        for key, value in blocks.entries(offset, size):
            if previous is not None and key <= previous:
                raise Damaged(f"keys do not ascend in the block at byte {offset}")
            if key > next_bound or (bound is not None and key <= bound):
                raise Damaged(f"a key is in the wrong block, at byte {offset}")
            previous = key
            yield key, value
        bound = next_bound


class _Blocks:
    """The blocks of a table; counts what they hold, compression and shared keys undone."""

    def __init__(self, data: memoryview) -> None:
        self.data = data
        self.bytes = 0
        self.count = 0

    def entries(self, offset: int, size: int) -> Iterator[tuple[bytes, bytes]]:
        block = memoryview(self._content(offset, size))
        if len(block) < 4:
            raise Damaged(f"the block at byte {offset} is cut off")
        restarts = int.from_bytes(block[-4:], "little")
        end = len(block) - 4 * (1 + restarts)
        if end < 0:
            raise Damaged(f"the block at byte {offset} states {restarts} restart points")
        key = b""
        at = 0
        while at < end:
            shared, at = read_varint(block, at, end)
            unshared, at = read_varint(block, at, end)
            length, at = read_varint(block, at, end)
            if shared > len(key) or at + unshared + length > end:
                raise Damaged(f"an entry reaches out of the block at byte {offset}")
            self._spend(shared + unshared + length)
            self.count += 1
            MAX_VARIABLES.check(self.count, "too many variables")
            key = key[:shared] + bytes(block[at : at + unshared])
            at += unshared
            yield key, bytes(block[at : at + length])
            at += length

    def _content(self, offset: int, size: int) -> bytes | memoryview:
        end = offset + size
        if end + _TRAILER > len(self.data):
            raise Damaged(f"a block of {size} bytes at byte {offset} reaches out of the file")
        stored = int.from_bytes(self.data[end + 1 : end + _TRAILER], "little")
        if stored != mask(crc32c(self.data[offset : end + 1])):
            raise Damaged(f"the checksum of the block at byte {offset} is wrong")
        block = self.data[offset:end]
        compression = self.data[end]
        if compression == _UNCOMPRESSED:
            return block
        if compression != _SNAPPY:
            raise Damaged(f"the block at byte {offset} has the unknown compression {compression}")
        self._spend(stated_length(block))
        return decompress(block)

    def _spend(self, size: int) -> None:
        self.bytes += size
        MAX_INDEX_BYTES.check(self.bytes, "too large an index, in bytes")


def write_table(entries: Iterable[tuple[bytes, bytes]], block_size: int = _BLOCK_SIZE) -> bytes:
    """A table of ``entries``, whose keys must ascend; byte for byte what TensorFlow writes.

    Args:
        entries: keys and values.
        block_size: a data block ends with the entry that reaches this size.
    """
    out = bytearray()
    # Between two blocks stands the shortest key that separates them, so an index entry has to
    # wait for the first key of the block behind.
    index = _BlockBuilder(restart_interval=1)
    block = _BlockBuilder(_RESTART_INTERVAL)
    last, waiting = b"", b""
    for key, value in entries:
        if waiting:
            index.add(_separator(last, key), waiting)
            waiting = b""
        block.add(key, value)
        last = key
        if block.size >= block_size:
            waiting = _append_block(out, block)
            block = _BlockBuilder(_RESTART_INTERVAL)
    if not waiting and block.buffer:
        waiting = _append_block(out, block)
    metadata = _append_block(out, _BlockBuilder(_RESTART_INTERVAL))
    if waiting:
        index.add(_successor(last), waiting)
    handles = metadata + _append_block(out, index)
    out += handles.ljust(FOOTER - len(MAGIC), b"\0") + MAGIC
    return bytes(out)


class _BlockBuilder:
    def __init__(self, restart_interval: int) -> None:
        self.buffer = bytearray()
        self._interval = restart_interval
        self._restarts = [0]
        self._count = 0
        self._last = b""

    @property
    def size(self) -> int:
        """Bytes of the block so far."""
        return len(self.buffer) + 4 * len(self._restarts) + 4

    def add(self, key: bytes, value: bytes) -> None:
        shared = 0
        if self._count == self._interval:
            self._restarts.append(len(self.buffer))
            self._count = 0
        else:
            shared = _common_prefix(self._last, key)
        for number in (shared, len(key) - shared, len(value)):
            self.buffer += encode_varint(number)
        self.buffer += key[shared:] + value
        self._last = key
        self._count += 1

    def content(self) -> bytes:
        numbers = [*self._restarts, len(self._restarts)]
        return bytes(self.buffer) + b"".join(n.to_bytes(4, "little") for n in numbers)


def _append_block(out: bytearray, block: _BlockBuilder) -> bytes:
    """Append the block with its trailer; its handle."""
    content = block.content()
    handle = encode_varint(len(out)) + encode_varint(len(content))
    content += bytes([_UNCOMPRESSED])
    out += content + mask(crc32c(content)).to_bytes(4, "little")
    return handle


def _common_prefix(one: bytes, other: bytes) -> int:
    shortest = min(len(one), len(other))
    return next((i for i in range(shortest) if one[i] != other[i]), shortest)


def _separator(low: bytes, high: bytes) -> bytes:
    """A short key from ``low`` on and before ``high`` (comparator.cc, FindShortestSeparator)."""
    at = _common_prefix(low, high)
    if at < min(len(low), len(high)) and low[at] + 1 < high[at]:
        return low[:at] + bytes([low[at] + 1])
    return low


def _successor(key: bytes) -> bytes:
    """A short key from ``key`` on (comparator.cc, FindShortSuccessor)."""
    for i, byte in enumerate(key):
        if byte != 0xFF:
            return key[:i] + bytes([byte + 1])
    return key
