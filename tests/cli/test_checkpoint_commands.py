"""Commands that take a network, on TensorFlow's own checkpoint and frozen graph.

`io.npz` beside them has what TensorFlow computed with them.
"""

from __future__ import annotations

import json
import shutil
from importlib.util import find_spec
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
from PIL import Image

from deeplab_repro import tensorflow
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.pictures.reading import read_picture
from deeplab_repro.pictures.scores import read_scores
from tensorflow_import import read_options, write_checkpoint, write_variables
from tests.released.conftest import Shelf
from tests.testing.tensorflow_weights import weights_for

DATA = Path(__file__).parents[1] / "data" / "tensorflow" / "checkpoints"
GRAPH, CHECKPOINT = DATA / "frozen_inference_graph.pb", DATA / "network.ckpt-2"
OPTIONS = {"model_variant": "mobilenet_v2", "depth_multiplier": 0.1, "aspp_convs_filters": 32}
CAFFE = Path(__file__).parents[2] / "weights" / "largefov_v1_w8" / "weights.caffemodel"
OF_NETWORK = {"atrous_rates": [6, 12, 18], "num_classes": 3}
NOT_TOLD = "no variable tells output_stride 16; taken from the released networks"


@pytest.fixture(scope="module")
def recorded():
    return np.load(DATA / "io.npz")


@pytest.fixture
def picture(recorded, tmp_path: Path) -> Path:
    """What the frozen graph was given."""
    path = tmp_path / "p.png"
    assert cv2.imwrite(str(path), recorded["frozen_picture"][:, :, ::-1])
    return path


@pytest.fixture
def options(tmp_path: Path) -> Path:
    path = tmp_path / "options.json"
    path.write_text(json.dumps(OPTIONS))
    return path


def test_segment_gives_the_labels_of_the_exported_graph(run, picture: Path, recorded, tmp_path):
    report = tmp_path / "r.json"
    code, _, err = run(
        *("segment", picture, "--model", GRAPH, "--pad-to", 129, "-o", tmp_path / "o"),
        *("--json", report, "--save-scores", ".npy"),
    )
    assert code == 0
    assert NOT_TOLD in err
    labels = np.array(Image.open(tmp_path / "o" / "labels" / "p.png"))
    assert len(np.unique(labels)) > 2
    assert np.array_equal(labels, recorded["frozen_labels"])
    scores = read_scores(tmp_path / "o" / "scores" / "p.npy")
    assert np.array_equal(scores.argmax(0), labels)
    (picture_report,) = json.loads(report.read_text())["pictures"]
    assert picture_report["input_sizes"] == [[129, 129]]


def test_segment_over_scales_and_with_a_crf(run, picture: Path, tmp_path: Path, options: Path):
    code, out, err = run(
        *("segment", picture, "--model", CHECKPOINT, "--options", options, "-o", tmp_path / "o"),
        *("--scales", 0.5, 1, 1.5, "--flip", "--save-scores", ".npy"),
        *("--crf", "deeplab_v2_resnet101"),
    )
    assert (code, err) == (0, "")
    assert "mean over scales 0.5, 1, 1.5, each also mirrored, refined by a CRF" in out
    net = tensorflow.load(OPTIONS, CHECKPOINT)
    rgb = read_picture(picture)[:, :, ::-1]
    _, mean = tensorflow.predict_picture(net, rgb, scales=(0.5, 1.0, 1.5), flip=True, quirks=False)
    scores = read_scores(tmp_path / "o" / "scores" / "p.npy")
    np.testing.assert_allclose(np.exp(scores), mean, atol=1e-5)
    assert Image.open(tmp_path / "o" / "labels" / "p.png").size == (129, 113)


def test_a_picture_that_does_not_fit_the_crop(run, picture: Path, tmp_path: Path):
    code, _, err = run("segment", picture, "--model", GRAPH, "--pad-to", 120, "-o", tmp_path / "o")
    assert code == 2
    assert "does not fit in the crop; expected at most 120x120, got 113x129" in err


def test_compare_with_what_tensorflow_computed(run, recorded, tmp_path: Path, options: Path):
    """Its logits lie in the file as TensorFlow has them."""
    file, report = tmp_path / "a.h5", tmp_path / "r.json"
    with h5py.File(file, "w") as out:
        out["blobs/input"] = recorded["network_input"]
        out["blobs/logits/merged_logits"] = recorded["network_logits"]
    compare = ("compare", CHECKPOINT, "--options", options, "--activations", file)
    code, out, err = run(*compare, "--json", report, "--html", tmp_path / "r.html")
    assert (code, err) == (0, "")
    assert "2 of 83 blobs compared" in out
    content = json.loads(report.read_text())
    (logits,) = [b for b in content["blobs"] if b["blob"] == "logits/merged_logits"]
    assert 0 < logits["rel"] < 1e-5
    assert "mobilenet_v2, output stride 16" in (tmp_path / "r.html").read_text()
    code, out, _ = run(*compare, "--set", "depth_multiplier=0.2")
    assert (code, out) == (2, "")
    with h5py.File(file, "a") as out:
        out["blobs/ep/nothing"] = np.zeros((1, 5, 7, 8), np.float32)
    code, out, _ = run(*compare)
    assert code == 1
    assert "the network has no such end point" in out


