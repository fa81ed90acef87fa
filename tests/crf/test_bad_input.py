"""Each mistake is one clear error, before anything large is allocated."""

from __future__ import annotations

import numpy as np
import pytest
import torch

import deeplab_repro.crf.pydensecrf.densecrf as dcrf
from deeplab_repro.crf import Bilateral, CRFParams, dense_crf, dense_crf_features

UNARY, IMAGE = torch.zeros(1, 4, 6, 9), torch.zeros(1, 3, 6, 9)
NAN, INF = float("nan"), float("inf")


def with_value(tensor, value):
    changed = tensor.clone()
    changed[..., 0, 0] = value
    return changed


@pytest.mark.parametrize(
    ("unary", "image", "error", "message"),
    [
        (UNARY.numpy(), IMAGE, TypeError, "unary must be a tensor of float32, .*got ndarray"),
        (UNARY.long(), IMAGE, TypeError, "unary must be .*got torch.int64 tensor"),
        (UNARY[0], IMAGE, ValueError, r"unary must have shape \(N, C, H, W\), got \(4, 6, 9\)"),
        (UNARY[:, :0], IMAGE, ValueError, "unary has no labels"),
        (with_value(UNARY, NAN), IMAGE, ValueError, "unary holds NaN"),
        (with_value(UNARY, -INF), IMAGE, ValueError, "unary holds -inf"),
        (with_value(UNARY, INF), IMAGE, ValueError, "inf for every label of a pixel"),
        (UNARY, None, ValueError, "image is None, but there is a bilateral kernel"),
        (UNARY, IMAGE.numpy(), TypeError, "image must be a tensor of numbers, got ndarray"),
        (UNARY, IMAGE.bool(), TypeError, "image must be a tensor of numbers, got torch.bool"),
        (UNARY, IMAGE.mT, ValueError, r"got \(1, 3, 9, 6\): height and width are swapped"),
        (UNARY, IMAGE.permute(0, 2, 3, 1), ValueError, "channels come last, use image.permute"),
        (UNARY, IMAGE.permute(0, 3, 2, 1), ValueError, "channels come last, and height and width"),
        (UNARY, IMAGE[0], ValueError, "the batch axis is missing"),
        (UNARY, IMAGE[0, 0], ValueError, "batch and channel axis are missing"),
        (UNARY, IMAGE[:, :0], ValueError, "image has no channels"),
        (UNARY, IMAGE[..., 1:], ValueError, r"= \(1, channels, 6, 9\), got \(1, 3, 6, 8\)"),
        (UNARY, IMAGE.repeat(2, 1, 1, 1), ValueError, r"got \(2, 3, 6, 9\)"),
        (UNARY, with_value(IMAGE, NAN), ValueError, "bilateral kernel .*must be finite"),
        (UNARY, with_value(IMAGE, INF), ValueError, "bilateral kernel .*must be finite"),
        (UNARY, torch.zeros(1, 15, 6, 9), ValueError, "d in 1..16"),
    ],
)
def test_tensors(unary, image, error, message):
    with pytest.raises(error, match=message) as raised:
        dense_crf(unary, image)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"normalization": "row"}, "normalization must be one of"),
        ({"normalization": ["after"]}, "one entry for each of 2 kernels"),
        (
            {"compatibility": torch.zeros(3)},
            r"None, a number, \(4,\) or \(4, 4\), got \(3,\)",
        ),
        ({"compatibility": [None] * 3}, "one entry for each of 2 kernels"),
        ({"relaxation": 1.5}, "relaxation must be in 0..1"),
        ({"relaxation": NAN}, "relaxation must be in 0..1"),
        ({"output": "map"}, "output must be one of marginals, labels, log, got 'map'"),
        ({"expnorm": "fast"}, "expnorm must be one of"),
        ({"weights": torch.ones(3)}, "weights must have one entry for each of 2 lattices"),
    ],
)
def test_options(options, message):
    with pytest.raises(ValueError, match=message):
        dense_crf(UNARY, IMAGE, **options)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"iterations": -1}, ValueError, "iterations must be at least 0"),
        ({"iterations": 2.5}, TypeError, "iterations must be a whole number"),
        ({"pos_w": NAN}, ValueError, "pos_w must be finite"),
        ({"pos_w": "3"}, TypeError, "pos_w must be a number"),
        ({"pos_xy_std": 0}, ValueError, "pos_xy_std must be positive, got 0"),
        ({"pos_xy_std": (3, -1)}, ValueError, r"pos_xy_std must be positive, got \(3, -1\)"),
        ({"pos_xy_std": (3, 3, 3)}, ValueError, "pos_xy_std must be one number or 2"),
        ({"bi_xy_std": INF}, ValueError, "bi_xy_std must be finite"),
        ({"bi_rgb_std": ()}, ValueError, "bi_rgb_std must be one number or one per channel"),
        ({"bi_rgb_std": -5}, ValueError, "bi_rgb_std must be positive"),
        ({"extra": (4,)}, TypeError, "extra must hold Bilateral kernels"),
    ],
)
def test_parameters(arguments, error, message):
    with pytest.raises(error, match=message):
        CRFParams(**arguments)


