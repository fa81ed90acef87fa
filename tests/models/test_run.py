"""The generated networks run: scores of the input's size, and losses that can be trained on."""

from __future__ import annotations

import pytest
import torch

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.models import NETWORKS, write_network
from prototxt_import import parse_net

# One network of each graph; the others differ from these in names or rates only.
GRAPHS = [
    ("plain", "v1", 66),
    ("plain", "v2", 66),
    ("msc", "v1", 65),
    ("7x7", "v2", 65),
    ("largefov", "v1", 65),
    ("msc-largefov", "v2", 65),
    ("aspp-s", "v2", 65),
    ("resnet101", "v2", 65),
    ("resnet101-msc-aspp", "v2", 65),
]


def small(name: str, phase: str, format: str, size: int) -> CaffeNet:
    text = write_network(name, phase, format, width=64, input_size=size, batch=2, num_labels=4)
    net = load_caffe(parse_net(text, phase="TRAIN" if phase == "TRAIN" else "TEST"))
    random = torch.Generator().manual_seed(0)
    for blobs in net.params.values():
        for blob in blobs:
            with torch.no_grad():
                blob.copy_(torch.rand(blob.shape, generator=random) * 0.1 + 0.05)
    return net


def picture(size: int) -> torch.Tensor:
    return torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(1)) * 50


@pytest.mark.parametrize(("name", "format", "size"), GRAPHS)
def test_deploy(name: str, format: str, size: int) -> None:
    net = small(name, "DEPLOY", format, size)
    assert net.outputs == [NETWORKS[name].output]
    with torch.inference_mode():
        scores = net(data=picture(size))[NETWORKS[name].output]
    assert scores.shape == (2, 4, size, size)
    assert scores.isfinite().all()
    assert scores.std() > 0


@pytest.mark.slow
@pytest.mark.parametrize(("name", "format", "size"), GRAPHS)
def test_train(name: str, format: str, size: int) -> None:
    net = small(name, "TRAIN", format, size)
    label = torch.randint(0, 4, (2, 1, size, size), generator=torch.Generator().manual_seed(2))
    inputs = {"data": picture(size), "label": label.float()}
    if "data_dim" in net.inputs:
        inputs["data_dim"] = torch.full((2, 1, 1, 2), float(size))
    out = net(**inputs)
    losses = 4 if "resnet101-msc" in name else 1
    assert sorted(top.split("_")[0] for top in out) == ["accuracy"] * losses + ["loss"] * losses
    net.loss(out).backward()
    first = "conv1" if name.startswith("resnet") else "conv1_1"
    if not net.params[first][0].requires_grad:  # DeepLab-MSc learns its branches alone
        assert "MSc" in NETWORKS[name].title
        first = "data_conv"
    gradient = net.params[first][0].grad
    assert gradient is not None
    assert gradient.isfinite().all()
    assert gradient.abs().max() > 0


@pytest.mark.parametrize("name", ["largefov", "resnet101-msc-aspp"])
def test_without_weights_the_scores_are_zero(name: str) -> None:
    """As in Caffe: where the released files name no filler, its default is constant 0."""
    net = load_caffe(parse_net(write_network(name, width=64, input_size=65)))
    assert not any(blob.any() for blob in net.params["conv1" if "resnet" in name else "conv1_1"])
    with torch.inference_mode():
        (scores,) = net(data=picture(65)).values()
    assert not scores.any()
