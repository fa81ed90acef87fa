"""The modules compute what `load_caffe` computes from the same network's prototxt and weights."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.models import NETWORKS, DeepLab
from deeplab_repro.models.graph import Settings, net_message
from deeplab_repro.models.prototxt import to_text
from prototxt_import import parse_net
from tests.models.narrow import SHORT_RESNET, narrow, picture, randomize

# One network of each graph in every run; what differs in names and numbers alone is slow.
QUICK = [("plain", 8), ("msc-largefov", 8), ("aspp-l", 16), ("short", 8)]
ALL = [
    *QUICK,
    *(
        pytest.param(name, stride, marks=pytest.mark.slow)
        for name in NETWORKS
        for stride in (8, 16)
        if (name, stride) not in QUICK
    ),
]


def network(name: str, output_stride: int) -> DeepLab:
    if name != "short":
        width = 64 if name.startswith("resnet") else 32
        return narrow(name, output_stride=output_stride, width=width)
    return randomize(DeepLab(SHORT_RESNET, num_classes=4, width=32))


def caffe_twin(model: DeepLab, phase: str, size: tuple[int, int], batch: int = 1) -> CaffeNet:
    """The network of the model's prototxt, with the model's weights as a file would hold them."""
    if model.name is not None:
        text = model.prototxt(phase, input_size=size, batch=batch)
    else:
        settings = Settings(phase, "v2", size, batch)
        expansion = model.expansion(training=phase == "TRAIN")
        text = to_text(net_message("short", model.architecture.stem, expansion, (), settings))
    net = load_caffe(parse_net(text, "TRAIN" if phase == "TRAIN" else "TEST"))
    assert net.load_weights(model.caffe_weights()).missing == []
    return net


def without_dropout(model: nn.Module) -> None:
    for module in model.modules():
        if "Dropout" in type(module).__name__:
            module.eval()


def assert_equal(ours: Tensor, caffe: Tensor) -> None:
    """To 1e-6 of the largest value: the layers are the same, in the same order."""
    torch.testing.assert_close(ours, caffe, rtol=0, atol=1e-6 * caffe.abs().max().item())


def check_eval(model: DeepLab, size: tuple[int, int]) -> None:
    """Full-size scores of eval mode are those of the test net."""
    model.eval()
    x = picture(size)
    with torch.inference_mode():
        ours = model(x)
        (caffe,) = caffe_twin(model, "DEPLOY", size)(data=x).values()
    assert ours.shape == (1, 4, *size)
    assert ours.std() > 0
    assert_equal(ours, caffe)


def check_train(model: DeepLab, size: tuple[int, int], batch: int) -> None:
    """Coarse scores, losses by name, and every gradient of train mode are the train net's."""
    model.train()
    x = picture(size, batch)
    labels = torch.randint(0, 4, (batch, 1, *size))
    labels[..., : size[0] // 2, :5] = 255
    net = caffe_twin(model, "TRAIN", size, batch)
    without_dropout(model)
    without_dropout(net)
    caffe = net.blobs(data=x, label=labels.float(), data_dim=torch.zeros(batch, 1, 1, 2))
    outputs = model(x)
    losses = model.losses(outputs, labels[:, 0])
    assert len(outputs) == len(losses) == (4 if model.scales else 1)
    reads = {layer.name: layer.bottoms[0] for layer in net.net.layers if layer.name in losses}
    for (loss_name, value), scores in zip(losses.items(), outputs, strict=True):
        assert_equal(scores, caffe[reads[loss_name]])
        torch.testing.assert_close(value, caffe[loss_name], rtol=1e-6, atol=0)
    ours, theirs = model.loss(outputs, labels), net.loss(caffe)
    torch.testing.assert_close(ours, theirs, rtol=1e-6, atol=0)

    ours.backward()
    theirs.backward()
    gradients, twins = 0, net.params
    for path, parameter in model.named_parameters():
        _, layer, kind = path.rsplit(".", 2)
        # Scale's two blobs are the norm's weight and bias.
        twin = twins[layer.replace("bn", "scale", 1)][kind == "bias"]
        assert parameter.requires_grad == twin.requires_grad
        if parameter.requires_grad:
            assert_equal(parameter.grad, twin.grad)
            gradients += bool(twin.grad.any())
    assert gradients > 3


@pytest.mark.parametrize(("name", "output_stride"), ALL)
@pytest.mark.sampled(3)
def test_eval_mode_is_the_test_net(name: str, output_stride: int) -> None:
    model = network(name, output_stride)
    step, rest = model.architecture.input_rule(output_stride)
    check_eval(model, (step + rest, 2 * step + rest))


@pytest.mark.parametrize(("name", "output_stride"), ALL)
@pytest.mark.sampled(2)
def test_train_mode_is_the_train_net(name: str, output_stride: int) -> None:
    model = network(name, output_stride)
    step, rest = model.architecture.input_rule(output_stride)
    check_train(model, (2 * step + rest, step + rest), batch=2)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "msc-largefov", "aspp-l", "resnet101-msc-aspp"])
