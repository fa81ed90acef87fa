"""State dicts of other people's ports, built here from our own weights by the place of a layer.

Key names as in kazuto1011/deeplab-pytorch (libs/models), isht7/pytorch-deeplab-resnet and
speedinghzl/Pytorch-Deeplab (deeplab_resnet.py, deeplab/model.py) and wangleihitcs/
DeepLab-V1-PyTorch (nets/vgg.py).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from deeplab_repro import InputError, load_caffe
from deeplab_repro.models import DeepLab, load
from deeplab_repro.models.layers import Convolution, FrozenBatchNorm2d
from deeplab_repro.models.modules import ParallelBranches, ResidualSum
from prototxt_import import read_model
from tests.models.narrow import narrow, picture

StateDict = dict[str, Tensor]
EXP = "voc12"


def put(state: StateDict, path: str, module: nn.Module) -> None:
    """A module's tensors as torch's own module would save them."""
    for name, tensor in module.state_dict().items():
        state[f"{path}.{name}"] = tensor
    if isinstance(module, FrozenBatchNorm2d):
        state[f"{path}.num_batches_tracked"] = torch.tensor(0)


def with_weights(module: nn.Module) -> list[nn.Module]:
    return [part for part in module.modules() if isinstance(part, Convolution | FrozenBatchNorm2d)]


def units(model: DeepLab) -> Iterator[tuple[int, int, ResidualSum]]:
    """(stage of ResNet, block from 0, unit)."""
    for stage, module in enumerate(list(model.backbone.children())[1:], 2):
        for block, unit in enumerate(module.children()):
            assert isinstance(unit, ResidualSum)
            yield stage, block, unit


def classifiers(model: DeepLab) -> list[nn.Module]:
    return with_weights(model.head)


def kazuto(model: DeepLab) -> StateDict:
    state: StateDict = {}
    conv1, bn1 = with_weights(model.backbone.stage1)
    put(state, "layer1.conv1.conv", conv1)
    put(state, "layer1.conv1.bn", bn1)
    for stage, block, unit in units(model):
        parts = with_weights(unit.body)
        for name, conv, bn in zip(
            ("reduce", "conv3x3", "increase"), parts[::2], parts[1::2], strict=True
        ):
            put(state, f"layer{stage}.block{block + 1}.{name}.conv", conv)
            put(state, f"layer{stage}.block{block + 1}.{name}.bn", bn)
        for name, part in zip(("conv", "bn"), with_weights(unit.shortcut), strict=False):
            put(state, f"layer{stage}.block{block + 1}.shortcut.{name}", part)
    for i, classifier in enumerate(classifiers(model)):
        is_pyramid = isinstance(model.head, ParallelBranches)
        put(state, f"aspp.c{i}" if is_pyramid else "fc", classifier)
    return state


def isht7(model: DeepLab) -> StateDict:
    state: StateDict = {}
    conv1, bn1 = with_weights(model.backbone.stage1)
    put(state, "conv1", conv1)
    put(state, "bn1", bn1)
    for stage, block, unit in units(model):
        parts = with_weights(unit.body)
        for i, (conv, bn) in enumerate(zip(parts[::2], parts[1::2], strict=True), 1):
            put(state, f"layer{stage - 1}.{block}.conv{i}", conv)
            put(state, f"layer{stage - 1}.{block}.bn{i}", bn)
        for i, part in enumerate(with_weights(unit.shortcut)):
            put(state, f"layer{stage - 1}.{block}.downsample.{i}", part)
    for i, classifier in enumerate(classifiers(model)):
        put(state, f"layer5.conv2d_list.{i}", classifier)
    return state


def wangleihitcs(model: DeepLab) -> StateDict:
    """A flat list in which activations, pools and dropout count, too."""
    state: StateDict = {}
    layers = [layer for stage in model.backbone.children() for layer in stage.children()]
    for i, layer in enumerate((*layers, *model.head.children())):
        put(state, f"features.{i}", layer)
    return state


def prefixed(state: StateDict, prefix: str) -> StateDict:
    return {prefix + key: value for key, value in state.items()}


def assert_same_scores(one: nn.Module, other: DeepLab) -> None:
    x = picture((33, 65))
    with torch.inference_mode():
        ours = other.eval()(x)
        # Their statistics are in float32, ours in Caffe's sums: the same numbers.
        assert torch.equal(one.eval()(x), ours)
    assert ours.std() > 0


@pytest.mark.parametrize(
    ("name", "keys", "prefix"),
    [
        pytest.param("resnet101-msc-aspp", kazuto, "base.", id="kazuto-msc"),
        pytest.param("resnet101-msc-aspp", kazuto, "module.base.", marks=pytest.mark.slow),
        pytest.param("resnet101-aspp", kazuto, "", marks=pytest.mark.slow),
        pytest.param("resnet101", kazuto, "", marks=pytest.mark.slow),
        pytest.param("resnet101-msc-aspp", isht7, "Scale.", id="isht7-msc"),
        pytest.param("resnet101-aspp", isht7, "model.", marks=pytest.mark.slow),
        pytest.param("largefov", wangleihitcs, "module.", id="wangleihitcs"),
    ],
)
def test_a_port_by_its_keys(
    name: str, keys: Callable[[DeepLab], StateDict], prefix: str, tmp_path: Path
) -> None:
    model = narrow(name, 5, width=64)
    state = prefixed(keys(model), prefix)
    loaded = load(state)
    assert loaded.name == model.name
    assert loaded.options == model.options
    assert loaded.load_report is not None
    assert loaded.load_report.missing == loaded.load_report.unused == []
    assert_same_scores(loaded, model)


@pytest.mark.parametrize("legacy", [False, True])
@pytest.mark.slow
def test_convert_makes_a_caffemodel_of_it(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path, legacy: bool
) -> None:
    model = narrow("largefov", 5)
    path, out = tmp_path / "port.pth", tmp_path / "w.caffemodel"
    checkpoint = {"state_dict": prefixed(wangleihitcs(model), "net."), "iteration": 20000}
    torch.save(checkpoint, path, _use_new_zipfile_serialization=not legacy)
    report = tmp_path / "report.json"
    code, printed, errors = run("convert", path, "-o", out, "--json", report)
    assert (code, errors) == (0, "")
    assert "wangleihitcs/DeepLab-V1-PyTorch" in printed
    moved = json.loads(report.read_text())["moved"]
    assert len(moved) == 32
    assert moved["net.features.32.weight"] == "fc6 blob 0"
    assert moved["net.features.38.bias"] == "fc8_voc12 blob 1"
    x = picture((65, 65))
    with torch.inference_mode():
        (caffe,) = load_caffe(out)(data=x).values()
        torch.testing.assert_close(caffe, model.eval()(x), rtol=0, atol=1e-6 * caffe.abs().max())
    # Without -o: beside it, and back from what convert writes as .pt.
    assert run("convert", path)[0] == 0
    assert run("convert", tmp_path / "port.safetensors", "-o", tmp_path / "again.pt")[0] == 0
    assert_same_scores(load(tmp_path / "again.pt"), model)
    assert read_model(tmp_path / "port.safetensors").weights.keys() == moved_layers(moved)


def moved_layers(moved: dict[str, str]) -> set[str]:
    return {place.split()[0] for place in moved.values()}


@pytest.mark.slow
def test_convert_writes_the_copies_of_three_scales(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    model = narrow("resnet101-msc-aspp", 5, width=64)
    torch.save(prefixed(kazuto(model), "base."), tmp_path / "k.pth")
    code, printed, _ = run("convert", tmp_path / "k.pth", "-o", tmp_path / "k.caffemodel")
    assert code == 0
    assert "deeplab_v2_resnet101_msc" in printed
    assert "104 have no counterpart" in printed
    weights = read_model(tmp_path / "k.caffemodel").weights
    assert len(weights) == len(model.caffe_weights())
    x = picture((33, 65))
    with torch.inference_mode():
        (caffe,) = load_caffe(tmp_path / "k.caffemodel")(data=x).values()
        torch.testing.assert_close(caffe, model.eval()(x), rtol=0, atol=1e-6 * caffe.abs().max())


def test_our_own_state_dict_needs_its_name(
    run: Callable[..., tuple[int, str, str]], tmp_path: Path
) -> None:
    model = narrow("aspp-l")
    path = tmp_path / "own.pt"
    torch.save(model.state_dict(), path)
    assert run("convert", path) == (
        2,
        "",
        f"deeplab-repro: {path}: is the state dict of a network of create_model, which does not "
        "say of which; expected the network's name, too\n",
    )
    assert run("convert", path, "--network", "aspp-l", "-o", tmp_path / "own.caffemodel")[0] == 0
    assert_same_scores(load(tmp_path / "own.caffemodel"), model)
    code, _, errors = run("convert", path, "--network", "largefov")
    assert code == 2
    assert "largefov: head.branches.0.fc6_1.bias does not fit; expected no such" in errors
    code, _, errors = run("convert", path, "--network", "aspp-l", "--dialect", "dl1")
    assert (code, errors.count("\n")) == (2, 1)
    assert "does not go with --dialect; expected a Caffe model" in errors
    code, _, errors = run("convert", tmp_path / "own.caffemodel", "--network", "aspp-l")
    assert "does not go with --network; expected a PyTorch state dict" in errors
    code, _, errors = run("inspect", path)
    assert (code, errors.count("\n")) == (2, 1)
    assert "is a file of torch.save; expected a caffemodel" in errors


class Unsafe:
    """Not a tensor: reading it would mean running code."""


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda: Unsafe(), "cannot be read as a file of tensors"),
        (lambda: [1, 2], "holds no state dict; got list"),
        (lambda: {"epoch": 3}, "holds no state dict; expected tensors by name, got int under"),
        (
            lambda: {"layers.0.weight": torch.zeros(2)},
            "is not the state dict of a known network; expected keys of kazuto1011",
        ),
        (
            lambda: {
                **wangleihitcs(narrow("largefov")),
                "features.40.weight": torch.zeros(2),
            },
            "looks like a network of wangleihitcs/DeepLab-V1-PyTorch, but has other layers, too; "
            "expected keys of DeepLab v1 or v2, got features.40.weight",
        ),
        (
            lambda: {
                key: value
                for key, value in wangleihitcs(narrow("largefov")).items()
                if key != "features.35.weight"
            },
            "layer 'fc7': a tensor is missing",
        ),
        (
            lambda: {
                key: value
                for key, value in wangleihitcs(narrow("largefov")).items()
                if "features.35" not in key
            },
            "expected weights of fc7",
        ),
    ],
)
def test_what_is_no_port_is_refused(
    content: Callable[[], object], message: str, tmp_path: Path
) -> None:
    path = tmp_path / "w.pth"
    torch.save(content(), path)
    with pytest.raises(ValueError, match=rf"^{path}: .*{message}") as refused:
        load(path)
    assert "\n" not in str(refused.value)


def test_a_damaged_file(tmp_path: Path) -> None:
    path = tmp_path / "w.pth"
    torch.save({"a": torch.zeros(3)}, path)
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(InputError, match="cannot be read as a file of tensors"):
        load(path)
