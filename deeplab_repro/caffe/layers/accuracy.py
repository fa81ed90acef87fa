"""Accuracy and SegAccuracy: measures without gradients."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register
from deeplab_repro.caffe.layers.shape_ops import largest_first
from deeplab_repro.caffe.quirks import Quirks
from prototxt_import import LayerShapes, Shape
from prototxt_import import layers as kinds

__all__ = ["Accuracy", "SegAccuracy"]


@register("Accuracy")
class Accuracy(CaffeLayer):
    """How often the label is among the ``top_k`` best scores (accuracy_layer.cpp).

    Of equal scores the forks rank the higher class first, while BVLC's counts every other class
    with the label's score as better.  The v1 fork scores whole items.  Where only the overall
    accuracy is asked for, the forks count labels that are no class as missed.
    """

    layer: kinds.Accuracy

    @property
    def ties_lose(self) -> bool:
        """Whether every other class with the label's score counts as better."""
        return self.layer.dialect == "bvlc"

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Scores of any shape, labels for every place outside the axis."""
        scores = scores.flatten(1) if self.is_legacy else scores.movedim(self.layer.axis, -1)
        classes = scores.shape[-1]
        scores = scores.reshape(-1, classes)
        labels = labels.reshape(-1, 1)
        no_class = torch.zeros_like(labels, dtype=torch.bool)
        if not self.ties_lose and self.num_tops == 1:
            whole = labels.trunc()
            no_class = (whole < 0) | (whole >= classes)
            for value in self.layer.ignore:
                no_class &= whole != value
            labels = labels.masked_fill(no_class, 0)
        numbers, counts = label_numbers(self, labels, classes, self.layer.ignore)
        of_label = scores.gather(1, numbers)
        better = scores > of_label
        rank = torch.arange(classes, device=scores.device)
        better |= (scores == of_label) & (rank != numbers if self.ties_lose else rank > numbers)
        counts |= no_class  # also where the class in its place is one to ignore
        right = (better.sum(1, keepdim=True) < self.layer.top_k) & counts & ~no_class
        dtype = scores.dtype
        # With nothing to count BVLC's says 0, the forks 0 / 0.
        total = counts.sum().clamp(min=1 if self.ties_lose else 0)
        accuracy = right.sum().to(dtype) / total.to(dtype)
        if self.num_tops == 1:
            return accuracy.reshape((1, 1, 1, 1) if self.is_legacy else ())
        number, hits = (
            torch.zeros(classes, dtype=dtype, device=scores.device).scatter_add(
                0, numbers.squeeze(1), flags.squeeze(1).to(dtype)
            )
            for flags in (counts, right)
        )
        return accuracy, hits / number.clamp(min=1)


@register("SegAccuracy")
class SegAccuracy(CaffeLayer):
    """Pixel accuracy, mean recall and mean intersection over union (seg_accuracy_layer.cpp).

    Recall is the mean over classes that occur.  A class neither seen nor predicted has an
    intersection over union of 1, and the mean is over all classes (confusion_matrix.cpp).

    Attributes:
        confusion: (C, C) pixels, by label and prediction, since the last reset; every pass starts
            anew unless the v2 fork's ``reset: false`` says otherwise.
    """

    confusion: Tensor

    layer: kinds.SegAccuracy

    def __init__(
        self,
        layer: kinds.SegAccuracy,
        bottoms: Sequence[Shape],
        shapes: LayerShapes,
        quirks: Quirks,
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        classes = bottoms[0][1] or 0
        confusion = torch.zeros(classes, classes, dtype=torch.int64)
        self.register_buffer("confusion", confusion, persistent=False)

    def reset(self) -> None:
        """Forget all pixels."""
        self.confusion.zero_()

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """Scores (N, C, H, W), labels (N, 1, H, W) -> (1, 1, 1, 3)."""
        classes = scores.shape[1]
        numbers, counts = label_numbers(self, labels, classes, self.layer.ignore)
        predicted = largest_first(scores, 1)[1]
        cells = (numbers * classes + predicted.reshape(numbers.shape)).reshape(-1)
        seen = torch.zeros(classes * classes, dtype=torch.int64, device=scores.device)
        seen = seen.scatter_add(0, cells, counts.reshape(-1).long()).reshape(classes, classes)
        if self.layer.reset or self.confusion.shape != seen.shape:
            self.confusion = seen
        else:
            self.confusion += seen
        return measures(self.confusion).to(scores.dtype).reshape(1, 1, 1, 3)


def measures(confusion: Tensor) -> Tensor:
    """(3,) float64: pixel accuracy, mean recall, mean intersection over union of (C, C) counts."""
    counts = confusion.double()
    hits, actual, predicted = counts.diagonal(), counts.sum(1), counts.sum(0)
    accuracy = hits.sum() / counts.sum().clamp(min=1)
    recall = (hits / actual.clamp(min=1)).sum() / (actual > 0).sum().clamp(min=1)
    union = actual + predicted - hits
    overlap = torch.where(union == hits, 1, hits / union.clamp(min=1))
    return torch.stack([accuracy, recall, overlap.mean()])