def test_activations_are_end_points_that_compare_equal(run, picture, tmp_path, options: Path):
    file = tmp_path / "a.h5"
    arguments = (CHECKPOINT, "--options", options)
    assert run("activations", *arguments, "--input", picture, "--pad-to", 129, "-o", file)[0] == 0
    with h5py.File(file) as content:
        image = content["blobs/input"][:]
        assert image.shape == (1, 3, 129, 129)
        assert (image[:, :, 113:] == 127.5).all()
        unit = content["blobs/ep/layer_8"]
        assert unit["full"].shape == (1, 6, 9, 9)  # others begin with its key
        assert unit["depthwise_output"].shape == (1, 24, 9, 9)
    code, out, err = run("compare", *arguments, "--activations", file)
    assert (code, err) == (0, "")
    assert "83 of 83 blobs compared" in out
    code, out, _ = run("compare", *arguments, "--activations", file, "--set", "output_stride=8")
    assert code == 1
    assert "blob 'ep/layer_8/depthwise_output': rel inf" in out.replace("\n", "")
    np.save(tmp_path / "x.npy", image[0].transpose(1, 2, 0))
    second = tmp_path / "b.h5"
    assert run("activations", *arguments, "--input", tmp_path / "x.npy", "-o", second)[0] == 0
    with h5py.File(file) as one, h5py.File(second) as other:
        key = "blobs/logits/merged_logits"
        assert np.array_equal(one[key][:], other[key][:])


