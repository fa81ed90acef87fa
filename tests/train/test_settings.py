"""Solver files: Caffe's defaults, old words, nets of every kind, and one line for each mistake."""

from __future__ import annotations

from pathlib import Path

import pytest

from deeplab_repro.train.rates import MultiStep, Poly
from deeplab_repro.train.settings import SolverSettings, read_solver
from prototxt_import import CaffeImportError

NET = """
layer { name: "data" type: "MemoryData" top: "data" top: "label"
  memory_data_param { batch_size: 1 channels: 1 height: 2 width: 2 } }
layer { name: "extra" type: "ReLU" bottom: "data" top: "extra" include { stage: "deep" } }
layer { name: "far" type: "ReLU" bottom: "data" top: "far" include { min_level: 3 } }
"""
GOOD = 'base_lr: 0.1 max_iter: 10 lr_policy: "fixed"\n'


@pytest.fixture(autouse=True)
def _in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)


def settings(text: str) -> SolverSettings:
    Path("my_solver.prototxt").write_text(text)
    return read_solver("my_solver.prototxt")


def test_defaults_are_caffes() -> None:
    found = settings(GOOD + 'net: "net.prototxt"')
    assert found.type == "SGD"
    assert found.options == {
        "momentum": 0, "weight_decay": 0, "regularization": "L2", "clip_gradients": -1,
        "iter_size": 1,
    }  # fmt: skip
    assert (found.iter_size, found.average_loss, found.display, found.snapshot) == (1, 1, 0, 0)
    assert found.test_initialization
    assert found.snapshot_after_train
    assert not found.on_cpu  # solver_mode: GPU
    assert found.random_seed is None
    assert not found.snapshot_hdf5
    assert str(found.snapshot_path(7, ".solverstate")) == "my_solver_iter_7.solverstate"


def test_every_word_arrives() -> None:
    found = settings(
        """net: "net.prototxt" type: "Adam" base_lr: 0.5 momentum: 0.25 momentum2: 0.75 delta: 0.125
        lr_policy: "multistep" gamma: 0.5 stepvalue: 3 stepvalue: 7 max_iter: 9 iter_size: 4
        weight_decay: 0.0625 regularization_type: "L1" clip_gradients: 2 display: 5 average_loss: 20
        test_iter: 3 test_interval: 2 test_initialization: false test_compute_loss: true
        snapshot: 6 snapshot_prefix: "some/where" snapshot_format: HDF5 snapshot_after_train: false
        solver_mode: CPU device_id: 1 random_seed: 11 weights: "a.caffemodel, b.caffemodel" """
    )
    assert found.options == {
        "momentum": 0.25, "momentum2": 0.75, "delta": 0.125, "weight_decay": 0.0625,
        "regularization": "L1", "clip_gradients": 2, "iter_size": 4,
    }  # fmt: skip
    assert found.policy == MultiStep(0.5, (3, 7))
    assert (found.base_lr, found.max_iter, found.iter_size) == (0.5, 9, 4)
    assert (found.display, found.average_loss, found.snapshot) == (5, 20, 6)
    assert (found.test_iter, found.test_interval) == ((3,), 2)
    assert not found.test_initialization
    assert found.test_compute_loss
    assert not found.snapshot_after_train
    assert (found.on_cpu, found.device_id, found.random_seed) == (True, 1, 11)
    assert found.weights == ("a.caffemodel", "b.caffemodel")
    assert str(found.snapshot_path(6, ".caffemodel")) == "some/where_iter_6.caffemodel.h5"


@pytest.mark.parametrize(
    ("old", "new"),
    [("SGD", "SGD"), ("NESTEROV", "Nesterov"), ("ADAGRAD", "AdaGrad"), ("RMSPROP", "RMSProp"),
     ("ADADELTA", "AdaDelta"), ("ADAM", "Adam")],
)  # fmt: skip
def test_types_of_old_files(old: str, new: str) -> None:
    assert settings(f'{GOOD} net: "net.prototxt" solver_type: {old}').type == new


