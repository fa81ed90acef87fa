"""Checkpointing changes memory and no bit; 16-bit numbers change little, and no weight's type."""

from __future__ import annotations

import weakref
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter

from deeplab_repro import InputError, load_caffe
from deeplab_repro.caffe.checkpointing import parts
from deeplab_repro.caffe.layers.conv import Convolution
from deeplab_repro.models import create_model
from deeplab_repro.train import Solver
from deeplab_repro.train.precision import MixedPrecision
from prototxt_import import parse_net, read_solverstate, read_weights
from tests.train.plain import SOLVER, batches, prepare
from tests.train.runs import rel, solver_run, weights


class Live(TorchDispatchMode):
    """Counts the bytes of all tensors that are made, and the most that there were at a time."""

    def __init__(self) -> None:
        super().__init__()
        self.most = self.now = 0
        self._seen: set[int] = set()

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_iter(result):
            if isinstance(tensor, Tensor):
                storage = tensor.untyped_storage()
                if storage._cdata not in self._seen:
                    self._seen.add(storage._cdata)
                    self.now += storage.nbytes()
                    self.most = max(self.most, self.now)
                    weakref.finalize(storage, self._end, storage._cdata, storage.nbytes())
        return result

    def _end(self, key: int, size: int) -> None:
        self._seen.discard(key)
        self.now -= size


def most_bytes(pass_through: Callable[[], Tensor]) -> int:
    with Live() as live:
        pass_through().backward()
    return live.most


# ------------------------------------------------------------------ checkpointing


BRANCHES = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 2 dim: 3 dim: 24 dim: 24 } shape { dim: 2 dim: 1 dim: 24 dim: 24 }
    data_filler { type: "gaussian" } data_filler { type: "constant" value: 1 } } }
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "a" top: "a" batch_norm_param { %s }
  param { name: "s0" lr_mult: 0 } param { name: "s1" lr_mult: 0 } param { name: "s2" lr_mult: 0 } }
layer { name: "scale" type: "Scale" bottom: "a" top: "a" scale_param { bias_term: true
  filler { type: "gaussian" mean: 1 std: 0.1 } } }
layer { name: "relu" type: "ReLU" bottom: "a" top: "a" }
layer { name: "drop" type: "Dropout" bottom: "a" top: "a" }
layer { name: "split" type: "Split" bottom: "a" top: "b" top: "c" }
layer { name: "relu2" type: "ReLU" bottom: "c" top: "c" relu_param { negative_slope: 0.1 } }
layer { name: "conv2" type: "Convolution" bottom: "b" top: "d"
  convolution_param { num_output: 6 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } } }
layer { name: "bn2" type: "BatchNorm" bottom: "d" top: "d" batch_norm_param { %s }
  param { name: "s0" lr_mult: 0 } param { name: "s1" lr_mult: 0 } param { name: "s2" lr_mult: 0 } }
layer { name: "sum" type: "Eltwise" bottom: "d" bottom: "c" top: "e" }
layer { name: "drop2" type: "Dropout" bottom: "e" top: "e" }
layer { name: "score" type: "Convolution" bottom: "e" top: "score"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "aside" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "score" bottom: "label" top: "loss" }
"""


@pytest.mark.parametrize(
    "norm",
    [
        "use_global_stats: false",
        "update_global_stats: true eps: 1",
        "use_global_stats: true update_global_stats: true",
    ],
)
@pytest.mark.parametrize("quirks", [True, False])
def test_every_bit_is_that_of_the_plain_run(norm: str, quirks: bool) -> None:
    """In-place layers, dropout, Split, shared statistics that follow the batches, two losses."""
    dialect = "dl2" if "update" in norm else "bvlc"
    text = BRANCHES % (norm, norm)

    def run(checkpointing: bool) -> list[Tensor]:
        torch.manual_seed(3)
        net = load_caffe(parse_net(text, "TRAIN", dialect), quirks=quirks)
        net.checkpointing = checkpointing
        with torch.no_grad():
            for blob, value in zip(net.params["bn"], (0.1, 4.0, 1.0), strict=True):
                blob.fill_(value)
        found = []
        for _ in range(3):
            net.zero_grad()
            out = net()
            loss = net.loss(out)
            loss.backward()
            with torch.no_grad():
                for parameter in net.parameters():
                    assert parameter.grad is not None
                    parameter -= 0.01 * parameter.grad
            found += [loss.detach(), out["loss"].detach()]
        grads = [parameter.grad for parameter in net.parameters() if parameter.grad is not None]
        assert len(grads) == 8
        return [*found, *grads, *net.parameters(), *net.buffers()]

    plain, checkpointed = run(False), run(True)
    assert len({float(loss) for loss in plain[:6:2]}) == 3
    assert all(tensor.isfinite().all() for tensor in plain)
    assert all(map(torch.equal, plain, checkpointed))


def test_parts_have_the_least_peak() -> None:
    """Sixteen layers of one cost: four times four; a layer that is larger than all stands alone."""
    assert parts([1] * 16, [1] * 16) == [range(i, i + 4) for i in (0, 4, 8, 12)]
    assert range(2, 3) in parts([1, 1, 50, 1, 1], [1] * 5)
    assert parts([7], [1]) == [range(1)]
    assert parts([], []) == []


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["prototxt", "model"])
@pytest.mark.parametrize("name", ["largefov", "resnet101"])
def test_a_training_takes_less_memory(
    name: str, plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Several iterations with dropout end in the same weights to the bit."""
    monkeypatch.chdir(tmp_path)
    prepare(name, size=97, iterations=3)
    solvers = []
    for checkpointing in (False, True):
        model = create_model(name, num_classes=5, width=16) if plain else None
        solver = Solver(
            SOLVER, "init.caffemodel", model=model, batches=batches(97, 3),
            checkpointing=checkpointing,
        )  # fmt: skip
        solver.step(3)
        solvers.append(solver)
    first, second = (weights(solver) for solver in solvers)
    assert solvers[0].loss == solvers[1].loss
    assert all(np.array_equal(first[name], second[name]) for name in first)
    batch = next(iter(batches(97, 1)))
    peaks = [most_bytes(lambda net=s.net: net.loss(net(**batch))) for s in solvers]
    assert peaks[1] < 0.8 * peaks[0]  # with the gradients of the weights


