"""Weights of the modules to and from Caffe's files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from deeplab_repro import load_caffe
from deeplab_repro.errors import InputError
from deeplab_repro.models import DeepLab, create_model, load
from deeplab_repro.models.identify import Identity, identify
from prototxt_import import (
    CaffeImportError,
    Model,
    parse_net,
    read_model,
    read_weights,
    write_weights,
)
from tests.models.narrow import narrow, picture

BUNDLED = Path(__file__).parents[2] / "weights" / "largefov_v1_w8"


def scores(model: DeepLab) -> torch.Tensor:
    x = picture((66, 66) if model.architecture.crop else (65, 65))
    with torch.inference_mode():
        y: torch.Tensor = model.eval()(x)
    return y


def same_scores(one: DeepLab, other: DeepLab) -> bool:
    state = torch.get_rng_state()
    first = scores(one)
    torch.set_rng_state(state)
    return torch.equal(first, scores(other))


@pytest.mark.parametrize("ending", [".caffemodel", ".safetensors", ".caffemodel.h5", ".pt"])
@pytest.mark.sampled(2)
def test_out_to_a_file_and_back(ending: str, tmp_path: Path) -> None:
    model = narrow("msc-largefov", 7, exp="coco")
    path = tmp_path / f"w{ending}"
    if ending == ".pt":
        torch.save(model.state_dict(), path)
        back = load(path, "msc-largefov")
    else:
        model.save(path)
        back = load(path)
    assert back.name == "deeplab_v1_vgg16_largefov_msc"
    # A state dict does not say which data its classifier was named for, but in its keys.
    assert back.options == model.options
    assert back.load_report is not None
    assert not back.load_report.missing
    assert not back.load_report.unused
    assert same_scores(back, model)


@pytest.mark.parametrize("name", ["largefov", pytest.param("msc", marks=pytest.mark.slow)])
def test_the_output_stride_is_that_of_the_network_in_the_file(name: str, tmp_path: Path) -> None:
    model = narrow(name, output_stride=16, width=64)
    for path in (tmp_path / "w.safetensors", tmp_path / "w.caffemodel"):
        model.save(path)
        for given in (None, name):
            back = load(path, given)
            assert back.output_stride == 16
            assert same_scores(back, model)
        assert load(path, output_stride=8).output_stride == 8
    # As Caffe's snapshots: with the train net.
    write_weights(path, model.caffe_weights(), parse_net(model.prototxt("TRAIN"), "TRAIN"))
    assert load(path).output_stride == 16
    # Weights that stand without a network: as published.
    model.save(tmp_path / "w.caffemodel.h5")
    assert load(tmp_path / "w.caffemodel.h5", name).output_stride == 8
    # Initial weights: the network in the file is the one for classification.
    weights = model.caffe_weights()
    del weights["fc8_voc12" if name == "largefov" else "fc8_pascal"]
    write_weights(path, weights, parse_net(model.prototxt()))
    assert load(path, name, strict=False).output_stride == 8


def test_a_network_in_the_file_that_computes_something_else(tmp_path: Path) -> None:
    model = narrow("largefov")
    text = model.prototxt().replace("dilation: 12", "dilation: 11").replace("pad: 12", "pad: 11")
    write_weights(tmp_path / "w.caffemodel", model.caffe_weights(), parse_net(text))
    with pytest.warns(UserWarning, match=r"w.caffemodel: .* other strides, rates or paddings"):
        load(tmp_path / "w.caffemodel")


def test_a_text_holds_no_weights(tmp_path: Path) -> None:
    path = tmp_path / "README.md"
    path.write_text("# A title\n\n`${NAME}` placeholders\n")
    with pytest.raises(InputError, match=r"README.md: is a text, which holds no weights; expected"):
        load(path)


def test_the_bundled_model() -> None:
    """Caffe's own file: V1 format, biases of 1x1x1xN."""
    path = BUNDLED / "weights.caffemodel"
    model = load(path)
    assert (model.name, model.options["width"]) == ("deeplab_v1_vgg16_largefov", 8)
    assert model.load_report is not None
    assert "conv1_1" in model.load_report.reshaped
    x = picture((65, 97))
    net = load_caffe(path)
    with torch.inference_mode():
        (caffe,) = net(data=x).values()
        torch.testing.assert_close(model.eval()(x), caffe, rtol=0, atol=1e-6 * caffe.abs().max())
    written = model.caffe_weights()
    for layer, blobs in read_weights(path).items():
        for ours, theirs in zip(written[layer], blobs, strict=True):
            assert ours.tobytes() == theirs.tobytes()


