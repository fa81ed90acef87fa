"""Costs against counting by hand, one product at a time, and memory against a real run."""

from __future__ import annotations

import gc
import itertools

import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.caffe.analysis import analyse, memory
from prototxt_import import parse_net, read_net
from tests.parity.spoil import DATA, network, picture

HEAD = 'input: "data" input_shape { dim: 2 dim: 4 dim: 11 dim: 7 } '


def convolution(words, type_="Convolution"):
    return (
        f'{HEAD} layer {{ name: "c" type: "{type_}" bottom: "data" top: "c" '
        f"convolution_param {{ num_output: 6 {words} }} }}"
    )


def products_inside(net):
    """Every (picture, filter, channel, pixel, tap) whose value lies in the map, one by one."""
    layer = net.layers[0]
    window = layer.window_over(2)
    (row,) = analyse(net)
    large, small = net.inputs["data"].shape[2:], row.tops["c"][2:]
    if layer.type == "Deconvolution":
        large, small = small, large
    count = 0
    for pixel in itertools.product(*map(range, small)):
        for tap in itertools.product(*map(range, window.kernel)):
            at = [
                p * s - pad + t * d
                for p, s, pad, t, d in zip(
                    pixel, window.stride, window.pad, tap, window.dilation, strict=True
                )
            ]
            count += all(0 <= a < n for a, n in zip(at, large, strict=True))
    return 2 * 6 * (4 // layer.group) * count


@pytest.mark.parametrize("type_", ["Convolution", "Deconvolution"])
@pytest.mark.parametrize(
    "words",
    [
        "kernel_size: 3 pad: 1",
        "kernel_size: 3 pad: 12 dilation: 12",
        "kernel_size: 3 pad: 2 dilation: 2 stride: 2",
        "kernel_h: 5 kernel_w: 2 pad_h: 3 pad_w: 0 stride_h: 3 stride_w: 1",
        "kernel_size: 4 pad: 6 dilation: 4 group: 2",
        "kernel_size: 1 stride: 2",
        "kernel_size: 1 pad: 2",
    ],
)
def test_multiply_adds_without_padding(words, type_):
    net = parse_net(convolution(words, type_))
    (row,) = analyse(net)
    assert row.useful_multiply_adds == products_inside(net)
    assert row.useful_multiply_adds <= row.multiply_adds


def test_useful_share_of_the_papers_rates():
    """On 41 x 41: 81, 65, 50 and 37 % at rates 6, 12, 18 and 24."""
    shares = []
    for rate in (6, 12, 18, 24):
        words = f"kernel_size: 3 pad: {rate} dilation: {rate}"
        net = parse_net(convolution(words).replace("dim: 11 dim: 7", "dim: 41 dim: 41"))
        (row,) = analyse(net)
        shares.append(round(100 * row.useful_multiply_adds / row.multiply_adds))
    assert shares == [81, 65, 50, 37]


def test_every_bottom_counts():
    one = parse_net(convolution("kernel_size: 3 pad: 1"))
    two = parse_net(convolution("kernel_size: 3 pad: 1").replace(
        'bottom: "data" top: "c"', 'bottom: "data" bottom: "data" top: "c" top: "e"'))  # fmt: skip
    for name in ("multiply_adds", "useful_multiply_adds"):
        assert getattr(analyse(two)[0], name) == 2 * getattr(analyse(one)[0], name)


def test_unknown_sizes_stay_unknown():
    net = parse_net(convolution("kernel_size: 3").replace("dim: 11 dim: 7", "dim: 0 dim: 0"))
    assert analyse(net, {"data": (2, 4, None, None)})[0].useful_multiply_adds is None
    kept = memory(net, {"data": (None, 4, None, None)})
    assert (kept.weights, kept.peak, kept.all_blobs) == (4 * (6 * 4 * 9 + 6), None, None)


@pytest.mark.slow
def test_weights_tell_what_the_input_does_not():
    model = DATA / "resnet101_msc_w16"
    net = read_net(model / "deploy.prototxt")
    known = sum(row.parameters for row in analyse(net))
    weights = {"conv1": [torch.zeros(4, 3, 7, 7).numpy()]}
    unknown = {"data": (None, None, None, None)}
    told = {row.name: row.parameters for row in analyse(net, unknown, weights)}
    untold = {row.name: row.parameters for row in analyse(net, unknown)}
    assert (untold["conv1"], told["conv1"]) == (None, 4 * 3 * 49)
    assert memory(net, unknown, weights).weights == 4 * known


CHAIN = """
layer { name: "a" type: "Convolution" bottom: "data" top: "a"
        convolution_param { num_output: 8 kernel_size: 1 } }
layer { name: "r" type: "ReLU" bottom: "a" top: "a" }
layer { name: "f" type: "Flatten" bottom: "a" top: "f" }
layer { name: "b" type: "AbsVal" bottom: "data" top: "b" }
layer { name: "g" type: "AbsVal" bottom: "f" top: "g" }
"""


def test_memory_by_hand():
    """data 616, a 1232, b 616, g 1232 values; f is a's memory; b and g are outputs."""
    net = parse_net(HEAD + CHAIN)
    kept = memory(net)
    assert kept.weights == 4 * (8 * 4 + 8)
    assert kept.all_blobs == 4 * (616 + 1232 + 616 + 1232)
    # At g: a (through f), b and g; data went after b.
    assert (kept.peak, kept.peak_layer) == (4 * (1232 + 616 + 1232), "g")


@pytest.mark.parametrize("name", ["largefov_v1_w8", "msc_largefov_v1_w8"])
def test_all_blobs_are_what_a_run_holds(name):
    net = load_caffe(*network(name))
    x = picture(1, 97, 97)
    with torch.inference_mode():
        blobs = net.blobs(data=x)
    gc.collect()
    held = {value.untyped_storage().data_ptr(): value.nbytes for value in blobs.values()}
    assert memory(net.net, {"data": tuple(x.shape)}).all_blobs == sum(held.values())
