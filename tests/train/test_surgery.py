"""Initial weights: what is cut from an ImageNet network computes what it must."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn import functional

from deeplab_repro import InputError, load_caffe
from deeplab_repro.models import write_network
from deeplab_repro.pictures.voc import VOC_MEAN
from deeplab_repro.train.surgery import Grafted, graft
from deeplab_repro.train.torchvision import MEAN, STD, read_torchvision
from prototxt_import import Model, Net, parse_net
from tests.train.imagenet import STAGES, VGG16, ResNet101, randomized

WIDTH = 32
#: Of red, green, blue in 0..1: with DeepLab's own mean both networks pad with the same.
SAME_MEAN = [value / 255 for value in reversed(VOC_MEAN)]


def target(name: str, **options: Any) -> Net:
    return parse_net(write_network(name, width=WIDTH, **options))


def blobs(net: Net, grafted: Grafted, x: Tensor) -> dict[str, Tensor]:
    model = load_caffe(Model(net.raw, weights=grafted.weights))
    with torch.inference_mode():
        return model.blobs(data=x)


def pictures(size: tuple[int, int], mean: Any = SAME_MEAN) -> tuple[Tensor, Tensor]:
    """The same picture as torchvision and as DeepLab read it."""
    rgb = torch.rand(1, 3, *size)
    theirs = (rgb - torch.tensor(mean)[:, None, None]) / torch.tensor(STD)[:, None, None]
    ours = rgb.flip(1) * 255 - torch.tensor(VOC_MEAN)[:, None, None]
    return theirs, ours


def assert_equal(ours: Tensor, theirs: Tensor) -> None:
    assert theirs.std() > 0.01
    assert (ours - theirs).norm() / theirs.norm() < 1e-5


def vgg_source(**options: Any) -> tuple[VGG16, dict[str, list[Any]]]:
    model = randomized(VGG16(WIDTH, **options))
    imported = read_torchvision(model.state_dict(), SAME_MEAN)
    assert imported is not None
    assert isinstance(model, VGG16)
    return model, imported.weights


def layer(kind: str, name: str, bottom: str, parameters: str = "", top: str = "") -> str:
    return (
        f'layer {{ name: "{name}" type: "{kind}" bottom: "{bottom}" top: "{top or name}"'
        f" {parameters} }}\n"
    )


def conv(name: str, bottom: str, outputs: int, kernel: int = 1, extra: str = "") -> str:
    sizes = f"num_output: {outputs} kernel_size: {kernel} {extra}"
    return layer("Convolution", name, bottom, f"convolution_param {{ {sizes} }}")


def vgg_prototxt(connected: bool) -> Net:
    """VGG-16 in Caffe: with its fully connected layers, or with convolutions in their place."""
    text = 'input: "data" input_shape { dim: 1 dim: 3 dim: 224 dim: 224 }\n'
    below = "data"
    for stage, (channels, count) in enumerate(STAGES, 1):
        for i in range(1, count + 1):
            text += conv(f"conv{stage}_{i}", below, channels // WIDTH, 3, "pad: 1")
            below = f"conv{stage}_{i}"
            text += layer("ReLU", f"relu{stage}_{i}", below, top=below)
        window = "pooling_param { kernel_size: 2 stride: 2 }"
        text += layer("Pooling", f"pool{stage}", below, window)
        below = f"pool{stage}"
    for name, outputs, kernel in (("fc6", 128, 7), ("fc7", 128, 1), ("fc8", 7, 1)):
        if connected:
            sizes = f"inner_product_param {{ num_output: {outputs} }}"
            text += layer("InnerProduct", name, below, sizes)
        else:
            text += conv(name, below, outputs, kernel)
        if name != "fc8":
            text += layer("ReLU", f"relu_{name}", name, top=name)
        below = name
    return parse_net(text)


@pytest.mark.parametrize("norm", [False, True], ids=["vgg16", "vgg16_bn"])
def test_fully_connected_layers_as_convolutions(norm: bool) -> None:
    """At 224 they compute what torchvision's network and Caffe's with matrices compute."""
    model, source = vgg_source(norm=norm)
    theirs, ours = pictures((224, 224))
    with torch.inference_mode():
        scores = model(theirs)
    for connected in (True, False):
        net = vgg_prototxt(connected)
        grafted = graft(net, source)
        assert not grafted.new
        assert_equal(blobs(net, grafted, ours)["fc8"].flatten(1), scores)
    assert len(grafted.same) == 13
    assert grafted.changed == {
        "fc6": "128x784 as 128x16x7x7",
        "fc7": "128x128 as 128x128x1x1",
        "fc8": "7x128 as 7x128x1x1",
    }


def test_decimation_keeps_every_second_tap() -> None:
    """4x4 taps at rate 8 see what 7x7 at rate 4 sees if the others are zero."""
    _, source = vgg_source()
    whole, cut = target("7x7", input_size=65), target("4x4", input_size=65)
    kernel = np.zeros((7, 7), np.float32)
    kernel[np.ix_((0, 2, 4, 6), (0, 2, 4, 6))] = 1
    matrix = source["fc6"][0]
    sparse = (matrix.reshape(-1, 16, 7, 7) * kernel).reshape(matrix.shape)
    x = pictures((65, 65))[1]
    grafted = graft(cut, source)
    ours = blobs(cut, grafted, x)
    theirs = blobs(whole, graft(whole, {**source, "fc6": [sparse, source["fc6"][1]]}), x)
    for name in ("fc6", "fc7", "fc8_interp"):
        assert_equal(ours[name], theirs[name])
    assert grafted.changed["fc6"] == "128x784 as 128x16x7x7, rows and columns 0, 2, 4, 6 of 7"
    assert grafted.new == {"fc8_pascal": "gaussian 0.01"}
    assert grafted.unused == ["fc8"]


@pytest.mark.parametrize("pick", ["random", "every"])
def test_large_field_of_view(pick: Any) -> None:
    """3x3 taps of 32 filters of 128: the same numbers as the whole fc6 at rate 4 gives there."""
    _, source = vgg_source()
    net = target("largefov", input_size=65)
    grafted = graft(net, source, pick=pick, seed=3)
    values = blobs(net, grafted, pictures((65, 65))[1])
    matrix, bias = map(torch.from_numpy, source["fc6"])
    filters = matrix.reshape(128, 16, 7, 7)[:, :, ::3, ::3]
    everything = functional.conv2d(values["pool5a"], filters, bias, padding=12, dilation=12)
    kept = [int(np.flatnonzero(source["fc6"][1] == b)[0]) for b in grafted.weights["fc6"][1]]
    assert kept == (list(range(0, 128, 4)) if pick == "every" else sorted(set(kept)))
    assert_equal(values["fc6"], everything[:, kept].relu())
    # fc7 reads the filters of fc6 that are left.
    np.testing.assert_array_equal(
        grafted.weights["fc7"][0][:, :, 0, 0], source["fc7"][0][np.ix_(kept, kept)]
    )
    np.testing.assert_array_equal(grafted.weights["fc7"][1], source["fc7"][1][kept])
    how = "every 4th of 128 filters" if pick == "every" else "32 of 128 filters (random, seed 3)"
    assert grafted.changed["fc6"] == (
        f"128x784 as 128x16x7x7, rows and columns 0, 3, 6 of 7, {how}"
    )


def test_the_seed_decides() -> None:
    _, source = vgg_source()
    net = target("largefov")
    one, same, other = (graft(net, source, seed=seed).weights for seed in (1, 1, 2))
    for layer in one:
        for i, blob in enumerate(one[layer]):
            np.testing.assert_array_equal(blob, same[layer][i])
    for layer in ("fc6", "fc7", "fc8_voc12"):
        assert not np.array_equal(one[layer][0], other[layer][0])


def test_aspp() -> None:
    """All branches from one fc6 and fc7, each classifier anew and with its own numbers."""
    _, source = vgg_source()
    grafted = graft(target("aspp-l", num_labels=300), source)
    first = graft(target("largefov"), source).weights
    for i in "1234":
        for layer in ("fc6", "fc7"):
            np.testing.assert_array_equal(grafted.weights[f"{layer}_{i}"][0], first[layer][0])
        assert grafted.new[f"fc8_voc12_{i}"] == "gaussian 0.01"
        assert grafted.weights[f"fc8_voc12_{i}"][0].std() == pytest.approx(0.01, rel=0.05)
        assert not grafted.weights[f"fc8_voc12_{i}"][1].any()
    assert grafted.changed["fc6_2"].startswith("from fc6, 128x784 as")
    assert not np.array_equal(grafted.weights["fc8_voc12_1"][0], grafted.weights["fc8_voc12_2"][0])


def test_multi_scale_from_a_trained_network() -> None:
    """DeepLab-MSc keeps the whole network, its classifier too, and adds its branches."""
    _, source = vgg_source()
    trained = graft(target("coco"), source).weights
    grafted = graft(target("msc"), trained)
    assert set(grafted.same) == set(trained)
    assert not grafted.changed
    assert not grafted.unused
    assert {name for name in grafted.new if name.startswith("pool4")} == {
        "pool4_conv",
        "pool4_fc",
        "pool4_ms",
    }
    assert grafted.new["pool4_fc"] == "gaussian 0.005"
    assert grafted.new["data_conv"] == "gaussian 0.001"
    assert grafted.new["pool3_ms"] == "constant 0"
    # Of other classes the classifier starts anew.
    other = graft(target("msc", num_labels=5), trained)
    assert "fc8_pascal" in other.new
    assert other.unused == ["fc8_pascal"]


def test_torchvisions_pixels() -> None:
    """With another mean than DeepLab's the first layer is the same but at the border."""
    model = randomized(VGG16(WIDTH))
    imported = read_torchvision({f"module.{k}": v for k, v in model.state_dict().items()})
    assert imported is not None
    assert imported.network == "torchvision's VGG-16"
    assert len(imported.notes) == 1
    theirs, ours = pictures((33, 41), MEAN)
    weight, bias = map(torch.from_numpy, imported.weights["conv1_1"])
    first = functional.conv2d(ours, weight, bias, padding=1)
    expected = model.features[0](theirs).detach()
    assert_equal(first[..., 1:-1, 1:-1], expected[..., 1:-1, 1:-1])
    difference = (first - expected).abs().max()
    assert difference > 1e-4
    # Nine windows' worth of at most 1 in 255, divided by the deviation.
    assert difference < model.features[0].weight.abs().sum((1, 2, 3)).max() / 255 / min(STD)


