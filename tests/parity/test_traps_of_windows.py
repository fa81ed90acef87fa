"""Mistakes in windows and sizes are named; see `deeplab_repro.parity.traps.windows`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from deeplab_repro.caffe.layers.pooling import pool2d
from prototxt_import.layers import Pool
from tests.parity.spoil import (
    CONVOLUTION,
    LARGEFOV,
    POOLING,
    blobs_of,
    diagnose,
    expect,
    names,
    picture,
    small_net,
)

SIZE = 65

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second


def pooled(**other):
    def forward(module, x):
        pool = module.layer.pool
        return pool2d(x, Pool(**{**pool.__dict__, **other}))[0]

    return forward


def average_of_real_pixels(module, x):
    return F.avg_pool2d(x, 3, 1, 1, count_include_pad=False)


def padded_right(module, x):
    """TensorFlow's SAME at an even size: one line at the right and bottom, none elsewhere."""
    return F.max_pool2d(F.pad(x, (0, 1, 0, 1), value=-torch.inf), 3, 2)


def maximum_of_zeros(module, x):
    return F.max_pool2d(F.pad(x - 3, (1, 1, 1, 1)), 3, 1)


def convolved(pad, rate):
    def forward(module, x):
        return F.conv2d(F.pad(x, pad), module.blob(0), module.blob(1).view(-1), 1, 0, rate)

    return forward


def resized(**how):
    def forward(module, x):
        size = [8 * (n - 1) + 1 for n in x.shape[2:]]
        return F.interpolate(x, size, **how)

    return forward


def at_i_in_over_out(module, x):
    """As the definition says, value by value."""
    height, width = (8 * (n - 1) + 1 for n in x.shape[2:])
    top = x.new_zeros(*x.shape[:2], height, width)
    for i in range(height):
        for j in range(width):
            y, z = i * x.shape[2] / height, j * x.shape[3] / width
            a, b = int(y), int(z)
            a1, b1 = min(a + 1, x.shape[2] - 1), min(b + 1, x.shape[3] - 1)
            p, q = y - a, z - b
            top[:, :, i, j] = (1 - p) * ((1 - q) * x[:, :, a, b] + q * x[:, :, a, b1]) + p * (
                (1 - q) * x[:, :, a1, b] + q * x[:, :, a1, b1]
            )
    return top


WINDOWS = {
    "floor_pooling": ("pool1", pooled(floor=True), 64),
    "average_without_padding": ("pool5a", average_of_real_pixels, 65),
    "pooling_method": ("pool5a", pooled(method="MAX"), 65),
    "padding_shifted": ("pool1", padded_right, 64),
    "padding_shifted, convolution": ("conv3_1", convolved((2, 0, 2, 0), 1), 65),
    "padding_shifted, none": ("conv3_1", convolved((0, 0, 0, 0), 1), 65),
    "hole_ignored": ("fc6", convolved((1, 1, 1, 1), 1), 65),
    "hole_ignored, not the padding": ("conv5_1", convolved((2, 2, 2, 2), 1), 65),
    "hole_ignored, another rate": ("fc6", convolved((4, 4, 4, 4), 4), 65),
    "half_pixel": ("fc8_interp", resized(mode="bilinear", align_corners=False), 65),
    "interp_asymmetric": ("fc8_interp", at_i_in_over_out, 33),
    "interp_kind": ("fc8_interp", resized(mode="nearest"), 65),
    "interp_kind, size": (
        "fc8_interp",
        lambda m, x: F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=True),
        65,
    ),
    "half_pixel, size": (
        "fc8_interp",
        lambda m, x: F.interpolate(x, scale_factor=8, mode="bilinear", align_corners=False),
        65,
    ),
}


@pytest.mark.parametrize("mistake", WINDOWS)
def test_windows(mistake, tmp_path):
    layer, forward, size = WINDOWS[mistake]
    blobs = blobs_of(LARGEFOV, picture(1, size, size), (layer, forward))
    expect(diagnose(LARGEFOV, blobs, tmp_path), mistake.partition(",")[0], layer)


def test_pooling_of_zeros(tmp_path):
    """Where values are negative: behind a layer without ReLU."""
    files = small_net(tmp_path, CONVOLUTION + POOLING)
    x = picture(1, 17, 17)
    zeros = ("pool", lambda m, x: F.max_pool2d(F.pad(x, (1, 1, 1, 1)), 3, 2))
    expect(diagnose(files, blobs_of(files, x, zeros), tmp_path), "pooling_of_zeros", "pool")


@pytest.mark.parametrize("ceil", [False, True])
@pytest.mark.parametrize("size", [64, 65])
def test_pools_of_torchvisions_vgg(ceil, size, tmp_path):
    """2x2 with stride 2, where the file says 3x3 with padding 1 (and stride 1 from pool4 on)."""

    def pool(module, x):
        return F.max_pool2d(x, 2, 2, ceil_mode=ceil)

    pools = [(f"pool{i}", pool) for i in (1, 2, 3, 4)]
    (cause,) = diagnose(LARGEFOV, blobs_of(LARGEFOV, picture(1, size, size), *pools), tmp_path)
    assert (cause.trap.id, cause.sure, cause.layer) == ("pooling_window", "proved", "pool1")
    assert "2x2 windows, stride 2, padding 0" in cause.evidence[0]
    assert cause.also == ["pool2", "pool3", "pool4"]


def test_every_layer_with_the_mistake_is_listed(tmp_path):
    pools = [(f"pool{i}", pooled(floor=True)) for i in (1, 2, 3)]
    blobs = blobs_of(LARGEFOV, picture(1, 96, 96), *pools)
    (cause,) = diagnose(LARGEFOV, blobs, tmp_path)
    assert (cause.trap.id, cause.layer) == ("floor_pooling", "pool1")
    assert cause.also  # the later ones whose sizes come out another way, too


def test_two_mistakes_are_both_named(tmp_path):
    x = picture(1, SIZE, SIZE)
    wrong = ("fc8_interp", resized(mode="bilinear", align_corners=False))
    blobs = blobs_of(LARGEFOV, x.flip(1), wrong) | {"data": x}
    assert names(diagnose(LARGEFOV, blobs, tmp_path)) == ["channels_swapped", "half_pixel"]
