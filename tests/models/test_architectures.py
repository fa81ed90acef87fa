"""The tables and their steps are enough to know a network: its sizes, rates and parameters.

Nothing here reads a prototxt but to compare with it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from deeplab_repro import load_caffe
from deeplab_repro.models import NETWORKS, resnet101, vgg16, write_network
from deeplab_repro.models.architectures import Architecture, Expansion, expand
from deeplab_repro.models.blocks import (
    Block,
    ConvUnit,
    Head,
    ImagePooling,
    Normalization,
    PoolUnit,
    Residual,
)
from deeplab_repro.models.catalogue import find
from deeplab_repro.models.graph import Settings, net_message
from deeplab_repro.models.steps import (
    Conv,
    Crop,
    GlobalPool,
    Loss,
    Merge,
    Norm,
    Pool,
    ReLU,
    Resize,
    ResizeLike,
    Step,
)
from deeplab_repro.models.walk import Feature, Walk
from prototxt_import import infer_net, parse_net

COMMANDS = Path(__file__).parents[2] / "docs" / "command-line.md"


def side(step: Step, read: list[int]) -> int:
    """Rows of the map that a step writes, from those of the maps that it reads."""
    first = read[0]
    match step:
        case Conv():
            return (first + 2 * step.pad - step.rate * (step.kernel - 1) - 1) // step.stride + 1
        case Pool():
            rows = -(-(first + 2 * step.pad - step.kernel) // step.stride) + 1
            return rows - (step.pad > 0 and (rows - 1) * step.stride >= first + step.pad)
        case GlobalPool():
            return 1
        case Resize():
            shrunk = (first - step.skip - 1) // step.shrink + 1
            return (shrunk - 1) * step.zoom + 1
        case ResizeLike():
            return read[1]
        case Crop():
            return first - step.begin - step.end
        case Merge():
            assert set(read) == {first}, step.name
    return first


def sizes(expansion: Expansion, size: int) -> dict[str, tuple[int, int]]:
    """Channels and rows of every map; checks that every step reads what an earlier one wrote."""
    maps = {"data": (3, size), "label": (1, size)}
    for step in expansion.steps:
        read = [maps[bottom] for bottom in step.bottoms]
        channels = read[0][0]
        if isinstance(step, Conv):
            assert step.in_channels == channels, step.name
            channels = step.out_channels
        elif isinstance(step, Norm):
            assert step.channels == channels, step.name
        elif isinstance(step, Merge) and step.operation == "CONCAT":
            channels = sum(one[0] for one in read)
        if not isinstance(step, Loss):
            maps[step.top] = channels, side(step, [one[1] for one in read])
    return maps


def parameters(expansion: Expansion) -> int:
    """Learned values; those of steps with one owner once."""
    counts = {}
    for step in expansion.steps:
        if isinstance(step, Conv):
            weights = step.kernel**2 * step.in_channels // step.groups * step.out_channels
            counts[step.owner] = weights + step.bias * step.out_channels
        elif isinstance(step, Norm):
            counts[step.scale_owner] = 2 * step.channels
    return sum(counts.values())


def rates(expansion: Expansion) -> dict[str, int]:
    """Name -> rate of every convolution that is wider than a pixel."""
    steps = (step for step in expansion.steps if isinstance(step, Conv) and step.kernel > 1)
    return {step.name: step.rate for step in steps}


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("output_stride", [8, 16])
def test_parameters_and_sizes(name: str, output_stride: int) -> None:
    network = NETWORKS[name]
    for training, size in ((True, network.train_size), (False, network.test_size)):
        expansion = expand(network.architecture, training=training, output_stride=output_stride)
        assert parameters(expansion) == network.parameters
        maps = sizes(expansion, size)
        scores = network.train_scores if training else network.test_scores
        if output_stride == 16:
            scores = {306: 20, 514: 34, 321: 21, 513: 33}[size]
        assert maps[expansion.scores.name] == (21, scores)
        assert maps[expansion.output.name] == (21, scores if training else size)
        for loss in expansion.steps:
            if isinstance(loss, Loss):
                assert maps[loss.bottoms[0]][1] == maps[loss.bottoms[1]][1]


@pytest.mark.parametrize("name", ["plain", "msc-largefov", "aspp-s", "resnet101-msc-aspp"])
@pytest.mark.parametrize("phase", ["TRAIN", "DEPLOY"])
def test_sizes_are_those_of_the_prototxt(name: str, phase: str) -> None:
    """Also at output stride 16, where the text is one that nobody released."""
    network = NETWORKS[name]
    step, rest = network.architecture.input_rule(16)
    size = 3 * step + rest
    training = phase == "TRAIN"
    text = write_network(name, phase, num_labels=5, input_size=size, batch=1, output_stride=16)
    blobs = infer_net(parse_net(text, "TRAIN" if training else "TEST")).blobs
    expansion = expand(
        network.architecture, num_classes=5, training=training, output_stride=16, exp="voc12"
    )
    maps = sizes(expansion, size)
    written = {step.top for step in expansion.steps if not isinstance(step, Loss)}
    assert {top: maps[top] for top in written} == {top: blobs[top][1:3] for top in written}


def test_rates_follow_from_the_output_stride() -> None:
    """As published at 8; at 16 half of what stands behind a stride that is no longer dropped."""
    for stride, conv5, head in ((8, 2, (6, 12, 18, 24)), (16, 1, (3, 6, 9, 12))):
        found = rates(expand(vgg16.ASPP_L, output_stride=stride))
        assert found["conv4_3"] == 1
        assert [found[f"conv5_{i}"] for i in (1, 2, 3)] == [conv5] * 3
        assert tuple(found[f"fc6_{i}"] for i in (1, 2, 3, 4)) == head
    for stride, res4, res5, head in ((8, 2, 4, 12), (16, 1, 2, 6)):
        found = rates(expand(resnet101.LARGEFOV_MSC, output_stride=stride))
        for copy in ("", "_res075", "_res05"):
            # The stride sits on the first 1x1 of res4a, so its own 3x3 is behind it.
            assert found[f"res3b3_branch2b{copy}"] == 1
            assert found[f"res4a_branch2b{copy}"] == found[f"res4b22_branch2b{copy}"] == res4
            assert found[f"res5a_branch2b{copy}"] == found[f"res5c_branch2b{copy}"] == res5
            assert found[f"fc1_voc12{copy}"] == head
    # The branches of DeepLab-MSc read maps behind dropped strides with plain 3x3 convolutions.
    assert rates(expand(vgg16.MSC))["pool4_conv"] == 1
    # DeepLab-7x7 is VGG-16's own fc6, with the rate that its dropped strides ask for.
    assert [rates(expand(vgg16.KERNEL_7X7, output_stride=s))["fc6"] for s in (8, 16, 32)] == [
        4,
        2,
        1,
    ]


def test_strides_follow_from_the_output_stride() -> None:
    strides = {
        stride: {
            step.name: step.stride
            for step in expand(resnet101.PLAIN, output_stride=stride).steps
            if isinstance(step, Conv | Pool) and step.stride > 1
        }
        for stride in (8, 16, 32)
    }
    everywhere = {"conv1": 2, "pool1": 2, "res3a_branch1": 2, "res3a_branch2a": 2}
    res4 = {"res4a_branch1": 2, "res4a_branch2a": 2}
    assert strides[8] == everywhere
    assert strides[16] == everywhere | res4
    assert strides[32] == everywhere | res4 | {"res5a_branch1": 2, "res5a_branch2a": 2}


def run(expansion: Expansion, blobs: dict[str, list[Tensor]], data: Tensor) -> dict[str, Tensor]:
    """All maps, by a walk along the steps with Caffe's blobs by the name of their layer."""
    maps = {"data": data}
    for step in expansion.steps:
        read = [maps[bottom] for bottom in step.bottoms]
        x = read[0]
        match step:
            case Conv():
                weights, *bias = blobs[step.owner]
                x = F.conv2d(
                    *(x, weights, bias[0] if bias else None),
                    *(step.stride, step.pad, step.rate, step.groups),
                )
            case Norm():
                mean, variance, count = blobs[step.owner]
                x = F.batch_norm(
                    x, mean / count, variance / count, *blobs[step.scale_owner], eps=step.eps
                )
            case ReLU():
                x = F.relu(x)
            case Pool(method="MAX"):
                x = F.max_pool2d(x, step.kernel, step.stride, step.pad, ceil_mode=True)
            case Pool():
                x = F.avg_pool2d(x, step.kernel, step.stride, step.pad, ceil_mode=True)
            case Resize():
                rows, columns = (side(step, [length]) for length in x.shape[2:])
                x = F.interpolate(x, (rows, columns), mode="bilinear", align_corners=True)
            case Crop():
                x = x[..., step.begin : -step.end, step.begin : -step.end]
            case GlobalPool():
                x = x.mean((2, 3), keepdim=True)
            case ResizeLike():
                x = F.interpolate(x, read[1].shape[2:], mode="bilinear", align_corners=True)
            case Merge(operation="SUM"):
                x = torch.stack(read).sum(0)
            case Merge(operation="CONCAT"):
                x = torch.cat(read, 1)
            case Merge():
                x = torch.stack(read).amax(0)
        maps[step.top] = x
    return maps


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", ["plain", "msc-largefov", "7x7", "aspp-s", "resnet101-msc-aspp"])
@pytest.mark.sampled(3)
def test_the_steps_compute_what_the_prototxt_computes(name: str, output_stride: int) -> None:
    """Modules can be made from the steps: all that they need is in them, weights by layer name."""
    architecture = NETWORKS[name].architecture
    step, rest = architecture.input_rule(output_stride)
    text = write_network(
        name, width=16, num_labels=4, input_size=step + rest, output_stride=output_stride
    )
    net = load_caffe(parse_net(text))
    random = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for layer, blobs in net.params.items():
            for blob in blobs:
                if layer.startswith("bn"):  # variances and their factor are positive
                    blob.copy_(torch.rand(blob.shape, generator=random) + 0.5)
                else:
                    blob.copy_(torch.randn(blob.shape, generator=random) * 0.5)
    data = torch.randn(1, 3, step + rest, step + rest, generator=random) * 50
    expansion = expand(architecture, num_classes=4, width=16, output_stride=output_stride)
    with torch.inference_mode():
        caffe = net.blobs(data=data)
        maps = run(expansion, net.params, data)
    assert set(maps) == set(caffe)
    for top, ours in maps.items():
        assert ours.std() > 0, top
        # Through a hundred layers float32's rounding grows to 1e-5 of the largest value.
        torch.testing.assert_close(ours, caffe[top], rtol=0, atol=1e-4 * float(ours.abs().max()))


