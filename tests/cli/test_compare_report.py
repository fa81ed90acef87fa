"""`compare`: the cause it names, and the page it writes."""

from __future__ import annotations

import json
from pathlib import Path

import h5py
import pytest

BUNDLED = Path(__file__).parents[2] / "weights" / "largefov_v1_w8"
MODEL, CAFFE = BUNDLED / "weights.caffemodel", BUNDLED / "activations.h5"


@pytest.fixture
def swapped(tmp_path):
    path = tmp_path / "swapped.h5"
    with h5py.File(CAFFE) as source, h5py.File(path, "w") as target:
        source.copy("blobs", target)
        target["blobs/data"][...] = source["blobs/data"][()][:, ::-1]
    return path


@pytest.mark.slow
def test_cause_in_words_json_and_page(run, swapped, tmp_path):
    page, report = tmp_path / "r.html", tmp_path / "r.json"
    code, out, err = run(
        "compare", MODEL, "--activations", swapped, "--html", page, "--json", report
    )
    assert code == 1
    assert "cause: channels swapped (RGB / BGR) at layer 'conv1_1'" in out
    assert "-> Caffe's pictures are BGR." in out
    assert f"wrote {page}" in out
    assert not err
    (cause,) = json.loads(report.read_text())["causes"]
    assert (cause["cause"], cause["layer"], cause["sure"]) == (
        "channels_swapped",
        "conv1_1",
        "proved",
    )
    assert 'data-cause="channels_swapped"' in page.read_text()


@pytest.mark.slow
def test_equal_has_no_cause(run, tmp_path):
    page, report = tmp_path / "r.html", tmp_path / "r.json"
    code, out, _ = run("compare", MODEL, "--activations", CAFFE, "--html", page, "--json", report)
    assert code == 0
    assert "cause:" not in out
    assert json.loads(report.read_text())["causes"] == []
    assert ">equal</span>" in page.read_text()


def test_first_difference_is_named_once(run, swapped):
    _, out, _ = run("compare", MODEL, "--activations", swapped)
    assert "the first is layer 'conv1_1', blob 'conv1_1': rel" in " ".join(out.split())


@pytest.mark.slow
def test_page_that_cannot_be_written(run, swapped, tmp_path):
    page = tmp_path / "no" / "such" / "r.html"
    code, _, err = run("compare", MODEL, "--activations", swapped, "--html", page)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert f"{page.parent}: there is no such folder" in err