def test_stds_so_small_that_keys_overflow():
    """Where densecrf wrapped silently; the kernel is named."""
    with pytest.raises(ValueError, match=r"the spatial kernel \(pos_xy_std 0.0001\).*limit"):
        dense_crf(UNARY, IMAGE, CRFParams(pos_xy_std=1e-4))
    image = with_value(IMAGE, 255)
    with pytest.raises(ValueError, match=r"xy_std 49.0, rgb_std 0.001\).*larger standard dev"):
        dense_crf(UNARY, image, CRFParams(bi_rgb_std=1e-3))
    extra = CRFParams(extra=(Bilateral(1, 1e-30, 5),))
    with pytest.raises(ValueError, match=r"xy_std 1e-30, rgb_std 5.0\)"):
        dense_crf(UNARY, image, extra)
    with pytest.raises(ValueError, match="spatial kernel .*must be finite"):
        dense_crf(UNARY, IMAGE, CRFParams(pos_xy_std=1e-45))


def test_a_picture_that_fits_into_no_memory():
    """Its memory is computed and refused; the tensors here have one element."""
    unary = torch.zeros(1).expand(1, 21, 30_000, 30_000)
    image = torch.zeros(1, dtype=torch.uint8).expand(1, 3, 30_000, 30_000)
    with pytest.raises(MemoryError, match=r"900,000,000 points with 21 labels need .* tiles"):
        dense_crf(unary, image)
    features = torch.zeros(1).expand(5, 30_000, 30_000)
    with pytest.raises(MemoryError, match=r"900,000,000 points with 21 labels need .* tiles"):
        dense_crf_features(unary, [features], [1.0])
    crf = dcrf.DenseCRF2D(30_000, 30_000, 21)
    with pytest.raises(MemoryError, match="900,000,000 points"):
        crf.addPairwiseGaussian(sxy=3, compat=3)
    huge = np.broadcast_to(np.zeros((1, 1, 1), np.uint8), (30_000, 30_000, 3))
    with pytest.raises(ValueError, match="not C-contiguous"):
        crf.addPairwiseBilateral(sxy=3, srgb=3, rgbim=huge, compat=3)