# DeepLab v3 (arXiv 1706.05587, section 3.3): the rates stand for output stride 16.
def _batch_norm_unit(name: str, channels: int, kernel: int, rate: int = 1) -> ConvUnit:
    norm = Normalization(f"{name}/bn", f"{name}/scale", frozen=False)
    return ConvUnit(name, channels, kernel, rate=rate, norm=norm, relu=f"{name}/relu", bias=False)


V3 = Architecture(
    resnet101.backbone(multi_grid=(1, 2, 4)),
    Head(
        branches=(
            (ImagePooling("mean", _batch_norm_unit("image_pooling", 256, 1), "upsample"),),
            (_batch_norm_unit("aspp0", 256, 1),),
            *(
                (_batch_norm_unit(f"aspp{i}", 256, 3, rate),)
                for i, rate in enumerate((6, 12, 18), 1)
            ),
        ),
        merge="CONCAT",
        top="concat",
        after=(_batch_norm_unit("projection", 256, 1), ConvUnit("logits", None, 1)),
        output_stride=16,
    ),
    stem="logits",
    output_stride=16,
)


def test_deeplab_v3_is_a_table_too() -> None:
    for stride, res4, res5, aspp in (
        (16, 1, [2, 4, 8], [6, 12, 18]),
        (8, 2, [4, 8, 16], [12, 24, 36]),
    ):
        expansion = expand(V3, output_stride=stride)
        found = rates(expansion)
        assert found["res4b22_branch2b"] == res4
        assert [found[f"res5{block}_branch2b"] for block in "abc"] == res5
        assert [found[f"aspp{i}"] for i in (1, 2, 3)] == aspp
        maps = sizes(expansion, 513)
        coarse = 512 // stride + 1
        assert maps["mean"] == (2048, 1)
        assert maps["upsample"] == (256, coarse)
        assert maps["concat"] == (5 * 256, coarse)
        assert maps["logits"] == (21, coarse)
        assert maps["logits_interp"] == (21, 513)
    assert expand(V3) == expand(V3, output_stride=16)
    aspp = 256 * (2 * 2048 + 3 * 9 * 2048 + 5 * 256) + 6 * 2 * 256 + 257 * 21
    assert parameters(expansion) == 42_394_816 + 105_344 + aspp


