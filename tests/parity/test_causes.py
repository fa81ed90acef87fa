"""Each known mistake, made on purpose, is named; nothing else is."""

from __future__ import annotations

import copy
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab_repro import load_caffe
from deeplab_repro.caffe.layers.pooling import pool2d
from deeplab_repro.parity.traps import TRAPS
from prototxt_import import read_weights, write_weights
from prototxt_import.layers import Pool
from tests.parity.spoil import change, diagnose, network, picture

LARGEFOV = network("largefov_v1_w8")
ASPP = network("vgg16_aspp_l_w8")
MEAN = torch.tensor([104.008, 116.669, 122.675])[:, None, None]
DEVIATION = torch.tensor([0.225, 0.224, 0.229])[:, None, None]
SIZE = 65

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second


def names(causes) -> list[str]:
    return [cause.trap.id for cause in causes]


@torch.inference_mode()
def blobs_of(files, x, *changes):
    """What the network computes with some layers changed: (layer, forward) pairs."""
    net = load_caffe(*files)
    for layer, forward in changes:
        change(net, layer, forward)
    return dict(net.blobs(data=x))


def expect(causes, trap, layer=None, sure="proved"):
    """Just this cause, at this layer, with its evidence and advice in words."""
    assert names(causes) == [trap]
    assert causes[0].sure == sure
    assert layer is None or causes[0].layer == layer
    assert causes[0].evidence
    assert TRAPS[trap].advice == causes[0].as_json()["advice"]


# ---------------------------------------------------------------- nothing to find


def test_equal_activations_have_no_cause(tmp_path):
    assert diagnose(LARGEFOV, blobs_of(LARGEFOV, picture(1, SIZE, SIZE)), tmp_path) == []


def test_garbage_is_unknown(tmp_path):
    generator = torch.Generator().manual_seed(0)
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33))
    for rectify in (False, True):
        garbage = {}
        for name, value in blobs.items():
            noise = torch.randn(value.shape, generator=generator) * value.std()
            garbage[name] = value if name == "data" else noise.relu() if rectify else noise
        assert names(diagnose(LARGEFOV, garbage, tmp_path)) == ["unknown"]


def test_one_damaged_blob_is_unknown(tmp_path):
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33))
    blobs["conv4_2"] = torch.randn_like(blobs["conv4_2"])
    (cause,) = diagnose(LARGEFOV, blobs, tmp_path)
    assert (cause.trap.id, cause.blob) == ("unknown", "conv4_2")
    assert "may be damaged" in cause.evidence[-1]
    blobs["conv4_2"] *= torch.nan
    assert names(diagnose(LARGEFOV, blobs, tmp_path)) == ["unknown"]


def test_one_blob_that_was_scaled_proves_no_other_weights(tmp_path):
    """With other weights, what reads the blob would differ too."""
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33))
    blobs["conv3_1"] = blobs["conv3_1"] * 1.01
    (cause,) = diagnose(LARGEFOV, blobs, tmp_path)
    assert (cause.trap.id, cause.blob) == ("unknown", "conv3_1")


