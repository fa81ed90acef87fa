"""The page of `compare --html`: what is in it, and that a browser shows and sorts it."""

from __future__ import annotations

import math
import re
import warnings
from pathlib import Path
from xml.etree import ElementTree

import h5py
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab_repro import load_caffe
from deeplab_repro.parity.agreement import Agreement
from deeplab_repro.parity.causes import likely_causes
from deeplab_repro.parity.comparison import BlobReport, compare_blobs, write_activations
from deeplab_repro.parity.heat import difference_picture, plane_of, value_picture
from deeplab_repro.parity.html import compare_page
from deeplab_repro.parity.plot import error_plot
from deeplab_repro.parity.recordings import Recording
from deeplab_repro.parity.tolerances import AGREEMENT
from tests.parity.spoil import change, network, picture
from tests.testing.browser import CHROMIUM, browse
from tests.testing.html_tags import Tags

FILES = network("largefov_v1_w8")


@pytest.fixture(scope="module")
def spoilt(tmp_path_factory):
    """A recording with one wrong layer, one missing blob, one full of NaN and one cut off."""
    path = tmp_path_factory.mktemp("page") / "a.h5"
    net = load_caffe(*FILES)
    change(net, "fc8_interp", lambda m, x: F.interpolate(x, (49, 65), mode="bilinear"))
    with torch.inference_mode():
        blobs = dict(net.blobs(data=picture(1, 49, 65)))
    del blobs["conv2_1"]
    blobs["conv3_1"] = blobs["conv3_1"] * torch.nan
    blobs["conv5_1"] = blobs["conv5_1"][:, :, 1:]
    write_activations(path, blobs)
    return path


def page_of(path: Path, files=FILES) -> str:
    net = load_caffe(*files)
    recording = Recording("page", path, files[1], files[0])
    comparison = compare_blobs(net, recording, AGREEMENT["caffe"])
    return compare_page(comparison, likely_causes(comparison), str(files[1]))


@pytest.fixture(scope="module")
def page(spoilt, tmp_path_factory):
    path = tmp_path_factory.mktemp("page") / "r.html"
    path.write_text(page_of(spoilt), encoding="utf-8")
    return path


@pytest.mark.slow
def test_page_is_whole_and_alone(page):
    text = page.read_text(encoding="utf-8")
    tags = Tags()
    tags.feed(text)
    assert (tags.open, tags.wrong) == ([], [])
    assert tags.addresses
    assert all(address.startswith("data:image/png;base64,") for address in tags.addresses)
    assert "url(" not in text
    assert "@import" not in text
    assert "{{" not in text


@pytest.mark.slow
def test_page_says_what_there_is_to_say(page):
    text = page.read_text(encoding="utf-8")
    for part in (
        "weights.caffemodel",
        "largefov_v1_w8, 40 layers",
        "dl1",
        "3 of 23 compared blobs differ",
        "23 of 24 blobs of the network",
        "blob <code>conv3_1</code>",
        "holds NaN",
        "1e-05",
        "interpolation with half-pixel centres".capitalize(),
        "align_corners=True",
        "not recorded",
    ):
        assert part in text, part
    assert text.count("<tr class=") == 24
    assert text.count('<tr class="bad"') == 3
    assert text.count("<title>") == 1 + 2 * 23  # and the page's
    assert "the sizes differ" in text


def test_plot_has_a_hint_at_each_mark_and_the_colours_of_the_page(page):
    plot = re.search(r"<svg.*?</svg>", page.read_text(encoding="utf-8"), re.DOTALL)[0]
    hints = re.findall(r"<use [^>]*><title>([^<]*)</title>", plot)
    assert len(hints) == 2 * 23
    assert hints[:23] == hints[23:]
    assert "holds NaN" in " ".join(hints)
    colours = set(re.findall(r"(?:fill|stroke): ([^;\"]+)", plot))
    assert colours == {
        *("var(--first)", "var(--second)", "var(--bad)", "var(--dim)", "var(--line)", "none")
    }
    assert "date" not in plot


def test_plot_is_the_same_in_every_run_whatever_blobs_are_called():
    names = ["$a$ $b", "two\nlines", "\x1b[31m", "&<b>", "ö漢字", "x" * 500]
    values = [math.nan, math.inf, 0.0, 1e-30, 1e30, 1e-6]
    reports = [
        BlobReport(name, "l", "t", (1,), Agreement(value, value), value < 1)
        for name, value in zip(names, values, strict=True)
    ]
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        plot = error_plot(reports, AGREEMENT["caffe"])
    assert plot == error_plot(reports, AGREEMENT["caffe"])
    root = ElementTree.fromstring(plot)
    labels = [text for text in map(str.strip, root.itertext()) if text]
    assert {"$a$ $b", "two lines", "\\x1b[31m", "&<b>", "ö漢字", "rel", "max"} <= set(labels)
    assert error_plot([], AGREEMENT["caffe"]).startswith("<svg")