@pytest.mark.slow
def test_resnet101() -> None:
    """The last map is that of torchvision's layers where strides and rates are DeepLab's."""
    model = randomized(ResNet101(WIDTH))
    imported = read_torchvision(model.state_dict(), SAME_MEAN)
    assert imported is not None
    (note,) = imported.notes  # none about the border, which is the same for this mean
    assert "res3a_branch2b" in note
    theirs, ours = pictures((65, 97))
    with torch.inference_mode():
        expected = model(theirs)
    net = target("resnet101-msc-aspp", input_size=(65, 97))
    grafted = graft(net, imported.weights)
    values = blobs(net, grafted, ours)
    assert_equal(values["res5c"], expected)
    assert grafted.new == {f"fc1_voc12_c{i}": "gaussian 0.01" for i in range(4)}
    assert grafted.unused == ["fc1000"]
    assert not grafted.changed
    assert grafted.weights["res4b22_branch2b_res075"] is grafted.weights["res4b22_branch2b"]
    assert values["fc1_voc12_res05_c1"].std() > 0


@pytest.mark.slow
@pytest.mark.parametrize("pick", ["random", "every"])
def test_the_last_stage_of_resnet_cut_to_half(pick: Any) -> None:
    """What is left computes the same where it read nothing of what is gone."""
    imported = read_torchvision(randomized(ResNet101(WIDTH)).state_dict(), SAME_MEAN)
    assert imported is not None
    source = imported.weights
    text = write_network("resnet101", width=WIDTH, input_size=65)
    whole = parse_net(text)
    half = parse_net(text.replace("num_output: 64", "num_output: 32"))
    kept = np.arange(0, 64, 2)
    grafted = graft(half, source, pick=pick)
    if pick == "random":
        wanted = grafted.weights["scale5a_branch2c"][0]
        kept = np.array(
            [int(np.flatnonzero(source["scale5a_branch2c"][0] == w)[0]) for w in wanted]
        )
    for block in "bc":
        gone = np.setdiff1d(np.arange(64), kept)
        source[f"res5{block}_branch2a"][0][:, gone] = 0
    x = pictures((65, 65))[1]
    expected = blobs(whole, graft(whole, source), x)["res5c"][:, kept]
    assert_equal(blobs(half, graft(half, source, pick=pick), x)["res5c"], expected)
    assert set(grafted.changed) == {
        *(f"{kind}5a_branch1" for kind in ("res", "bn", "scale")),
        *(f"{kind}5{b}_branch2c" for kind in ("res", "bn", "scale") for b in "abc"),
        "res5b_branch2a",
        "res5c_branch2a",
    }


