"""The command line as people call it: what it prints, writes and answers."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.caffe.graph import GraphModule
from deeplab_repro.cli import common
from deeplab_repro.ops import ACCURACIES, ALGORITHMS
from prototxt_import import read_weights

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "caffe"
BUNDLED = ROOT / "weights" / "largefov_v1_w8"
MODEL = BUNDLED / "weights.caffemodel"
CAFFE = BUNDLED / "activations.h5"


def refused(result, *parts):
    """Bad input: exit code 2, one line on stderr that says all of ``parts``."""
    code, _, err = result
    assert code == 2
    assert len(err.strip().splitlines()) == 1, err
    assert err.startswith("deeplab-repro: ")
    for part in parts:
        assert str(part) in err


# ---------------------------------------------------------------- compare


def test_compare_equal(run, tmp_path):
    report = tmp_path / "r.json"
    code, out, _ = run("compare", MODEL, "--activations", CAFFE, "--json", report)
    assert code == 0
    assert "equal: 24 blobs" in out
    assert "Convolution+ReLU" in out
    content = json.loads(report.read_text())
    assert content["equal"] is True
    assert content["first_difference"] is None
    assert all(blob["rel"] <= 1e-5 for blob in content["blobs"])


@pytest.mark.parametrize("algorithm", ["im2col", "interlace"])
@pytest.mark.slow
def test_compare_and_activations_by_an_algorithm(run, tmp_path, monkeypatch, algorithm):
    used = []
    monkeypatch.setattr(
        GraphModule,
        "set_algorithm",
        lambda net, name, original=GraphModule.set_algorithm: (
            used.append(name),
            original(net, name),
        ),
    )
    out = tmp_path / "out.h5"
    code, _, _ = run("activations", MODEL, "--input", CAFFE, "-o", out, "--algorithm", algorithm)
    assert code == 0
    code, text, _ = run("compare", MODEL, "--activations", out, "--algorithm", algorithm)
    assert code == 0
    assert "worst rel 0.0e+00" in text
    assert used == [algorithm, algorithm]
    code, _, _ = run("compare", MODEL, "--activations", CAFFE, "--algorithm", algorithm)
    assert code == 0
    refused(run("compare", MODEL, "--activations", CAFFE, "--algorithm", "fft"), "'fft'")


@pytest.mark.slow
def test_compare_and_activations_by_an_accuracy(run, tmp_path, monkeypatch):
    used = []
    original = GraphModule.set_accuracy
    monkeypatch.setattr(
        GraphModule,
        "set_accuracy",
        lambda net, accuracy: (used.append(accuracy), original(net, accuracy)),
    )
    fast = ("--accuracy", "fast", "--algorithm", "winograd")
    out = tmp_path / "out.h5"
    assert run("activations", MODEL, "--input", CAFFE, "-o", out, *fast)[0] == 0
    code, text, _ = run("compare", MODEL, "--activations", out, *fast)
    assert code == 0
    assert "worst rel 0.0e+00" in text
    assert used == ["fast", "fast"]
    refused(run("compare", MODEL, "--activations", CAFFE, "--accuracy", "quick"), "'quick'")


def test_the_algorithms_are_the_ops():
    assert ("auto", *ALGORITHMS) == common.ALGORITHMS
    assert ACCURACIES == common.ACCURACIES


def spoilt(tmp_path, blob, change):
    path = tmp_path / "spoilt.h5"
    with h5py.File(CAFFE) as source, h5py.File(path, "w") as target:
        source.copy("blobs", target)
        values = target["blobs"][blob][()]
        del target["blobs"][blob]
        changed = change(values)
        if changed is not None:
            target["blobs"][blob] = changed
    return path


@pytest.mark.parametrize(
    "change",
    [lambda v: v + 1e-2 * np.abs(v).max(), lambda v: v * np.nan, lambda v: v[..., :-1]],
    ids=["shifted", "NaN", "cropped"],
)
def test_compare_names_the_first_layer_that_differs(run, tmp_path, change):
    path = spoilt(tmp_path, "conv4_2", change)
    report = tmp_path / "r.json"
    code, out, _ = run("compare", MODEL, "--activations", path, "--json", report)
    assert code == 1
    assert "not equal: 1 of 24 blobs differ" in out
    assert "the first is layer 'conv4_2', blob 'conv4_2'" in out
    first = json.loads(report.read_text())["first_difference"]
    assert first == {"layer": "conv4_2", "blob": "conv4_2"}


def test_compare_wrong_input_shows_at_the_first_layer(run, tmp_path):
    path = spoilt(tmp_path, "data", lambda v: v[:, ::-1])  # RGB instead of BGR
    code, out, _ = run("compare", MODEL, "--activations", path)
    assert code == 1
    assert "the first is layer 'conv1_1'" in out


def test_compare_says_what_it_could_not_compare(run, tmp_path):
    missing = spoilt(tmp_path, "conv4_2", lambda v: None)
    report = tmp_path / "r.json"
    code, out, _ = run("compare", MODEL, "--activations", missing, "--json", report)
    assert code == 0
    assert "not recorded" in out
    assert "23 of 24 blobs compared" in out
    content = json.loads(report.read_text())
    assert (content["blobs_compared"], content["blobs_of_network"]) == (23, 24)
    unknown = spoilt(tmp_path, "conv4_2", lambda v: v)
    with h5py.File(unknown, "r+") as file:
        file["blobs/somewhere_else"] = np.zeros(3, np.float32)
        file["blobs/conv4_2_relu4_2_0_split_0"] = np.zeros(3, np.float32)  # Caffe's own
    code, out, _ = run("compare", MODEL, "--activations", unknown)
    assert code == 1
    assert "blob 'somewhere_else'" in out
    assert "split_0" not in out


def test_compare_needs_something_to_compare(run, tmp_path):
    path = tmp_path / "input_only.h5"
    with h5py.File(CAFFE) as source, h5py.File(path, "w") as target:
        target["blobs/data"] = source["blobs/data"][()]
    refused(run("compare", MODEL, "--activations", path), path, "no blob")


# ---------------------------------------------------------------- convert


@pytest.mark.parametrize("ending", [".safetensors", ".caffemodel", ".caffemodel.h5"])
def test_convert_bit_for_bit(run, tmp_path, ending):
    out = tmp_path / f"out{ending}"
    code, text, _ = run("convert", MODEL, "-o", out, "--json", tmp_path / "r.json")
    assert code == 0
    assert "dl1" in text
    ours, theirs = read_weights(out), read_weights(MODEL)
    assert {n: [b.tobytes() for b in bs] for n, bs in ours.items()} == {
        n: [b.tobytes() for b in bs] for n, bs in theirs.items()
    }
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["dialect"] == "dl1"
    assert report["values"] == 323_645
    assert any("yes or no" in line for line in report["evidence"])


@pytest.mark.slow
def test_convert_to_pt(run, tmp_path):
    out = tmp_path / "out.pt"
    source = DATA / "resnet101_msc_w16" / "weights.caffemodel"
    assert run("convert", source, "-o", out)[0] == 0
    content = torch.load(out, weights_only=True)
    assert content["dialect"] == "dl2"
    weights = read_weights(source)
    for layer, blobs in weights.items():
        for i, blob in enumerate(blobs):
            assert torch.equal(content["state_dict"][f"{layer}.{i}"], torch.from_numpy(blob))
    assert out.stat().st_size < 0.7 * source.stat().st_size  # shared copies once


def test_convert_without_o_and_then_use_it(run, tmp_path):
    model = tmp_path / "m.caffemodel"
    model.write_bytes(MODEL.read_bytes())
    assert run("convert", model)[0] == 0
    assert run("compare", tmp_path / "m.safetensors", "--activations", CAFFE)[0] == 0
    assert run("convert", tmp_path / "m.safetensors", "-o", tmp_path / "again.caffemodel")[0] == 0
    assert run("compare", tmp_path / "again.caffemodel", "--activations", CAFFE)[0] == 0


def test_convert_takes_the_prototxt_beside_the_weights(run, tmp_path):
    bare = tmp_path / "bare.caffemodel.h5"
    assert run("convert", MODEL, "-o", bare)[0] == 0
    prototxt = DATA / "largefov_v1_w8" / "deploy.prototxt"
    out = tmp_path / "whole.safetensors"
    assert run("convert", bare, "--prototxt", prototxt, "-o", out)[0] == 0
    assert run("compare", out, "--activations", CAFFE)[0] == 0
    net = load_caffe(out)
    assert net.net.inputs["data"].shape == (1, 3, 97, 97)


def test_convert_says_what_does_not_fit(run, tmp_path):
    prototxt = DATA / "largefov_v2_w8" / "deploy.prototxt"
    text = prototxt.read_text().replace('"fc7"', '"fc7_new"')
    changed = tmp_path / "changed.prototxt"
    changed.write_text(text)
    source = DATA / "largefov_v2_w8" / "weights.caffemodel"
    code, out, _ = run("convert", source, "--prototxt", changed, "-o", tmp_path / "o.safetensors")
    assert code == 0
    assert "not in the network" in out
    assert "without weights in the file" in out
    wrong = DATA / "vgg16_aspp_l_w8" / "deploy.prototxt"
    changed.write_text(wrong.read_text().replace("num_output: 8", "num_output: 16", 1))
    result = run("convert", source, "--prototxt", changed, "-o", tmp_path / "o.safetensors")
    refused(result, source, "layer 'conv1_1'", "expected 16x3x3x3, got 8x3x3x3")


# ---------------------------------------------------------------- activations


def test_activations_of_the_picture_are_caffes(run, tmp_path):
    out = tmp_path / "a.h5"
    code, _, _ = run("activations", MODEL, "--input", BUNDLED / "picture.png", "-o", out)
    assert code == 0
    with h5py.File(out) as ours, h5py.File(CAFFE) as caffe:
        assert set(ours["blobs"]) == set(caffe["blobs"])
        for name in caffe["blobs"]:
            a, b = ours["blobs"][name][()], caffe["blobs"][name][()]
            assert a.dtype == np.float32
            assert np.linalg.norm(a - b) <= 1e-5 * np.linalg.norm(b)
    # and what it wrote is what compare reads
    assert run("compare", MODEL, "--activations", out)[0] == 0


def first_input(path):
    with h5py.File(path) as file:
        return file["blobs/data"][()]


def test_a_pictures_preparation(run, tmp_path):
    picture = np.random.default_rng(0).integers(0, 256, (40, 60, 3), np.uint8)
    cv2.imwrite(str(tmp_path / "p.png"), picture)
    mean = np.float32([104.008, 116.669, 122.675])

    def prepared(*options):
        out = tmp_path / "a.h5"
        assert run("activations", MODEL, "--input", tmp_path / "p.png", "-o", out, *options)[0] == 0
        return first_input(out)

    whole = (picture - mean).transpose(2, 0, 1)[None]
    assert np.array_equal(prepared(), whole)
    assert np.array_equal(prepared("--mean", "none"), picture.transpose(2, 0, 1)[None])
    assert np.array_equal(
        prepared("--mean", "1,2,3", "--scale", "0.5"),
        (picture - np.float32([1, 2, 3])).transpose(2, 0, 1)[None] * np.float32(0.5),
    )
    padded = prepared("--pad-to", "65")
    assert padded.shape == (1, 3, 65, 65)
    assert np.array_equal(padded[:, :, :40, :60], whole)
    assert not padded[:, :, 40:].any()
    assert not padded[:, :, :, 60:].any()
    small = cv2.resize(picture, (33, 17), interpolation=cv2.INTER_LINEAR)
    assert np.array_equal(prepared("--resize", "17x33"), (small - mean).transpose(2, 0, 1)[None])
    np.save(tmp_path / "mean.npy", np.full((3, 40, 60), 7, np.float32))
    assert np.array_equal(
        prepared("--mean", tmp_path / "mean.npy"), picture.transpose(2, 0, 1)[None] - 7.0
    )


def test_inputs_from_arrays(run, tmp_path):
    x = np.random.default_rng(0).normal(size=(3, 33, 41)).astype(np.float32)
    np.save(tmp_path / "x.npy", x)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["blobs/data"] = x[None]
        file["blobs/ignored"] = x
    for name in ("x.npy", "x.h5"):
        out = tmp_path / "a.h5"
        assert run("activations", MODEL, "--input", tmp_path / name, "-o", out)[0] == 0
        assert np.array_equal(first_input(out), x[None])


def test_blob_names_with_a_slash_make_groups(run, tmp_path):
    (tmp_path / "n.prototxt").write_text(
        'input: "data" input_dim: 1 input_dim: 3 input_dim: 4 input_dim: 4 '
        'layer { name: "a" type: "AbsVal" bottom: "data" top: "in/side" }'
    )
    np.save(tmp_path / "x.npy", np.full((1, 3, 4, 4), -1, np.float32))
    out = tmp_path / "a.h5"
    result = run("activations", tmp_path / "n.prototxt", "--input", tmp_path / "x.npy", "-o", out)
    assert result[0] == 0
    with h5py.File(out) as file:
        assert file["blobs"]["in"]["side"][()].min() == 1


# ---------------------------------------------------------------- inspect, doctor


def test_inspect(run, tmp_path):
    report = tmp_path / "r.json"
    prototxt = DATA / "largefov_v1_w8" / "deploy.prototxt"
    code, out, _ = run("inspect", prototxt, "--json", report)
    assert code == 0
    assert "323,645 parameters" in out
    rows = {row["name"]: row for row in json.loads(report.read_text())["layers"]}
    assert rows["fc6"]["rate"] == [12, 12]
    assert rows["fc6"]["tops"] == {"fc6": [1, 128, 13, 13]}
    assert rows["fc6"]["multiply_adds"] == 128 * 64 * 9 * 13 * 13
    assert rows["conv1_2"]["receptive_field"] == [5, 5]
    assert rows["pool1"]["receptive_field"] == [7, 7]
    assert rows["pool3"]["effective_stride"] == [8, 8]


def test_inspect_weights_alone(run, tmp_path):
    run("convert", MODEL, "-o", tmp_path / "w.caffemodel.h5")
    code, out, _ = run("inspect", tmp_path / "w.caffemodel.h5")
    assert code == 0
    assert "weights without a network" in out
    assert "128x64x3x3" in out


def test_placeholders(run, tmp_path):
    path = tmp_path / "p.prototxt"
    path.write_text('layer { name: "${A}" type: "DummyData" top: "x" dummy_data_param { num: 1 '
                    "channels: ${B} height: 1 width: 1 } }")  # fmt: skip
    refused(run("inspect", path), path, "${A}", "--set A=VALUE")
    code, out, _ = run("inspect", path, "--set", "A=source", "--set", "B=7")
    assert code == 0
    assert "source" in out
    assert "1x7x1x1" in out


def test_a_setting_that_fills_no_placeholder(run, tmp_path):
    path, other = tmp_path / "p.prototxt", tmp_path / "q.prototxt"
    text = (
        'layer { name: "${A}" type: "DummyData" top: "x" '
        "dummy_data_param { shape { dim: [1, 2, 3, 4] } } }"
    )
    path.write_text(f"# ${{IN_A_COMMENT}}\n{text}")
    other.write_text(text.replace("A", "B"))
    first, second = ("--set", "A=x"), ("--set", "B=7")
    message = "p.prototxt: has no placeholder ${B}; expected --set of A, got B=7"
    refused(run("inspect", path, *first, *second), message)
    refused(run("inspect", path, *first, "--set", "IN_A_COMMENT=x"), "no placeholder ${IN_A_COMM")
    assert run("inspect", path, other, *first, *second)[0] == 0  # each is of one of them
    refused(run("inspect", path, other, *first, *second, "--set", "C=1"), "--set of A or B, got C")
    # The network in a caffemodel has no placeholder any more.
    message = f"{MODEL}: has no placeholder ${{output_stride}}; expected no --set: it has no"
    segment = ("segment", BUNDLED / "picture.png", "--model", MODEL, "-o", tmp_path / "o")
    for command in (("inspect", MODEL), segment, ("convert", MODEL)):
        refused(run(*command, "--set", "output_stride=8"), message)


def test_doctor(run, tmp_path):
    code, out, _ = run("doctor", "--json", tmp_path / "d.json")
    assert code == 0
    assert torch.__version__ in out
    assert json.loads((tmp_path / "d.json").read_text())


# ---------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    "arguments",
    [
        ["inspect", "no/such/file.caffemodel"],
        ["inspect", ROOT],
        ["compare", MODEL, "--activations", "no/such/file.h5"],
        ["compare", MODEL, "--activations", MODEL],
        ["activations", MODEL, "--input", MODEL, "-o", "x.h5"],
        ["activations", MODEL, "--input", BUNDLED / "picture.png", "-o", "no/such/folder/x.h5"],
        ["activations", MODEL, "--input", BUNDLED / "picture.png", "-o", "x.h5", "--pad-to", "8"],
        ["activations", MODEL, "--input", BUNDLED / "picture.png", "-o", "x.h5", "--resize", "8"],
        ["activations", MODEL, "--input", BUNDLED / "picture.png", "-o", "x.h5", "--mean", "1,x,3"],
        ["convert", MODEL, "-o", "x.onnx"],
        ["convert", MODEL, "-o", MODEL],
        ["convert", MODEL, "--dialect", "ssd"],
        ["convert", MODEL, "--set", "NAME"],
        ["convert", DATA / "largefov_v1_w8" / "deploy.prototxt", "-o", "x.safetensors"],
        ["convert"],
        ["nonsense"],
        ["inspect", DATA / "largefov_v1_w8" / "deploy.prototxt", "--input-shape", "data=axb"],
        ["inspect", DATA / "largefov_v1_w8" / "deploy.prototxt", "--input-shape", "x=1x3x9x9"],
    ],
    ids=lambda arguments: " ".join(str(getattr(a, "name", a)) for a in arguments),
)
def test_bad_input_is_one_line_and_exit_code_2(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(run(*arguments))
    assert not list(tmp_path.iterdir())


def test_help_and_version_start_fast():
    """No torch behind --help: it must come up at once."""
    code = (
        "import sys, deeplab_repro.cli as cli\n"
        "try: cli.main(['--help'])\n"
        "except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules and 'h5py' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
