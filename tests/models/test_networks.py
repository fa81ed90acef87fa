"""The generated networks: sizes, parameters, learning rates, and the graphs that Caffe ran."""

from __future__ import annotations

import math
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from deeplab_repro.models import NETWORKS, write_network
from prototxt_import import Layer, Net, infer_net, parse_net

# (name, format) of every network; the V1 format knows no BatchNorm.
WRITTEN = [
    (name, format)
    for name in NETWORKS
    for format in ("v1", "v2")
    if not (name.startswith("resnet") and format == "v1")
]


@cache  # several tests look at one network
def imported(name: str, phase: str = "DEPLOY", format: str = "v2", **options: Any) -> Net:
    text = write_network(name, phase, format, **options)
    return parse_net(text, phase="TRAIN" if phase == "TRAIN" else "TEST")


def shapes(net: Net) -> dict[str, Any]:
    """Blob -> shape."""
    return dict(infer_net(net).blobs)


def learned_values(net: Net) -> int:
    """Parameters without BatchNorm's statistics; a name shared by several layers counts once."""
    seen: set[str] = set()
    total = 0
    for item in infer_net(net).layers:
        if item.layer.type == "BatchNorm":
            continue
        for param, shape in zip(item.layer.spec.param, item.shapes.params, strict=True):
            if not param.name or param.name not in seen:
                total += math.prod(shape)
            seen.add(param.name)
    return total


@pytest.mark.parametrize(("name", "format"), WRITTEN)
@pytest.mark.sampled(4)
def test_train_sizes(name: str, format: str) -> None:
    network = NETWORKS[name]
    blobs = shapes(imported(name, "TRAIN", format))
    size, scores = network.train_size, network.train_scores
    assert blobs["data"] == (network.batch, 3, size, size)
    assert blobs[network.scores] == (network.batch, 21, scores, scores)
    assert blobs["label_shrink"] == (network.batch, 1, scores, scores)
    assert ("data_dim" in blobs) == (format == "v2")


@pytest.mark.parametrize(("name", "format"), WRITTEN)
@pytest.mark.parametrize("phase", ["TEST", "DEPLOY"])
@pytest.mark.sampled(8)
def test_test_sizes(name: str, format: str, phase: str) -> None:
    network = NETWORKS[name]
    net = imported(name, phase, format)
    blobs = shapes(net)
    size, scores = network.test_size, network.test_scores
    assert blobs["data"] == (1, 3, size, size)
    assert blobs[network.scores] == (1, 21, scores, scores)
    assert blobs[network.output] == (1, 21, size, size)
    assert network.output in net.outputs
    assert (net.layers[-1].type == "Silence") == (phase == "TEST")


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.sampled(3)
def test_scores_are_41_for_321_in_testing_too(name: str) -> None:
    if name == "plain":
        size, scores = 306, 41  # the test net pads pool4, the train net does not and has 39
    else:
        size, scores = 321, 41
    blobs = shapes(imported(name, input_size=size))
    assert blobs[NETWORKS[name].scores][2:] == (scores, scores)
    assert blobs[NETWORKS[name].output][2:] == (size, size)


def test_sizes_inside_the_plain_network() -> None:
    """vgg128_noup: 306 -> 154 -> 78 -> 40 -> 39 in training, 514 -> ... -> 66 -> 67 in testing."""
    for phase, expected in (
        ("TRAIN", [306, 154, 78, 40, 39, 39]),
        ("TEST", [514, 258, 130, 66, 67, 67]),
    ):
        blobs = shapes(imported("plain", phase, "v1"))
        names = ["conv1_2", "conv2_2", "conv3_3", "conv4_3", "conv5_3", "fc8_pascal"]
        assert [blobs[name][2] for name in names] == expected


