"""Whether random choices are drawn as they should be."""

from __future__ import annotations

from collections.abc import Iterable


def evenness(counts: Iterable[int]) -> float:
    """How likely even draws are to differ as much as this (chi-squared test).

    Args:
        counts: how often each choice was drawn.
    """
    from scipy.stats import chisquare  # takes a second, which no other test should wait for

    return float(chisquare(list(counts)).pvalue)
