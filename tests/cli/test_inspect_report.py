"""`inspect`: memory, the graph as a picture, and two networks side by side."""

from __future__ import annotations

import json
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from prototxt_import import read_model, write_weights

ROOT = Path(__file__).parents[2]
DATA = ROOT / "tests" / "data" / "caffe"
V1 = DATA / "largefov_v1_w8"
V2 = DATA / "largefov_v2_w8"


def test_padding_and_memory(run, tmp_path):
    report = tmp_path / "r.json"
    code, out, _ = run("inspect", V1 / "deploy.prototxt", "--json", report)
    assert code == 0
    assert "without those of padding" in out
    assert "memory: weights 1.3 MB, blobs at most 0.8 MB" in out
    content = json.loads(report.read_text())
    rows = {row["name"]: row for row in content["layers"]}
    # 13 x 13 at rate 12: the middle tap on every pixel, the others on a line or a corner.
    assert rows["fc6"]["useful_multiply_adds"] == 64 * 128 * (13 * 13 + 4 * 13 + 4)
    assert content["memory"]["weights"] == 4 * 323_645
    assert content["useful_multiply_adds"] < content["multiply_adds"]


def test_svg(run, tmp_path):
    picture = tmp_path / "g.svg"
    code, out, _ = run("inspect", V1 / "weights.caffemodel", "--svg", picture)
    assert code == 0
    assert f"wrote {picture}" in out
    texts = [t.text for t in ET.parse(picture).iter("{http://www.w3.org/2000/svg}text")]
    assert "Convolution 3x3 rate 12, 128 + ReLU + Dropout" in texts


def test_two_networks(run, tmp_path):
    report = tmp_path / "r.json"
    code, out, _ = run(
        "inspect", V1 / "weights.caffemodel", V2 / "weights.caffemodel", "--json", report
    )
    assert code == 0
    assert "weight_filler.type: xavier -> msra" in out
    assert "(16 layers)" in out
    assert "weights: 32 blobs differ, 0 are equal" in out
    content = json.loads(report.read_text())
    assert content["different"] is True
    assert len(content["weights"]) == 32
    assert {entry["what"] for entry in content["parameters"]} == {
        "convolution_param.weight_filler.type"
    }


def test_a_model_and_itself_in_another_format(run, tmp_path):
    copy = tmp_path / "copy.safetensors"
    model = read_model(V1 / "weights.caffemodel")
    write_weights(copy, model.weights, model.raw, filtered=model.filtered)
    code, out, _ = run("inspect", V1 / "weights.caffemodel", copy)
    assert code == 0
    assert "weights: all 32 blobs that both have are equal" in out
    assert "no difference; 40 layers are in both" in out


def test_weights_alone_belong_to_the_first_network(run, tmp_path):
    bare = tmp_path / "bare.caffemodel.h5"
    write_weights(bare, read_model(V1 / "weights.caffemodel").weights)
    code, out, _ = run("inspect", V1 / "weights.caffemodel", bare)
    assert code == 0
    assert "no difference" in out


@pytest.mark.parametrize(
    ("arguments", "parts"),
    [
        ([V1 / "deploy.prototxt", "none.prototxt"], ["none.prototxt", "No such file"]),
        ([V1 / "deploy.prototxt", V2 / "deploy.prototxt", "--svg", "x.svg"], ["--svg"]),
        ([V1 / "deploy.prototxt", V2 / "deploy.prototxt", "--input-shape", "x=1x3x9x9"], ["'x'"]),
        (
            [V1 / "deploy.prototxt", "--svg", "no/such/folder/x.svg"],
            ["no/such/folder: there is no such folder"],
        ),
    ],
)
def test_bad_input(run, arguments, parts, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    code, _, err = run("inspect", *arguments)
    assert code == 2
    assert len(err.strip().splitlines()) == 1
    assert all(part in err for part in parts)
    assert not list(tmp_path.iterdir())


def test_svg_of_weights_alone(run, tmp_path):
    bare = tmp_path / "bare.caffemodel.h5"
    write_weights(bare, read_model(V1 / "weights.caffemodel").weights)
    code, _, err = run("inspect", bare, "--svg", tmp_path / "g.svg")
    assert code == 2
    assert "holds weights but no network" in err


@pytest.mark.slow
def test_inspect_needs_no_torch(tmp_path):
    """It must come up at once, with the picture and with two networks."""
    first, second = (str(folder / "weights.caffemodel") for folder in (V1, V2))
    calls = [["inspect", first, "--svg", str(tmp_path / "g.svg")], ["inspect", first, second]]
    code = (
        "import sys, deeplab_repro.cli as cli\n"
        f"for call in {calls!r}:\n"
        "    try: cli.main(call)\n"
        "    except SystemExit as stop: assert not stop.code\n"
        "assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT, capture_output=True)