def test_labels_are_decimated_exactly() -> None:
    """Without one row and column, 306 is 8k + 1: then Interp picks labels and mixes none."""
    for name, skipped in (("plain", -1), ("largefov", 0)):
        interp = imported(name, "TRAIN")["label_shrink"].spec.interp_param
        assert (interp.shrink_factor, interp.pad_beg, interp.pad_end) == (8, skipped, 0)


@pytest.mark.slow
def test_sizes_inside_resnet101() -> None:
    blobs = shapes(imported("resnet101-msc-aspp", input_size=321))
    for copy, expected in {
        "": [161, 81, 41, 41],
        "_res075": [121, 61, 31, 31],
        "_res05": [81, 41, 21, 21],
    }.items():
        names = ["conv1", "pool1", "res3b3", "res5c"]
        assert [blobs[name + copy][2] for name in names] == expected
    assert blobs["data_res075"][2] == 241
    assert blobs["data_res05"][2] == 161
    for scores in ("fc1_voc12", "fc1_voc12_res075_interp", "fc1_voc12_res05_interp", "fc_fusion"):
        assert blobs[scores] == (1, 21, 41, 41)


def test_msc_has_a_strided_and_a_dense_graph() -> None:
    train = shapes(imported("msc-largefov", "TRAIN", "v1", batch=1))
    dense = shapes(imported("msc-largefov", "TEST", "v1"))
    for branch, size in {"data": 513, "pool1": 257, "pool2": 129, "pool3": 65, "pool4": 65}.items():
        assert train[f"{branch}_ms"] == (1, 21, 41, 41)
        assert dense[f"{branch}_ms"] == (1, 21, size, size)
    assert train["fc_fusion"][2] == 41
    assert dense["fc_fusion"][2] == 513


@pytest.mark.parametrize(("name", "format"), WRITTEN)
@pytest.mark.parametrize("phase", ["TRAIN", "DEPLOY"])
@pytest.mark.sampled(8)
def test_parameters(name: str, format: str, phase: str) -> None:
    assert learned_values(imported(name, phase, format)) == NETWORKS[name].parameters


def test_published_parameters() -> None:
    """The counts that the papers round to 65.1M, 134.3M and 20.5M, and those of the releases."""
    published = {
        "plain": 65_140_565,
        "7x7": 134_346_581,
        "largefov": 20_505_429,
        "aspp-s": 37_877_652,
        "aspp-l": 37_877_652,
        "resnet101-msc-aspp": 44_048_532,
        "msc": 65_140_565 + 1_206_121,
        "msc-largefov": 20_505_429 + 1_206_121,
    }
    assert {name: NETWORKS[name].parameters for name in published} == published


def multipliers(net: Net, layer: str) -> list[tuple[float, float]]:
    return [(param.lr_mult, param.decay_mult) for param in net[layer].spec.param]


@pytest.mark.parametrize("format", ["v1", "v2"])
def test_learning_rates(format: str) -> None:
    ordinary, tenfold = [(1, 1), (2, 0)], [(10, 1), (20, 0)]
    frozen = [(0, 1), (0, 0)]
    largefov = imported("largefov", "TRAIN", format)
    assert multipliers(largefov, "conv1_1") == multipliers(largefov, "fc7") == ordinary
    assert multipliers(largefov, "fc8_voc12") == tenfold
    msc = imported("msc", "TRAIN", format)
    assert multipliers(msc, "conv5_3") == multipliers(msc, "fc6") == frozen
    assert multipliers(msc, "pool4_fc") == multipliers(msc, "fc8_pascal") == ordinary
    assert multipliers(imported("msc-largefov", "TRAIN", format), "fc8_voc12") == frozen


