"""What net.cpp decides around the layers: where gradients go, what counts in the objective."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeplab_repro import CaffeNet, load_caffe
from prototxt_import import CaffeImportError, parse_net

INPUTS = (
    'input: "x" input_shape { dim: 2 dim: 3 } input: "y" input_shape { dim: 2 dim: 3 }\n'
)  # fmt: skip
PRODUCT = (
    'layer { name: "product" type: "Eltwise" bottom: "x" bottom: "y" top: "out"'
    " eltwise_param { operation: PROD } %s }"
)


def net_of(text: str, phase: str = "TRAIN") -> CaffeNet:
    return load_caffe(parse_net(INPUTS + text, phase=phase, dialect="bvlc"))


def two() -> dict[str, Tensor]:
    return {name: torch.randn(2, 3, requires_grad=True) for name in "xy"}


@pytest.mark.parametrize(
    ("header", "flags", "reached"),
    [("", "", "xy"), ("", "propagate_down: true propagate_down: false", "x"),
     ("", "propagate_down: false propagate_down: false", ""),
     ("force_backward: true ", "propagate_down: false propagate_down: true", "xy")],
)  # fmt: skip
def test_propagate_down_stops_gradients(header: str, flags: str, reached: str) -> None:
    net, inputs = net_of(header + PRODUCT % flags), two()
    out = net(**inputs)["out"]
    if reached:
        out.sum().backward()
    else:
        assert not out.requires_grad
    assert "".join(name for name in "xy" if inputs[name].grad is not None) == reached


def test_propagate_down_is_said_of_every_bottom_or_of_none() -> None:
    with pytest.raises(CaffeImportError, match="propagate_down than bottoms; expected 2, got 1"):
        net_of(PRODUCT % "propagate_down: true")


def test_a_loss_that_another_layer_reads_still_counts() -> None:
    net = net_of(
        'layer { name: "loss" type: "EuclideanLoss" bottom: "x" bottom: "y" top: "loss"'
        " loss_weight: 0.5 }"
        'layer { name: "twice" type: "Power" bottom: "loss" top: "twice" power_param { scale: 2 }'
        " loss_weight: 3 }"
        'layer { name: "hush" type: "Silence" bottom: "loss" }'
    )
    inputs = two()
    out = net(**inputs)
    assert set(out) == set(net.outputs) == {"loss", "twice"}
    loss = net.loss(out)
    torch.testing.assert_close(loss, (0.5 + 3 * 2) * out["loss"])
    loss.backward()
    difference = (inputs["x"] - inputs["y"]).detach()
    torch.testing.assert_close(inputs["x"].grad, 6.5 * difference / 2)
    torch.testing.assert_close(inputs["y"].grad, -6.5 * difference / 2)


def test_the_gradient_of_a_shared_parameter_is_the_sum() -> None:
    product = (
        'layer { name: "%s" type: "InnerProduct" bottom: "%s" top: "%s" param { name: "w" }'
        " inner_product_param { num_output: 2 bias_term: false } }"
    )
    net = net_of(product % ("a", "x", "a") + product % ("b", "y", "b"))
    inputs = two()
    out = net(**inputs)
    (out["a"].sum() + 3 * out["b"].sum()).backward()
    (weight,) = net.params["b"]
    assert weight is net.params["a"][0]
    row = inputs["x"].detach().sum(0) + 3 * inputs["y"].detach().sum(0)
    torch.testing.assert_close(weight.grad, row.expand(2, 3))


def test_gradients_through_layers_that_work_in_place() -> None:
    layers = ("BatchNorm", ""), ("Scale", "scale_param { bias_term: true }"), ("ReLU", "")
    apart = in_place = (
        'layer { name: "ip" type: "InnerProduct" bottom: "x" top: "a"'
        " inner_product_param { num_output: 4 weight_filler { type: 'gaussian' } } }"
    )
    for i, (kind, p) in enumerate(layers):
        in_place += f'layer {{ name: "{i}" type: "{kind}" bottom: "a" top: "a" {p} }}'
        bottom, top = "abc"[i], "bcd"[i]
        apart += f'layer {{ name: "{i}" type: "{kind}" bottom: "{bottom}" top: "{top}" {p} }}'
    x = torch.randn(5, 3, requires_grad=True)
    y = torch.zeros(5, 3)
    first, second = net_of(in_place), net_of(apart)
    second.load_state_dict(first.state_dict())
    (one,) = torch.autograd.grad(first(x=x, y=y)["a"].square().sum(), x)
    (other,) = torch.autograd.grad(second(x=x, y=y)["d"].square().sum(), x)
    assert one.abs().max() > 0
    torch.testing.assert_close(one, other)


@pytest.mark.parametrize(
    ("layer", "message"),
    [('type: "Log" bottom: "x" top: "z" log_param { base: 1 }', "Log: bad base"),
     ('type: "InfogainLoss" bottom: "x" bottom: "y" bottom: "x" top: "z"'
      " loss_param { normalize: true }", "loss_param.normalize is not read here")],
)  # fmt: skip
def test_what_caffe_refuses(layer: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        net_of(f'layer {{ name: "op" {layer} }}')


def test_a_shift_too_large_for_a_power_is_infinity() -> None:
    net = net_of('layer { name: "e" type: "Exp" bottom: "x" top: "z" exp_param { shift: 1e4 } }')
    assert net(x=torch.zeros(2, 3), y=torch.zeros(2, 3))["z"].isinf().all()