# ------------------------------------------------------------------ accuracy


@pytest.mark.parametrize("accuracy", ["exact", "fast"])
def test_the_accuracy_is_that_of_all_networks(
    accuracy: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    solver_run("sgd_fixed", tmp_path)
    solver = Solver("solver.prototxt", "init.caffemodel", accuracy=accuracy)
    for net in (solver.net, *solver.test_nets):
        found = {layer.accuracy for layer in net.modules() if isinstance(layer, Convolution)}
        assert found == {accuracy}


# ------------------------------------------------------------------ precision


def test_bfloat16_stays_near_float32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = solver_run("sgd_fixed", tmp_path)
    kinds: dict[str, torch.dtype] = {}
    solver = Solver("solver.prototxt", "init.caffemodel", precision="bfloat16")
    for module in solver.net.modules():
        if hasattr(module, "layer"):
            module.register_forward_hook(
                lambda m, x, y: kinds.update({m.layer.name: y.dtype}) or None
            )
    losses = []
    while solver.iter < 12:
        solver.step(1)
        losses.append(solver.loss)
    assert kinds["conv"] == kinds["score"] == torch.bfloat16
    assert kinds["loss"] == torch.float32
    caffe = run["loss"][()]
    np.testing.assert_allclose(losses, caffe, rtol=0.02)
    assert not np.allclose(losses, caffe, rtol=1e-5)
    assert {blob.dtype for blobs in solver.net.params.values() for blob in blobs} == {torch.float32}
    state = read_solverstate("snap_iter_12.solverstate")
    assert {history.dtype for history in state.history} == {np.dtype(np.float32)}
    final = weights(solver)
    written = read_weights("snap_iter_12.caffemodel")
    for name, blobs in written.items():
        assert all(np.array_equal(final[f"{name}/{i}"], blob) for i, blob in enumerate(blobs))
    # The updates are finer than bfloat16 could hold.
    assert not any(np.array_equal(v, torch.tensor(v).bfloat16().float()) for v in final.values())


@pytest.mark.slow
@pytest.mark.parametrize("plain", [False, True], ids=["prototxt", "model"])
@pytest.mark.parametrize("name", ["msc-largefov", "resnet101-aspp"])
def test_bfloat16_of_whole_networks(
    name: str, plain: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every kind of layer that the papers' networks have; checkpointed too, to the bit."""
    monkeypatch.chdir(tmp_path)
    prepare(name, size=97, iterations=2)
    losses = {}
    for precision, checkpointing in (("float32", False), ("bfloat16", False), ("bfloat16", True)):
        model = create_model(name, num_classes=5, width=16) if plain else None
        solver = Solver(
            SOLVER, "init.caffemodel", model=model, batches=batches(97, 2),
            precision=precision, checkpointing=checkpointing,
        )  # fmt: skip
        solver.step(2)
        losses[precision, checkpointing] = solver.loss
    assert losses["bfloat16", False] == losses["bfloat16", True]
    assert losses["bfloat16", False] == pytest.approx(losses["float32", False], rel=0.02)
    assert losses["bfloat16", False] != losses["float32", False]


def test_float16_needs_a_gpu() -> None:
    with pytest.raises(InputError, match="float16 needs a GPU; expected bfloat16 or float32 on"):
        MixedPrecision("float16", torch.device("cpu"))
    with pytest.raises(InputError, match="precision; expected float32 or bfloat16 or .*got half"):
        MixedPrecision("half", torch.device("cpu"))


def test_an_update_with_infinite_gradients_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """float16's factor, here on the CPU with bfloat16's maps: it cancels out, or it is halved."""
    monkeypatch.chdir(tmp_path)
    solver_run("sgd_fixed", tmp_path)
    straight = Solver("solver.prototxt", "init.caffemodel")
    straight.step(2)
    solver = Solver("solver.prototxt", "init.caffemodel")
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**8)
    solver._precision._scaler = scaler
    solver.step(2)
    assert all(rel(v, weights(straight)[k]) < 1e-6 for k, v in weights(solver).items())
    before = weights(solver)
    solver.net.params["conv"][0].register_hook(lambda gradient: gradient * float("inf"))
    solver.step(1)
    assert all(np.array_equal(v, before[k]) for k, v in weights(solver).items())
    assert scaler.get_scale() == 2.0**7
    assert solver.iter == 3


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="float16 is the GPU's")
@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_16_bits_on_a_gpu(precision: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = solver_run("sgd_fixed", tmp_path)
    solver = Solver("solver.prototxt", "init.caffemodel", device="cuda", precision=precision)
    solver.step(12)
    assert solver.loss == pytest.approx(float(run["loss"][()][-1]), rel=0.02)
    kinds = {blob.dtype for blobs in solver.net.params.values() for blob in blobs}
    assert kinds == {torch.float32}
