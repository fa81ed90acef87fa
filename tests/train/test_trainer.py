"""DeepLab v3 trained step by step: the original's steps, checkpoints, and going on from them."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.variables import to_tensorflow
from deeplab_repro.tensorflow.training import TrainingOptions, losses
from deeplab_repro.train.trainer import Trainer
from tensorflow_import import TensorFlowImportError, read_variables, write_checkpoint
from tests.tensorflow_program.training_cases import CASES
from tests.testing.tensorflow_weights import weights_for

OPTIONS: dict[str, Any] = {
    "model_variant": "mobilenet_v2",
    "depth_multiplier": 0.1,
    "num_classes": 3,
    "crop_size": (17, 17),
    "fine_tune_batch_norm": False,
}


def network(**options: Any) -> DeepLabV3:
    torch.manual_seed(0)
    return DeepLabV3(ModelOptions.from_case({**OPTIONS, **options}))


def batches(count: int = 3) -> list[dict[str, torch.Tensor]]:
    random = torch.Generator().manual_seed(0)
    return [
        {
            "data": torch.rand(2, 3, 17, 17, generator=random) * 255,
            "label": torch.randint(0, 3, (2, 1, 17, 17), generator=random),
        }
        for _ in range(count)
    ]


def trainer(**options: Any) -> Trainer:
    options = {"folder": None, "display": 0, "seed": 1, "device": "cpu", **options}
    flags = options.pop("flags", {"base_learning_rate": 0.01})
    net = options.pop("net", None) or network()
    return Trainer(net, TrainingOptions.from_flags(flags), batches(), **options)


def without_dropout(net: DeepLabV3) -> DeepLabV3:
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def test_two_steps_of_the_original() -> None:
    """Its first step follows from what it stored after the second: a1 = (w0 - w2 - lr2 a2) / lr1.

    The second one cannot be compared so: it is far, and what the gradients differ by in the first
    (see `tests/tensorflow_program/test_training.py`) makes all the difference in it. In float64 a
    change of the pictures by 1e-7 of themselves moves its gradients by half of their size.
    """
    case = CASES["train_mnv2_dm035_two_steps"]
    options = TrainingOptions.from_case(case.case)
    training = Trainer(without_dropout(case.net()), options, [case.batch()], display=0, seed=1)
    training.iter = case.case["step"]["start_step"]
    rates, totals, after = [], [], []
    for _ in range(2):
        training.step(1)
        rates.append(training.lr)
        totals.append(training.loss)
        after.append(training.variables())
    told = case.about["step"]
    assert rates == pytest.approx(told["learning_rates"], rel=1e-7)
    assert totals[0] == pytest.approx(told["total_losses"][0], rel=1e-5)
    assert totals[1] == pytest.approx(told["total_losses"][1], rel=1e-3)
    assert after[1]["global_step"] == told["global_step_after"]
    begin = weights_for(case.case)
    names = [name for name in case.keys("step2/") if not name.endswith("/Momentum")]
    assert len(names) > 10
    errors = {}
    for name in names:
        key = f"step2/{name}"
        w0, w2 = case.drawn(key, begin[name]), case.arrays[key].astype(np.float64)
        a2 = case.arrays[f"{key}/Momentum"].astype(np.float64)
        a1 = (w0 - w2 - rates[1] * a2) / rates[0]
        own = case.drawn(key, after[0][f"{name}/Momentum"])
        # w0 and w2 are float32, and their difference is small.
        rounding = np.linalg.norm(w0) * 2.0**-23 / rates[0]
        errors[name] = (np.linalg.norm(own - a1) - rounding) / np.linalg.norm(a1)
        assert np.linalg.norm(case.drawn(key, after[1][name]) - w2) < 0.03 * np.linalg.norm(w2)
    assert max(errors.values()) < 2e-2, errors  # the worst is 6e-3
    assert errors["logits/semantic/weights"] < 1e-3
    assert errors["logits/semantic/biases"] < 1e-3


def gradients_by_hand(net: DeepLabV3, options: TrainingOptions, batch: Any) -> dict[str, Any]:
    variables = {name: v for name, v in net.variables.items() if v.requires_grad}
    entropy, penalty = losses(net, batch["data"], batch["label"], options)
    found = torch.autograd.grad(entropy + penalty, list(variables.values()))
    return dict(zip(variables, found, strict=True))


def test_momentum_by_hand() -> None:
    """acc = 0.9 acc + g; w -= lr acc, with biases twice and last layers five times as fast."""
    flags = {
        "base_learning_rate": 0.01,
        "training_number_of_steps": 4,
        "last_layer_gradient_multiplier": 5.0,
        "weight_decay": 0.1,
    }
    training = trainer(flags=flags, net=without_dropout(network()))
    twin = without_dropout(network())
    memory = {name: torch.zeros_like(v) for name, v in twin.variables.items()}
    for step in range(3):
        training.step(1)
        rate = 0.01 * (1 - step / 4) ** 0.9
        gradients = gradients_by_hand(twin, training.options, batches()[step])
        for name, gradient in gradients.items():
            last = re.search("logits|image_pooling|aspp|concat_projection", name)
            gradient = gradient * (5 if last else 1) * (2 if name.endswith("biases") else 1)
            memory[name] = 0.9 * memory[name] + gradient
            twin.variables[name].data -= rate * memory[name]
    for name, value in twin.variables.items():
        torch.testing.assert_close(training.model.variables[name], value, rtol=1e-5, atol=1e-6)
    found = training.variables()
    name = "concat_projection/weights"
    expected = to_tensorflow(name, memory[name])
    np.testing.assert_allclose(found[f"{name}/Momentum"], expected, rtol=1e-4, atol=1e-6)


def test_adam_by_hand() -> None:
    flags = {"optimizer": "adam", "adam_learning_rate": 0.01, "adam_epsilon": 0.5}
    training = trainer(flags=flags, net=without_dropout(network()))
    twin = without_dropout(network())
    name = "logits/semantic/biases"
    mean = squares = 0.0
    for step in range(1, 3):
        training.step(1)
        assert training.lr == 0.01
        gradients = gradients_by_hand(twin, training.options, batches()[step - 1])
        if step == 1:
            gradient = 2 * gradients[name]
            mean, squares = 0.1 * gradient, 0.001 * gradient**2
            rate = 0.01 * (1 - 0.999) ** 0.5 / (1 - 0.9)
            expected = twin.variables[name] - rate * mean / (squares**0.5 + 0.5)
            torch.testing.assert_close(training.model.variables[name], expected)
            found = training.variables()
            np.testing.assert_allclose(found[f"{name}/Adam"], mean, rtol=1e-5)
            np.testing.assert_allclose(found[f"{name}/Adam_1"], squares, rtol=1e-5)
            assert found["beta1_power"] == pytest.approx(0.9**2)
            assert found["beta2_power"] == pytest.approx(0.999**2)


# --------------------------------------------------------------------------------- checkpoints


def test_a_resumed_training_ends_as_one_that_was_not(tmp_path: Path) -> None:
    flags = {"base_learning_rate": 0.01, "training_number_of_steps": 5}
    for optimizer in ("momentum", "adam"):
        whole, parts = tmp_path / f"{optimizer}_whole", tmp_path / f"{optimizer}_parts"
        whole.mkdir()
        parts.mkdir()
        own = {**flags, "optimizer": optimizer}
        assert trainer(flags=own, folder=whole).solve()
        first = trainer(flags=own, folder=parts, checkpoint_every=2)
        first.step(3)
        assert (parts / "model.ckpt-2.index").is_file()
        second = trainer(flags=own, folder=parts, resume=True, net=network(num_classes=3))
        assert second.iter == 2
        assert second.solve()
        ends = [read_variables(folder) for folder in (whole, parts)]
        assert ends[0].keys() == ends[1].keys()
        assert ends[0]["global_step"] == 5
        for name, array in ends[0].items():
            np.testing.assert_array_equal(array, ends[1][name], err_msg=name)


def test_what_a_checkpoint_holds(tmp_path: Path) -> None:
    training = trainer(folder=tmp_path)
    training.step(1)
    prefix = training.snapshot()
    assert prefix == tmp_path / "model.ckpt-1"
    state = (tmp_path / "checkpoint").read_text()
    assert state.splitlines()[0] == 'model_checkpoint_path: "model.ckpt-1"'
    found = read_variables(prefix)
    weights = {n: v for n, v in training.model.variables.items() if n.endswith("/weights")}
    assert {n.rpartition("/")[2] for n in found} == {
        *("weights", "depthwise_weights", "biases", "gamma", "beta", "moving_mean"),
        *("moving_variance", "Momentum", "global_step"),
    }
    assert found["global_step"].dtype == np.int64
    for name, value in weights.items():
        assert found[name].shape == tuple(value.shape[i] for i in (2, 3, 1, 0))
        assert found[f"{name}/Momentum"].shape == found[name].shape


def test_resume_begins_where_there_is_nothing(tmp_path: Path) -> None:
    write_checkpoint(tmp_path / "start.ckpt", weights_for(OPTIONS))
    folder = tmp_path / "run"
    folder.mkdir()
    training = trainer(folder=folder, resume=True, weights=tmp_path / "start.ckpt")
    assert training.iter == 0
    assert training.load_report is not None
    assert not training.load_report.missing
    name = "MobilenetV2/Conv/weights"
    own = to_tensorflow(name, training.model.variables[name])
    np.testing.assert_array_equal(own, weights_for(OPTIONS)[name])


def test_last_layers_may_begin_anew() -> None:
    given = weights_for(OPTIONS)
    begin = network().variables
    for flags, anew in (
        ({"initialize_last_layer": True}, ()),
        ({"initialize_last_layer": False}, ("logits", "aspp0", "image_pooling", "concat_")),
        (
            {"initialize_last_layer": False, "last_layers_contain_logits_only": True},
            ("logits",),
        ),
    ):
        training = trainer(flags=flags, weights=given)
        for name, value in training.model.variables.items():
            if name.startswith(anew):
                assert torch.equal(value, begin[name]), name
            else:
                np.testing.assert_array_equal(to_tensorflow(name, value), given[name])


def test_slots_come_with_the_weights() -> None:
    first = trainer()
    first.step(1)
    given = first.variables()
    second = trainer(weights=given)
    assert second.iter == 0
    found = second.variables()
    assert all(np.array_equal(found[n], a) for n, a in given.items() if n.endswith("/Momentum"))


def test_adam_goes_on_with_the_correction_of_its_slots() -> None:
    """Its first step with them is as long as the next one of the training that they come from."""
    flags = {"optimizer": "adam", "adam_learning_rate": 0.01, "adam_epsilon": 0.5}
    first = trainer(flags=flags, net=without_dropout(network()))
    first.step(3)
    given = first.variables()
    second = trainer(flags=flags, net=without_dropout(network()), weights=given)
    assert second.iter == 0
    assert second.variables()["beta1_power"] == given["beta1_power"]
    for training in (first, second):  # the batches begin anew after three
        training.step(1)
    for name, value in second.model.variables.items():
        torch.testing.assert_close(value, first.model.variables[name], rtol=0, atol=0)


def test_slots_of_adam_without_the_powers_of_its_betas_are_left() -> None:
    flags = {"optimizer": "adam"}
    first = trainer(flags=flags)
    first.step(1)
    given = {n: a for n, a in first.variables().items() if not n.endswith("_power")}
    second = trainer(flags=flags, weights=given)
    assert second.load_report is not None
    assert second.load_report.slots == []
    assert not any(a.any() for n, a in second.variables().items() if "/Adam" in n)


def test_a_checkpoint_of_adam_that_began_with_slots(tmp_path: Path) -> None:
    """The steps of the training and the updates of its slots are two numbers."""
    flags = {"optimizer": "adam"}
    first = trainer(flags=flags)
    first.step(3)
    second = trainer(flags=flags, weights=first.variables(), folder=tmp_path)
    second.step(1)
    second.snapshot()
    third = trainer(flags=flags, folder=tmp_path, resume=True)
    assert third.iter == 1
    assert third.variables()["beta2_power"] == pytest.approx(0.999**5)


# ------------------------------------------------------------------------------- what goes wrong


def test_what_cannot_be_used(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="a folder for checkpoints; expected one that can be"):
        trainer(folder=tmp_path / "nowhere")
    with pytest.raises(InputError, match=r"variable logits/semantic/.*expected the shape"):
        trainer(weights=weights_for({**OPTIONS, "num_classes": 7}))
    with pytest.raises(InputError, match="has no variable of this network"):
        trainer(weights={"something": np.zeros(3)})
    with pytest.raises(TensorFlowImportError):
        trainer(weights=tmp_path / "none.ckpt")
    with pytest.raises(InputError, match="a checkpoint has nowhere to go; expected a folder"):
        trainer().snapshot()


def test_checkpoints_of_other_trainings(tmp_path: Path) -> None:
    weights = weights_for(OPTIONS)
    write_checkpoint(tmp_path / "a.ckpt", weights)
    with pytest.raises(InputError, match=r"a\.ckpt: lacks global_step; expected a checkpoint"):
        trainer().restore(tmp_path / "a.ckpt")
    write_checkpoint(tmp_path / "b.ckpt", {**weights, "global_step": np.int64(3)})
    with pytest.raises(InputError, match=r"/Momentum does not fit a training by momentum"):
        trainer().restore(tmp_path / "b.ckpt")


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (
            "global_step",
            np.array([3, 4]),
            "global_step; expected a whole number of at least 0, got",
        ),
        ("global_step", np.array([3]), "least 0, got (1,) int64"),
        ("global_step", np.float32("nan"), "least 0, got nan"),
        ("global_step", np.float32(2.5), "least 0, got 2.5"),
        ("global_step", np.int64(-1), "least 0, got -1"),
        ("beta2_power", np.float32("nan"), "beta2_power; expected a number of 0 to 1, got nan"),
        ("beta1_power", np.array([0.5], np.float32), "0 to 1, got (1,) float32"),
        ("logits/semantic/biases/Adam", np.array([b"a"] * 3, object), "does not fit a training"),
        ("logits/semantic/biases/Adam", np.zeros(3, np.int32), "got (3,) int32"),
        ("logits/semantic/biases", np.zeros(7, np.float32), "expected the shape (3,), got (7,)"),
    ],
)
def test_nothing_changes_where_a_checkpoint_cannot_be_used(
    tmp_path: Path, name: str, value: Any, message: str
) -> None:
    flags = {"optimizer": "adam"}
    other = trainer(flags=flags)
    other.step(2)
    write_checkpoint(tmp_path / "a.ckpt", {**other.variables(), name: value})
    training = trainer(flags=flags)
    before = training.variables()
    net = network()
    uses: list[Callable[[], Any]] = [lambda: training.restore(tmp_path / "a.ckpt")]
    if name != "global_step":  # which nobody who begins with weights reads
        uses.append(lambda: trainer(flags=flags, net=net, weights=tmp_path / "a.ckpt"))
    for use in uses:
        with pytest.raises(InputError) as error:
            use()
        assert str(error.value).startswith(f"{tmp_path / 'a.ckpt'}: ")
        assert name in str(error.value)
        assert message in str(error.value)
    after = training.variables()
    assert all(np.array_equal(after[n], array) for n, array in before.items())
    assert all(torch.equal(net.variables[n], v) for n, v in network().variables.items())


def test_a_loss_that_is_no_number_stops_the_training() -> None:
    training = trainer(flags={"base_learning_rate": 1e30})
    with pytest.raises(InputError, match=r"the loss of step \d is no finite number"):
        training.step(9)
