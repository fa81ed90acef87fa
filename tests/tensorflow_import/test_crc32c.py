"""The checksum, by its published values and against a loop over bits."""

from __future__ import annotations

import numpy as np
import pytest

from tensorflow_import.crc32c import _FEW, _LANES, crc32c, mask


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        # RFC 3720, B.4.
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
        (bytes(range(31, -1, -1)), 0x113FDB5C),
    ],
)
def test_published_values(data, expected):
    assert crc32c(data) == expected


def by_bits(data, previous=0):
    register = previous ^ 0xFFFFFFFF
    for byte in data:
        register ^= byte
        for _ in range(8):
            register = register >> 1 ^ (0x82F63B78 if register & 1 else 0)
    return register ^ 0xFFFFFFFF


@pytest.mark.parametrize(
    "size", [1, _FEW - 1, _FEW, _FEW + 1, _FEW + 2, _FEW + 3, 1024, 1028, 4 * _LANES + 5]
)
def test_every_way_of_computing_it(size):
    data = np.random.default_rng(size).integers(0, 256, size, np.uint8)
    assert crc32c(data.data) == by_bits(data.tolist())
    assert crc32c(data.data, 0xDEADBEEF) == by_bits(data.tolist(), 0xDEADBEEF)


def test_it_goes_on_where_it_stopped():
    data = np.random.default_rng(0).integers(0, 256, 9 * _LANES + 3, np.uint8).tobytes()
    whole = crc32c(data)
    for cut in (1, 100, _FEW, 4 * _LANES, len(data)):
        assert crc32c(data[cut:], crc32c(data[:cut])) == whole


def test_mask():
    """Turned right by 15 bits, plus 0xa282ead8: the form of the checksum of nothing is that."""
    assert mask(0) == 0xA282EAD8
    assert mask(1) == (0x20000 + 0xA282EAD8) & 0xFFFFFFFF
    assert mask(0x8000) == 0xA282EAD9