def test_names_out_of_files_are_text(tmp_path):
    """Layers can be called anything."""
    evil = "<script>alert(1)</script>{{rows}}&quot;"
    prototxt = tmp_path / "evil.prototxt"
    prototxt.write_text(
        f'name: "{evil}" input: "data" input_shape {{ dim: 1 dim: 3 dim: 9 dim: 9 }}'
        f'layer {{ name: "{evil}" type: "AbsVal" bottom: "data" top: "{evil}" }}'
    )
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["blobs/data"] = np.ones((1, 3, 9, 9), np.float32)
        group, _, rest = evil.partition("/")
        file[f"blobs/{group}/{rest}"] = np.zeros((1, 3, 9, 9), np.float32)
    net = load_caffe(prototxt)
    recording = Recording("evil", tmp_path / "a.h5", prototxt, None)
    comparison = compare_blobs(net, recording, AGREEMENT["caffe"])
    text = compare_page(comparison, likely_causes(comparison), evil)
    assert "<script>alert" not in text
    assert "&lt;script&gt;alert(1)&lt;/script&gt;{{rows}}&amp;quot;" in text


@pytest.mark.slow
def test_equal_page_has_neither_causes_nor_maps(tmp_path):
    with torch.inference_mode():
        write_activations(tmp_path / "a.h5", load_caffe(*FILES).blobs(data=picture(1, 33, 33)))
    text = page_of(tmp_path / "a.h5")
    assert "all 24 compared blobs are equal" in text
    assert "Likely cause" not in text
    assert "Worst layers" not in text


def test_pictures():
    def pixels(address):
        import base64

        import cv2

        data = base64.b64decode(address.removeprefix("data:image/png;base64,"))
        return cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR).astype(int)

    plane = np.float32([[-2, 0, 2], [np.nan, -1, 9]])
    shown = pixels(difference_picture(plane, 2))
    blue, white, red = shown[0]
    assert blue[0] > blue[2]  # BGR
    assert white.min() > 240
    assert red[2] > red[0]
    assert list(shown[1, 0]) == [200, 0, 200]
    assert list(shown[1, 2]) == list(red)  # beyond the scale: its end
    levels = pixels(value_picture(np.float32([[0, 1, 2]]), 0, 2)).sum(-1)[0]
    assert levels[0] < levels[1] < levels[2]
    assert pixels(value_picture(np.zeros((2000, 3)), 0, 0)).shape[0] <= 640
    assert plane_of(np.arange(24).reshape(1, 2, 3, 4), 0, 1).tolist()[0] == [12, 13, 14, 15]
    rows = plane_of(np.arange(5, dtype=np.float32), 0, 0)
    assert rows.shape == (2, 3)
    assert np.isnan(rows[1, 2])


# ---------------------------------------------------------------- in a browser


def shown_blobs(dom: str) -> list[str]:
    """The table's blobs from top to bottom, hidden rows left out."""
    rows = re.findall(r"<tr ([^>]*)>(.*?)</tr>", dom, re.DOTALL)
    cells = [
        re.findall(r"<td[^>]*>(.*?)</td>", row)
        for attributes, row in rows
        if "hidden" not in attributes
    ]
    return [cell[1] for cell in cells if cell]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_browser_shows_sorts_and_filters(page, tmp_path):
    dom = browse(page.as_uri(), tmp_path / "a")
    assert 'data-ready="yes"' in dom
    order = shown_blobs(dom)
    assert (order[0], order[-1], len(order)) == ("data", "fc8_interp", 24)
    dom = browse(f"{page.as_uri()}#sort=rel&down=1", tmp_path / "b")
    by_error = shown_blobs(dom)
    assert set(by_error[:2]) == {"conv3_1", "conv5_1"}  # not a number, another shape
    assert by_error[2] == "fc8_interp"
    assert by_error[-1] == "conv2_1"  # not recorded
    assert re.search(r'<th data-key="rel"[^>]*aria-sort="descending"', dom)
    assert shown_blobs(browse(f"{page.as_uri()}#sort=blob", tmp_path / "c")) == sorted(
        order, key=lambda name: [int(p) if p.isdigit() else p for p in re.split(r"(\d+)", name)]
    )
    only = shown_blobs(browse(f"{page.as_uri()}#only=1&find=CONV+relu", tmp_path / "d"))
    assert only == ["conv3_1", "conv5_1"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_browser_sorts_on_a_click(page, tmp_path):
    """A copy of the page that clicks its own headings."""
    clicking = tmp_path / "clicking.html"
    clicks = (
        "<script>for (const key of ['blob', 'rel', 'rel'])"
        " document.querySelector(`th[data-key=${key}] button`).click();</script>"
    )
    clicking.write_text(page.read_text(encoding="utf-8") + clicks, encoding="utf-8")
    dom = browse(clicking.as_uri(), tmp_path / "profile")
    assert re.search(r'<th data-key="rel"[^>]*aria-sort="ascending"', dom)
    assert shown_blobs(dom)[-4] == "fc8_interp"


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_browser_sees_an_error_of_a_script(page, tmp_path):
    """What `browse` relies on to notice one."""
    broken = tmp_path / "broken.html"
    text = page.read_text(encoding="utf-8").replace("recall();", "recal();")
    broken.write_text(text, encoding="utf-8")
    with pytest.raises(AssertionError, match="recal is not defined"):
        browse(broken.as_uri(), tmp_path / "profile")
