"""The confusion matrix of a whole data set, and the scores that follow from it.

IoU is a ratio of pixels summed over all pictures (VOCevalseg.m, MyVOCevalseg.m).  The mean of the
IoU of single pictures is another number, and larger by points.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.pictures.voc import IGNORE_LABEL

__all__ = ["Confusion", "count_pairs", "label_and_prediction", "pair_codes"]

Counts = NDArray[np.int64]


class Confusion:
    """Counts of pixels by true and predicted class.

    A class that occurs neither in the labels nor in the predictions has no IoU (NaN) and does not
    enter a mean; one that is only predicted has IoU 0 and does.  On VOC's val set all 21 classes
    occur, and the mean is that of DeepLab's MyVOCevalseg.m; on a part of it that script counts a
    class which occurs nowhere as 0 (:attr:`mean_iou_of_all`).

    Args:
        num_classes: at most 255; the label 255 is void and is ignored.

    Attributes:
        matrix: (classes, classes) int64, rows are the truth, columns the prediction.

    Raises:
        InputError: another number of classes.

    Example:
        >>> confusion = Confusion(2)
        >>> confusion.add(prediction=[[0, 1, 1]], label=[[0, 0, 255]])
        >>> confusion.matrix.tolist()
        [[1, 1], [0, 0]]
    """

    def __init__(self, num_classes: int = 21) -> None:
        if not 1 <= num_classes <= IGNORE_LABEL:
            raise InputError("num_classes", expected=f"1 to {IGNORE_LABEL}", got=num_classes)
        self.matrix: Counts = np.zeros((num_classes, num_classes), np.int64)

    @classmethod
    def of(cls, matrix: ArrayLike) -> Confusion:
        """The confusion with these counts.

        Args:
            matrix: (classes, classes) integers, rows are the truth; copied.

        Raises:
            InputError: not square, or not counts.
        """
        counts = np.array(matrix)
        if counts.ndim != 2 or counts.shape[0] != counts.shape[1] or counts.dtype.kind not in "iu":
            raise InputError(
                "no confusion matrix",
                expected="(classes, classes) of integers",
                got=f"{counts.shape} {counts.dtype}",
            )
        if counts.size and counts.min() < 0:
            raise InputError("no confusion matrix", expected="counts", got=int(counts.min()))
        confusion = cls(len(counts))
        confusion.matrix[:] = counts
        return confusion

    @property
    def num_classes(self) -> int:
        """How many classes are told apart."""
        return len(self.matrix)

    def add(self, prediction: ArrayLike, label: ArrayLike) -> None:
        """Count the pixels of one picture.

        Args:
            prediction: (H, W) integers, class ids.
            label: (H, W) integers, class ids, and 255 where a pixel does not count.

        Raises:
            InputError: the sizes differ, or there are values that are no class ids.
        """
        truth, predicted = label_and_prediction(prediction, label, self.num_classes)
        self.matrix += count_pairs(truth, predicted, self.num_classes)

    @property
    def pixels(self) -> int:
        """How many pixels have been counted."""
        return int(self.matrix.sum())

    @property
    def pixel_accuracy(self) -> float:
        """Share of the pixels that have the right class; NaN where none were counted."""
        return float(_ratio(np.trace(self.matrix), self.matrix.sum()))

    @property
    def accuracy(self) -> NDArray[np.float64]:
        """(classes,) share of each true class's pixels that were found; NaN if it has none."""
        return _ratio(np.diag(self.matrix), self.matrix.sum(1))

    @property
    def mean_accuracy(self) -> float:
        """Mean of :attr:`accuracy` over the classes that occur in the labels."""
        return _mean(self.accuracy)

    @property
    def iou(self) -> NDArray[np.float64]:
        """(classes,) intersection over union; NaN for a class that occurs nowhere."""
        hits = np.diag(self.matrix)
        return _ratio(hits, self.matrix.sum(0) + self.matrix.sum(1) - hits)

    @property
    def mean_iou(self) -> float:
        """Mean of :attr:`iou` over the classes that occur in labels or predictions."""
        return _mean(self.iou)

    @property
    def mean_iou_of_all(self) -> float:
        """Mean IoU as MyVOCevalseg.m takes it: a class that occurs nowhere counts as 0."""
        return float(np.nan_to_num(self.iou).mean())

    @property
    def frequency_weighted_iou(self) -> float:
        """IoU weighted by the share of the pixels that are truly of the class."""
        truth = self.matrix.sum(1)
        if not truth.sum():
            return float("nan")
        present = truth > 0
        return float((truth[present] * self.iou[present]).sum() / truth.sum())


def label_and_prediction(
    prediction: ArrayLike, label: ArrayLike, num_classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Truth and prediction of one picture as (H, W) uint8, checked.

    Raises:
        InputError: the sizes differ, or there are values that are no class ids.
    """
    truth, predicted = (_as_bytes(values) for values in (label, prediction))
    if truth.shape != predicted.shape:
        raise InputError(
            "prediction and label differ in size",
            expected=f"{truth.shape[0]}x{truth.shape[1]} as the label",
            got=f"{predicted.shape[0]}x{predicted.shape[1]}",
        )
    allowed = f"0 to {num_classes - 1}"
    _refuse("prediction", predicted[predicted >= num_classes], allowed)
    wrong = (truth >= num_classes) & (truth != IGNORE_LABEL)
    _refuse("label", truth[wrong], f"{allowed} and {IGNORE_LABEL}")
    return truth, predicted


def _as_bytes(values: ArrayLike) -> NDArray[np.uint8]:
    """(H, W) integers as uint8.

    Raises:
        InputError: of another form, or beyond 0 to 255.
    """
    array: NDArray[Any] = np.asarray(values)
    if array.ndim != 2 or array.dtype.kind not in "iu":
        raise InputError(
            "no label map", expected="(H, W) integers", got=f"{array.shape} {array.dtype}"
        )
    if array.dtype == np.uint8:
        return array
    if array.size and (array.min() < 0 or array.max() > 255):
        raise InputError("no label map", expected="0 to 255", got=f"{array.min()} to {array.max()}")
    return array.astype(np.uint8)


def count_pairs(truth: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int) -> Counts:
    """(classes, classes) pixels of each pair, of what :func:`label_and_prediction` returns."""
    # Void falls behind the pairs of classes, so that no pixel needs to be picked out.
    pairs = num_classes * num_classes
    counts = np.bincount(pair_codes(truth, predicted, num_classes).ravel(), minlength=pairs)
    return counts[:pairs].reshape(num_classes, num_classes).astype(np.int64)


def pair_codes(
    truth: NDArray[np.uint8], predicted: NDArray[np.uint8], num_classes: int
) -> NDArray[np.uint16]:
    """truth * classes + prediction of each pixel; with 255 classes and void it is below 2^16."""
    codes = truth.astype(np.uint16)
    codes *= np.uint16(num_classes)
    codes += predicted
    return codes


def _refuse(what: str, wrong: NDArray[np.uint8], allowed: str) -> None:
    if wrong.size:
        raise InputError(
            f"the {what} holds values that are no class ids",
            expected=allowed,
            got=", ".join(map(str, np.unique(wrong)[:8].tolist())),
        )


def _ratio(part: Any, whole: Any) -> NDArray[np.float64]:
    """part / whole, NaN where the whole is 0."""
    whole = np.asarray(whole, np.float64)
    result = np.full(whole.shape, np.nan)
    np.divide(part, whole, out=result, where=whole > 0)
    return result


def _mean(values: NDArray[np.float64]) -> float:
    known = values[~np.isnan(values)]
    return float(known.mean()) if known.size else float("nan")
