"""DeepLab v3 as a module: its parts, modes, predictions and forms for inference."""

from __future__ import annotations

import warnings
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from deeplab_repro import tensorflow
from deeplab_repro.errors import InputError
from deeplab_repro.models import create_model, list_models
from deeplab_repro.models.atrous import StrideError, rates_at
from deeplab_repro.models.v3.catalogue import NETWORKS_V3
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import (
    HEAD,
    BatchNorm,
    nearest_positions,
    same_padding,
    scale_dimension,
)
from deeplab_repro.models.v3.variables import to_tensorflow
from tests.testing.tensorflow_weights import weights_for

SMALL = {"depth_multiplier": 0.35, "num_classes": 5}


@pytest.fixture(scope="module")
def small() -> DeepLabV3:
    return tensorflow.load(SMALL, weights_for(SMALL))


def pictures(*shape: int) -> Tensor:
    return torch.rand(shape, generator=torch.Generator().manual_seed(0)) * 255


def test_same_padding_starts_where_tensorflow_does() -> None:
    """total = (ceil(n / s) - 1) s + taps - n, of which the smaller half comes first."""
    for size in range(1, 40):
        for kernel, stride, rate in ((3, 1, 1), (3, 2, 1), (5, 2, 1), (1, 2, 1), (3, 1, 6)):
            taps = (kernel - 1) * rate + 1
            total = max((-(-size // stride) - 1) * stride + taps - size, 0)
            before, after = same_padding(size, kernel, stride, rate)
            assert before == total // 2
            assert after >= total - total // 2
            assert (size + before + after - taps) // stride + 1 == -(-size // stride)


def test_sizes_are_truncated() -> None:
    assert [scale_dimension(65, s) for s in (0.5, 0.75, 1.25, 1.75)] == [33, 49, 81, 113]
    assert scale_dimension(64, 0.5) == 32
    # 10 * 1.1 + 1 is 12 - 2e-15 in neither, but 100 * 0.57 + 1 differs.
    assert scale_dimension(101, 0.57) == 57
    assert scale_dimension(101, 0.57, single=True) == 58


def test_nearest_rounds_halves_up() -> None:
    assert nearest_positions(3, 5).tolist() == [0, 1, 1, 2, 2]
    assert nearest_positions(1, 3).tolist() == [0, 0, 0]
    assert nearest_positions(4, 1).tolist() == [0]


def test_one_value_a_channel_is_normalized_to_the_shift() -> None:
    norm = BatchNorm(3, HEAD).train()
    nn.init.normal_(norm.bias)
    x = torch.randn(1, 3, 1, 1, requires_grad=True)
    y = norm(x)
    torch.testing.assert_close(y[0, :, 0, 0], norm.bias)
    y.sum().backward()
    assert not x.grad.any()
    torch.testing.assert_close(norm.running_mean, 3e-4 * x.detach()[0, :, 0, 0])
    torch.testing.assert_close(norm.running_var, torch.full((3,), 0.9997))


def test_moving_means_of_bfloat16_maps() -> None:
    """The mean of the maps as they are, 100 times as large as their deviation."""
    norm = BatchNorm(3, HEAD).train()
    x = (torch.randn(2, 3, 9, 9) + 100.3).bfloat16()
    norm(x)
    mean = x.double().mean((0, 2, 3)) * norm.momentum
    torch.testing.assert_close(norm.running_mean.double(), mean, rtol=1e-4, atol=0)


def test_the_names_of_all_networks() -> None:
    assert list_models("deeplab_v3*") == list(NETWORKS_V3)
    for name, network in NETWORKS_V3.items():
        model = create_model(name, num_classes=7, device="meta")
        assert model.name == name
        assert name in str(model)
        assert model.output_stride == network.output_stride
        with torch.no_grad():
            scores = model.eval()(torch.empty(1, 3, 70, 97, device="meta"))
        assert scores.shape == (1, 7, 70, 97)


@pytest.mark.parametrize("name", NETWORKS_V3)
def test_without_values_nothing_is_drawn(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """torch takes seconds to learn how to draw from a normal distribution on that device."""

    def drawn(*_: object, **__: object) -> None:
        raise AssertionError("drawn")

    monkeypatch.setattr(torch.Tensor, "normal_", drawn)
    create_model(name, device="meta")
    with pytest.raises(AssertionError, match="drawn"):
        torch.nn.init.normal_(torch.empty(1))


def test_new_classifiers_have_small_weights() -> None:
    torch.manual_seed(0)
    model = create_model("deeplab_v3_mobilenet_v2")
    weight = model.variables["logits/semantic/weights"]
    for _ in range(2):
        assert float(weight.std()) == pytest.approx(0.01, rel=0.02)
        with torch.no_grad():
            weight.fill_(7)
        model.reset_parameters()


def test_rates_follow_the_output_stride() -> None:
    for stride, rates in ((16, (6, 12, 18)), (8, (12, 24, 36)), (32, (3, 6, 9))):
        model = create_model("deeplab_v3_resnet50", output_stride=stride, device="meta")
        assert model.options.atrous_rates == rates
    create_model("deeplab_v3_resnet50_cascade", output_stride=64, device="meta")
    with pytest.raises(StrideError, match="rates 3/2, 3, 9/2, which are no whole numbers"):
        rates_at(64, (6, 12, 18))


@pytest.mark.parametrize("name", NETWORKS_V3)
def test_an_output_stride_that_there_is_not(name: str) -> None:
    """The message names those that there are, and each of them can be had."""
    with pytest.raises(InputError, match="option output_stride of .*, got 5$") as refused:
        create_model(name, output_stride=5, device="meta")
    strides = [int(n) for n in str(refused.value.expected).removeprefix("one of ").split(", ")]
    assert {4, 8, 16} <= set(strides)
    network = NETWORKS_V3[name]
    for stride in strides:
        assert network.options(output_stride=stride).output_stride == stride
    for stride in {1, 2, 32, 64} - set(strides):
        with pytest.raises(InputError, match="option output_stride"):
            network.options(output_stride=stride)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "deeplab_v3_resnet5"}, "did you mean deeplab_v3_resnet50"),
        ({"name": "xception65"}, r"got 'xception65'; did you mean deeplab_v3plus_xception65\?$"),
        ({"name": "Xeption-65"}, "did you mean deeplab_v3plus_xception65 or deeplab_v3plus_xc"),
        ({"name": "mobilenetv2"}, r"_dpc or deeplab_v3plus_mobilenet_v2\?$"),
        ({"name": "-"}, "deeplab_v3_mobilenet_v3_small; got '-'$"),
        ({"output_stride": "8"}, "option output_stride; expected a whole number"),
        ({"width": 2}, "width of deeplab_v3_resnet50; expected a network of DeepLab v1 or v2"),
        ({"depth": 2}, "option depth; expected one of"),
        ({"output_stride": 2}, "option output_stride of resnet_v1_50_beta; expected one of 4"),
        ({"name": "largefov", "multi_grid": (1, 2, 4)}, "option multi_grid of largefov"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**{"name": "deeplab_v3_resnet50", "device": "meta", **arguments})


def test_modes() -> None:
    """Dropout follows the mode alone, normalization also the option."""
    x = pictures(2, 3, 33, 33)
    for follows in (True, False):
        model = create_model(
            "deeplab_v3_mobilenet_v2", depth_multiplier=0.35, fine_tune_batch_norm=follows
        )
        assert {m.training for m in model.modules() if isinstance(m, BatchNorm)} == {follows}
        assert all(m.training for m in model.modules() if isinstance(m, nn.Dropout))
        before = model.variables["MobilenetV2/Conv/BatchNorm/moving_mean"].clone()
        model(x).sum().backward()
        moved = not torch.equal(before, model.variables["MobilenetV2/Conv/BatchNorm/moving_mean"])
        assert moved == follows
        assert all(parameter.grad is not None for parameter in model.parameters())
        assert not any(module.training for module in model.eval().modules())


def test_prediction_over_scales(small: DeepLabV3) -> None:
    x = pictures(1, 3, 49, 64)
    with torch.inference_mode():
        with pytest.warns(UserWarning, match="quirks=False gives the mean"):
            labels, probabilities = small.predict(x, (0.5, 1.0), flip=True)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            _, mean = small.predict(x, (0.5, 1.0), flip=True, quirks=False)
            once, single = small.predict(x)
        torch.testing.assert_close(mean.sum(1), torch.ones(1, 49, 64))
        torch.testing.assert_close(probabilities, mean.softmax(1))
        assert torch.equal(labels, mean.argmax(1))
        assert labels.dtype == torch.int64
        torch.testing.assert_close(single, small(x).softmax(1))
        assert torch.equal(once, small(x).argmax(1))
        # A mirrored picture has the mirrored prediction.
        mirrored = small.predict(x.flip(3), (0.5, 1.0), flip=True, quirks=False)[1]
        torch.testing.assert_close(mirrored.flip(3), mean, rtol=1e-4, atol=1e-5)
    with pytest.raises(ValueError, match="at least one scale"):
        small.predict(x, ())


def test_a_crop_size_is_the_size_of_every_input() -> None:
    model = create_model("deeplab_v3_mobilenet_v2", crop_size=(65, 97), device="meta").eval()
    with pytest.raises(ValueError, match="expected 65x97, the options' crop_size; got 97x65"):
        model(torch.empty(1, 3, 97, 65, device="meta"))
    with pytest.raises(ValueError, match=r"expected \(N, 3, H, W\) floating point, got \(3, 65"):
        model(torch.empty(3, 65, 97, device="meta"))
    windowed = create_model(
        "deeplab_v3_mobilenet_v2",
        crop_size=(65, 97),
        image_pooling_crop_size=(129, 129),
        device="meta",
    ).eval()
    with pytest.raises(ValueError, match="image pooling: expected a map of at least 9x9"):
        windowed(torch.empty(1, 3, 65, 97, device="meta"))


@pytest.mark.parametrize(
    "options",
    [
        {**SMALL, "decoder_output_stride": [4], "atrous_rates": [6]},
        {"model_variant": "mobilenet_v3_small_seg", "output_stride": 32},
        {
            "model_variant": "xception_41",
            "use_bounded_activation": True,
            "atrous_rates": [6],
        },
        {"model_variant": "resnet_v1_18"},
    ],
    ids=lambda options: options.get("model_variant", "mobilenet_v2"),
)
def test_fused(options: dict[str, Any]) -> None:
    net = tensorflow.load(options, weights_for(options))
    before = {name: tensor.clone() for name, tensor in net.variables.items()}
    fused = net.fuse()
    assert not any(isinstance(module, BatchNorm) for module in fused.modules())
    x = pictures(1, 3, 50, 65)
    with torch.inference_mode():
        ours, expected = fused(x), net(x)
        ends, all_ends = fused.endpoints(x), net.endpoints(x)
    assert (ours - expected).abs().max() < 2e-5 * expected.std()
    assert set(all_ends) == set(ends)
    for key, tensor in all_ends.items():
        assert (ends[key] - tensor).abs().max() <= 1e-4 * tensor.std(correction=0) + 1e-6, key
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.variables.items())
    with pytest.raises(ValueError, match="a fused network"):
        _ = fused.variables


def test_variables_that_do_not_fit(small: DeepLabV3) -> None:
    weights = weights_for(SMALL)
    more = {**weights, "global_step": np.int64(3), "logits/semantic/weights/Momentum": np.ones(3)}
    report = tensorflow.load(SMALL, more).load_report
    assert report is not None
    assert report.left_over == ["global_step", "logits/semantic/weights/Momentum"]
    assert len(report.loaded) == len(weights) == len(small.variables)
    assert "2 left over (global_step, logits/semantic/weights/Momentum)" in str(report)

    fewer = {name: array for name, array in weights.items() if "aspp0" not in name}
    with pytest.raises(InputError, match="5 of the network's 2.. variables are missing: aspp0/w"):
        tensorflow.load(SMALL, fewer)
    ten = {**SMALL, "num_classes": 10}
    with pytest.raises(InputError, match=r"expected the shape \(1, 1, 256, 10\), got \(1, 1, 256"):
        tensorflow.load(ten, weights)
    loose = tensorflow.load(ten, weights, strict=False)
    assert loose.load_report is not None
    assert len(loose.load_report.unfit) == 2
    assert loose(pictures(1, 3, 33, 33)).shape == (1, 10, 33, 33)

    name = "aspp0/weights"
    averaged = {**fewer, **{n: weights[n] for n in weights if "aspp0" in n and n != name}}
    averaged[f"{name}/ExponentialMovingAverage"] = weights[name]
    report = tensorflow.load(SMALL, averaged).load_report
    assert report is not None
    assert report.averages == [name]


def test_variables_come_back_as_they_were(small: DeepLabV3) -> None:
    for name, array in weights_for(SMALL).items():
        np.testing.assert_array_equal(to_tensorflow(name, small.variables[name]), array)


def test_a_checkpoint_there_and_back(small: DeepLabV3, tmp_path: Any) -> None:
    arrays = {name: to_tensorflow(name, tensor) for name, tensor in small.variables.items()}
    prefix = str(tmp_path / "model.ckpt-7")
    tensorflow.write_checkpoint(prefix, arrays)
    again = tensorflow.load(ModelOptions.from_case(SMALL), prefix)
    x = pictures(1, 3, 33, 49)
    with torch.inference_mode():
        assert torch.equal(again(x), small(x))


@pytest.mark.slow
def test_programs_for_any_size() -> None:
    """One graph, in torch.compile and in torch.export, though padding depends on the size."""
    model = create_model("deeplab_v3plus_mobilenet_v2", depth_multiplier=0.35).eval()
    any_side = torch.export.Dim.DYNAMIC
    with torch.no_grad():
        program = torch.export.export(
            model, (pictures(1, 3, 65, 48),), dynamic_shapes=({2: any_side, 3: any_side},)
        )
        compiled = torch.compile(model, backend="eager", fullgraph=True)
        x = pictures(1, 3, 80, 97)
        expected = model(x)
        torch.testing.assert_close(program.module()(x), expected, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(compiled(x), expected, rtol=1e-4, atol=1e-5)
    assert "deeplab_repro" not in str(program.graph)