def test_what_caffe_does_not_have_is_refused_by_name() -> None:
    settings = Settings("DEPLOY", "v2", (513, 513), 1)
    with pytest.raises(
        ValueError, match="layer mean: the released Caffe networks have no.*GlobalP"
    ):
        net_message("v3", "logits", expand(V3), (), settings)


def test_a_stride_on_the_last_3x3_of_a_stage() -> None:
    """ResNets of DeepLab v3: the unit that loses its stride keeps its rate, what follows does not.

    At output stride 8 block 2 has the rate 1, block 3 the rate 2 in all its units, block 4 the
    rate 4.
    """

    def unit(stage: int, i: int) -> Residual:
        stride = 2 if i == 2 and stage < 4 else 1
        name = f"block{stage}/unit{i}"
        body = (
            ConvUnit(f"{name}/conv1", 64, 1),
            ConvUnit(f"{name}/conv2", 64, 3, stride),
            ConvUnit(f"{name}/conv3", 64, 1),
        )
        shortcut = PoolUnit(f"{name}/pool", 1, stride, 0) if stride > 1 else None
        return Residual(name, body, shortcut)

    backbone = (
        (ConvUnit("root", 64, 7, 2), PoolUnit("pool")),
        *((unit(stage, 1), unit(stage, 2)) for stage in (1, 2, 3, 4)),
    )
    table = Architecture(backbone, Head(((ConvUnit("logits", None, 1),),), "logits"), stem="logits")
    for stride, expected in ((8, (1, 1, 2, 4)), (16, (1, 1, 1, 2)), (32, (1, 1, 1, 1))):
        expansion = expand(table, output_stride=stride)
        found = rates(expansion)
        for stage, rate in enumerate(expected, 1):
            assert [found[f"block{stage}/unit{i}/conv2"] for i in (1, 2)] == [rate, rate]
        assert sizes(expansion, 65)["logits"] == (21, 64 // stride + 1)


@dataclass(frozen=True)
class Separable:
    """A kind of block that the package does not have: depthwise 3x3, then 1x1."""

    name: str
    channels: int
    stride: int = 1

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        feature = walk.depthwise(
            f"{self.name}_depthwise", feature, 3, stride=self.stride, bias=False
        )
        return walk.conv(f"{self.name}_pointwise", feature, self.channels, 1)


@dataclass(frozen=True)
class Decoder:
    """Another one, which comes back to an earlier map."""

    source: str
    head: Head
    unit: Separable

    def expand(self, walk: Walk, feature: Feature) -> Feature:
        low = walk.features[self.source]
        up = walk.resize_like("up", self.head.expand(walk, feature), low)
        merged = walk.merge("joined", (up, low), "CONCAT")
        return ConvUnit("logits", None, 1).expand(walk, self.unit.expand(walk, merged))


def test_a_new_kind_of_block_needs_no_change_elsewhere() -> None:
    stages = tuple((Separable(f"s{i}", 64 * 2**i, stride=2),) for i in range(5))
    head = Head(((ConvUnit("aspp", 256, 3, rate=6),),), "aspp", output_stride=16)
    decoder: Block = Decoder("s1_pointwise", head, Separable("refine", 256))
    table = Architecture(stages, decoder, stem="logits", output_stride=16)
    for stride, rate, aspp in ((16, 1, 6), (8, 2, 12)):
        expansion = expand(table, output_stride=stride, width=2)
        found = rates(expansion)
        assert (found["s3_depthwise"], found["s4_depthwise"]) == (1, rate)
        # The decoder works at stride 4, before any stride was dropped.
        assert (found["aspp"], found["refine_depthwise"]) == (aspp, 1)
        maps = sizes(expansion, 65)
        assert maps["s4_pointwise"] == (512, 64 // stride + 1)
        assert maps["joined"] == (128 + 64, 17)
        assert maps["logits_interp"] == (21, 65)
        groups = {step.name: step.groups for step in expansion.steps if isinstance(step, Conv)}
        assert groups["refine_depthwise"] == 192
        assert groups["refine_pointwise"] == 1


@pytest.mark.parametrize(
    ("table", "options", "message"),
    [
        (vgg16.LARGEFOV, {"output_stride": 12}, "expected one of 1, 2, 4, 8, 16, 32; got 12"),
        (
            vgg16.LARGEFOV,
            {"output_stride": 64},
            "32; got 64, at which the backbone's strides come to 32",
        ),
        (resnet101.ASPP_MSC, {"output_stride": 0}, "expected one of 1, 2, 4, 8, 16; got 0"),
        (
            vgg16.ASPP_L,
            {"output_stride": 32},
            "16; got 32, at which layer fc6_1 would have the rate 3/2, which is no whole number",
        ),
    ],
)
def test_an_output_stride_that_cannot_be(
    table: Architecture, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        expand(table, **options)


def test_maps_that_do_not_fit_are_not_merged() -> None:
    unit = ConvUnit("body", 64, stride=2)
    for block, message in (
        (Residual("sum", (unit,)), "layer sum: data has stride 1, body has 2"),
        (
            Residual("sum", (replace(unit, stride=1),)),
            "layer sum: data has 3 channels, body has 64",
        ),
    ):
        table = Architecture(((block,),), vgg16.LARGEFOV.head, stem="fc8")
        with pytest.raises(ValueError, match=message):
            expand(table)


def test_sides_that_fit_another_output_stride() -> None:
    assert NETWORKS["largefov"].input_rule == (8, 1)
    assert NETWORKS["resnet101-msc-aspp"].input_rule == (32, 1)
    with pytest.raises(ValueError, match="takes sides of 16k [+] 1, such as 97 or 113"):
        write_network("largefov", input_size=105, output_stride=16)
    assert resnet101.ASPP_MSC.input_rule(16) == (64, 1)
    assert vgg16.PLAIN.input_rule(16) == (16, 2)


def test_full_names() -> None:
    assert len({network.full_name for network in NETWORKS.values()}) == len(NETWORKS)
    assert (
        find("deeplab_v2_resnet101_msc")
        is NETWORKS["resnet101-msc-aspp"]
        is find("resnet101-msc-aspp")
    )
    assert write_network("deeplab_v1_vgg16_largefov") == write_network("largefov")
    page = COMMANDS.read_text(encoding="utf-8")
    for name, network in NETWORKS.items():
        assert f"| `{name}` | `{network.full_name}` |" in page
