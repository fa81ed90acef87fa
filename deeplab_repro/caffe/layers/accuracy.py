"""Accuracy and SegAccuracy: measures without gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register
from deeplab_repro.caffe.layers.shape_ops import largest_first
from prototxt_import.shapes import canonical_axis

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

__all__ = ["Accuracy", "SegAccuracy"]


@register("Accuracy")
class Accuracy(CaffeLayer):
    """How often the label is among the ``top_k`` best scores (accuracy_layer.cpp).

    Of equal scores the forks rank the higher class first, while BVLC's counts every other class
    with the label's score as better.  The v1 fork scores whole items.  Where only the overall
    accuracy is asked for, the forks count labels that are no class as missed.
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.accuracy_param
        self.axis = canonical_axis(layer, spec.axis, len(bottoms[0]))
        self.top_k: int = spec.top_k
        self.ignore: list[int] = []
        if spec.HasField("ignore_label") and not self.is_legacy:
            self.ignore.append(spec.ignore_label)
        self.ties_lose = layer.dialect == "bvlc"

    @torch.no_grad()
    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Scores of any shape, labels for every place outside the axis."""
        scores = scores.flatten(1) if self.is_legacy else scores.movedim(self.axis, -1)
        classes = scores.shape[-1]
        scores = scores.reshape(-1, classes)
        labels = labels.reshape(-1, 1)
        no_class = torch.zeros_like(labels, dtype=torch.bool)
        if not self.ties_lose and self.num_tops == 1:
            whole = labels.trunc()
            no_class = (whole < 0) | (whole >= classes)
            for value in self.ignore:
                no_class &= whole != value
            labels = labels.masked_fill(no_class, 0)
        numbers, counts = label_numbers(self, labels, classes, self.ignore)
        of_label = scores.gather(1, numbers)
        better = scores > of_label
        rank = torch.arange(classes, device=scores.device)
        better |= (scores == of_label) & (rank != numbers if self.ties_lose else rank > numbers)
        counts |= no_class  # also where the class in its place is one to ignore
        right = (better.sum(1, keepdim=True) < self.top_k) & counts & ~no_class
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

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.seg_accuracy_param
        self.ignore: list[int] = sorted(set(spec.ignore_label))
        self.reset_every_pass = self.is_legacy or bool(spec.reset)
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
        numbers, counts = label_numbers(self, labels, classes, self.ignore)
        predicted = largest_first(scores, 1)[1]
        cells = (numbers * classes + predicted.reshape(numbers.shape)).reshape(-1)
        seen = torch.zeros(classes * classes, dtype=torch.int64, device=scores.device)
        seen = seen.scatter_add(0, cells, counts.reshape(-1).long()).reshape(classes, classes)
        if self.reset_every_pass or self.confusion.shape != seen.shape:
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
