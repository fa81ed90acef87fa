"""Cases of layers with windows and matrices; see oracle_cases.py."""

from __future__ import annotations

from tests.caffe.layers.oracle_cases import Case, N, X, add, positive, whole

add(
    "Convolution",
    plain=([X], {"num_output": 4, "kernel_size": 3}, [(4, 6, 3, 3), (4,)]),
    no_bias=([X], {"num_output": 4, "kernel_size": 1, "bias_term": False}, [(4, 6, 1, 1)]),
    uneven=(
        [X],
        {
            "num_output": 2,
            "kernel_h": 2,
            "kernel_w": 3,
            "pad_h": 2,
            "pad_w": 1,
            "stride_h": 1,
            "stride_w": 2,
        },
        [(2, 6, 2, 3), (2,)],
    ),
    lists=(
        [X],
        {
            "num_output": 2,
            "kernel_size": [3, 2],
            "pad": [0, 1],
            "stride": [2, 1],
            "dilation": [2, 3],
        },
        [(2, 6, 3, 2), (2,)],
    ),
    pad_w_only=([X], {"num_output": 2, "kernel_size": 3, "pad_w": 2}, [(2, 6, 3, 3), (2,)]),
    groups=(
        [X],
        {"num_output": 4, "kernel_size": 3, "group": 2, "stride": 2, "pad": 1},
        [(4, 3, 3, 3), (4,)],
    ),
    depthwise=(
        [X],
        {"num_output": 12, "kernel_size": 3, "group": 6, "dilation": 2, "pad": 2},
        [(12, 1, 3, 3), (12,)],
    ),
    dilation_beyond=(
        [X],
        {"num_output": 2, "kernel_size": 3, "dilation": 6, "pad": 6},
        [(2, 6, 3, 3), (2,)],
    ),
    two=Case(
        "Convolution", [X, X], {"num_output": 3, "kernel_size": 2}, [(3, 6, 2, 2), (3,)], tops=2
    ),
    one_axis=(
        [N(2, 3, 9)],
        {"num_output": 4, "kernel_size": 3, "stride": 2, "pad": 1, "dilation": 2},
        [(4, 3, 3), (4,)],
    ),
    three=(
        [N(2, 2, 3, 4, 5)],
        {"num_output": 3, "kernel_size": [1, 2, 3], "pad": [0, 1, 1], "stride": [2, 1, 2]},
        [(3, 2, 1, 2, 3), (3,)],
    ),
    axis_2=(
        [N(2, 3, 4, 5, 6)],
        {"num_output": 2, "kernel_size": 3, "axis": 2},
        [(2, 4, 3, 3), (2,)],
    ),
    axis_0=([N(4, 5, 6)], {"num_output": 2, "kernel_size": 3, "axis": 0}, [(2, 4, 3, 3), (2,)]),
    minus=(
        [N(2, 3, 4, 5)],
        {"num_output": 2, "kernel_size": 3, "axis": -2, "pad": 1},
        [(2, 4, 3), (2,)],
    ),
    force_nd=(
        [X],
        {"num_output": 2, "kernel_size": 3, "force_nd_im2col": True, "stride": 2},
        [(2, 6, 3, 3), (2,)],
    ),
    narrow=(
        [N(2, 3, 4, 2)],
        {"num_output": 2, "kernel_size": 3, "stride": 2},
        [(2, 3, 3, 3), (2,)],
    ),
    no_space=([N(3, 4)], {"num_output": 5, "kernel_size": 1}, [(5, 4), (5,)]),
    v1=Case(
        "Convolution",
        [X],
        {"num_output": 4, "kernel_size": 3, "hole": 2, "pad": 2},
        [(4, 6, 3, 3), (1, 1, 1, 4)],
        dialect="dl1",
    ),
    v1_uneven=Case(
        "Convolution",
        [X],
        {
            "num_output": 2,
            "kernel_h": 2,
            "kernel_w": 3,
            "hole_h": 3,
            "hole_w": 2,
            "stride_h": 1,
            "stride_w": 2,
            "pad_h": 1,
            "pad_w": 2,
        },
        [(2, 6, 2, 3), (1, 1, 1, 2)],
        dialect="dl1",
    ),
    dl2=Case(
        "Convolution",
        [X],
        {"num_output": 2, "kernel_size": 3, "dilation": 2, "pad": 1},
        [(2, 6, 3, 3), (2,)],
        dialect="dl2",
    ),
)
add(
    "Deconvolution",
    plain=(
        [N(2, 6, 3, 4)],
        {"num_output": 4, "kernel_size": 4, "stride": 2, "pad": 1},
        [(6, 4, 4, 4), (4,)],
    ),
    uneven=(
        [N(2, 3, 3, 4)],
        {
            "num_output": 2,
            "kernel_h": 2,
            "kernel_w": 3,
            "stride_h": 1,
            "stride_w": 3,
            "pad_h": 1,
            "pad_w": 0,
        },
        [(3, 2, 2, 3), (2,)],
    ),
    groups=(
        [N(1, 4, 3, 3)],
        {"num_output": 6, "kernel_size": 3, "group": 2, "stride": 2},
        [(4, 3, 3, 3), (6,)],
    ),
    bilinear=(
        [N(1, 3, 4, 5)],
        {"num_output": 3, "kernel_size": 4, "group": 3, "stride": 2, "pad": 1, "bias_term": False},
        [(3, 1, 4, 4)],
    ),
    dilation=(
        [N(2, 3, 4, 5)],
        {"num_output": 2, "kernel_size": 2, "dilation": 3, "pad": 1},
        [(3, 2, 2, 2), (2,)],
    ),
    gap=([N(1, 2, 3, 3)], {"num_output": 1, "kernel_size": 1, "stride": 3}, [(2, 1, 1, 1), (1,)]),
    one_axis=(
        [N(2, 3, 4)],
        {"num_output": 2, "kernel_size": 3, "stride": 2, "pad": 1},
        [(3, 2, 3), (2,)],
    ),
    three=(
        [N(1, 2, 2, 3, 2)],
        {"num_output": 2, "kernel_size": 2, "stride": [1, 2, 3]},
        [(2, 2, 2, 2, 2), (2,)],
    ),
    axis_2=(
        [N(2, 2, 3, 3, 4)],
        {"num_output": 2, "kernel_size": 2, "axis": 2},
        [(3, 2, 2, 2), (2,)],
    ),
    two=Case(
        "Deconvolution",
        [N(1, 2, 3, 3)] * 2,
        {"num_output": 2, "kernel_size": 3},
        [(2, 2, 3, 3), (2,)],
        tops=2,
    ),
)
add(
    "Im2col",
    plain=([X], {"kernel_size": 3}),
    uneven=(
        [X],
        {"kernel_h": 2, "kernel_w": 3, "stride_h": 2, "stride_w": 1, "pad_h": 1, "pad_w": 2},
    ),
    dilation=([X], {"kernel_size": [2, 3], "dilation": [3, 2], "pad": 1}),
    narrow=([N(1, 2, 2, 5)], {"kernel_size": [4, 2], "stride": 3}),
    one_axis=([N(2, 3, 9)], {"kernel_size": 3, "stride": 3}),
    axis_2=([N(2, 3, 4, 5, 6)], {"kernel_size": 2, "axis": 2}),
    three=([N(2, 2, 3, 3, 4)], {"kernel_size": 2, "force_nd_im2col": True}),
    v1=Case("Im2col", [X], {"kernel_size": 2, "hole": 3}, dialect="dl1"),
)
add(
    "InnerProduct",
    plain=([X], {"num_output": 4}, [(4, 210), (4,)]),
    no_bias=([N(3, 5)], {"num_output": 4, "bias_term": False}, [(4, 5)]),
    transpose=([N(2, 3, 4)], {"num_output": 5, "transpose": True}, [(12, 5), (5,)]),
    axis_2=([X], {"num_output": 3, "axis": 2}, [(3, 35), (3,)]),
    minus=([X], {"num_output": 2, "axis": -1}, [(2, 7), (2,)]),
    axis_0=([N(3, 4)], {"num_output": 2, "axis": 0}, [(2, 12), (2,)]),
    transpose_axis=(
        [N(2, 3, 4)],
        {"num_output": 2, "transpose": True, "axis": 2, "bias_term": False},
        [(4, 2)],
    ),
    v1=Case(
        "InnerProduct",
        [N(3, 2, 2, 3)],
        {"num_output": 4},
        [(1, 1, 4, 12), (1, 1, 1, 4)],
        dialect="dl1",
    ),
)
add(
    "Embed",
    plain=([whole(3, 2, below=5)], {"num_output": 4, "input_dim": 5}, [(5, 4), (4,)]),
    no_bias=([whole(6, below=3)], {"num_output": 2, "input_dim": 3, "bias_term": False}, [(3, 2)]),
    four=([whole(2, 1, 2, 2, below=2)], {"num_output": 1, "input_dim": 2}, [(2, 1), (1,)]),
)

