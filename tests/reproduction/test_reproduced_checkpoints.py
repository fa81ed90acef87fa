"""`deeplab-repro reproduce` on a checkpoint: every published way of running it, gone on with."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from deeplab_repro import data, tensorflow
from deeplab_repro.cli import main
from deeplab_repro.pictures.reading import read_picture
from tests.testing.tensorflow_weights import weights_for
from tests.testing.voc_set import make_voc

OPTIONS = {"model_variant": "mobilenet_v2", "depth_multiplier": 0.35}
WAYS = [
    {"output_stride": 16, "miou": 1.0},
    {"output_stride": 8, "scales": [0.75, 1.0], "flip": True, "miou": 99.0},
]
PICTURES = 4


def row(**fields: Any) -> dict[str, Any]:
    """A model of the list."""
    file = {"name": "model.ckpt", "trained_on": "train_aug", "download": "a.tar.gz"}
    return {
        "title": "Tiny",
        "options": OPTIONS,
        "data": "voc2012",
        "crop_size": [65, 65],
        "crf": "deeplab_largefov",
        "scores": WAYS,
        "tolerance": 90.0,
        "files": [file],
        "downloads": {"a.tar.gz": {"sources": []}},
        **fields,
    }


def undecided(picture: Path) -> dict[str, NDArray[Any]]:
    """Variables of a network that gives this picture many labels: no class is ahead of others."""
    variables = weights_for(OPTIONS)
    pixels = torch.from_numpy(read_picture(picture)[:, :, ::-1].copy()).permute(2, 0, 1)
    logits = tensorflow.load(OPTIONS, variables)(pixels[None].float())
    variables["logits/semantic/biases"] -= logits.mean(dim=(0, 2, 3)).detach().numpy()
    return variables


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Pictures, a checkpoint of made weights in the store, and a list with it and others."""
    root = tmp_path_factory.mktemp("checkpoints")
    voc = make_voc(root, pictures=6, size=(48, 64))
    prefix = root / "model.ckpt"
    tensorflow.write_checkpoint(prefix, undecided(min((voc / "JPEGImages").iterdir())))
    test = row()
    test["files"] = [{**test["files"][0], "use": "test", "trained_on": "trainval_aug"}]
    manifest = root / "manifest.json"
    models = {"tiny": row(), "tested": test, "streets": row(data="cityscapes")}
    manifest.write_text(json.dumps({"format": 1, "models": models}))
    return {
        "voc": voc,
        "prefix": prefix,
        "DEEPLAB_REPRO_MANIFEST": str(manifest),
        "DEEPLAB_REPRO_WEIGHTS": str(root / "store"),
    }


@pytest.fixture(autouse=True)
def environment(world: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in world.items():
        if name.isupper():
            monkeypatch.setenv(name, value)


def run(*words: object) -> int:
    with pytest.raises(SystemExit) as exit_:
        main([str(word) for word in words])
    return int(exit_.value.code or 0)


def report(folder: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((folder / "report.json").read_text())
    return content


@pytest.fixture(scope="module")
def whole(world: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run with a CRF."""
    folder = tmp_path_factory.mktemp("whole") / "run"
    with pytest.MonkeyPatch.context() as patch:
        for name, value in world.items():
            if name.isupper():
                patch.setenv(name, value)
        assert run("weights", "add", world["prefix"], "--model", "tiny") == 0
        words = ("--voc", world["voc"], "--crf", "-o", folder, "--json", folder.parent / "r.json")
        assert run("reproduce", "tiny", *words) == 1
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_each_way_is_that_of_eval_py(whole: Path, world: dict[str, Any], way: Any) -> None:
    """Held against the evaluation that follows eval.py: whole padded crops, counted at once."""
    stride = way["output_stride"]
    found = report(whole / f"os{stride}")
    options = {**OPTIONS, "output_stride": stride, "crop_size": [65, 65]}
    net = tensorflow.load(options, world["prefix"])
    pairs = []
    for sample in data.voc(world["voc"], "val"):
        assert sample.label is not None
        picture = read_picture(sample.picture)[:, :, ::-1]
        pairs.append((picture, np.array(Image.open(sample.label))))
    scales = way.get("scales", [1.0])
    confusion = tensorflow.evaluate_crops(net, pairs, scales=scales, flip=way.get("flip", False))
    assert found["pictures"] == {"scored": PICTURES, "in_the_list": PICTURES}
    before, after = found["rows"]
    assert before["ours"] == pytest.approx(100 * confusion.mean_iou, abs=1e-9)
    assert before["paper"] == way["miou"]
    assert before["verdict"] == ("reproduced" if stride == 16 else "not reproduced")
    assert (after["paper"], after["verdict"]) == (None, "no verdict")
    assert after["reason"] == "nobody has published this number"
    labels = [np.array(Image.open(file)) for file in (whole / f"os{stride}/labels").glob("*.png")]
    assert len(np.unique(np.concatenate([label.ravel() for label in labels]))) > 2


@pytest.mark.slow
def test_a_run_goes_on_where_it_was(whole: Path, world: dict[str, Any]) -> None:
    before = report(whole / "os16")
    first, *others = sorted((whole / "os16").glob("labels*/*.png"))
    times = {file: file.stat().st_mtime_ns for file in others}
    content = first.read_bytes()
    first.unlink()
    again = ("reproduce", "tiny", "--voc", world["voc"], "--crf", "-o", whole)
    assert run(*again, "--output-stride", 16) == 0
    assert first.read_bytes() == content
    assert {file: file.stat().st_mtime_ns for file in others} == times
    assert report(whole / "os16") == before
    # Without the CRF it is another run.
    assert run(*again[:-3], "-o", whole) == 2


@pytest.mark.slow
def test_no_crf_by_default(world: dict[str, Any], whole: Path, tmp_path: Path) -> None:
    words = ("--voc", world["voc"], "-o", tmp_path / "run", "--output-stride", 16, "--limit", 2)
    assert run("reproduce", "tiny", *words) == 0
    (row,) = report(tmp_path / "run" / "os16")["rows"]
    assert (row["verdict"], row["reason"]) == ("no verdict", "only 2 of 4 pictures were run")
    assert not (tmp_path / "run" / "os16" / "labels_crf").exists()
    assert run("weights", "add", world["prefix"], "--model", "tested") == 0
    assert run("reproduce", "tested", *words[:3], tmp_path / "tested", *words[4:6]) == 0
    (row,) = report(tmp_path / "tested" / "os16")["rows"]
    assert row["verdict"] == "no verdict"
    assert "trained on trainval_aug and have seen val" in row["reason"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["streets"], "streets is no model of VOC 2012, which is what can be scored here"),
        (["tiny", "--output-stride", "4"], "--output-stride; expected 16 or 8, got 4"),
    ],
)
def test_bad_arguments(
    words: list[str], message: str, world: dict[str, Any], capfd: pytest.CaptureFixture[str]
) -> None:
    assert run("reproduce", *words, "--voc", world["voc"]) == 2
    assert message in capfd.readouterr().err