SMALL = 'input: "data" input_shape { dim: 1 dim: 4 dim: 9 dim: 9 }\n'
WEIGHTS = {"a": [np.ones((4, 4, 7, 7)), np.ones(4)], "b": [np.ones((2, 4, 1, 1)), np.ones(2)]}


@pytest.mark.parametrize(
    ("layers", "message"),
    [
        (
            conv("a", "data", 4, 5),
            "the source's layer does not fit; expected a kernel that",
        ),
        (
            conv("a", "data", 5, 7),
            "the source's layer does not fit; expected at least 5 filters",
        ),
        (
            conv("a", "data", 3, 7),
            "the source's layer does not fit; expected a multiple of 3",
        ),
        (conv("a", "data", 4, 7, "bias_term: false"), "another number of blobs; expected 1, got 2"),
        (conv("a", "data", 4, 7, "group: 2"), "expected 4x2x7x7 in 2 groups, got 4x4x7x7"),
        (
            conv("c", "data", 4),
            "layer 'c': has nothing to start from; expected",
        ),
    ],
)
def test_what_does_not_fit(layers: str, message: str) -> None:
    bottom = "c" if '"c"' in layers else "a"  # what nothing reads may start anew
    net = parse_net(SMALL + layers + conv("b", bottom, 2))
    with pytest.raises(InputError) as refused:
        graft(net, WEIGHTS, pick="every")
    assert message in str(refused.value)


