"""What `create_model` gives: names, sizes, new weights, and a module like any other."""

from __future__ import annotations

import copy
import io
import math
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplab_repro.models import (
    NETWORKS,
    NETWORKS_V3,
    DeepLab,
    create_model,
    list_models,
    parameter_groups,
)
from deeplab_repro.models.layers import Convolution, FrozenBatchNorm2d
from deeplab_repro.ops import atrous_conv2d
from deeplab_repro.pictures.voc import VOC_MEAN
from prototxt_import import parse_net
from tests.models.narrow import SHORT_RESNET, narrow, picture, randomize


def test_names() -> None:
    tables = [network.full_name for network in NETWORKS.values()]
    assert list_models() == [*tables, *NETWORKS_V3]
    assert list_models("aspp-?") == ["deeplab_v2_vgg16_aspp_s", "deeplab_v2_vgg16"]
    assert list_models("*resnet101*msc")[-1] == "deeplab_v2_resnet101_msc"
    assert list_models("nothing") == []
    for name in ("largefov", "deeplab_v1_vgg16_largefov"):
        assert create_model(name, width=64).name == "deeplab_v1_vgg16_largefov"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"name": "largfov"}, "network: expected one of plain, msc"),
        (
            {"name": "deeplab_v1_largefov"},
            r"got 'deeplab_v1_largefov'; did you mean deeplab_v1_vgg16_largefov or ",
        ),
        ({"num_classes": 0}, "num_classes: expected at least 1, got 0"),
        ({"width": 3}, "width: expected a divisor of 64, got 3"),
        ({"num_classes": 2.5}, "num_classes: expected a whole number, got 2.5"),
        ({"width": True}, "width: expected a whole number, got True"),
        ({"output_stride": "8"}, "output_stride: expected a whole number, got '8'"),
        ({"output_stride": 12}, "output_stride: expected one of 1, 2, 4, 8, 16; got 12"),
        (
            {"output_stride": 32},
            "one of 1, 2, 4, 8, 16; got 32, at which layer fc6_1 would have the",
        ),
        ({"name": "largefov", "output_stride": 64}, "expected one of 1, 2, 4, 8, 16, 32; got 64"),
    ],
)
def test_bad_arguments(arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create_model(**{"name": "aspp-l", **arguments})


@pytest.mark.slow
@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_published_sizes(name: str, output_stride: int) -> None:
    """At full width, without computing anything."""
    network = NETWORKS[name]
    model = create_model(name, output_stride=output_stride, device="meta")
    assert sum(parameter.numel() for parameter in model.parameters()) == network.parameters
    train = torch.empty(1, 3, network.train_size, network.train_size, device="meta")
    test = torch.empty(2, 3, network.test_size, network.test_size, device="meta")
    side = network.train_scores if output_stride == 8 else {39: 20, 41: 21}[network.train_scores]
    with torch.no_grad():
        sides = [side, side, side, (side + 1) // 2] if model.scales else [side]
        assert [scores.shape for scores in model(train)] == [(1, 21, side, side) for side in sides]
        assert model.eval()(test).shape == (2, 21, network.test_size, network.test_size)


@pytest.mark.slow
def test_keys_are_the_names_of_caffes_layers() -> None:
    model = create_model("resnet101-aspp", width=64)
    keys = list(model.state_dict())
    assert keys[:5] == [
        "backbone.stage1.conv1.weight",
        "backbone.stage1.bn_conv1.weight",
        "backbone.stage1.bn_conv1.bias",
        "backbone.stage1.bn_conv1.running_mean",
        "backbone.stage1.bn_conv1.running_var",
    ]
    assert "backbone.stage4.res4b22.body.res4b22_branch2b.weight" in keys
    assert keys[-1] == "head.branches.3.fc1_voc12_c3.bias"
    assert len(keys) == 5 * 104 + 8
    msc = create_model("msc", width=64)
    layers = {layer.name for layer in parse_net(msc.prototxt()).layers}
    for network in (msc, create_model("plain", width=64)):
        assert {key.split(".")[-2] for key in network.state_dict()} <= layers
    assert "side_branches.pool1.pool1_conv.weight" in msc.state_dict()
    text = str(create_model("largefov", width=64))
    assert "(fc6): Convolution(8, 16, kernel_size=(3, 3), padding=(12, 12), rate=(12, 12))" in text
    text = str(create_model("plain", width=64))
    assert "(pool4): CaffePool2d(MAX, 2, stride=1, padding=1 (in training 0))" in text


def test_new_weights() -> None:
    """Gaussians of the released files; where these name none, He's; pool3_ms stays at 0."""
    model = create_model("msc", width=4)

    def std(key: str) -> float:
        return model.get_parameter(key).std().item()

    assert std("head.fc8_pascal.weight") == pytest.approx(0.01, rel=0.05)
    assert std("side_branches.pool2.pool2_conv.weight") == pytest.approx(0.001, rel=0.05)
    assert std("side_branches.pool4.pool4_fc.weight") == pytest.approx(0.005, rel=0.1)
    assert std("side_branches.pool3.pool3_ms.weight") == 0
    assert std("backbone.stage5.conv5_1.weight") == pytest.approx((2 / (9 * 128)) ** 0.5, rel=0.05)
    for key, parameter in model.named_parameters():
        assert not (key.endswith("bias") and parameter.any())


@pytest.mark.slow
def test_new_weights_of_resnet_keep_the_size_of_values() -> None:
    """Through 33 units with frozen statistics; without the balance they grow 10,000 times."""
    model = create_model("resnet101", width=8)
    x = picture((65, 65))
    with torch.no_grad():
        stem = model.backbone.get_submodule("stage1")(x)
        ratio = float(model.backbone(x).std() / stem.std())
    assert 0.2 < ratio < 20
    # Drawn again they are as new.
    state = torch.get_rng_state()
    model.reset_parameters()
    torch.set_rng_state(state)
    again = copy.deepcopy(model)
    again.reset_parameters()
    for one, other in zip(model.parameters(), again.parameters(), strict=True):
        assert torch.equal(one, other)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["largefov", "plain", "msc", "aspp-l", "resnet101-msc-aspp"])
def test_new_weights_start_near_the_loss_of_a_guess(name: str) -> None:
    """For pixels of 0 to 255 minus the mean, at the README's learning rate."""
    torch.manual_seed(0)
    model = create_model(name, width=8).train()
    optimizer = torch.optim.SGD(parameter_groups(model, 2.5e-4, 5e-4), lr=2.5e-4, momentum=0.9)
    side = 34 if name == "plain" else 33
    coarse = torch.rand(20, 3, 9, 9) * 255 - torch.tensor(VOC_MEAN).view(3, 1, 1)
    pictures = nn.functional.interpolate(coarse, size=(side, side), mode="bilinear")
    found = []
    for i in range(20):
        labels = torch.randint(0, 21, (1, side, side))
        losses = model.losses(model(pictures[i : i + 1]), labels)
        optimizer.zero_grad()
        torch.stack(list(losses.values())).sum().backward()
        optimizer.step()
        found.append([loss.item() for loss in losses.values()])
    assert found[0] == pytest.approx([math.log(21)] * len(found[0]), rel=0.1)
    assert math.isfinite(sum(map(sum, found)))


@pytest.mark.slow
def test_how_fast_parameters_learn() -> None:
    model = create_model("largefov", width=64)
    groups = parameter_groups(model, lr=0.001, weight_decay=0.0005)
    found = {
        (group["lr_mult"], group["decay_mult"]): (
            group["names"],
            group["lr"],
            group["weight_decay"],
        )
        for group in groups
    }
    assert list(found) == [(1, 1), (2, 0), (10, 1), (20, 0)]
    assert found[10, 1] == (["head.fc8_voc12.weight"], 0.01, 0.0005)
    assert found[20, 0] == (["head.fc8_voc12.bias"], 0.02, 0)
    assert len(found[1, 1][0]) == len(found[2, 0][0]) == 15
    torch.optim.SGD(groups, lr=0.001, momentum=0.9)
    # DeepLab-MSc learns its branches alone.
    names = [name for group in parameter_groups(create_model("msc-largefov", width=64), 1)
             for name in group["names"]]  # fmt: skip
    assert len(names) == 30
    assert all(name.startswith("side_branches.") for name in names)
    # Thawed, and with a head of one's own.
    model = create_model("resnet101", width=64)
    model.head = nn.Conv2d(32, 4, 1)
    assert [len(group["params"]) for group in parameter_groups(model, 1)] == [104 + 2]
    for module in model.modules():
        if isinstance(module, FrozenBatchNorm2d):
            module.requires_grad_()
    assert [len(group["params"]) for group in parameter_groups(model, 1)] == [3 * 104 + 2]


@pytest.mark.slow
def test_parts_are_replaceable() -> None:
    model = narrow("largefov", width=64)
    model.head = nn.Sequential(nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 5, 1))
    assert model.eval()(picture((65, 65))).shape == (1, 5, 65, 65)
    model.backbone = nn.Conv2d(3, 8, 8, 8)
    assert model(picture((64, 64))).shape == (1, 5, 57, 57)
    # Any normalization, whose tensors have the names of the frozen one's.
    frozen = narrow("resnet101", width=64).eval()
    model = create_model("resnet101", 4, width=64, norm=nn.BatchNorm2d)
    assert isinstance(model.get_submodule("backbone.stage1.bn_conv1"), nn.BatchNorm2d)
    model.load_state_dict(frozen.state_dict(), strict=False)
    x = picture((33, 33), 2)
    torch.testing.assert_close(model.eval()(x), frozen(x), rtol=1e-3, atol=1e-3)
    model.train()
    model.loss(model(x), torch.zeros(2, 33, 33)).backward()
    assert model.get_parameter("backbone.stage1.bn_conv1.weight").grad is not None
    assert not torch.equal(
        model.get_buffer("backbone.stage1.bn_conv1.running_mean"),
        frozen.get_buffer("backbone.stage1.bn_conv1.running_mean"),
    )


