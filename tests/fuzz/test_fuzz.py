"""The same spoilt files each time: a result or one clear error, soon, in little memory."""

from __future__ import annotations

import pytest

from tests.fuzz.runner import TARGETS, run


def failures(seed, cases, whose="caffe"):
    outcomes = list(run(seed, 0, cases - 1, whose=whose))
    assert len(outcomes) == cases
    assert {(o["target"], o["kind"]) for o in outcomes} == set(TARGETS[whose])
    kinds = {o["outcome"] for o in outcomes if o["outcome"] != "failed"}
    assert kinds == {"result", "refused"}, "files spoilt too little, or too much, to tell anything"
    return [o for o in outcomes if o["outcome"] == "failed"]


@pytest.mark.slow
def test_two_thousand_spoilt_files():
    assert failures(seed=20, cases=2000) == []


@pytest.mark.slow
def test_five_hundred_spoilt_files_of_tensorflow():
    assert failures(seed=20, cases=500, whose="tensorflow") == []
