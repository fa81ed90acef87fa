"""The page of `crf-tune`, used as a person would: in Chromium, and its script alone in Node."""

from __future__ import annotations

import html
import json
import re
import shutil
import subprocess
from importlib.resources import files
from pathlib import Path
from urllib.parse import parse_qs

import numpy as np
import pytest
import torch

from deeplab_repro.crf import CRFParams
from deeplab_repro.tuning import Subject, Tuner
from deeplab_repro.tuning.texts import params_code
from tests.crf.recorded import Case
from tests.testing.browser import CHROMIUM, browse
from tests.tuning.test_tuning import get, served, subject_of

HERE = Path(__file__).parent
NODE = shutil.which("node")
DRIVE = (HERE / "drive.js").read_text(encoding="utf-8")


class Watched(Tuner):
    """Keeps what it is asked for, and has the page's script drive the page."""

    def __init__(self, subject: Subject) -> None:
        super().__init__(subject, "context", torch.device("cpu"))
        self.asked: list[dict[str, str]] = []

    def __call__(self, environ, start_response):
        query = parse_qs(environ["QUERY_STRING"])
        if environ["PATH_INFO"] == "/result":
            self.asked.append({name: values[0] for name, values in query.items()})
        return super().__call__(environ, start_response)


def subject() -> Subject:
    case = Case("dl_g_500x375_c21")
    return subject_of(
        np.ascontiguousarray(case.rgb[:250, :250, ::-1]),
        np.ascontiguousarray(case.energies[:, :250, :250], np.float32),
    )


def check(report: dict, asked: list[dict[str, str]]) -> None:
    """What the driver has seen, and what the server was asked for meanwhile."""
    start, dragged = report["start"], report["dragged"]
    assert start["preset"] == "context"
    assert "whole picture, 250 x 250" in start["state"]
    assert "background" in start["legend"]
    assert not start["bad"]
    for panel in ("labels", "borders", "marginals"):
        assert start[panel].startswith("data:image/png;base64,")
    assert (dragged["preset"], dragged["bi_w"]) == ("", "25")
    assert dragged["labels"] != start["labels"]
    assert (report["refused"]["bad"], report["refused"]["state"]) == (
        (True, "pos_xy_std must be positive, got -1.0")
    )
    assert report["preset"]["text"] == params_code(CRFParams.named("deeplab_v2_vgg16"))
    assert report["preset"]["preset"] == "deeplab_v2_vgg16"
    assert report["label"]["labels"] == report["preset"]["labels"]
    assert report["label"]["marginals"] != report["preset"]["marginals"]
    assert report["command"]["text"].startswith("deeplab-repro crf --image 'a b.jpg'")
    assert "import pydensecrf.densecrf as dcrf" in report["pydensecrf"]["text"]

    turns = [int(one["turn"]) for one in asked]
    assert turns == sorted(turns)
    assert len({one["page"] for one in asked}) == 1
    drags = [one for one in asked if one["bi_w"] not in ("4", "5")]
    previews = [one["bi_w"] for one in drags if one["stage"] == "preview"]
    # Those that came while one was under way are one request with the newest state.
    assert len(set(previews) - {"25"}) < 18
    assert "25" in previews
    # The whole picture is computed when the slider rests, not while one drags.
    assert {one["bi_w"] for one in drags if one["stage"] == "full"} == {"25"}
    assert [one["stage"] for one in asked[:2]] == ["preview", "full"]


@pytest.mark.skipif(CHROMIUM is None, reason="no Chromium to open the page in")
def test_page_in_chromium(tmp_path, monkeypatch):
    script = (files("deeplab_repro.tuning") / "page" / "tune.js").read_bytes()
    monkeypatch.setattr("deeplab_repro.tuning.server._script", lambda: script + DRIVE.encode())
    tuner = Watched(subject())
    with served(tuner) as port:
        dom = browse(
            f"http://127.0.0.1:{port}/", tmp_path / "profile", "--virtual-time-budget=60000"
        )
    found = re.search(r'data-report="([^"]*)"', dom)
    assert found, dom
    check(json.loads(html.unescape(found[1])), tuner.asked)


@pytest.mark.slow
@pytest.mark.skipif(NODE is None, reason="no Node to run the page's script")
def test_script_in_node(tmp_path):
    tuner = Watched(subject())
    with served(tuner) as port:
        address = f"http://127.0.0.1:{port}/"
        page = get(port, "/")[2].decode()
        setup = page.split('id="setup">')[1].split("</script>")[0]
        script = get(port, "/tune.js")[2].decode()
        (tmp_path / "script.js").write_text(f"{setup}\n{script}\n{DRIVE}", encoding="utf-8")
        done = subprocess.run(
            [NODE or "", HERE / "dom.js", address, tmp_path / "script.js"],
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert (done.returncode, done.stderr) == (0, "")
    check(json.loads(done.stdout), tuner.asked)