def through(pickled: Callable[[DeepLab], DeepLab]) -> Callable[[DeepLab, Tensor], Tensor]:
    return lambda model, x: pickled(model)(x)


def saved(model: DeepLab) -> DeepLab:
    file = io.BytesIO()
    torch.save(model, file)
    file.seek(0)
    loaded: DeepLab = torch.load(file, weights_only=False)
    return loaded


def autocast(model: DeepLab, x: Tensor) -> Tensor:
    with torch.autocast("cpu", torch.bfloat16):
        y: Tensor = model(x)
    assert y.dtype == torch.bfloat16
    return y


CHANNELS_LAST = torch.channels_last
WAYS: dict[str, tuple[float, Callable[[DeepLab, Tensor], Tensor]]] = {
    "deepcopy": (0, through(copy.deepcopy)),
    "pickle": (0, through(lambda model: pickle.loads(pickle.dumps(model)))),
    "torch.save": (0, through(saved)),
    "float64": (2e-6, lambda model, x: model.double()(x.double())),
    "float16": (1e-2, lambda model, x: model.half()(x.half())),
    "bfloat16": (1e-1, lambda model, x: model.bfloat16()(x.bfloat16())),
    "autocast": (1e-1, autocast),
    "channels last": (
        1e-5,
        lambda model, x: model.to(memory_format=CHANNELS_LAST)(x.to(memory_format=CHANNELS_LAST)),
    ),
}


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("name", ["msc-largefov", "resnet101"])
def test_works_as_any_module(name: str, way: str) -> None:
    torch.manual_seed(0)
    model = narrow(name).eval()
    x = picture((33, 65))
    tolerance, compute = WAYS[way]
    with torch.inference_mode():
        expected = model(x)
        ours = compute(model, x)
    error = (ours.double() - expected.double()).abs().max() / expected.abs().max()
    assert error <= tolerance
    assert model.training is False


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain"])
def test_compile(name: str) -> None:
    """Forward and backward in one graph each, in train mode and in eval mode."""
    model = narrow(name, width=64)
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    compiled = torch.compile(copy.deepcopy(model), backend="aot_eager", fullgraph=True)
    x = picture((66, 66) if name == "plain" else (65, 65))
    labels = torch.zeros(1, *x.shape[2:])
    for net in (model, compiled):
        net.loss(net(x), labels).backward()
    for one, other in zip(model.parameters(), compiled.parameters(), strict=True):
        if one.grad is not None:
            torch.testing.assert_close(one.grad, other.grad)
    model.eval()
    compiled.eval()
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), model(x))


