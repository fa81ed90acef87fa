"""The bands are those of dilating the void pixels with squares, as the original script does."""

from __future__ import annotations

import numpy as np
import pytest
import scipy.ndimage

from deeplab_repro.errors import InputError
from deeplab_repro.evaluation import Confusion, Trimap
from tests.testing.voc_set import draw_label

VOID = 255


def by_dilation(prediction, label, width, classes):
    """MyVOCevalsegBoundary.m's band, pixel by pixel."""
    void = label == VOID
    # The largest value in a square around each pixel is what dilation with that square gives.
    band = scipy.ndimage.maximum_filter(void, 2 * width + 1, mode="constant") & ~void
    matrix = np.zeros((classes, classes), np.int64)
    for truth, guess in zip(label[band], prediction[band], strict=True):
        matrix[truth, guess] += 1
    return matrix


def test_worked_by_hand():
    label = np.array([[VOID, 0, 0, 1, 1, 0]], np.uint8)
    trimap = Trimap(2, widths=(1, 3, 4, 5))
    trimap.add(np.array([[0, 1, 0, 1, 0, 0]]), label)
    assert trimap.matrices.tolist() == [
        [[0, 1], [0, 0]],
        [[1, 1], [0, 1]],
        [[1, 1], [1, 1]],
        [[2, 1], [1, 1]],
    ]
    np.testing.assert_allclose(trimap.pixel_accuracy, [0, 2 / 3, 1 / 2, 3 / 5])
    np.testing.assert_allclose(
        trimap.mean_iou, [0, (1 / 2 + 1 / 2) / 2, (1 / 3 + 1 / 3) / 2, (1 / 2 + 1 / 3) / 2]
    )


def test_equals_dilation_at_every_width():
    random = np.random.default_rng(2)
    widths = (1, 2, 3, 7, 19, 40)
    trimap = Trimap(21, widths)
    expected = np.zeros((len(widths), 21, 21), np.int64)
    for size in ((60, 90), (90, 60), (1, 50), (33, 33)):
        label = draw_label(random, size, 5)
        label[random.random(size) < 0.001] = VOID  # and single pixels
        prediction = random.integers(0, 21, size).astype(np.uint8)
        trimap.add(prediction, label)
        for i, width in enumerate(widths):
            expected[i] += by_dilation(prediction, label, width, 21)
    np.testing.assert_array_equal(trimap.matrices, expected)
    assert trimap.matrices.dtype == np.int64
    assert (np.diff(trimap.matrices.sum((1, 2))) > 0).all()


def test_a_band_wider_than_the_picture_is_the_whole_of_it():
    random = np.random.default_rng(0)
    label = draw_label(random, (40, 40), 3)
    prediction = random.integers(0, 21, label.shape)
    trimap, confusion = Trimap(), Confusion()
    trimap.add(prediction, label)
    confusion.add(prediction, label)
    np.testing.assert_array_equal(trimap.matrices[-1], confusion.matrix)
    assert trimap.widths == tuple(range(1, 41))
    assert trimap.mean_iou[-1] == confusion.mean_iou


def test_labels_without_void_and_all_void_have_no_band():
    trimap = Trimap(3)
    trimap.add(np.zeros((5, 5), int), np.ones((5, 5), int))
    trimap.add(np.zeros((5, 5), int), np.full((5, 5), VOID))
    assert not trimap.matrices.any()
    assert np.isnan(trimap.pixel_accuracy).all()
    assert np.isnan(trimap.mean_iou).all()


def test_refuses_what_the_confusion_refuses():
    with pytest.raises(InputError, match="differ in size"):
        Trimap(3).add([[0, 1]], [[0]])
    with pytest.raises(InputError, match="the label holds .* got 7"):
        Trimap(3).add([[0, 1, 0]], [[7, 0, VOID]])
    for widths in ((), (0, 1), (255,)):
        with pytest.raises(InputError, match="widths of a trimap"):
            Trimap(3, widths)
