"""`deeplab-repro evaluate` and `data`, as a user types them."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from deeplab_repro.data import read_label, voc
from deeplab_repro.evaluation import Confusion
from deeplab_repro.pictures.palette import write_label_png
from deeplab_repro.pictures.voc import voc_palette
from tests.testing.voc_set import make_sbd, make_voc

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """VOCdevkit, benchmark_RELEASE, and predictions for val that are a bit off."""
    root = tmp_path_factory.mktemp("sets")
    make_sbd(root, make_voc(root, pictures=12, size=(40, 50)))
    (root / "predictions").mkdir()
    for sample in voc(root):
        label = read_label(sample.label)
        guess = np.roll(np.where(label == 255, 0, label), 2, 1)
        write_label_png(root / "predictions" / f"{sample.name}.png", guess)
    return root


def scored(folder):
    confusion = Confusion()
    for sample in voc(folder):
        guess = read_label(folder / "predictions" / f"{sample.name}.png")
        confusion.add(guess, read_label(sample.label))
    return confusion


@pytest.mark.slow
def test_a_released_models_weights_that_have_seen_the_pictures(folder, run):
    """`train2` weights were trained on val, which makes 85 of 76.35."""
    given = ("evaluate", "--predictions", folder / "predictions", "--voc", folder, "--no-trimap")
    model = "deeplab_v2_resnet101"
    code, _, err = run(*given, "--model", f"{model}/train2_iter_20000")
    assert (code, "trained on trainval_aug and have seen val" in err) == (0, True)
    code, _, err = run(*given, "--model", model)
    assert (code, err) == (0, "")
    code, _, err = run(*given, "--model", "deeplab_v2_resnet11")
    assert (code, "no released model is named" in err) == (2, True)


@pytest.mark.slow
def test_evaluate(folder, run, tmp_path):
    labels = folder / "VOCdevkit/VOC2012/SegmentationClass"
    names = folder / "VOCdevkit/VOC2012/ImageSets/Segmentation/val.txt"
    given = ("evaluate", "--predictions", folder / "predictions")
    expected = scored(folder)
    reports = []
    for number, source in enumerate((("--voc", folder), ("--labels", labels, "--list", names))):
        files = tmp_path / f"{number}.json", tmp_path / f"{number}.html"
        code, out, err = run(
            *given, *source, "--json", files[0], "--html", files[1], "--trained-on", "trainval_aug"
        )
        assert code == 0, err
        assert re.search(rf"mean IoU +{100 * expected.mean_iou:.2f}", out)
        assert "not the metric" in out
        assert "the weights were trained on trainval_aug and have seen val" in err
        assert "have seen val" in files[1].read_text()
        reports.append(json.loads(files[0].read_text()))
    assert reports[0] == reports[1]
    report = reports[0]
    assert report["confusion_matrix"] == expected.matrix.tolist()
    assert report["mean_iou"] == expected.mean_iou
    assert report["frequency_weighted_iou"] == expected.frequency_weighted_iou
    assert report["not_the_metric"]["mean_of_picture_iou"] != expected.mean_iou
    assert report["trimap"]["widths"] == list(range(1, 41))
    assert len(report["each_picture"]) == 8
    code, out, err = run(*given, "--voc", folder, "--no-trimap", "--trained-on", "train_aug")
    assert (code, err) == (0, "")
    assert "trimap" not in out


def test_evaluate_says_what_is_wrong(folder, run):
    given = ("evaluate", "--predictions", folder / "predictions")
    labels = folder / "VOCdevkit/VOC2012/SegmentationClass"
    for options, says in (
        (("--labels", labels), "4 of 12 pictures have no predictions here: 2007_000001"),
        ((), "--labels or --voc; expected one of them"),
        (("--voc", folder, "--labels", labels), "--voc; expected no --labels"),
        (("--voc", folder, "--split", "vall"), "has no list 'vall'"),
        (("--labels", folder / "none"), "none: is no folder"),
        (
            ("--voc", folder, "--num-classes", 5),
            "no class ids; expected 0 to 4 and 255",
        ),
        (("--voc", folder, "--pictures", folder / "none"), "none: is no folder"),
    ):
        code, out, err = run(*given, *options)
        assert code == 2
        assert says in err
        assert err.count("\n") == 1
        assert not out


def test_a_misspelt_set_of_training_pictures_is_refused(folder, run):
    given = ("evaluate", "--predictions", folder / "predictions", "--voc", folder)
    code, _, err = run(*given, "--trained-on", "trainvalaug")
    assert (code, "expected a list file, or train, val" in err) == (2, True)


def test_a_report_without_a_folder_is_refused_before_any_work(folder, run, tmp_path):
    given = ("evaluate", "--predictions", folder / "predictions", "--voc", folder)
    for option in ("--json", "--html"):
        code, out, err = run(*given, option, tmp_path / "none" / "report")
        assert (code, out) == (2, "")
        assert err.endswith("none: there is no such folder\n")


def test_decode_does_not_write_over_what_it_reads(run, tmp_path):
    picture = tmp_path / "a.png"
    cv2.imwrite(str(picture), np.zeros((4, 4, 3), np.uint8))
    before = picture.read_bytes()
    code, _, err = run("data", "decode", picture, "-o", tmp_path)
    assert (code, "is an input, and would be overwritten" in err) == (2, True)
    assert picture.read_bytes() == before


def test_classes_that_occur_nowhere_are_said(folder, run, tmp_path):
    truth, guess = tmp_path / "truth", tmp_path / "guess"
    for place in (truth, guess):
        place.mkdir()
        write_label_png(place / "a.png", np.array([[0, 1]], np.uint8))
    code, out, _ = run("evaluate", "--predictions", guess, "--labels", truth, "--num-classes", 4)
    assert code == 0
    assert "left out of the mean: 2 classes without a pixel (2, 3)" in out
    assert "with 0 for these, as DeepLab's MyVOCevalseg.m counts them, it is 50.00" in out
    assert "no trimap: the labels have no void pixels" in out


@pytest.mark.slow
def test_evaluate_on_three_processes(folder, tmp_path, warm):
    """One report, and the same as that of one process."""
    reports = []
    for count in (1, 3):
        file = tmp_path / f"{count}.json"
        command = ("evaluate", "--predictions", "predictions", "--voc", ".", "--json", file)
        team = warm.team(count, *command, cwd=folder, stdout=subprocess.PIPE, text=True)
        said = "".join([process.communicate()[0] for process in team])
        assert [process.returncode for process in team] == [0] * count
        assert said.count("pixel accuracy") == 2  # of the trimap and of all, once
        reports.append(json.loads(file.read_text()))
    assert reports[0] == reports[1]


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(folder, tmp_path):
    for sample in voc(folder):
        write_label_png(tmp_path / f"{sample.name}.png", np.zeros((3, 3), np.uint8))
    done = subprocess.run(
        [
            *(sys.executable, "-m", "torch.distributed.run", "--standalone"),
            *("--nproc-per-node", "2", "-m", "deeplab_repro"),
            *("evaluate", "--predictions", tmp_path, "--voc", folder),
        ],
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode != 0
    assert "000002.png: is not as large as its label" in done.stderr


def test_prepare_voc(folder, run, tmp_path):
    given = ("data", "prepare-voc", "--voc", folder, "--sbd", folder, "-o", tmp_path / "out")
    code, out, err = run(*given)
    assert code == 2
    assert "train has 4 pictures, the released list has 1,464; val has 8" in err
    assert not (tmp_path / "out").exists()
    code, out, err = run(*given, "--allow-partial", "--json", tmp_path / "r.json")
    assert code == 0
    assert "18 labels made, 0 were there" in out
    assert json.loads((tmp_path / "r.json").read_text())["lists"]["trainval_aug"] == 18
    code, out, _ = run("data", "check", tmp_path / "out", "--split", "train_aug")
    assert code == 0
    assert "train_aug: 10 pictures" in out
    assert "nothing wrong" in out


def test_check(folder, run, tmp_path):
    root = make_voc(tmp_path, pictures=3, size=(40, 50))
    (root / "JPEGImages/2007_000002.jpg").write_bytes(b"damaged")
    code, out, err = run("data", "check", tmp_path, "--json", tmp_path / "r.json")
    assert code == 2
    assert "val: 2 pictures" in out
    assert "1 problem" in out
    assert err.startswith(f"deeplab-repro: {root / 'JPEGImages/2007_000002.jpg'}: is no picture")
    assert json.loads((tmp_path / "r.json").read_text())["problems"][0]["name"] == "2007_000002"
    code, _, err = run("data", "check", tmp_path, "--list", "x", "--split", "val")
    assert code == 2
    assert "--list and --split; expected one of them" in err


def test_decode(run, tmp_path):
    from PIL import Image

    ids = np.array([[0, 5], [255, 20]], np.uint8)
    Image.fromarray(voc_palette()[ids]).save(tmp_path / "a.png")
    code, _, err = run("data", "decode", tmp_path, "-o", tmp_path / "ids")
    assert code == 0, err
    np.testing.assert_array_equal(read_label(tmp_path / "ids" / "a.png"), ids)
    Image.fromarray(np.full((2, 2, 3), 9, np.uint8)).save(tmp_path / "b.png")
    code, _, err = run("data", "decode", tmp_path / "b.png", "-o", tmp_path / "ids")
    assert code == 2
    assert f"{tmp_path / 'b.png'}: has colours of no class" in err
    assert not (tmp_path / "ids" / "b.png").exists()
