"""Mistakes in what a layer computes are named; see `deeplab_repro.parity.traps.values`."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from tests.parity.spoil import (
    CONVOLUTION,
    LARGEFOV,
    NORMALISED,
    RECTIFIED,
    SECOND,
    blobs_of,
    diagnose,
    expect,
    network,
    picture,
    small_net,
)

SIZE = 65

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second


def without(module, x):
    return x


def dropped(module, x):
    return F.dropout(x, module.layer.dropout_ratio, training=True)


VALUES = {
    "dropout_active": ("drop6", dropped),
    "dropout_scale": ("drop6", lambda m, x: x * 0.5),
    "relu_missing": ("relu3_2", without),
    "softmax_applied": ("fc8_interp", lambda m, x: type(m).forward(m, x).softmax(1)),
    "softmax_applied, sigmoid": ("fc8_voc12", lambda m, x: type(m).forward(m, x).sigmoid()),
    "bias_missing": ("conv4_1", lambda m, x: F.conv2d(x, m.blob(0), None, 1, 1)),
    "tf32": ("conv4_1", lambda m, x: with_10_bits(m, x)),
}


def with_10_bits(module, x):
    """TF32's factors, rounded through their decimals of base 2."""

    def rounded(values):
        mantissa, exponent = np.frexp(values.numpy().astype(np.float64))
        return torch.from_numpy(np.ldexp(np.round(mantissa * 2048) / 2048, exponent)).float()

    bias = module.blob(1).view(-1)
    return F.conv2d(rounded(x), rounded(module.blob(0).detach()), bias, 1, 1)


@pytest.mark.parametrize("mistake", VALUES)
def test_values(mistake, tmp_path):
    torch.manual_seed(0)
    layer, forward = VALUES[mistake]
    blobs = blobs_of(LARGEFOV, picture(1, SIZE, SIZE), (layer, forward))
    expect(diagnose(LARGEFOV, blobs, tmp_path), mistake.partition(",")[0], layer)


def test_dropout_in_both_places(tmp_path):
    torch.manual_seed(0)
    drops = [("drop6", dropped), ("drop7", dropped)]
    causes = diagnose(LARGEFOV, blobs_of(LARGEFOV, picture(1, SIZE, SIZE), *drops), tmp_path)
    expect(causes, "dropout_active", "drop6")
    assert causes[0].also == ["fc7"]


def test_saved_before_in_place(tmp_path):
    """All blobs in front of their ReLU, of a network that is right."""
    x = picture(1, 33, 33)
    blobs = blobs_of(LARGEFOV, x)
    early = blobs_of(LARGEFOV, x, ("relu4_3", without))
    causes = diagnose(LARGEFOV, blobs | {"conv4_3": early["conv4_3"]}, tmp_path)
    expect(causes, "saved_before_in_place", "relu4_3")


def test_in_place_order(tmp_path):
    files = small_net(tmp_path, CONVOLUTION + RECTIFIED + SECOND)
    x = picture(1, 17, 17)
    early = blobs_of(files, x, ("relu", without))["second"]
    blobs = blobs_of(files, x) | {"second": early}
    expect(diagnose(files, blobs, tmp_path), "in_place_order", "second")


def test_half_precision(tmp_path):
    halves = [(f"conv{i}", halved) for i in ("1_1", "1_2")]
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33), *halves)
    saved = {n: b if n == "data" else b.half().float() for n, b in blobs.items()}
    expect(diagnose(LARGEFOV, saved, tmp_path), "half_precision", sure="likely")


def halved(module, x):
    return F.conv2d(x.half().float(), module.blob(0).half().float(), module.blob(1).view(-1), 1, 1)


def normalised(factor=None, eps=None, batch=False):
    def forward(module, x):
        total, squares, count = module.blobs
        count = factor or count
        mean, variance = total / count, squares / count
        if batch:
            mean, variance = x.mean((0, 2, 3)), x.var((0, 2, 3), correction=0)
        spread = (variance + (module.layer.eps if eps is None else eps)).sqrt()
        return (x - mean[:, None, None]) / spread[:, None, None]

    return forward


@pytest.mark.parametrize(
    ("trap", "layer", "forward"),
    [
        ("batchnorm_factor", "bn", normalised(factor=1.0)),
        ("batchnorm_eps", "bn", normalised(eps=1e-3)),
        ("batchnorm_eps", "bn", normalised(eps=0.0)),
        ("batchnorm_training", "bn", normalised(batch=True)),
        ("layer_skipped", "scale", without),
        ("layer_skipped", "bn", without),
    ],
)
def test_batchnorm(trap, layer, forward, tmp_path):
    files = small_net(tmp_path, NORMALISED)
    blobs = blobs_of(files, picture(1, 33, 33), (layer, forward))
    causes = diagnose(files, blobs, tmp_path)
    expect(causes, trap, layer)
    if trap == "batchnorm_factor":
        assert "blob 2 is 250" in causes[0].evidence[0]


def test_eltwise_operation(tmp_path):
    both = 'layer { name: "%s" type: "Eltwise" bottom: "conv" bottom: "data8" top: "%s" }'
    copy_of = (
        'layer { name: "data8" type: "Power" bottom: "conv" top: "data8" power_param { power: 2 } }'
    )
    files = small_net(tmp_path, CONVOLUTION + copy_of + both % ("sum", "sum"))
    wrong = ("sum", lambda m, a, b: torch.maximum(a, b))
    causes = diagnose(files, blobs_of(files, picture(1, 33, 33), wrong), tmp_path)
    expect(causes, "eltwise_operation", "sum")
    assert "maximum" in causes[0].evidence[0]


def test_three_scale_resnet(tmp_path):
    """1359 layers; the copies of a parameter are shared between scales."""
    files = network("resnet101_msc_w16")
    eps = ("bn4b5_branch2b", normalised(eps=1e-3))
    causes = diagnose(files, blobs_of(files, picture(1, 97, 97), eps), tmp_path)
    expect(causes, "batchnorm_eps", "bn4b5_branch2b")