def resnet(**options: Any) -> DeepLab:
    return narrow("resnet101-msc-aspp", width=64, **options)


@pytest.mark.slow
def test_three_copies_of_resnet(tmp_path: Path) -> None:
    """All copies are written; the last one in a file wins; statistics are sums over a weight."""
    model = resnet()
    weights = model.caffe_weights()
    for layer in ("res4b22_branch2b", "bn4b22_branch2b", "scale4b22_branch2b", "fc1_voc12_c3"):
        name, _, end = layer.rpartition("_c3")
        for copy in ("_res05", "_res075"):
            twin = f"{name}{copy}_c{end or 3}" if name else layer + copy
            assert all(
                np.array_equal(a, b) for a, b in zip(weights[layer], weights[twin], strict=True)
            )
    model.save(tmp_path / "w.caffemodel")
    assert same_scores(load(tmp_path / "w.caffemodel"), model)

    mean, variance, one = weights["bn_conv1"]
    for copy in ("", "_res05", "_res075"):
        weights[f"bn_conv1{copy}"] = [mean * 4, variance * 4, one * 4]
    other = resnet()
    assert other.load_caffe_weights(weights).conflicts == []
    assert same_scores(other, model)
    weights["scale_conv1_res075"] = [np.zeros(1, np.float32), np.full(1, 3, np.float32)]
    with pytest.warns(UserWarning, match="'scale_conv1_res05' and 'scale_conv1_res075' share"):
        other.load_caffe_weights(weights)
    assert other.get_parameter("backbone.stage1.bn_conv1.bias").item() == 3


def test_a_weight_of_zero_means_no_statistics() -> None:
    """batch_norm_layer.cpp: 0 where the third blob is 0, and nothing is divided by it."""
    model = create_model("resnet101", width=64)
    weights = model.caffe_weights()
    weights["bn_conv1"] = [np.ones(1, np.float32), np.ones(1, np.float32), np.zeros(1, np.float32)]
    model.load_caffe_weights(weights)
    assert model.get_buffer("backbone.stage1.bn_conv1.running_mean").item() == 0
    assert model.get_buffer("backbone.stage1.bn_conv1.running_var").item() == 0


def test_strict_and_not() -> None:
    model = narrow("largefov")
    weights = model.caffe_weights()
    before = {key: value.clone() for key, value in model.state_dict().items()}
    del weights["fc7"]
    weights["fc1000"] = [np.zeros((3, 3), np.float32)]
    weights["pool1"] = []
    zeros = [np.zeros_like(blob) for blob in weights["conv1_1"]]
    weights["conv1_1"] = zeros
    message = "expected weights of fc7, got layers that it does not have: fc1000"
    with pytest.raises(CaffeImportError, match=message):
        model.load_caffe_weights(weights)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())

    weights["fc8_voc12"] = [np.zeros((9, 32, 1, 1), np.float32), np.zeros(9, np.float32)]
    with pytest.raises(CaffeImportError, match="'fc8_voc12': blob 0 has another shape"):
        model.load_caffe_weights(weights)
    # VGG-16's matrices are convolutions of as many values.
    weights["fc6"] = [weights["fc6"][0].reshape(1, 1, 32, -1), weights["fc6"][1]]
    report = model.load_caffe_weights(weights, strict=False)
    assert report.missing == ["fc7", "fc8_voc12"]
    assert report.unused == ["fc1000", "pool1"]
    assert report.reshaped == ["fc6"]
    assert len(report.unfit) == 1
    after = model.state_dict()
    assert not after["backbone.stage1.conv1_1.weight"].any()
    for key in ("head.fc8_voc12.weight", "head.fc7.weight", "head.fc6.weight"):
        assert torch.equal(after[key], before[key])