def test_matrices_of_other_maps() -> None:
    net = parse_net(SMALL + conv("a", "data", 4, 7) + conv("b", "a", 2))
    with pytest.raises(InputError, match="a matrix for maps of 4 channels, got 4x15"):
        graft(net, {**WEIGHTS, "a": [np.ones((4, 15)), np.ones(4)]})
    # Files of old programs have four axes.
    old = {"a": [np.ones((1, 1, 4, 196)), np.ones((1, 1, 1, 4))], "b": WEIGHTS["b"]}
    assert graft(net, old).changed == {"a": "4x196 as 4x4x7x7"}


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda s: s.pop("features.28.weight"),
            "layers with weights in 'features'; expected 13, got 12",
        ),
        (lambda s: s.pop("features.28.bias"), "expected features.28.bias, got no such tensor"),
        (lambda s: s.update(extra=torch.ones(1)), "expected features and classifier, got extra"),
    ],
)
def test_no_vgg16(change: Any, message: str) -> None:
    state = VGG16(64).state_dict()
    change(state)
    with pytest.raises(InputError) as refused:
        read_torchvision(state)
    assert str(refused.value).startswith("is not torchvision's vgg16")
    assert message in str(refused.value)


def test_no_resnet101() -> None:
    state = {
        "conv1.weight": torch.ones(1),
        "layer4.0.conv1.weight": torch.ones(1),
        "layer3.35.conv1.weight": torch.ones(1),
    }
    with pytest.raises(
        InputError, match="is not torchvision's resnet101; expected its keys, got la"
    ):
        read_torchvision(state)
    assert read_torchvision({"layer5.a": torch.ones(1), **state}) is None
    with pytest.raises(InputError, match="deviation of torchvision's pictures; expected 3 numbers"):
        read_torchvision(state, std=[1, 0, 1])
