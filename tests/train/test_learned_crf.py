"""A network and a dense CRF behind it, trained together: CRF as RNN, as prototxt and plain."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplab_repro import load_caffe
from deeplab_repro.cli import main
from deeplab_repro.crf import CRFParams, DenseCRF
from deeplab_repro.data.synthetic import synthesize
from deeplab_repro.models import NETWORKS, DeepLab
from deeplab_repro.models.layers import resize
from deeplab_repro.models.losses import LossRule
from deeplab_repro.train import Solver
from prototxt_import import CaffeImportError, read_weights
from tests.train.runs import weights

DATA = """
layer { name: "data" type: "ImageSegData" top: "data" top: "label" top: "data_dim"
  transform_param { crop_size: 65 mean_value: 104 mean_value: 117 mean_value: 123 }
  image_data_param { root_folder: "drawn" source: "drawn/ImageSets/SegmentationAug/train.txt"
    batch_size: 2 label_type: PIXEL } }
"""
CRF = """
layer { name: "crf" type: "DenseCRF" bottom: "up" bottom: "data_dim" bottom: "data" top: "log_q"
  param { lr_mult: 3 decay_mult: 0 } param { lr_mult: 5 decay_mult: 0 } param { decay_mult: 0 }
  dense_crf_param { max_iter: 3 output_probability: false
    pos_w: 2 pos_xy_std: 2 bi_w: 3 bi_xy_std: 20 bi_rgb_std: 8 } }
"""
NET = f"""name: "crf_as_rnn" {DATA}
layer {{ name: "score" type: "Convolution" bottom: "data" top: "score"
  param {{ lr_mult: 0.001 }} param {{ lr_mult: 20 }}
  convolution_param {{ num_output: 21 kernel_size: 9 stride: 4 pad: 4
    weight_filler {{ type: "gaussian" std: 0.0005 }} }} }}
layer {{ name: "up" type: "Interp" bottom: "score" top: "up" interp_param {{ zoom_factor: 4 }} }}
{CRF}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "log_q" bottom: "label" top: "loss"
  loss_param {{ ignore_label: 255 }} }}
layer {{ name: "accuracy" type: "SegAccuracy" bottom: "log_q" bottom: "label" top: "accuracy"
  include {{ phase: TEST }} seg_accuracy_param {{ ignore_label: 255 }} }}
