"""`deeplab-repro crf-search`, and the parameters that it writes in other commands."""

from __future__ import annotations

import json

import cv2
import numpy as np
import pytest

from deeplab_repro.cli.crf_search import _values
from deeplab_repro.cli.refining import read_crf_params
from deeplab_repro.crf import Bilateral, CRFParams
from deeplab_repro.data import voc
from deeplab_repro.errors import InputError
from tests.evaluation.test_crf_search import RANGES, folder  # noqa: F401


@pytest.mark.slow
def test_search_and_use(run, folder, tmp_path):  # noqa: F811
    given = ("crf-search", "--voc", folder, "--scores", folder / "scores", "--subset", 4)
    options = ("--iterations", 3, "--seed", 1, "--json", tmp_path / "r.json")
    code, out, err = run(*given, "-o", tmp_path / "o", *RANGES, *options)
    assert (code, err) == (0, "")
    report = json.loads((tmp_path / "r.json").read_text())
    best = report["settings"][0]
    assert best["mean_iou"] == max(setting["mean_iou"] for setting in report["settings"])
    assert best["mean_iou"] > report["before"]["mean_iou"]
    assert report["iterations"] == 3
    assert len(report["pictures"]) == 4
    params = read_crf_params(str(tmp_path / "o" / "crf_params.json"))
    assert params == CRFParams(3, 3, 3, best["bi_w"], best["bi_xy_std"], best["bi_rgb_std"])
    shown = next(line for line in out.splitlines() if line.startswith("CRFParams("))
    assert eval(shown) == params
    assert f"crf ... --params {tmp_path}/o/crf_params.json" in out
    assert "lies at the edge" in out
    picture = cv2.imread(str(tmp_path / "o" / "heat_map.png"))
    assert picture.min(axis=(0, 1)).max() < picture.max()
    sample = voc(folder)[0]
    code, out, _ = run(
        *("crf", "--image", sample.picture, "--scores", folder / "scores" / f"{sample.name}.npy"),
        *("--params", tmp_path / "o" / "crf_params.json", "-o", tmp_path / "refined"),
    )
    assert code == 0
    assert f"3 iterations, spatial 3 at 3, bilateral {best['bi_w']:g} at" in out


def test_files_of_parameters(tmp_path):
    file = tmp_path / "p.json"
    params = CRFParams(5, pos_xy_std=(3, 2), extra=(Bilateral(1, 9, (3, 4, 5)),))
    kernel = '{"w": 1, "xy_std": 9, "rgb_std": [3, 4, 5]}'
    file.write_text(f'{{"iterations": 5, "pos_xy_std": [3, 2], "extra": [{kernel}]}}')
    assert read_crf_params(str(file)).pos_xy_std == params.pos_xy_std
    assert read_crf_params(str(file)).extra[0].w == 1
    for text in ("[]", "{", '{"bi_v": 1}', '{"bi_w": "x"}', '{"bi_rgb_std": -1}'):
        file.write_text(text)
        with pytest.raises(InputError, match=r"p.json: holds no parameters of a CRF"):
            read_crf_params(str(file))
    with pytest.raises(InputError, match=r"named 'deeplap'; did you mean .*deeplab.* or a .json"):
        read_crf_params("deeplap")


@pytest.mark.parametrize(
    ("text", "values"),
    [("3:6", (3, 4, 5, 6)), ("30:10:65", (30, 40, 50, 60)), ("5", (5,)), ("1,0.5", (1, 0.5))],
)
def test_ranges(text, values):
    assert _values("bi_w", text) == values


@pytest.mark.parametrize("text", ["", "a", "3:", "6:3", "0:5", "3:-1:1", "1:1:1:1", "1:1e-9:2"])
def test_ranges_that_are_none(text):
    with pytest.raises(InputError, match="--bi-w; expected positive numbers as A:B"):
        _values("bi_w", text)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pos-xy-std", "0"), "pos_xy_std must be positive"),
        (("--scores", "nowhere"), "nowhere: is no folder"),
        (("--split", "train"), "2 of 2 pictures cannot be scored"),
        (("--bi-xy-std", "0.0001"), "use larger standard deviations"),
        (("--num-classes", "22"), "expected 22, got 21 (and 1 more such pictures)"),
        (("--labels", "none"), "none"),
    ],
)
def test_bad_input(run, folder, tmp_path, options, message):  # noqa: F811
    given = ("crf-search", "--voc", folder, "--scores", folder / "scores", "-o", tmp_path / "o")
    code, _, err = run(*given, "--subset", 2, "--bi-w", 4, "--rounds", 1, *options)
    assert code == 2
    assert len(err.splitlines()) == 1, err
    assert message in err
    assert not (tmp_path / "o" / "crf_params.json").exists()


def test_labels_that_are_all_void(run, folder, tmp_path):  # noqa: F811
    for sample in voc(folder):
        size = cv2.imread(str(sample.picture)).shape[:2]
        cv2.imwrite(str(tmp_path / f"{sample.name}.png"), np.full(size, 255, np.uint8))
    given = ("crf-search", "--voc", folder, "--scores", folder / "scores", "-o", tmp_path / "o")
    code, _, err = run(*given, *RANGES, "--subset", 1, "--iterations", 1, "--labels", tmp_path)
    assert code == 2
    assert "are all void" in err