def test_activations_of_a_network_for_a_crop(run, picture: Path, tmp_path: Path):
    """Its pictures are padded, as those of segment are."""
    for crop in (["--set", "crop_size=[129, 145]"], ["--pad-to", 145]):
        arguments = ("activations", CHECKPOINT, "--input", picture, *crop, "-o", tmp_path / "a.h5")
        code, _, err = run(*arguments)
        assert (code, NOT_TOLD in err) == (0, True)
        with h5py.File(tmp_path / "a.h5") as content:
            assert content["blobs/input"].shape[3] == 145


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["segment", "p.png", "--model", CHECKPOINT, "--pad-to", "129", "-o", "o"], "--pad-to: "),
        (["activations", CHECKPOINT, "--input", "p.png", "--pad-to", "129", "-o", "o"], "--pad-to"),
        (["export", CHECKPOINT, "--input-shape", "image=1x3x101x101", "-o", "m.onnx"], "pictures"),
        (
            ["export", CHECKPOINT, "--input-shape", f"image=1x3x{10**10}x{10**10}", "-o", "m.onnx"],
            "--input-shape: too many bytes",
        ),
    ],
)
def test_the_limit_of_pixels(run, picture: Path, tmp_path: Path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("DEEPLAB_REPRO_MAX_PIXELS", "10000")
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    line = err.splitlines()[-1]
    assert message in line
    assert "too many" in line
    assert [path.name for path in tmp_path.iterdir()] == ["p.png"]


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxscript") is None, reason="onnxscript is not installed")
def test_export(run, tmp_path: Path, options: Path):
    target, report = tmp_path / "m.onnx", tmp_path / "r.json"
    code, _, err = run(
        *("export", CHECKPOINT, "--options", options, "--input-shape", "image=1x3x65x97"),
        *("-o", target, "--json", report),
    )
    assert (code, err) == (0, "")
    content = json.loads(report.read_text())
    if find_spec("onnxruntime") is not None:
        assert content["equal"]
        assert [check["input_shapes"]["image"][0] for check in content["checks"]] == [1, 2]
    assert target.stat().st_size == content["bytes"]


def test_autotune(run, tmp_path: Path, options: Path):
    code, _, err = run(
        *("autotune", CHECKPOINT, "--options", options, "--size", 33, "--no-cache", "--fuse"),
        *("--json", tmp_path / "r.json"),
    )
    assert (code, err) == (0, "")
    assert json.loads((tmp_path / "r.json").read_text())


def test_a_released_checkpoint_by_its_name(run, shelf: Shelf, picture: Path, tmp_path: Path):
    row = {
        "options": OPTIONS,
        "data": "voc2012",
        "files": [{"name": "model.ckpt", "trained_on": "train_aug", "download": "a.tar.gz"}],
        "downloads": {"a.tar.gz": {"sources": []}},
    }
    shelf.put(tiny=row)
    segment = ("segment", picture, "--model", "tiny", "-o", tmp_path / "o")
    code, _, err = run(*segment)
    assert code == 2
    assert "`deeplab-repro weights fetch tiny` before" in err
    assert run("weights", "add", CHECKPOINT)[0] == 0
    code, _, err = run(*segment)
    assert (code, err) == (0, "")
    code, out, _ = run("inspect", "tiny")
    assert code == 0
    assert "MobilenetV2/Conv/weights" in out


def test_options_come_from_the_safetensors(run, picture: Path, tmp_path: Path, options: Path):
    weights = tmp_path / "m.safetensors"
    assert run("convert", CHECKPOINT, "--options", options, "-o", weights)[0] == 0
    code, _, err = run("segment", picture, "--model", weights, "-o", tmp_path / "o")
    assert (code, err) == (0, "")
    plain = tmp_path / "n.safetensors"
    assert run("convert", CHECKPOINT, "-o", plain)[0] == 0
    code, _, err = run("segment", picture, "--model", plain, "-o", tmp_path / "o")
    assert code == 0
    assert NOT_TOLD in err


def test_convert_keeps_what_set_and_network_say(run, picture: Path, tmp_path: Path):
    """The file alone is the network that the checkpoint is with the same words."""
    weights = tmp_path / "m.safetensors"
    words = ("--set", "output_stride=8")
    code, _, err = run("convert", CHECKPOINT, *words, "-o", weights)
    assert (code, err) == (0, "")
    segment = ("segment", picture, "--save-scores", ".npy", "--no-overlays", "-o")
    assert run(*segment, tmp_path / "a", "--model", CHECKPOINT, *words)[0] == 0
    code, _, err = run(*segment, tmp_path / "b", "--model", weights)
    assert (code, err) == (0, "")
    ours, alone = (read_scores(tmp_path / folder / "scores" / "p.npy") for folder in "ab")
    assert np.array_equal(ours, alone)
    assert run(*segment, tmp_path / "c", "--model", weights, "--set", "output_stride=16")[0] == 0
    assert not np.array_equal(ours, read_scores(tmp_path / "c" / "scores" / "p.npy"))

    options = {**OPTIONS, **OF_NETWORK}
    made = tmp_path / "made.ckpt"
    write_checkpoint(made, weights_for(options))
    named = ("--network", "deeplab_v3_mobilenet_v2_aspp")
    changes = [f"--set={name}={json.dumps(value)}" for name, value in options.items()]
    assert run("convert", made, *named, *changes, "-o", weights)[0] == 0
    assert ModelOptions.from_case(read_options(weights) or {}) == ModelOptions.from_case(options)


@pytest.mark.parametrize(
    ("stated", "settings", "expected"),
    [
        ({"options": {"output_stride": 16}}, ["output_stride=8"], {"output_stride": 8}),
        (
            {"options": OF_NETWORK},
            ["output_stride=8"],
            {**OF_NETWORK, "output_stride": 8, "atrous_rates": [12, 24, 36]},
        ),
        (
            {"atrous_rates": 6},
            ["output_stride=8", "num_classes=3"],
            {"atrous_rates": [12], "output_stride": 8, "num_classes": 3},
        ),
        ({"outputs_to_num_classes": {"semantic": 5}}, ["num_classes=3"], {"num_classes": 3}),
        ({"dpc": True}, ["dpc=false"], {}),
    ],
)
def test_set_changes_options_of_every_form(
    run, tmp_path: Path, stated, settings: list[str], expected
):
    given, wanted = ({**OPTIONS, **options} for options in (stated, expected))
    write_checkpoint(tmp_path / "made.ckpt", weights_for(wanted))
    (tmp_path / "o.json").write_text(json.dumps(given))
    weights = tmp_path / "m.safetensors"
    code, _, err = run(
        *("convert", tmp_path / "made.ckpt", "--options", tmp_path / "o.json", "-o", weights),
        *(f"--set={setting}" for setting in settings),
    )
    assert (code, err) == (0, "")
    assert ModelOptions.from_case(read_options(weights) or {}) == ModelOptions.from_case(wanted)


@pytest.mark.parametrize(
    ("stored", "message"),
    [
        ({"output_stride": "a"}, "option output_stride; expected a whole number"),
        ({"atrous_rates": 1.5}, "option atrous_rates; expected whole numbers"),
        ({"options": {"rate": 1}}, "option rate; expected one of"),
        ({"num_classes": 10**9}, "the network of these options has too many bytes of parameters;"),
    ],
)
def test_stored_options_that_cannot_be_used(run, picture: Path, tmp_path: Path, stored, message):
    weights = tmp_path / "m.safetensors"
    write_variables(weights, weights_for(OPTIONS), options={**OPTIONS, **stored})
    segment = ("segment", picture, "--model", weights, "-o", tmp_path / "o")
    for settings in ((), ("--set", "output_stride=8")):
        code, out, err = run(*segment, *settings)
        assert (code, out) == (2, "")
        (line,) = err.splitlines()
        assert f"m.safetensors: {message}" in line


def test_flag_files_may_begin_with_a_comment(run, tmp_path: Path):
    flags = tmp_path / "train.flags"
    flags.write_text(
        "# as it was trained\n// by me\n--depth_multiplier=0.1\n--aspp_convs_filters=32\n"
        "--train_list=a.txt\n--train_logdir=run\n"
    )
    weights = tmp_path / "m.safetensors"
    code, _, err = run("convert", CHECKPOINT, "--options", flags, "-o", weights)
    assert (code, err) == (0, "")
    assert ModelOptions.from_case(read_options(weights) or {}) == ModelOptions.from_case(OPTIONS)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--network", "deeplab_v3plus_resnet18"], "2: variable image_pooling/weights: expected"),
        (["--set", "output_stride=5"], "option output_stride of mobilenet_v2; expected one of"),
        (
            ["--set", "output_stride=8", "-o", "x.ckpt"],
            "x.ckpt: has no place for --options, --network and --set; expected -o OUT.safetensors",
        ),
    ],
)
def test_convert_refuses_options_that_it_cannot_keep(
    run, tmp_path: Path, monkeypatch, arguments, message: str
):
    monkeypatch.chdir(tmp_path)
    code, out, err = run("convert", CHECKPOINT, "-o", "m.safetensors", *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert message in line
    assert not list(tmp_path.iterdir())


def test_what_was_stated_is_not_called_assumed(run, picture: Path, tmp_path: Path):
    segment = ("segment", picture, "--model", CHECKPOINT, "-o", tmp_path / "o")
    code, _, err = run(*segment, "--set", "output_stride=8")
    assert (code, err) == (0, "")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", CAFFE, "--network", "x"], "weights.caffemodel: does not go with --network"),
        (["--model", CAFFE, "--flip"], "does not go with --flip; expected a TensorFlow checkpoint"),
        (["--model", CHECKPOINT, "--mean", "none"], "network.ckpt-2: does not go with --mean"),
        (["--model", CHECKPOINT, "--tile", "65"], "network.ckpt-2: does not go with --tile"),
        (["--model", CHECKPOINT, "--network", "x"], "--network; expected one of deeplab_v3_res"),
        (["--model", CHECKPOINT, "--network", "resnet18"], "did you mean deeplab_v3plus_resnet18?"),
        (
            ["--model", CHECKPOINT, "--options", GRAPH],
            "graph.pb: is no text; expected text in UTF",
        ),
        (["--model", CHECKPOINT, "--options", "no.json"], "no.json: No such file"),
        (["--model", CHECKPOINT, "--set", "output_stride=7"], "option output_stride"),
        (["--model", CHECKPOINT, "--set", "rates=7"], "option rates; expected one of"),
        (
            ["--model", CHECKPOINT, "--network", "deeplab_v3plus_resnet18"],
            "network.ckpt-2: ",
        ),
    ],
)
def test_bad_arguments(run, picture: Path, tmp_path: Path, arguments, message: str):
    code, out, err = run("segment", picture, "-o", tmp_path / "o", *arguments)
    assert (code, out) == (2, "")
    (line,) = err.splitlines()
    assert message in line


def test_options_of_a_reference_case(run, picture: Path, tmp_path: Path):
    """A whole case: what does not belong to the network is left aside."""
    file = tmp_path / "case.json"
    file.write_text(json.dumps({"case": {**OPTIONS, "name": "x", "seed": 6, "input": [1, 65, 97]}}))
    shutil.copy(f"{CHECKPOINT}.index", tmp_path / "moved.ckpt.index")
    shutil.copy(f"{CHECKPOINT}.data-00000-of-00001", tmp_path / "moved.ckpt.data-00000-of-00001")
    segment = ("segment", picture, "-o", tmp_path / "o", "--options", file, "--model")
    assert run(*segment, tmp_path / "moved.ckpt.index")[0] == 0
    assert ModelOptions.from_case(json.loads(file.read_text())["case"]).depth_multiplier == 0.1
    file.write_text("[")
    code, _, err = run(*segment, tmp_path / "moved.ckpt")
    assert (code, "case.json: is no JSON" in err) == (2, True)
    file.write_text("[]")
    code, _, err = run(*segment, tmp_path / "moved.ckpt")
    assert (code, "expected an object with options" in err) == (2, True)
