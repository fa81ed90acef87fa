"""``convert`` and ``inspect`` on TensorFlow's checkpoints and frozen graphs."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.numpy import save_file

from tensorflow_import import list_variables, read_variables

STORED = Path(__file__).parents[1] / "data" / "tensorflow" / "checkpoints"
PARTS = ("index", "data-00000-of-00001")
BUNDLED = Path(__file__).parents[2] / "weights" / "largefov_v1_w8" / "weights.caffemodel"


def test_a_checkpoint_there_and_back(run, tmp_path):
    whole, back = tmp_path / "small.safetensors", tmp_path / "back.ckpt"
    code, out, _ = run("convert", STORED / "small.ckpt", "-o", whole, "--json", tmp_path / "r.json")
    assert code == 0
    assert "TensorFlow checkpoint" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["variables"] == 59
    assert report["types"]["bfloat16"] == report["types"]["string"] == 1
    assert report["left_out"] == []
    assert run("convert", whole, "-o", back)[0] == 0
    for part in PARTS:
        assert Path(f"{back}.{part}").read_bytes() == (STORED / f"small.ckpt.{part}").read_bytes()


def test_to_numpy_and_torch(run, tmp_path):
    for name in ("x.npz", "x.pt", "x.ckpt-2.pt"):
        report = tmp_path / "r.json"
        arguments = ("convert", STORED / "small.ckpt", "-o", tmp_path / name, "--json", report)
        code, out, _ = run(*arguments)
        assert code == 0
        assert json.loads(report.read_text())["bytes"] == (tmp_path / name).stat().st_size
        assert "left out" in out
        assert "strings" in out
    given = read_variables(STORED / "small.ckpt")
    del given["strings"]
    arrays = np.load(tmp_path / "x.npz")
    content = torch.load(tmp_path / "x.pt", weights_only=True)
    assert content["layout"] == "tensorflow"
    assert set(arrays.files) == set(content["variables"]) == set(given)
    for name, array in given.items():
        tensor = content["variables"][name]
        if name == "brain":
            assert tensor.dtype == torch.bfloat16
            tensor = tensor.float()
        np.testing.assert_array_equal(arrays[name], array)
        np.testing.assert_array_equal(tensor.numpy(), array)
        assert arrays[name].dtype == tensor.numpy().dtype == array.dtype


def test_without_an_output_it_lies_beside_the_model(run, tmp_path):
    for part in PARTS:
        shutil.copy(STORED / f"partitioned.ckpt.{part}", tmp_path)
    (tmp_path / "checkpoint").write_text('model_checkpoint_path: "partitioned.ckpt"')
    assert run("convert", tmp_path)[0] == 0
    assert read_variables(tmp_path / "partitioned.ckpt.safetensors")["plain"].shape == (6,)
    shutil.copy(STORED / "frozen_inference_graph.pb", tmp_path / "net.pb")
    assert run("convert", tmp_path / "net.pb")[0] == 0
    assert len(list_variables(tmp_path / "net.safetensors")) == 272


def test_a_file_that_does_not_say_whose_it_is(run, tmp_path):
    """Only variables can become a checkpoint."""
    save_file({"a/weights": np.ones(2, np.float32)}, tmp_path / "x.safetensors")
    assert run("convert", tmp_path / "x.safetensors", "-o", tmp_path / "x.index")[0] == 0
    assert list(read_variables(tmp_path / "x")) == ["a/weights"]


def test_inspect_a_checkpoint(run, tmp_path):
    code, out, _ = run("inspect", STORED / "network.ckpt-2", "--json", tmp_path / "r.json")
    assert code == 0
    assert "step 2" in out
    assert "logits/semantic/weights" in out
    assert "1x1x32x21" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["step"] == 2
    assert len(report["variables"]) == 437
    assert report["variables"]["logits/semantic/weights"] == {
        "dtype": "float32",
        "shape": [1, 1, 32, 21],
    }
    momentum = [name for name in report["variables"] if name.endswith("/Momentum")]
    assert report["slots"] == len(momentum) > 100


def test_inspect_a_frozen_graph(run, tmp_path):
    graph = STORED / "frozen_inference_graph.pb"
    code, out, _ = run("inspect", graph, "--json", tmp_path / "r.json")
    assert code == 0
    assert "input ImageTensor: 1x?x?x3" in out
    assert "outputs: SemanticPredictions, SemanticProbabilities" in out
    report = json.loads((tmp_path / "r.json").read_text())
    assert report["step"] is None
    assert report["graph"]["nodes"] == 953
    assert report["graph"]["ops"]["Conv2D"] == 38
    assert report["parameters"] == report["values"] == 281_335


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["convert", STORED / "small.ckpt", "-o", "x.caffemodel"], "unknown kind of output"),
        (["convert", STORED / "small.ckpt", "--dialect", "dl1"], "does not go with --dialect"),
        (["convert", STORED / "small.ckpt", "--network", "x"], "the variables hold no classifier"),
        (["convert", STORED / "network.ckpt-2", "--network", "x"], "--network; expected one of"),
        (["convert", "gone.ckpt", "-o", "y.ckpt"], "gone.ckpt: no such file, and no checkpoint"),
        (["convert", "gone.pb"], "gone.pb: No such file"),
        (["convert", "gone.index"], "gone.index: No such file"),
        (["convert", BUNDLED, "-o", "y.ckpt"], "unknown kind of output"),
        (["inspect", STORED / "small.ckpt", BUNDLED], "does not go with a second model"),
        (["inspect", STORED / "small.ckpt", "--phase", "TEST"], "does not go with --phase"),
        (["inspect", STORED / "small.ckpt", "--set", "a=b"], "does not go with --set"),
        (["inspect", STORED / "small.ckpt", "--svg", "x.svg"], "does not go with --svg"),
        (["inspect", STORED], "is a folder without the file 'checkpoint'"),
    ],
)
def test_what_does_not_go(run, tmp_path, monkeypatch, arguments, problem):
    monkeypatch.chdir(tmp_path)
    code, _, error = run(*arguments)
    assert code == 2
    assert problem in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []


def test_a_model_does_not_replace_itself(run, tmp_path):
    for part in PARTS:
        shutil.copy(STORED / f"small.ckpt.{part}", tmp_path)
    for output in ("small.ckpt", "small.ckpt.index"):
        code, _, error = run("convert", tmp_path / "small.ckpt", "-o", tmp_path / output)
        assert code == 2
        assert "would replace the model itself" in error
    run("convert", tmp_path / "small.ckpt", "-o", tmp_path / "x.safetensors")
    code, _, error = run("convert", tmp_path / "x.safetensors")
    assert code == 2
    assert "is a .safetensors already" in error