"""
SOLVER = """net: "net.prototxt" test_iter: 1 test_interval: 8 test_initialization: false
type: "Adam" base_lr: 0.005 lr_policy: "fixed" momentum: 0.9 momentum2: 0.999 weight_decay: 0.0005
max_iter: 8 display: 1 snapshot: 4 snapshot_prefix: "snap" random_seed: 1 solver_mode: CPU
"""


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    synthesize("drawn", pictures=10, workers=1)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


def run(*arguments: str) -> int:
    with pytest.raises(SystemExit) as caught:
        main(list(arguments))
    assert isinstance(caught.value.code, int)
    return caught.value.code


def train(*arguments: str) -> int:
    return run("train", "--solver", "solver.prototxt", "--workers", "0", *arguments)


@pytest.mark.slow
def test_crf_as_rnn_end_to_end(capsys: pytest.CaptureFixture[str]) -> None:
    """Both learn, the loss falls, a run that goes on ends with the same bits, files hold it all."""
    assert train() == 0
    out = capsys.readouterr().out
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in out.splitlines()
              if line.startswith("iteration ")]  # fmt: skip
    assert sum(losses[-2:]) < sum(losses[:2]) / 2
    first = weights(Solver("solver.prototxt"))
    final = read_weights("snap_iter_8.caffemodel")
    assert [blob.shape for blob in final["crf"]] == [(2,), (3,), (21, 21)]
    flat = {f"{layer}/{i}": blob for layer, own in final.items() for i, blob in enumerate(own)}
    assert flat.keys() == first.keys()
    assert not any(np.array_equal(flat[name], first[name]) for name in flat)
    np.testing.assert_allclose(np.exp(first["crf/1"]), [2, 20, 8], rtol=1e-6)

    Path("snap_iter_8.caffemodel").rename("whole.caffemodel")
    assert train("--snapshot", "snap_iter_4.solverstate") == 0
    again = read_weights("snap_iter_8.caffemodel")
    assert all(np.array_equal(a, b) for n in final for a, b in zip(final[n], again[n], strict=True))

    # The file alone is the network, with its CRF; and so is each form that it is converted into.
    net = load_caffe("whole.caffemodel")
    inputs = {
        "data": torch.rand(1, 3, 65, 65) * 200 - 100,
        "data_dim": torch.full((1, 1, 1, 2), 65.0),
    }
    log_q = net.blobs(**inputs)["log_q"]
    for ending in (".safetensors", ".caffemodel.h5", ".caffemodel"):
        other = f"other{ending}"
        assert run("convert", "whole.caffemodel", "-o", other) == 0
        same = load_caffe("net.prototxt", other)
        assert torch.equal(same.blobs(**inputs)["log_q"], log_q)
    learned = net.layers.crf.crf_params()
    assert learned.iterations == 3
    assert learned.weights == tuple(final["crf"][0].tolist())
    assert learned.bi_rgb_std == pytest.approx(np.exp(final["crf"][1][2]))


def test_mistakes_are_told_in_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    Path("net.prototxt").write_text(NET.replace("dense_crf_param", "param {} dense_crf_param", 1))
    assert train() == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert "layer 'crf': has more param entries than parameters; expected at most 3, got 4" in line
    # What was learned does not fit a layer that learns nothing, which would compute something else.
    Path("net.prototxt").write_text(NET)
    weights_file = Solver("solver.prototxt").snapshot().with_suffix(".caffemodel")
    Path("plain.prototxt").write_text(re.sub("\n  param .*", "", NET))
    with pytest.raises(CaffeImportError, match="layer 'crf': the weights have another number of"):
        load_caffe("plain.prototxt", weights_file)


class CRFasRNN(DeepLab):
    """DeepLab-LargeFOV with a CRF behind its scores, at the size of the picture."""

    def __init__(self) -> None:
        super().__init__(NETWORKS["largefov"].architecture, width=32)
        params = CRFParams(3, 2, 2, 3, 20, 8)
        self.crf = DenseCRF(params, learn=["weights", "stds"], expnorm="exact")
        self.rules = (LossRule("loss", shrink=1),)

    def forward(self, x: Tensor) -> Any:
        log_q = self.crf(-resize(self.scores(x), self.zoom), x, output="log")
        return (log_q,) if self.training else log_q


@pytest.mark.slow
def test_a_plain_model_with_a_crf_inside() -> None:
    """It trains on the prototxt's data layer, and goes on from its snapshot as if unstopped."""
    torch.manual_seed(0)
    model = CRFasRNN()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    solver = Solver("solver.prototxt", model=model)
    solver.step(4)
    after = model.state_dict()
    changed = {name for name in after if not torch.equal(after[name], state[name])}
    assert {"crf.weights", "crf.log_stds"} < changed
    assert [param.layer for param in solver.net.learnable_params][-2:] == ["crf", "crf"]
    solver.step(4)
    other = Solver("solver.prototxt", model=CRFasRNN(), snapshot="snap_iter_4.solverstate")
    other.step(4)
    assert other.loss == solver.loss
    found, expected = weights(other), weights(solver)
    assert found.keys() == expected.keys()
    assert all(np.array_equal(found[name], expected[name]) for name in found)
    # The prototxt's layer takes what the model learned.
    net = Solver("solver.prototxt").net
    net.load_weights({"crf": [*solver.net.weights()["crf"], -np.eye(21, dtype=np.float32)]})
    assert net.layers.crf.crf_params() == model.crf.learned_params()
