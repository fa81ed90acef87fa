"""The measure of agreement, by hand-worked cases."""

from __future__ import annotations

import math

import numpy as np
import pytest

from deeplab_repro.parity.agreement import agreement
from deeplab_repro.parity.recordings import sampled_agreement
from deeplab_repro.parity.tolerances import AGREEMENT, CLOSE, Tolerance

EXACT = AGREEMENT["exact"]
LOOSE = Tolerance(math.inf, math.inf, "lets everything pass that is a number")


def test_literal() -> None:
    # Difference (0, 0, 1): norm 1, largest 1. Reference (2, -4, 4): norm 6, largest 4.
    found = agreement([2, -4, 5], [2, -4, 4])
    assert found.rel == pytest.approx(1 / 6)
    assert found.max == pytest.approx(1 / 4)


def test_both_bounds_are_kept() -> None:
    found = agreement([2, -4, 5], [2, -4, 4])
    assert found.within(Tolerance(0.17, 0.26, ""))
    assert not found.within(Tolerance(0.16, 0.26, ""))
    assert not found.within(Tolerance(0.17, 0.24, ""))


def test_equal_arrays() -> None:
    values = np.float32([[1, -2], [0, 1e30]])
    assert agreement(values, values.copy()).within(EXACT)


def test_zeros_are_met_by_zeros_only() -> None:
    assert agreement(np.zeros(3), np.zeros(3)).within(EXACT)
    found = agreement([0, 1e-30, 0], np.zeros(3))
    assert found.rel == found.max == math.inf


def test_nan_never_agrees() -> None:
    for ours, reference in (
        ([1, math.nan], [1, math.nan]),
        ([math.nan, 1], [1, 1]),
        ([1], [math.nan]),
    ):
        found = agreement(ours, reference)
        assert math.isnan(found.rel)
        assert not found.within(LOOSE)
        assert "NaN" in str(found)


def test_infinities_must_match() -> None:
    inf = math.inf
    assert agreement([1, -inf, inf], [1, -inf, inf]).within(EXACT)
    assert agreement([1.5, -inf], [1, -inf]).rel == pytest.approx(0.5)
    assert agreement([1, inf], [1, -inf]).rel == inf
    assert agreement([1, 3], [1, inf]).rel == inf
    assert agreement([1, inf], [1, 3]).rel == inf


def test_empty() -> None:
    assert agreement(np.empty((2, 0, 3)), np.empty((2, 0, 3))).within(EXACT)


def test_shapes_must_match() -> None:
    for reference in (np.zeros((3, 2)), np.zeros(6), np.zeros((1, 2, 3)), np.empty((0,))):
        found = agreement(np.zeros((2, 3)), reference)
        assert found.rel == math.inf
        assert f"shape (2, 3), expected {reference.shape}" in str(found)


def test_scalars() -> None:
    assert agreement(2.0, 2.0).within(EXACT)
    assert agreement(3.0, 2.0).rel == pytest.approx(0.5)


def test_large_arrays_are_measured_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    """Arrays are looked at in pieces; a difference in any piece counts."""
    monkeypatch.setattr("deeplab_repro.parity.agreement._PIECE", 4)
    reference = np.ones(11)
    for at in range(11):
        ours = reference.copy()
        ours[at] = 2
        found = agreement(ours, reference)
        assert found.rel == pytest.approx(1 / math.sqrt(11))
        assert found.max == 1


def test_sums_do_not_round_in_float32() -> None:
    reference = np.full(1 << 21, 1.0, np.float32)
    ours = reference * np.float32(1 + 2**-20)
    assert agreement(ours, reference).rel == pytest.approx(2**-20, rel=1e-6)


def sample(reference: np.ndarray, every: int) -> tuple[dict, np.ndarray, np.ndarray]:
    whole = {
        "shape": reference.shape,
        "l2": float(np.linalg.norm(reference)),
        "largest": float(np.abs(reference).max()),
    }
    index = np.arange(0, reference.size, every)
    return whole, index, reference.ravel()[index]


def test_samples_measure_like_the_whole() -> None:
    random = np.random.default_rng(0)
    reference = random.standard_normal((4, 50, 50))
    ours = reference + 1e-3 * random.standard_normal(reference.shape)
    found = sampled_agreement(ours, *sample(reference, 10))
    whole = agreement(ours, reference)
    assert found.rel == pytest.approx(whole.rel, rel=0.2)
    assert found.max <= whole.max


def test_samples_notice_what_they_did_not_see() -> None:
    reference = np.random.default_rng(0).standard_normal((4, 50, 50))
    recorded = sample(reference, 10)
    assert sampled_agreement(reference, *recorded).within(AGREEMENT["caffe"])
    between = reference.copy()
    between.ravel()[1::10] *= 1.01
    assert not sampled_agreement(between, *recorded).within(AGREEMENT["caffe"])
    outlier = reference.copy()
    outlier.ravel()[5] = 100
    assert sampled_agreement(outlier, *recorded).max > 1
    assert sampled_agreement(reference[:, :, :49], *recorded).rel == math.inf
    spoilt = reference.copy()
    spoilt[0, 0, 1] = math.nan
    assert not sampled_agreement(spoilt, *recorded).within(LOOSE)


def test_every_tolerance_has_a_reason() -> None:
    assert all(entry.reason for entry in (*AGREEMENT.values(), *CLOSE.values()))