@pytest.mark.slow
def test_export_for_any_size() -> None:
    any_side = torch.export.Dim.DYNAMIC
    three_scales = randomize(DeepLab(SHORT_RESNET, num_classes=4, width=64))
    for model, sides in (
        (narrow("largefov", width=64), ({2: any_side, 3: any_side},)),
        (three_scales, None),
    ):
        model.eval()
        with torch.no_grad():
            program = torch.export.export(model, (picture((65, 65)),), dynamic_shapes=sides)
        assert "deeplab_repro" not in str(program.graph)  # it runs where this package is not
        x = picture((97, 129) if sides else (65, 65))
        with torch.no_grad():
            torch.testing.assert_close(program.module()(x), model(x), rtol=1e-5, atol=1e-5)


def test_devices(device: str) -> None:
    model = narrow("aspp-s").eval()
    x = picture((33, 33))
    with torch.no_grad():
        expected = model(x)
        ours = model.to(device)(x.to(device)).cpu()
    error = (ours - expected).abs().max() / expected.abs().max()
    assert error < 1e-4
    made = create_model("aspp-s", width=64, device=device, dtype=torch.float64)
    assert {(p.device.type, p.dtype) for p in made.parameters()} == {(device, torch.float64)}


def test_the_stride_of_a_side_branch_follows_the_mode() -> None:
    model = create_model("msc", width=64)
    first = model.get_submodule("side_branches.data.data_conv")
    assert isinstance(first, Convolution)
    assert first.stride == (8, 8)
    assert model.eval() is model
    assert first.stride == (1, 1)
    assert model.train().get_submodule("side_branches.pool1.pool1_conv").stride == (4, 4)


def test_shapes_of_a_convolution_without_memory() -> None:
    """The meta device has no autocast to ask for."""
    x, weight = (torch.empty(shape, device="meta") for shape in ((1, 3, 9, 9), (4, 3, 3, 3)))
    assert atrous_conv2d(x, weight, padding=2, rate=2).shape == (1, 4, 9, 9)