@pytest.mark.slow
def test_resnet_parameters_are_shared_and_batch_norm_frozen() -> None:
    net = imported("resnet101-msc-aspp", "TRAIN")
    for copy in ("", "_res075", "_res05"):
        conv, norm, scale = (
            net[name + copy].spec
            for name in ("res4b22_branch2b", "bn4b22_branch2b", "scale4b22_branch2b")
        )
        assert [param.name for param in conv.param] == ["res4b22_branch2b_0"]
        assert [param.name for param in norm.param] == [f"bn4b22_branch2b_{i}" for i in range(3)]
        assert [param.name for param in scale.param] == [f"scale4b22_branch2b_{i}" for i in (0, 1)]
        frozen = {(param.lr_mult, param.decay_mult) for param in (*norm.param, *scale.param)}
        assert frozen == {(0, 0)}
        assert norm.batch_norm_param.use_global_stats
        assert scale.scale_param.bias_term
        head = net[f"fc1_voc12{copy}_c3"].spec
        assert [param.name for param in head.param] == ["fc1_voc12_c3_w", "fc1_voc12_c3_b"]
        assert [param.lr_mult for param in head.param] == [10, 20]


def test_fillers() -> None:
    net = imported("msc", "TRAIN")

    def std(layer: str) -> float:
        return round(net[layer].spec.convolution_param.weight_filler.std, 6)

    assert std("data_conv") == std("pool3_fc") == 0.001
    assert std("pool4_fc") == 0.005
    assert std("pool2_ms") == std("fc8_pascal") == 0.01
    assert not net["pool3_ms"].spec.convolution_param.HasField("weight_filler")


@pytest.mark.slow
def test_resnet_has_four_losses() -> None:
    net = imported("resnet101-msc-aspp", "TRAIN")
    losses = {layer.name: layer.bottoms for layer in net.layers if layer.type == "SoftmaxWithLoss"}
    assert losses == {
        "loss": ["fc_fusion", "label_shrink"],
        "loss_res1": ["fc1_voc12", "label_shrink"],
        "loss_res075": ["fc1_voc12_res075_interp", "label_shrink"],
        "loss_res05": ["fc1_voc12_res05", "label_shrink16"],
    }
    blobs = shapes(net)
    assert blobs["label_shrink16"][2] == blobs["fc1_voc12_res05"][2] == 21


@pytest.mark.parametrize("format", ["v1", "v2"])
@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_data_layer(phase: str, format: str) -> None:
    net = imported("aspp-l", phase, format, exp="coco", data_root="D", num_labels=60)
    (data,) = net.data_layers
    training = phase == "TRAIN"
    transform, source = data.spec.transform_param, data.spec.image_data_param
    assert transform.crop_size == (321 if training else 513)
    assert transform.mirror == training
    assert [round(v, 3) for v in transform.mean_value] == [104.008, 116.669, 122.675]
    assert source.batch_size == (10 if training else 1)
    assert source.root_folder == "D"
    assert source.source == f"coco/list/{'train_aug' if training else 'val'}.txt"
    assert shapes(net)["fc8_coco"][1] == 60
    expected = {"loss", "accuracy"} if training else {"fc8_interp"}
    assert set(net.outputs) == expected


def test_random_scales_are_resnets_only() -> None:
    (data,) = imported("resnet101-aspp", "TRAIN").data_layers
    assert list(data.spec.transform_param.scale_factors) == [0.5, 0.75, 1, 1.25, 1.5]
    (data,) = imported("aspp-l", "TRAIN").data_layers
    assert not data.spec.transform_param.scale_factors


# What Caffe itself ran: (folder, arguments of write_network)
RUN_BY_CAFFE = {
    "deeplab_plain_v1_w16": ("plain", {"format": "v1", "width": 16, "input_size": 98}),
    "largefov_v1_w8": ("largefov", {"format": "v1", "width": 8, "input_size": 97}),
    "largefov_v2_w8": ("largefov", {"width": 8, "input_size": 97}),
    "msc_largefov_v1_w8": ("msc-largefov", {"format": "v1", "width": 8, "input_size": 97}),
    "vgg16_aspp_l_w8": ("aspp-l", {"width": 8, "input_size": (97, 129), "batch": 2}),
    "resnet101_msc_w16": ("resnet101-msc-aspp", {"width": 16, "input_size": 97}),
}