def test_at_the_published_sizes(name: str) -> None:
    published, model = NETWORKS[name], narrow(name, width=64)
    check_eval(model, (published.test_size, published.test_size))
    check_train(model, (published.train_size, published.train_size), batch=1)


@pytest.mark.parametrize(("name", "size", "scores"), [("plain", 65, 58), ("aspp-l", 60, 65)])
def test_sides_that_do_not_fit_come_out_as_caffe_sizes_them(
    name: str, size: int, scores: int
) -> None:
    model = network(name, 8).eval()
    x = picture((size, size + 1))
    net = caffe_twin(model, "DEPLOY", (66, 66) if name == "plain" else (65, 65))
    with torch.inference_mode():
        ours = model(x)
        (caffe,) = net(data=x).values()
    assert ours.shape[2] == scores
    assert_equal(ours, caffe)


def test_sides_that_cannot_be_fused_name_the_rule() -> None:
    """Caffe's Eltwise refuses them, too."""
    for name, size, rule in (
        ("msc", 60, r"60x60: deeplab_v1_vgg16_msc takes sides of 8k \+ 1, such as 57 or 65"),
        (
            "short",
            57,
            r"57x57: this network takes sides of 32k \+ 1, such as 33 or 65; .* 8x8, 5x5, 7x7",
        ),
    ):
        with pytest.raises(ValueError, match=rule):
            network(name, 8).eval()(picture((size, size)))


def test_labels_that_do_not_fit_name_the_rule() -> None:
    model = network("aspp-l", 8)
    outputs = model(picture((60, 60)))
    with pytest.raises(ValueError, match=r"labels 60x60: loss .* 8x8, .* 9x9; .* 8k \+ 1"):
        model.loss(outputs, torch.zeros(1, 60, 60))
    outputs = model(picture((65, 65)))
    with pytest.raises(ValueError, match=r"loss: unexpected label 4; expected 0..3 or ignored"):
        model.loss(outputs, torch.full((1, 65, 65), 4))
    with pytest.raises(ValueError, match=r"labels: expected \(1, H, W\) or \(1, 1, H, W\), got"):
        model.loss(outputs, torch.zeros(65, 65))
    with pytest.raises(ValueError, match="losses: expected the 1 scores of train mode, got a tens"):
        model.loss(outputs[0], torch.zeros(1, 65, 65))
    # All void: nothing to learn, and no division by zero.
    loss = model.loss(outputs, torch.full((1, 65, 65), 255))
    loss.backward()
    assert str(loss.item()) == "0.0"


def test_labels_of_306_are_decimated_without_the_first_row() -> None:
    """The first network scores pixel 1 + 8 i in row i; by hand, on scores that prefer one class."""
    (rule,) = DeepLab(NETWORKS["plain"].architecture, num_classes=2, width=64).rules
    labels = torch.ones(1, 18, 18)  # of the class that no score prefers ...
    labels[:, 1::8, 1::8] = 0  # ... but where the loss looks
    scores = torch.zeros(1, 2, 3, 3)
    scores[:, 0] = 50
    assert rule(scores, labels) == 0
    assert rule(scores, labels.roll(1, 1)) == 50
