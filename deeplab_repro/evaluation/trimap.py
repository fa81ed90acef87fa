"""Accuracy near the borders of objects: the trimap curves of the second paper's figure 10."""

from __future__ import annotations

from collections.abc import Sequence

import cv2
import numpy as np
from numpy.typing import ArrayLike, NDArray

from deeplab_repro.errors import InputError
from deeplab_repro.evaluation.confusion import Confusion, label_and_prediction, pair_codes
from deeplab_repro.pictures.voc import IGNORE_LABEL

__all__ = ["Trimap"]


class Trimap:
    """Confusion matrices of the pixels in bands of several widths around the void pixels.

    VOC's labels are void along the borders of objects.  The band of width w is what a square of
    side 2w + 1 adds to the void pixels when it dilates them (MyVOCevalsegBoundary.m); the confusion
    matrix is that of all pictures.  A square of side 2w + 1 reaches the pixels at a chessboard
    distance of at most w, so one distance transform serves all widths: each pixel is counted in
    the ring at its distance, and a band is the sum of the rings up to its width.

    Args:
        num_classes: as of :class:`Confusion`.
        widths: in pixels, at least 1.

    Attributes:
        widths: as given.
        rings: (largest width, classes, classes) int64, the pixels at each distance from the void.

    Raises:
        InputError: another number of classes, or widths that are none.
    """

    def __init__(self, num_classes: int = 21, widths: Sequence[int] = range(1, 41)) -> None:
        if not widths or min(widths) < 1 or max(widths) >= 255:
            raise InputError("widths of a trimap", expected="1 to 254", got=list(widths))
        self.widths = tuple(widths)
        classes = Confusion(num_classes).num_classes
        self.rings: NDArray[np.int64] = np.zeros((max(widths), classes, classes), np.int64)

    def add(self, prediction: ArrayLike, label: ArrayLike) -> None:
        """Count the pixels of one picture; a label without void has no band.

        Args:
            prediction: (H, W) integers, class ids.
            label: (H, W) integers, class ids and 255 for void.

        Raises:
            InputError: the sizes differ, or there are values that are no class ids.
        """
        self.rings += self.rings_of(prediction, label)

    def rings_of(self, prediction: ArrayLike, label: ArrayLike) -> NDArray[np.int64]:
        """What :meth:`add` adds to :attr:`rings`, (largest width, classes, classes)."""
        most, classes = self.rings.shape[:2]
        truth, predicted = label_and_prediction(prediction, label, classes)
        counted = truth != IGNORE_LABEL
        if counted.all():
            return np.zeros_like(self.rings)
        # With this mask the transform is exact for the chessboard distance, in whole numbers.
        distance = cv2.distanceTransform(counted.view(np.uint8), cv2.DIST_C, cv2.DIST_MASK_3)
        band = counted & (distance <= most)
        codes = (distance[band].astype(np.intp) - 1) * (classes * classes)
        codes += pair_codes(truth, predicted, classes)[band]
        counts = np.bincount(codes, minlength=self.rings.size)
        return counts.reshape(self.rings.shape).astype(np.int64)

    @property
    def matrices(self) -> NDArray[np.int64]:
        """(widths, classes, classes) int64, rows are the truth, columns the prediction."""
        sums: NDArray[np.int64] = self.rings.cumsum(0)
        return sums[[width - 1 for width in self.widths]]

    @property
    def pixel_accuracy(self) -> NDArray[np.float64]:
        """(widths,) share of the band's pixels that have the right class; NaN in an empty band."""
        return np.array([Confusion.of(matrix).pixel_accuracy for matrix in self.matrices])

    @property
    def mean_iou(self) -> NDArray[np.float64]:
        """(widths,) mean IoU in the band, over the classes that occur in it."""
        return np.array([Confusion.of(matrix).mean_iou for matrix in self.matrices])
