"""How two networks differ, from changes that are known."""

from __future__ import annotations

import numpy as np

from deeplab_repro.parity.differences import differences, without_leading_ones
from prototxt_import import parse_net

NET = """
name: "n" input: "data" input_shape { dim: 1 dim: 3 dim: 9 dim: 9 }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 3 pad: 2 dilation: 2 } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
"""


def between(second, first=NET, first_weights=None, second_weights=None, **words):
    nets = [None if text is None else parse_net(text) for text in (first, second)]
    return differences(*nets, first_weights or {}, second_weights or {}, **words)


def lines(entries):
    return [(entry.layer, entry.what, entry.first, entry.second) for entry in entries]


def test_nothing():
    found = between(NET)
    assert not found
    assert found.in_both == 3


def test_fields_and_the_shapes_that_follow():
    found = between(NET.replace("dilation: 2", "dilation: 1").replace("pool: MAX", "pool: AVE"))
    assert lines(found.fields) == [
        ("conv", "convolution_param.dilation", "[2]", "[1]"),
        ("pool", "pooling_param.pool", "MAX", "AVE"),
    ]
    assert lines(found.shapes) == [
        ("conv", "output conv", "1x4x9x9", "1x4x11x11"),
        ("relu", "output conv", "1x4x9x9", "1x4x11x11"),
        ("pool", "output pool", "1x4x4x4", "1x4x5x5"),
    ]


def test_a_default_written_out_is_no_difference():
    found = between(NET.replace("num_output: 4", "num_output: 4 bias_term: true group: 1"))
    assert not found


def test_layers_bottoms_and_types():
    other = NET.replace('name: "pool"', 'name: "pool_new"').replace('"ReLU"', '"Sigmoid"')
    found = between(other)
    assert (found.only_first, found.only_second) == (["pool"], ["pool_new"])
    assert lines(found.fields) == [("relu", "type", "ReLU", "Sigmoid")]
    found = between(NET.replace('"pool" type: "Pooling" bottom: "conv"',
                                '"pool" type: "Pooling" bottom: "data"'))  # fmt: skip
    assert lines(found.fields) == [("pool", "bottom", "[conv]", "[data]")]


def test_inputs():
    found = between(NET.replace("dim: 9 dim: 9", "dim: 9 dim: 17"))
    assert lines(found.shapes)[0] == ("", "input data", "1x3x9x9", "1x3x9x17")
    assert not between(
        NET.replace("dim: 9 dim: 9", "dim: 9 dim: 17"), inputs={"data": (1, 3, 33, 33)}
    )


def test_weights():
    one = np.ones((4, 3, 3, 3), np.float32)
    bias = np.arange(4, dtype=np.float32)
    first = {"conv": [one * 1.5, bias.reshape(1, 1, 1, 4)], "gone": [one]}
    second = {"conv": [one, bias], "new": [one]}
    found = between(NET, NET, first, second)
    ((layer, blob, near),) = found.weights
    assert (layer, blob, near.rel, near.max) == ("conv", 0, 0.5, 0.5)
    assert found.equal_blobs == 1
    alone = between(None, None, first, second)
    assert (alone.only_first, alone.only_second, alone.in_both) == (["gone"], ["new"], 1)
    fewer = between(None, None, first, {"conv": [one[:2]], "gone": [one]})
    assert lines(fewer.shapes) == [("conv", "blobs", "2 blobs", "1 blobs")]
    assert "shape" in fewer.weights[0][2].note


def test_dialects_meet():
    """A bias of the v1 fork has four axes, and is the same bias."""
    v1 = """
    name: "n" input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9
    layers { name: "conv" type: CONVOLUTION bottom: "data" top: "conv"
             convolution_param { num_output: 4 kernel_size: 3 pad: 2 hole: 2 } }
    layers { name: "relu" type: RELU bottom: "conv" top: "conv" }
    layers { name: "pool" type: POOLING bottom: "conv" top: "pool"
             pooling_param { pool: MAX kernel_size: 3 stride: 2 } }
    """
    assert not between(v1)


def test_ones_that_old_files_put_before_a_size_do_not_count():
    shapes = [(1, 1, 1, 64), (64,), (1, 3, 1), (1, 1), (1, None), ()]
    bare = [without_leading_ones(shape) for shape in shapes]
    assert bare == [(64,), (64,), (3, 1), (), (None,), ()]
