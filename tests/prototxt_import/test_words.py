"""Sizes as people read them."""

from __future__ import annotations

import doctest
from fractions import Fraction

from prototxt_import import words


def test_examples_of_the_documentation() -> None:
    found = doctest.testmod(words)
    assert (found.failed, found.attempted) == (0, 4)


def test_what_is_not_whole_or_not_known() -> None:
    assert words.show((None,)) == "?"
    assert words.pair((Fraction(1, 2), Fraction(1, 2))) == "0.5"
    assert words.pair((Fraction(1, 2), 2)) == "0.5x2"
    assert words.megabytes(None) == "unknown"
    assert words.megabytes(0) == "0.0 MB"
