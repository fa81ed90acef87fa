"""The scores are those of hand-worked examples, of scikit-learn, and of the original's rules."""

from __future__ import annotations

import numpy as np
import pytest

from deeplab_repro.errors import InputError
from deeplab_repro.evaluation import Confusion

VOID = 255


def test_worked_by_hand():
    confusion = Confusion(4)
    confusion.add(prediction=[[0, 1, 1], [2, 2, 0]], label=[[0, 0, 1], [1, 2, VOID]])
    confusion.add(prediction=np.array([[2, 0]], np.int64), label=np.array([[2, 2]], np.int32))
    assert confusion.matrix.tolist() == [[1, 1, 0, 0], [0, 1, 1, 0], [1, 0, 2, 0], [0, 0, 0, 0]]
    assert confusion.matrix.dtype == np.int64
    assert confusion.pixels == 7
    assert confusion.pixel_accuracy == pytest.approx(4 / 7)
    np.testing.assert_allclose(confusion.accuracy, [1 / 2, 1 / 2, 2 / 3, np.nan])
    assert confusion.mean_accuracy == pytest.approx((1 / 2 + 1 / 2 + 2 / 3) / 3)
    np.testing.assert_allclose(confusion.iou, [1 / 3, 1 / 3, 2 / 4, np.nan])
    # Class 3 occurs nowhere: it is left out here, and 0 for MyVOCevalseg.m.
    assert confusion.mean_iou == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 3)
    assert confusion.mean_iou_of_all == pytest.approx((1 / 3 + 1 / 3 + 1 / 2) / 4)
    expected = 2 / 7 * 1 / 3 + 2 / 7 * 1 / 3 + 3 / 7 * 1 / 2
    assert confusion.frequency_weighted_iou == pytest.approx(expected)


def test_equals_scikit_learn():
    from sklearn import metrics  # takes seconds, which no other test should wait for

    random = np.random.default_rng(5)
    confusion, truths, guesses = Confusion(21), [], []
    for _ in range(12):
        size = tuple(random.integers(5, 60, 2))
        label = random.integers(0, 19, size)  # classes 19 and 20 are never true
        label[random.random(size) < 0.1] = VOID
        prediction = np.where(random.random(size) < 0.6, label % 21, random.integers(0, 20, size))
        prediction[prediction == VOID % 21] = 3
        confusion.add(prediction, label)
        truths.append(label[label != VOID])
        guesses.append(prediction[label != VOID])
    truth, guess = np.concatenate(truths), np.concatenate(guesses)
    np.testing.assert_array_equal(
        confusion.matrix, metrics.confusion_matrix(truth, guess, labels=range(21))
    )
    present = np.union1d(truth, guess)
    assert 19 in present  # predicted, never true: IoU 0, and in the mean
    assert 20 not in present
    each = metrics.jaccard_score(truth, guess, labels=present, average=None)
    np.testing.assert_allclose(confusion.iou[present], each)
    assert confusion.iou[19] == 0
    assert np.isnan(confusion.iou[20])
    assert confusion.mean_iou == pytest.approx(each.mean())
    assert confusion.pixel_accuracy == pytest.approx(metrics.accuracy_score(truth, guess))
    assert confusion.mean_accuracy == pytest.approx(
        metrics.recall_score(truth, guess, labels=np.unique(truth), average="macro")
    )
    assert confusion.frequency_weighted_iou == pytest.approx(
        metrics.jaccard_score(truth, guess, average="weighted")
    )


def test_the_mean_over_pictures_is_another_number():
    """Trap 2 of the published numbers: IoU is a ratio of sums, not a mean of ratios."""
    whole, each = Confusion(2), []
    for prediction, label in (([[1] * 8, [0] * 8], [[1] * 8, [0] * 8]), ([[0, 0]], [[1, 0]])):
        whole.add(prediction, label)
        own = Confusion(2)
        own.add(prediction, label)
        each.append(own.mean_iou)
    assert whole.mean_iou == pytest.approx((9 / 10 + 8 / 9) / 2)
    assert np.mean(each) == pytest.approx((1 + 1 / 4) / 2)


def test_nothing_counted():
    confusion = Confusion(3)
    confusion.add([[1, 2]], [[VOID, VOID]])
    confusion.add(np.zeros((0, 4), np.uint8), np.zeros((0, 4), np.uint8))
    assert not confusion.matrix.any()
    for value in (
        confusion.pixel_accuracy,
        confusion.mean_accuracy,
        confusion.mean_iou,
        confusion.frequency_weighted_iou,
    ):
        assert np.isnan(value)


def test_255_classes_leave_room_for_void():
    confusion = Confusion(255)
    confusion.add([[254, 0]], [[254, VOID]])
    assert confusion.matrix[254, 254] == 1 == confusion.matrix.sum()


@pytest.mark.parametrize(
    ("prediction", "label", "says"),
    [
        ([[0, 1]], [[0], [1]], "differ in size; expected 2x1 as the label, got 1x2"),
        ([[0, 21]], [[0, 1]], "the prediction holds .* no class ids; expected 0 to 20, got 21"),
        ([[0, 255]], [[0, 255]], "the prediction holds .* expected 0 to 20, got 255"),
        ([[0, 0]], [[38, 128]], "the label holds .* expected 0 to 20 and 255, got 38, 128"),
        ([[0, -1]], [[0, 0]], "expected 0 to 255, got -1 to 0"),
        ([[0.0]], [[0]], r"expected \(H, W\) integers, got \(1, 1\) float64"),
        ([0], [0], r"expected \(H, W\) integers, got \(1,\)"),
    ],
)
def test_what_cannot_be_counted(prediction, label, says):
    confusion = Confusion()
    with pytest.raises(InputError, match=says):
        confusion.add(prediction, label)
    assert not confusion.matrix.any()


def test_of_counts():
    counts = np.array([[5, 1], [2, 0]])
    confusion = Confusion.of(counts)
    assert confusion.iou.tolist() == [5 / 8, 0]
    confusion.add([[1]], [[1]])
    assert counts[1, 1] == 0  # a copy
    for wrong in ([[1, 2]], [[0.5]], [[-1]]):
        with pytest.raises(InputError, match="no confusion matrix"):
            Confusion.of(wrong)
    for classes in (0, 256):
        with pytest.raises(InputError, match="num_classes; expected 1 to 255"):
            Confusion(classes)
