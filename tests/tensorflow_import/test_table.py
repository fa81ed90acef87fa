"""Sorted string tables and snappy blocks."""

from __future__ import annotations

import random

import pytest

from prototxt_import.wire import WireError
from tensorflow_import.errors import BadInput, Damaged
from tensorflow_import.snappy import decompress
from tensorflow_import.table import read_table, write_table
from tests.tensorflow_import.building import block, compressed, sealed, table, varint


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"\x00", b""),
        (b"\x05\x10hello", b"hello"),
        # A literal whose length takes a byte of its own.
        (b"\x46\xf0\x45" + b"x" * 70, b"x" * 70),
        # A copy with an offset of 11 bits, which reaches into what it writes.
        (b"\x09\x08abc\x09\x03", b"abcabcabc"),
        # One with 16 bits, one with 32.
        (b"\x06\x08abc\x0a\x03\x00", b"abcabc"),
        (b"\x05\x08abc\x07\x02\x00\x00\x00", b"abcbc"),
        (b"\x41\x00a\xfe\x01\x00", b"a" * 65),
    ],
)
def test_snappy_by_its_format(data, expected):
    assert decompress(memoryview(data)) == expected


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"\x05\x10hell", "ends inside a literal"),
        (b"\x05\xf0", "ends inside a literal"),
        (b"\x05\x08abc\x09", "ends inside a copy"),
        (b"\x05\x08abc\x0a\x03", "ends inside a copy"),
        (b"\x05\x08abc\x09\x04", "copies from 4 bytes before"),
        (b"\x05\x08abc\x09\x00", "copies from 0 bytes before"),
        (b"\x05\x10hello\x00x", "more than the 5 bytes"),
        (b"\x06\x10hello", "states 6 bytes and holds 5"),
    ],
)
def test_snappy_that_is_damaged(data, problem):
    with pytest.raises(Damaged, match=problem):
        decompress(memoryview(data))


def entries(count, seed=0):
    """Names as networks have them, and values of all lengths."""
    draw = random.Random(seed)
    names = {f"block{i % 7}/unit_{i % 11}/conv{i}/weights".encode() for i in range(count)}
    return [(name, draw.randbytes(draw.choice((0, 1, 20, 300)))) for name in sorted(names)]


@pytest.mark.parametrize("count", [0, 1, 15, 16, 17, 33, 400])
@pytest.mark.parametrize("block_size", [1, 500, 1 << 18])
def test_what_is_written_is_read(count, block_size):
    given = entries(count)
    assert list(read_table(write_table(given, block_size))) == given


def test_keys_that_a_separator_has_to_respect():
    """Neighbours with no short key between them, and last keys with no successor."""
    keys = [b"a", b"ab", b"ab\xff", b"ac", b"b", b"b\xff\xff", b"\xff", b"\xff\xff"]
    given = [(key, b"") for key in keys]
    assert list(read_table(write_table(given, block_size=1))) == given


def test_a_table_by_its_format():
    """One entry, byte by byte: block, metadata, index with a short successor of the key, footer."""
    data = write_table([(b"key", b"value")])
    first = b"\x00\x03\x05keyvalue" + bytes(4) + b"\x01\0\0\0"
    index = b"\x00\x01\x02l" + bytes([0, len(first)]) + bytes(4) + b"\x01\0\0\0"
    body = sealed(first) + sealed(bytes(4) + b"\x01\0\0\0") + sealed(index)
    footer = bytes([len(first) + 5, 8, len(first) + 18, len(index)]).ljust(40, b"\0")
    assert data == body + footer + bytes.fromhex("57fb808b247547db")


def test_shared_prefixes_and_compressed_blocks():
    given = entries(40)
    plain = write_table(given)
    size = int.from_bytes(plain[-8:], "little")  # to be sure that the mark is at the end
    assert size == 0xDB4775248B80FB57
    content = block(given)
    small = compressed(content)
    assert len(small) < len(content)
    assert decompress(memoryview(small)) == content
    assert list(read_table(table((small, 1)))) == given
    half = len(given) // 2
    both = table(
        (compressed(block(given[:half])), 1),
        (block(given[half:]), 0),
        bounds=(given[half - 1][0], given[-1][0] + b"x"),
    )
    assert list(read_table(both)) == given


def test_a_flipped_bit_anywhere_is_seen():
    data = write_table(entries(3), block_size=200)
    whole = list(read_table(data))
    for at in range(len(data)):
        spoilt = bytearray(data)
        spoilt[at] ^= 1 << at % 8
        try:
            read = list(read_table(bytes(spoilt)))
        except (Damaged, WireError, BadInput):
            continue
        # The footer has no checksum, and space for longer numbers.
        assert at >= len(data) - 48
        assert read == whole


one = block([(b"a", b"1")])


@pytest.mark.parametrize(
    ("data", "problem"),
    [
        (b"", "mark of a table is missing"),
        (table((one, 0))[:-1] + b"x", "mark of a table is missing"),
        (table((one, 7)), "unknown compression 7"),
        (table((block([(b"b", b""), (b"a", b"")]), 0)), "keys do not ascend"),
        (table((block([(b"a", b""), (b"a", b"")]), 0)), "keys do not ascend"),
        (table((one, 0), (one, 0)), "keys do not ascend"),
        (table((one, 0), index=block([(b"z", b"\0" + varint(500))])), "reaches out of the file"),
        (
            table((one, 0), index=block([(b"y", b"\0" + varint(len(one)))] * 2)),
            "lies inside the one before",
        ),
        (table((one, 0), bounds=(b"Z",)), "a key is in the wrong block"),
        (table((one, 0), (block([(b"b", b"")]), 0), bounds=(b"b", b"c")), "in the wrong block"),
        (table((b"\0\0\0", 0)), "is cut off"),
        (table((b"\1\0\0\0", 0)), "states 1 restart points"),
        (table((b"\x05\x01\x00a" + one[-8:], 0)), "reaches out of the block"),
        (table((b"\x00\x30\x00a" + one[-8:], 0)), "reaches out of the block"),
        (table((b"\x05\x10hell", 1)), "ends inside a literal"),
    ],
)
def test_tables_that_are_damaged(data, problem):
    with pytest.raises(Damaged, match=problem):
        list(read_table(data))


def test_a_block_that_expands_without_end():
    """200 bytes that state four gigabytes, and keys of a megabyte that each share all but one."""
    bomb = varint(1 << 32) + b"\x00a" + b"\xfe\x01\x00" * 60
    with pytest.raises(BadInput, match="too large an index.*DEEPLAB_REPRO_MAX_INDEX_BYTES"):
        list(read_table(table((bomb, 1))))
    long = 1 << 20
    keys = varint(0) + varint(long) + b"\0" + b"k" * long
    keys += b"".join(varint(long + i) + b"\1\0k" for i in range(1000))
    with pytest.raises(BadInput, match="too large an index"):
        list(read_table(table((keys + one[-8:], 0))))
