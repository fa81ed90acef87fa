"""The verdict on a number, within the tolerances of the published one."""

from __future__ import annotations

from dataclasses import replace

import pytest

from deeplab_repro.released import find
from deeplab_repro.reproduction.verdict import compare


@pytest.mark.parametrize(
    ("ours", "verdict"),
    [
        (76.35, "reproduced"),
        (76.20, "reproduced"),
        (76.19, "not reproduced"),
        (76.61, "reproduced"),  # two users had 76.46 with the same weights
        (76.63, "not reproduced"),  # 76.65 of another training does not count
        (75.54, "not reproduced"),
    ],
)
def test_resnet101(ours: float, verdict: str) -> None:
    (row,) = compare(find("deeplab_v2_resnet101"), ours, None)
    assert row.verdict == verdict
    assert row.paper == 76.35
    assert 76.65 in [value for _, value in row.others]


def test_after_the_crf() -> None:
    before, after = compare(find("deeplab_v2_resnet101"), 76.4, 77.5)
    assert (before.verdict, after.verdict) == ("reproduced", "reproduced")
    assert after.paper == 77.69
    assert after.reason == "-0.19 from 77.69; at most 0.3 is allowed"


def test_no_verdict() -> None:
    largefov = find("deeplab_largefov")
    (row,) = compare(largefov, 62.25, None, "only 3 of 1449 pictures were run")
    assert (row.verdict, row.reason) == ("no verdict", "only 3 of 1449 pictures were run")
    (row,) = compare(replace(largefov, published={**largefov.published, "miou": None}), 62.0, None)
    assert (row.verdict, row.reason) == ("no verdict", "nobody has published this number")
    (row,) = compare(find("deeplab_msc"), 61.3, None)
    assert row.verdict == "no verdict"
    assert "no tolerance" in row.reason
