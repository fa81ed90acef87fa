"""The modules compute what `load_caffe` computes from the same network's prototxt and weights."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.models import NETWORKS, DeepLab, create_model
from prototxt_import import parse_net

CLASSES = 4


def small(name: str, **options: Any) -> DeepLab:
    """A narrow network with weights that make every layer matter."""
    width = 32 if name.startswith("resnet") else 16
    model = create_model(name, CLASSES, **{"width": width, **options})
    with torch.no_grad():
        for tensor in (*model.parameters(), *model.buffers()):
            # Convolutions that keep the size of what they read, whatever their width.
            tensor.normal_(0, (2 / tensor[0].numel()) ** 0.5 if tensor.dim() > 1 else 0.5)
        for module in model.modules():
            if hasattr(module, "running_var"):
                module.running_var.uniform_(0.5, 2)
                module.weight.uniform_(0.5, 1)
    return model


def caffe_twin(model: DeepLab, phase: str, size: tuple[int, int], batch: int = 1) -> CaffeNet:
    """The network of the model's prototxt, with the model's weights as a file would hold them."""
    text = model.prototxt("TRAIN" if phase == "TRAIN" else "DEPLOY", input_size=size, batch=batch)
    net = load_caffe(parse_net(text, "TRAIN" if phase == "TRAIN" else "TEST"))
    assert net.load_weights(model.caffe_weights()).missing == []
    return net


def without_dropout(model: nn.Module) -> nn.Module:
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.eval()
    return model


def picture(size: tuple[int, int], batch: int = 1) -> Tensor:
    return torch.randn(batch, 3, *size) * 50


def assert_equal(ours: Tensor, caffe: Tensor) -> None:
    """To 1e-6 of the largest value: the layers are the same, in the same order."""
    torch.testing.assert_close(ours, caffe, rtol=0, atol=1e-6 * caffe.abs().max().item())


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_eval_mode_is_the_test_net(name: str, output_stride: int) -> None:
    model = small(name, output_stride=output_stride).eval()
    step, rest = model.architecture.input_rule(output_stride)
    size = step + rest, 2 * step + rest
    x = picture(size)
    with torch.inference_mode():
        ours = model(x)
        (caffe,) = caffe_twin(model, "TEST", size)(data=x).values()
    assert ours.shape == (1, CLASSES, *size)
    assert ours.std() > 0
    assert_equal(ours, caffe)


@pytest.mark.parametrize("output_stride", [8, 16])
@pytest.mark.parametrize("name", NETWORKS)
def test_train_mode_is_the_train_net(name: str, output_stride: int) -> None:
    """Coarse scores, losses by name, and every gradient."""
    model = small(name, output_stride=output_stride)
    step, rest = model.architecture.input_rule(output_stride)
    size = 2 * step + rest, step + rest
    x = picture(size, 2)
    labels = torch.randint(0, CLASSES, (2, 1, *size))
    labels[..., : size[0] // 2, :5] = 255
    net = caffe_twin(model, "TRAIN", size, 2)
    without_dropout(model)
    without_dropout(net)
    inputs = {"data": x, "label": labels.float()}
    if "data_dim" in net.inputs:
        inputs["data_dim"] = torch.zeros(2, 1, 1, 2)
    caffe = net.blobs(**inputs)
    outputs = model(x)
    losses = model.losses(outputs, labels[:, 0])
    assert len(outputs) == len(losses) == (4 if "msc" in name and "resnet" in name else 1)
    reads = {layer.name: layer.bottoms[0] for layer in net.net.layers if layer.name in losses}
    for (loss_name, value), scores in zip(losses.items(), outputs, strict=True):
        assert_equal(scores, caffe[reads[loss_name]])
        torch.testing.assert_close(value, caffe[loss_name], rtol=1e-6, atol=0)
    loss, theirs = model.loss(outputs, labels), net.loss(caffe)
    torch.testing.assert_close(loss, theirs, rtol=1e-6, atol=0)
    loss.backward()
    theirs.backward()
    gradients = 0
    for path, parameter in model.named_parameters():
        _, layer, kind = path.rsplit(".", 2)
        twin = net.params[layer][kind == "bias"]
        assert parameter.requires_grad == twin.requires_grad
        if parameter.requires_grad:
            assert_equal(parameter.grad, twin.grad)
            gradients += bool(twin.grad.any())
    assert gradients > 3


@pytest.mark.parametrize(
    ("name", "size", "caffe_size"), [("largefov", 64, 65), ("plain", 65, 73), ("aspp-l", 60, 57)]
)
def test_sides_that_do_not_fit_come_out_as_caffe_sizes_them(
    name: str, size: int, caffe_size: int
) -> None:
    model = small(name).eval()
    x = picture((size, size))
    net = caffe_twin(model, "TEST", (66, 66) if name == "plain" else (65, 65))
    with torch.inference_mode():
        ours = model(x)
        (caffe,) = net(data=x).values()
    assert ours.shape[2:] == caffe.shape[2:]
    assert_equal(ours, caffe)