def described(layer: Layer) -> dict[str, Any]:
    """All that decides what a layer computes, defaults filled in; fillers and rates left out."""
    out: dict[str, Any] = {
        "name": layer.name,
        "type": layer.type,
        "bottoms": layer.bottoms,
        "tops": layer.tops,
        "shared": [param.name for param in layer.spec.param if param.name],
    }
    for descriptor, message in layer.spec.ListFields():
        if descriptor.message_type is None or descriptor.name == "param":
            continue
        for field in message.DESCRIPTOR.fields:
            if "filler" in field.name:
                continue
            value = getattr(message, field.name)
            if field.name in ("pad", "stride", "dilation") and not isinstance(value, int):
                # An empty repeated field stands for one default value.
                value = list(value) or [0 if field.name == "pad" else 1]
            elif field.message_type is None and not isinstance(value, int | float | str):
                value = list(value)
            out[f"{descriptor.name}.{field.name}"] = value
    return out


@pytest.mark.parametrize("folder", RUN_BY_CAFFE)
def test_graph_is_the_one_that_caffe_ran(folder: str, data: Path) -> None:
    name, options = RUN_BY_CAFFE[folder]
    ours = imported(name, **options)
    theirs = parse_net((data / "caffe" / folder / "deploy.prototxt").read_text())
    assert ours.inputs == theirs.inputs
    assert [layer.name for layer in ours.layers] == [layer.name for layer in theirs.layers]
    for our, their in zip(ours.layers, theirs.layers, strict=True):
        assert described(our) == described(their)
        assert our.dialect == their.dialect


def test_both_formats_describe_one_network() -> None:
    for name in ("largefov", "msc", "aspp-s"):
        v1, v2 = imported(name, format="v1"), imported(name, format="v2")
        for one, other in zip(v1.layers, v2.layers, strict=True):
            assert described(one) == described(other)


def test_crop_of_the_plain_network_in_both_formats() -> None:
    """Padding exists in the v1 fork only; the v2 fork crops the same by Interp's paddings."""
    assert imported("plain", format="v1")["fc8_crop"].type == "Padding"
    crop = imported("plain", format="v2")["fc8_crop"].spec
    assert crop.type == "Interp"
    interp = crop.interp_param
    assert (interp.zoom_factor, interp.pad_beg, interp.pad_end) == (1, -7, -8)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"name": "largfov"}, "network: expected one of plain, msc"),
        ({"phase": "test"}, "phase: expected one of TRAIN, TEST, DEPLOY; got 'test'"),
        ({"format": "v3"}, "format: expected one of v1, v2; got 'v3'"),
        ({"num_labels": 0}, "num_labels: expected at least 1, got 0"),
        ({"batch": 1.5}, "batch: expected a whole number, got 1.5"),
        ({"output_stride": 12}, "output_stride: expected one of 1, 2, 4, 8, 16, 32; got 12"),
        ({"width": 3}, "width: expected a divisor of 64, got 3"),
        ({"batch": 0}, "batch: expected at least 1, got 0"),
        ({"input_size": 320}, "largefov takes sides of 8k + 1, such as 313 or 321"),
        ({"input_size": (321, 1)}, "such as 9 or 17"),
        ({"name": "plain", "input_size": 513}, "plain takes sides of 8k + 2, such as 506 or 514"),
        (
            {"name": "resnet101-msc", "input_size": 329},
            "resnet101-msc takes sides of 32k + 1, such as 321 or 353",
        ),
        ({"name": "resnet101", "format": "v1"}, "bn_conv1: the V1 format has no BatchNorm"),
        (
            {"phase": "TRAIN", "format": "v1", "input_size": (321, 329)},
            "the data layer of the DeepLab v1 fork crops squares only",
        ),
    ],
)
def test_bad_arguments(options: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=f".*{message.replace('+', '[+]')}"):
        write_network(**{"name": "largefov", **options})