@pytest.mark.parametrize(
    ("features", "weights", "error", "message"),
    [
        (torch.zeros(2, 6, 9), [1], TypeError, "features must be a list of tensors"),
        ([torch.zeros(2, 6, 9, dtype=torch.int32)], [1], TypeError, "must be a tensor of floats"),
        ([torch.zeros(2, 6, 8)], [1], ValueError, r"shape \(d, 6, 9\) or \(1, d, 6, 9\)"),
        ([torch.zeros(2, 9, 6)], [1], ValueError, "the axes are in the opposite order"),
        ([torch.zeros(2, 6, 9)], [1, 2], ValueError, r"weights must have shape \(1,\)"),
        ([torch.full((2, 6, 9), NAN)], [1], ValueError, r"features\[0\]: .*must be finite"),
        ([torch.zeros(17, 6, 9)], [1], ValueError, "d in 1..16"),
    ],
)
def test_features(features, weights, error, message):
    with pytest.raises(error, match=message):
        dense_crf_features(UNARY, features, weights)


class TestDropIn:
    def crf(self):
        crf = dcrf.DenseCRF2D(9, 6, 4)
        crf.setUnaryEnergy(np.zeros((4, 54), np.float32))
        return crf

    @pytest.mark.parametrize(
        ("unary", "error", "message"),
        [
            (None, TypeError, "must not be None"),
            (np.zeros((4, 54)), ValueError, "dtype mismatch, expected float32 but got float64"),
            (np.zeros((54, 4), np.float32), ValueError, r"Need \(4, 54\), got \(54, 4\).*first"),
            (np.zeros((4, 6, 9), np.float32), ValueError, "wrong number of dimensions"),
            (np.zeros((54, 4), np.float32).T, ValueError, "not C-contiguous"),
            (np.full((4, 54), NAN, np.float32), ValueError, "NaN"),
        ],
    )
    def test_unary(self, unary, error, message):
        with pytest.raises(error, match=message):
            self.crf().setUnaryEnergy(unary)

    @pytest.mark.parametrize(
        ("image", "message"),
        [
            (np.zeros((9, 6, 3), np.uint8), "width and height are swapped"),
            (np.zeros((6, 9, 4), np.uint8), "three channels.*create_pairwise_bilateral"),
            (np.zeros((6, 9), np.uint8), "wrong number of dimensions"),
            (np.zeros((6, 9, 3), np.float32), "expected uint8 but got float32"),
            (np.zeros((3, 6, 9), np.uint8).transpose(1, 2, 0), "not C-contiguous"),
        ],
    )
    def test_image(self, image, message):
        with pytest.raises(ValueError, match=message):
            self.crf().addPairwiseBilateral(sxy=3, srgb=3, rgbim=image, compat=3)

    @pytest.mark.parametrize(
        ("compat", "message"),
        [
            (np.ones(4), "expected float32 but got float64"),
            (np.ones(3, np.float32), r"compat must have shape \(4,\), got \(3,\)"),
            (np.ones((4, 4, 4), np.float32), "dimension >2 not meaningful"),
        ],
    )
    def test_compat(self, compat, message):
        with pytest.raises(ValueError, match=message):
            self.crf().addPairwiseGaussian(sxy=3, compat=compat)

    def test_the_rest(self):
        crf = self.crf()
        with pytest.raises(ValueError, match="sxy must be positive, got 0"):
            crf.addPairwiseGaussian(sxy=0, compat=3)
        with pytest.raises(ValueError, match="limit"):
            crf.addPairwiseGaussian(sxy=1e-4, compat=3)
        with pytest.raises(ValueError, match=r"Need \(\?, 54\), got \(2, 53\)"):
            crf.addPairwiseEnergy(np.zeros((2, 53), np.float32), compat=3)
        with pytest.raises(ValueError, match="must be finite"):
            crf.addPairwiseEnergy(np.full((2, 54), NAN, np.float32), compat=3)
        with pytest.raises(ValueError, match="not a valid"):
            crf.addPairwiseGaussian(sxy=3, compat=3, normalization=9)
        with pytest.raises(ValueError, match="at least one label"):
            dcrf.DenseCRF(5, 0)
        with pytest.raises(TypeError, match="u must be a Unary"):
            crf.setUnary(np.zeros((4, 54), np.float32))
