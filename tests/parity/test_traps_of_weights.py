"""Mistakes in weights are named; see `deeplab_repro.parity.traps.weights`."""

from __future__ import annotations

import copy

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab_repro import load_caffe
from prototxt_import import read_weights, write_weights
from tests.parity.spoil import (
    ASPP,
    CONVOLUTION,
    LARGEFOV,
    blobs_of,
    change,
    diagnose,
    expect,
    picture,
    small_net,
)

SIZE = 65

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second


@torch.inference_mode()
def with_weights(files, x, changed):
    weights = {name: list(blobs) for name, blobs in read_weights(files[1]).items()}
    changed(weights)
    net = load_caffe(files[0])
    net.load_weights(weights)
    return dict(net.blobs(data=x))


def exchange(weights):
    weights["fc7_1"], weights["fc7_2"] = weights["fc7_2"], weights["fc7_1"]


def turn(how, layer):
    def changed(weights):
        weights[layer][0] = np.ascontiguousarray(how(weights[layer][0]))

    return changed


WEIGHTS = {
    "other_layer_weights": (exchange, "fc7_1"),
    "weights_transposed": (turn(lambda w: w.transpose(0, 1, 3, 2), "conv2_1"), "conv2_1"),
    "weights_transposed, turned": (turn(lambda w: w[..., ::-1, ::-1], "conv2_1"), "conv2_1"),
    "weights_transposed, in and out": (turn(lambda w: w.swapaxes(0, 1), "conv2_2"), "conv2_2"),
    "other_weights": (turn(lambda w: w * 1.01 + 0.001, "conv1_2"), "conv1_2"),
}


@pytest.mark.parametrize("mistake", WEIGHTS)
def test_weights(mistake, tmp_path):
    changed, layer = WEIGHTS[mistake]
    blobs = with_weights(ASPP, picture(1, SIZE, SIZE), changed)
    expect(diagnose(ASPP, blobs, tmp_path), mistake.partition(",")[0], layer)


def test_weights_of_another_snapshot(tmp_path):
    """All layers with other weights: solved for where there are pixels enough."""

    def changed(weights):
        draw = np.random.default_rng(0)
        for blobs in weights.values():
            blobs[0] = blobs[0] + np.float32(draw.normal(size=blobs[0].shape) * blobs[0].std())

    causes = diagnose(ASPP, with_weights(ASPP, picture(1, SIZE, SIZE), changed), tmp_path)
    expect(causes, "other_weights", "conv1_1")
    assert {"conv5_3", "fc6_1", "fc8_4_voc12"} & set(causes[0].also)


def test_other_weights_where_pixels_are_few(tmp_path):
    """Nothing can be solved for, but only layers with weights are at fault."""

    def changed(weights):
        for name in ("conv4_2", "conv5_1"):
            weights[name][0] = weights[name][0][::-1] * np.float32(0.5)

    causes = diagnose(LARGEFOV, with_weights(LARGEFOV, picture(1, 33, 33), changed), tmp_path)
    expect(causes, "other_weights", "conv4_2", sure="likely")


def test_wrong_copy(tmp_path):
    shared = """
    layer { name: "%s" type: "Convolution" bottom: "data" top: "%s" param { name: "w" }
            convolution_param { num_output: 4 kernel_size: 3 bias_term: false
                                weight_filler { type: "xavier" } } }"""
    files = small_net(tmp_path, shared % ("a", "a") + shared % ("b", "b"))
    weights = {name: list(blobs) for name, blobs in read_weights(files[1]).items()}
    first = copy.deepcopy(weights["a"])
    weights["b"] = [weights["b"][0] + np.float32(0.1)]
    write_weights(files[1], {"a": first, "b": weights["b"]}, load_caffe(files[0]).net)
    with pytest.warns(UserWarning, match="their copies in the file differ"):
        net = load_caffe(*files)
    own_copy = ("a", lambda m, x: F.conv2d(x, torch.from_numpy(first[0])))
    change(net, *own_copy)
    x = picture(1, 17, 17)
    with torch.inference_mode():
        blobs = dict(net.blobs(data=x))
    with pytest.warns(UserWarning, match="their copies in the file differ"):
        causes = diagnose(files, blobs, tmp_path)
    expect(causes, "wrong_copy", "a")


def test_inner_product_flattened_otherwise(tmp_path):
    classify = """
    layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
            inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }"""
    files = small_net(tmp_path, CONVOLUTION + classify)
    wrong = ("ip", lambda m, x: type(m).forward(m, x.permute(0, 2, 3, 1).flatten(1)))
    causes = diagnose(files, blobs_of(files, picture(1, 33, 33), wrong), tmp_path)
    expect(causes, "weights_transposed", "ip")