_K3 = {"kernel_size": 3}
add(
    "Pooling",
    **{
        f"{pool}_{name}".lower(): Case("Pooling", [X], {"pool": pool, **p}, tops=tops)
        for pool, tops in (("MAX", 2), ("AVE", 1))
        for name, p in {
            "plain": {**_K3},
            "stride": {**_K3, "stride": 2},
            "pad": {**_K3, "pad": 1},
            "clip": {"kernel_size": 2, "stride": 2, "pad": 1},
            "ceil": {"kernel_size": 2, "stride": 2},
            "uneven": {"kernel_h": 2, "kernel_w": 4, "stride_h": 3, "stride_w": 2},
            "one_pad": {"kernel_h": 3, "kernel_w": 1, "stride": 4, "pad_h": 1, "pad_w": 0},
            "pads": {"kernel_h": 3, "kernel_w": 2, "pad_h": 2, "pad_w": 0},
            "big_pad": {**_K3, "stride": 2, "pad": 2},
            "big_pads": {"kernel_size": 4, "stride": 3, "pad_h": 3, "pad_w": 1},
            "global": {"global_pooling": True},
            "whole": {"kernel_size": 5, "stride": 9},
            "beyond": {"kernel_size": 8, "stride": 4},
            "beyond_pad": {"kernel_size": 9, "stride": 2, "pad": 3},
            "floor": {**_K3, "stride": 2, "round_mode": "FLOOR"},
            "floor_pad": {"kernel_size": 2, "stride": 2, "pad": 1, "round_mode": "FLOOR"},
            "gaps": {"kernel_size": 1, "stride": 3},
        }.items()
    },
)
add(
    "Pooling",
    default=([X], {"kernel_size": 2}),
    ties=Case("Pooling", [whole(2, 3, 6, 6, below=2)], {**_K3, "pad": 1}, tops=2),
    low=Case(
        "Pooling",
        [lambda rng: rng.normal(size=(1, 2, 4, 4)) - 100],
        {**_K3, "pad": 1, "stride": 2},
        tops=2,
    ),
    stochastic=([positive(2, 3, 5, 6)], {"pool": "STOCHASTIC", "kernel_size": 2, "stride": 2}),
    stochastic_zeros=(
        [whole(2, 3, 4, 4, below=2)],
        {"pool": "STOCHASTIC", "kernel_size": 2, "stride": 1},
    ),
    v1=Case(
        "Pooling", [X], {"pool": "AVE", "kernel_size": 3, "stride": 2, "pad": 1}, dialect="dl1"
    ),
    v1_clip=Case(
        "Pooling", [N(1, 2, 6, 6)], {"kernel_size": 2, "stride": 2, "pad": 1}, dialect="dl1"
    ),
)
add(
    "SPP",
    two=([X], {"pyramid_height": 2}),
    three=([N(2, 3, 9, 8)], {"pyramid_height": 3}),
    one=([X], {"pyramid_height": 1}),
    ave=([N(1, 2, 7, 12)], {"pyramid_height": 3, "pool": "AVE"}),
    even=([N(1, 2, 8, 8)], {"pyramid_height": 4}),
)
_INTERP: dict[str, dict[str, int]] = {
    "zoom": {"zoom_factor": 3},
    "shrink": {"shrink_factor": 2},
    "size": {"height": 9, "width": 4},
    "both": {"shrink_factor": 3, "zoom_factor": 2},
    "size_both": {"height": 4, "width": 9, "shrink_factor": 2, "zoom_factor": 2},
    "zoom_size": {"zoom_factor": 2, "height": 3, "width": 3},
    "pads": {"zoom_factor": 2, "pad_beg": -1, "pad_end": -2},
    "pad_shrink": {"shrink_factor": 2, "pad_beg": -1},
    "pad_size": {"height": 6, "width": 6, "pad_end": -1},
    "pad_both": {"shrink_factor": 2, "zoom_factor": 4, "pad_beg": -2},
    "same": {"zoom_factor": 1},
    "crop_only": {"zoom_factor": 1, "pad_beg": -1, "pad_end": -1},
    "to_one": {"height": 1, "width": 1},
    "to_line": {"height": 1, "width": 11},
    "down": {"height": 3, "width": 5},
    "shrink_all": {"shrink_factor": 40},
}
add(
    "Interp",
    **{name: Case("Interp", [N(2, 3, 9, 11)], p, dialect="dl2") for name, p in _INTERP.items()},
)
add(
    "Interp",
    two_axes=Case("Interp", [N(2, 3)], {"height": 2, "width": 3}, dialect="dl2"),
    one_pixel=Case("Interp", [N(1, 2, 1, 1)], {"height": 3, "width": 4}, dialect="dl2"),
    v1=Case("Interp", [N(2, 3, 5, 6)], {"zoom_factor": 4}, dialect="dl1"),
    v1_shrink=Case("Interp", [N(2, 3, 9, 8)], {"shrink_factor": 3, "pad_beg": -1}, dialect="dl1"),
)
