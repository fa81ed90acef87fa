"""Mistakes in what a network is fed are named; see `deeplab_repro.parity.traps.inputs`."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F

from tests.parity.spoil import (
    ASPP,
    LARGEFOV,
    NORMALISED,
    blobs_of,
    diagnose,
    expect,
    names,
    picture,
    small_net,
)

MEAN = torch.tensor([104.008, 116.669, 122.675])[:, None, None]
DEVIATION = torch.tensor([0.225, 0.224, 0.229])[:, None, None]
SIZE = 65

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second


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