def test_rounding_that_grows(tmp_path):
    """Every layer off by less than the tolerance, all together by more."""

    def drift(module, *bottoms):
        return type(module).forward(module, *bottoms) * (1 + 8e-6)

    convolutions = [(f"conv{i}", drift) for i in ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2")]
    causes = diagnose(LARGEFOV, blobs_of(LARGEFOV, picture(1, 33, 33), *convolutions), tmp_path)
    assert names(causes) == ["rounding"]


# ---------------------------------------------------------------- the input

FED = {
    "channels_swapped": lambda x: x.flip(1),
    "channels_swapped, mean of the other order": lambda x: (x + MEAN).flip(1) - MEAN,
    "mean_not_subtracted": lambda x: x + MEAN,
    "mean_not_subtracted, twice": lambda x: x - MEAN,
    "mean_not_subtracted, another": lambda x: x + 7,
    "divided_by_255": lambda x: x / 255,
    "divided_by_255, 0 to 1 recorded": lambda x: x * 255,
    "channels_mixed": lambda x: x.mean(1, keepdim=True).expand_as(x),
    "image_mirrored": lambda x: x.flip(3),
    "image_mirrored, transposed": lambda x: x.transpose(2, 3),
    "image_size": lambda x: F.interpolate(x, (49, 57), mode="bilinear", align_corners=False),
    "image_size, padded": lambda x: F.pad(x, (0, 8, 0, 16)),
}


@pytest.mark.parametrize(
    ("mistake", "files"),
    [*((mistake, LARGEFOV) for mistake in FED), ("channels_swapped", ASPP), ("image_size", ASPP)],
    ids=[*FED, "channels_swapped, four heads", "image_size, four heads"],
)
def test_input(mistake, files, tmp_path):
    x = picture(1, SIZE, SIZE)
    blobs = blobs_of(files, FED[mistake](x).contiguous()) | {"data": x}
    expect(diagnose(files, blobs, tmp_path), mistake.partition(",")[0], "conv1_1")


@pytest.mark.parametrize(
    ("fed", "words"),
    [
        (lambda x: x + MEAN, "no mean was subtracted"),
        (lambda x: x - MEAN, "that the recorded input still holds"),
        (lambda x: x + 7, "offset by (7, 7, 7)"),
        (lambda x: x / 255, "divided by 255"),
        (lambda x: x * 255, "times 255"),
        (lambda x: x * 0.017, "scaled by (0.017, 0.017, 0.017)"),
    ],
)
def test_input_in_words(fed, words, tmp_path):
    x = picture(1, 33, 33)
    (cause,) = diagnose(LARGEFOV, blobs_of(LARGEFOV, fed(x)) | {"data": x}, tmp_path)
    assert words in cause.evidence[0]


def test_image_resized_in_an_unknown_way(tmp_path):
    x = picture(1, SIZE, SIZE)
    other = F.interpolate(x, (49, 49), mode="area")
    causes = diagnose(LARGEFOV, blobs_of(LARGEFOV, other) | {"data": x}, tmp_path)
    expect(causes, "image_size", "conv1_1", sure="likely")
    assert "65x65 was recorded, 49x49 was fed" in causes[0].evidence[0]


def test_torchvision_preparation_is_three_mistakes(tmp_path):
    x = picture(1, SIZE, SIZE)
    fed = ((x + MEAN) / 255 / DEVIATION).flip(1)
    causes = diagnose(LARGEFOV, blobs_of(LARGEFOV, fed) | {"data": x}, tmp_path)
    assert names(causes) == ["channels_swapped", "divided_by_255", "mean_not_subtracted"]


def test_image_padding(tmp_path):
    x = picture(1, SIZE, SIZE)
    x[:, :, 41:] = 0
    x[:, :, :, 50:] = 0
    blobs = blobs_of(LARGEFOV, x.roll((12, 7), (2, 3))) | {"data": x}
    expect(diagnose(LARGEFOV, blobs, tmp_path), "image_padding", "conv1_1")


def test_batch_order(tmp_path):
    x = torch.cat([picture(1, 33, 33, seed=i) for i in range(3)])
    blobs = blobs_of(LARGEFOV, x[[2, 0, 1]]) | {"data": x}
    causes = diagnose(LARGEFOV, blobs, tmp_path)
    expect(causes, "batch_order", "conv1_1")
    assert "[2, 0, 1]" in causes[0].evidence[0]


def test_input_of_resnet(tmp_path):
    """BatchNorm, Scale and ReLU stand in place behind the first convolution."""
    files = small_net(tmp_path, NORMALISED)
    x = picture(1, 33, 33)
    blobs = blobs_of(files, x.flip(1)) | {"data": x}
    expect(diagnose(files, blobs, tmp_path), "channels_swapped", "conv")


# ---------------------------------------------------------------- windows


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


# ---------------------------------------------------------------- values


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


# ---------------------------------------------------------------- BatchNorm

CONVOLUTION = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 pad: 1
                            weight_filler { type: "xavier" } } }"""
RECTIFIED = 'layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }'
POOLING = """
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool"
        pooling_param { pool: MAX kernel_size: 3 stride: 2 pad: 1 } }"""
SECOND = """
layer { name: "second" type: "Convolution" bottom: "conv" top: "second"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }"""
# Rows may be missing because they were not computed or because they were not saved.
TWO_BY_TWO = POOLING.replace("kernel_size: 3", "kernel_size: 2").replace("pad: 1", "pad: 0")
READER = SECOND.replace('"conv"', '"pool"')
PARTS = {
    "last row": lambda y: y[:, :, :-1],
    "first row": lambda y: y[:, :, 1:],
    "last row and column": lambda y: y[:, :, :-1, :-1],
}
NORMALISED = (
    CONVOLUTION
    + """
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv"
        batch_norm_param { use_global_stats: true } }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }"""
    + RECTIFIED
    + SECOND
)


def small_net(folder: Path, layers: str) -> tuple[Path, Path]:
    """A network of these layers, its weights drawn by the fillers, statistics of a short run."""
    prototxt, weights = folder / "small.prototxt", folder / "small.caffemodel"
    prototxt.write_text('input: "data" input_shape { dim: 1 dim: 3 dim: 33 dim: 33 }' + layers)
    torch.manual_seed(0)
    net = load_caffe(prototxt)
    blobs = {n: [b.detach().numpy() for b in bs] for n, bs in net.params.items()}
    if "bn" in blobs:
        draw = np.random.default_rng(0)
        factor = np.float32([250.0])  # as after many batches
        blobs["bn"] = [
            np.float32(draw.normal(size=8) * 20) * factor,
            np.float32(draw.uniform(0.01, 0.5, size=8)) * factor,
            factor,
        ]
        blobs["scale"] = [np.float32(draw.uniform(0.5, 2, 8)), np.float32(draw.normal(size=8))]
    write_weights(weights, blobs, net.net)
    return prototxt, weights


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


# ---------------------------------------------------------------- weights


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


# ---------------------------------------------------------------- parts of a map


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("blob", ["conv", "pool"])
def test_a_map_cut_off_when_it_was_saved(blob, part, tmp_path):
    """What reads the blob has seen all of it, so that its layer is not at fault."""
    files = small_net(tmp_path, CONVOLUTION + TWO_BY_TWO + READER)
    blobs = blobs_of(files, picture(1, 33, 33))
    blobs[blob] = PARTS[part](blobs[blob])
    expect(diagnose(files, blobs, tmp_path), "cut_off", blob)


@pytest.mark.parametrize("part", PARTS)
@pytest.mark.parametrize("blob", ["conv", "pool"])
def test_a_cut_map_that_nothing_reads_proves_nothing(blob, part, tmp_path):
    files = small_net(tmp_path, CONVOLUTION + (TWO_BY_TWO if blob == "pool" else ""))
    blobs = blobs_of(files, picture(1, 33, 33))
    blobs[blob] = PARTS[part](blobs[blob])
    (cause,) = diagnose(files, blobs, tmp_path)
    assert cause.sure == "likely"
    assert cause.trap.id != "pooling_of_zeros"  # there is no padding that could have been zeros


def test_pools_rounded_down_are_proved_by_what_reads_them(tmp_path):
    files = small_net(tmp_path, CONVOLUTION + TWO_BY_TWO + READER)
    wrong = ("pool", lambda m, x: F.max_pool2d(x, 2, 2))
    expect(diagnose(files, blobs_of(files, picture(1, 33, 33), wrong), tmp_path), "floor_pooling")


# ---------------------------------------------------------------- big and bundled


def test_every_trap_is_tested():
    """A detector that no test calls may never fire, or always."""
    text = Path(__file__).read_text()
    assert [trap for trap in TRAPS if f'"{trap}' not in text] == []


def test_three_scale_resnet(tmp_path):
    """1359 layers; the copies of a parameter are shared between scales."""
    files = network("resnet101_msc_w16")
    eps = ("bn4b5_branch2b", normalised(eps=1e-3))
    causes = diagnose(files, blobs_of(files, picture(1, 97, 97), eps), tmp_path)
    expect(causes, "batchnorm_eps", "bn4b5_branch2b")