def test_a_prefix_that_is_a_folder_and_a_placeholder(tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    found = settings(GOOD + 'net: "net.prototxt" snapshot_prefix: "out"')
    assert str(found.snapshot_path(1, ".caffemodel")) == "out/my_solver_iter_1.caffemodel"
    Path("s.prototxt").write_text(GOOD + 'net: "${NET}" snapshot_prefix: "${DIR}/train"')
    found = read_solver("s.prototxt", placeholders={"NET": "net.prototxt", "DIR": "out"})
    assert found.snapshot_prefix == "out/train"
    with pytest.raises(CaffeImportError, match=r"s.prototxt: .*\$\{NET\} has no value"):
        read_solver("s.prototxt")


def test_nets_inside_the_solver_file_and_their_states() -> None:
    inner = NET.replace("\n", " ")
    found = settings(
        f"""{GOOD} train_net_param {{ {inner} }} train_state {{ stage: "deep" level: 3 }}
        test_net_param {{ {inner} }} test_net: "net.prototxt" test_iter: 2 test_iter: 4
        test_interval: 1 test_state {{ level: 1 }} test_state {{ stage: "deep" }}"""
    )

    def layers(source) -> list[str]:
        net = source.model.net("TRAIN", level=source.level, stages=source.stages)
        return [layer.name for layer in net.layers]

    assert layers(found.train_net) == ["extra", "far"]
    assert [layers(source) for source in found.test_nets] == [[], ["extra"]]


def test_the_generic_net_tests_what_is_left() -> None:
    found = settings(
        GOOD + 'net: "net.prototxt" test_net: "net.prototxt" test_iter: 1 test_iter: 2 test_iter: 3'
        " test_interval: 5"
    )
    assert len(found.test_nets) == 3


def test_poly_as_in_the_released_files() -> None:
    found = settings(
        'net: "net.prototxt" base_lr: 2.5e-4 lr_policy: "poly" power: 0.9 max_iter: 20000'
    )
    assert isinstance(found.policy, Poly)
    assert found.policy.rate(found.base_lr, 0) == pytest.approx(2.5e-4, rel=1e-7)


@pytest.mark.parametrize("field", ["debug_info", "snapshot_diff"])
def test_what_has_no_effect_is_told(field: str) -> None:
    with pytest.warns(UserWarning, match=f"{field} has no effect"):
        settings(f'{GOOD} net: "net.prototxt" {field}: true')


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (GOOD, "names no network to train; expected one of net, net_param"),
        (GOOD + 'net: "net.prototxt" train_net: "b"', "several networks .*net and train_net"),
        (GOOD + 'net: "gone.prototxt"', "gone.prototxt: No such file"),
        ('max_iter: 1 lr_policy: "fixed" net: "net.prototxt"', "lacks base_lr"),
        ('base_lr: 1 lr_policy: "fixed" net: "net.prototxt"', "lacks max_iter"),
        ('base_lr: 1 max_iter: 1 net: "net.prototxt"', "lacks lr_policy; expected fixed, step"),
        ('base_lr: 1 max_iter: 1 net: "net.prototxt" lr_policy: "cosine"',
         "unknown lr_policy; expected .* or sigmoid, got cosine"),
        ('base_lr: 1 max_iter: 1 net: "net.prototxt" lr_policy: "step"',
         "stepsize; expected 1 or more with lr_policy step, got 0"),
        (GOOD + 'net: "net.prototxt" type: "Lion"', "unknown solver type; expected SGD.*got Lion"),
        (GOOD + 'net: "net.prototxt" type: "SGD" solver_type: ADAM', "type and solver_type"),
        (GOOD + 'net: "net.prototxt" type: "RMSProp" momentum: 0.5', "momentum cannot be used"),
        (GOOD + 'net: "net.prototxt" iter_size: 0', "iter_size; expected 1 or more, got 0"),
        (GOOD + 'net: "net.prototxt" momentum2: 1', "momentum2; expected 0 or more and below 1"),
        (GOOD + 'net: "net.prototxt" regularization_type: "L3"', "expected L1 or L2, got L3"),
        (GOOD + 'net: "net.prototxt" test_iter: 1', "lacks test_interval"),
        (GOOD + 'train_net: "net.prototxt" test_iter: 1 test_interval: 1', "for each test net"),
        (GOOD + 'net: "net.prototxt" test_iter: 1 test_interval: 1 test_state {} test_state {}',
         "test_state for each test net, or none; expected 1, got 2"),
        (GOOD + 'net: "net.prototxt" bases_lr: 1', 'line 2, column 21: .*no field .*"bases_lr"'),
        (GOOD + 'net: "net.prototxt" net_param { layer { nam: "x" } }', 'no field named "nam"'),
    ],
)  # fmt: skip
def test_one_line_for_each_mistake(text: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message) as caught:
        settings(text)
    assert "\n" not in str(caught.value)
    assert "prototxt: " in str(caught.value)