def test_a_classifier_for_other_classes_starts_anew(tmp_path: Path) -> None:
    model = narrow("largefov")
    model.save(tmp_path / "w.safetensors")
    with pytest.raises(CaffeImportError, match=r"w.safetensors: layer 'fc8_voc12': blob 0 has"):
        load(tmp_path / "w.safetensors", num_classes=9)
    tuned = load(tmp_path / "w.safetensors", num_classes=9, strict=False)
    assert tuned.load_report is not None
    assert tuned.load_report.missing == ["fc8_voc12"]
    assert scores(tuned).shape[1] == 9
    assert torch.equal(
        tuned.get_parameter("head.fc7.weight"), model.get_parameter("head.fc7.weight")
    )


def test_initial_weights_without_a_classifier(tmp_path: Path) -> None:
    """As vgg16_20M.caffemodel: the network must be named, and the classifier starts anew."""
    weights = narrow("largefov").caffe_weights()
    del weights["fc8_voc12"]
    path = tmp_path / "init.caffemodel"
    write_weights(path, weights)
    with pytest.raises(
        ValueError, match="init.caffemodel: holds other layers; expected weights of"
    ):
        load(path)
    with pytest.raises(CaffeImportError, match="init.caffemodel: .* expected weights of fc8_voc12"):
        load(path, "largefov")
    model = load(path, "largefov", num_classes=9, strict=False)
    assert str(model.load_report) == "15 layers copied, 1 missing (fc8_voc12)"
    assert scores(model).shape[1] == 9


def test_parts_that_were_replaced_are_not_written() -> None:
    model = narrow("largefov")
    weights = model.caffe_weights()
    model.head = nn.Conv2d(16, 5, 1)
    with pytest.raises(CaffeImportError, match="'fc6': the network has no such layer any more"):
        model.caffe_weights()
    report = model.load_caffe_weights(weights, strict=False)
    assert report.unused == ["fc6", "fc7", "fc8_voc12"]
    assert scores(model).shape == (1, 5, 65, 65)


@pytest.mark.slow
def test_which_network_it_is(tmp_path: Path) -> None:
    """By the layers; where these are the same, by the windows of the network in the file."""
    path = tmp_path / "w.caffemodel"
    for name in ("plain", "4x4", "7x7", "aspp-s"):
        model = create_model(name, 3, width=32)
        write_weights(path, model.caffe_weights())
        bare = read_model(path)
        model.save(path)
        assert model.name is not None
        expected = Identity(model.name, 3, 32, "voc12")
        published = replace(expected, output_stride=8)
        assert identify(read_model(path)) == published
        # As Caffe's snapshots: with the train net, whose pools differ in the first network.
        train = parse_net(model.prototxt("TRAIN"), "TRAIN")
        write_weights(path, model.caffe_weights(), train)
        assert identify(read_model(path)) == published
        if name == "7x7":
            assert identify(bare) == expected
        else:
            with pytest.raises(ValueError, match=f"w.caffemodel: .*several.*, got .*{model.name}"):
                identify(bare)
            assert identify(bare, name) == expected
    with pytest.raises(ValueError, match="holds other layers; expected weights of one of the"):
        identify(Model(weights={"ip": [np.zeros((2, 2), np.float32)]}))
    with pytest.raises(ValueError, match="expected weights of resnet101"):
        identify(bare, "resnet101")
