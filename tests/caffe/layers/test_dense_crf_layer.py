"""Caffe's DenseCRF layer: a recorded run, and what its parameters and bottoms mean."""

from __future__ import annotations

import h5py
import numpy as np
import pytest
import torch

from deeplab_repro import load_caffe
from deeplab_repro.caffe.quirks import QuirkWarning
from deeplab_repro.crf import CRFParams, dense_crf
from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import make

SHAPES = (2, 4, 6, 9), (2, 1, 1, 2), (2, 3, 6, 9)
PARAMETERS = "pos_w: 3 pos_xy_std: 2 bi_w: 4 bi_xy_std: 20 bi_rgb_std: 10 max_iter: 3"


def crf(*bottoms, parameters=PARAMETERS, quirks=False):
    body = f'type: "DenseCRF" dense_crf_param {{ {parameters} }}'
    return make(body, *(x.shape for x in bottoms), dialect="dl2", quirks=quirks)(*bottoms)


@pytest.fixture
def bottoms():
    scores, _, image = (torch.rand(shape) for shape in SHAPES)
    return scores * 4, torch.tensor([6.0, 9.0] * 2).view(2, 1, 1, 2), image * 255 - 110


def test_recorded_run(data):
    """By the fair test of the CRF, at every pixel; the sums are in another order than Caffe's."""
    folder = data / "caffe" / "dense_crf_layer"
    with h5py.File(folder / "activations_sampled.h5") as file:
        blobs = {name: file["blobs"][name]["full"][()] for name in ("score", "data_dim", "data")}
        expected = file["blobs/crf/full"][()]
    net = load_caffe(folder / "deploy.prototxt")
    with torch.no_grad():
        q = net(**{name: torch.from_numpy(value) for name, value in blobs.items()})["crf"].numpy()
    differences = np.abs(q - expected)
    assert differences.mean() < 1e-5
    assert (differences.max(1) > 1e-3).sum() <= 1
    assert (q.argmax(1) != expected.argmax(1)).mean() <= 1e-4


def test_is_dense_crf_of_the_negative_scores(bottoms):
    scores, _, image = bottoms
    params = CRFParams(3, 3, 2, 4, 20, 10)
    expected = dense_crf(-scores, image, params, padding_points=True)
    assert torch.equal(crf(*bottoms), expected)
    log = crf(*bottoms, parameters=f"{PARAMETERS} output_probability: false")
    torch.testing.assert_close(log, expected.clamp_min(torch.finfo(torch.float32).tiny).log())


def test_reads_the_first_picture_for_every_item_as_the_forks_do(bottoms):
    scores, sizes, image = bottoms
    with pytest.warns(QuirkWarning, match="first picture"):
        q = crf(scores, sizes, image, quirks=True)
    assert torch.equal(q, crf(scores, sizes, image[:1].repeat(2, 1, 1, 1)))
    assert not torch.equal(q[1], crf(scores, sizes, image)[1])


def test_has_the_padding_points_of_sse_code():
    """Seen on a picture that is dark, but not black, at its corner."""
    scores, image = torch.rand(1, 4, 7, 9) * 4, torch.rand(1, 3, 7, 9) * 25 + 5
    with_, without = (
        dense_crf(-scores, image, CRFParams(3, 3, 2, 4, 20, 10), padding_points=on)
        for on in (True, False)
    )
    assert (with_ - without).abs().max() > 1e-3
    assert torch.equal(crf(scores, torch.tensor([[[[7.0, 9.0]]]]), image), with_)


def test_padding_is_left_out_and_zero(bottoms):
    scores, sizes, image = bottoms
    sizes[1] = torch.tensor([4.0, 7.0])  # the second picture is padded right and below
    sizes[0] = torch.tensor([8.0, 9.0])  # the first was cropped
    q = crf(scores, sizes, image)
    part = crf(scores[1:, :, :4, :7], torch.tensor([[[[4.0, 7.0]]]]), image[1:, :, :4, :7])
    assert torch.equal(q[1:, :, :4, :7], part)
    assert (q[1, :, 4:] == 0).all()
    assert (q[1, :, :, 7:] == 0).all()
    torch.testing.assert_close(q[0].sum(0), torch.ones(6, 9))


def test_without_a_picture_no_bilateral_kernel(bottoms):
    scores, sizes, _ = bottoms
    only_spatial = crf(scores, sizes, parameters="pos_w: 3 pos_xy_std: 2 max_iter: 3")
    assert torch.equal(crf(scores, sizes), only_spatial)
    no_kernel = crf(scores, sizes, parameters="max_iter: 2147483647")
    torch.testing.assert_close(no_kernel, scores.softmax(1))


def test_bad_input_names_the_layer(bottoms):
    scores, sizes, image = bottoms
    with pytest.raises(CaffeImportError, match="layer 'op': DenseCRF: .*must be finite"):
        crf(scores, sizes, image * float("nan"))
    with pytest.raises(CaffeImportError, match="layer 'op': DenseCRF: a picture without pixels"):
        crf(scores, 0 * sizes, image)
    with pytest.raises(CaffeImportError, match="layer 'op': DenseCRF"):
        crf(*bottoms, parameters="pos_w: 3 pos_xy_std: 0")
