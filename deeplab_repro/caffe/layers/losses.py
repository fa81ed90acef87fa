"""Losses.  A loss's top is its unweighted value; its gradient is Caffe's.

Labels come as floats in any shape that has one for each prediction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Final

import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, label_numbers, register, straight_through
from deeplab_repro.caffe.quirks import Quirks
from prototxt_import import LayerShapes, Shape
from prototxt_import import layers as kinds
from prototxt_import.schema import message_class

__all__ = [
    "ContrastiveLoss",
    "EuclideanLoss",
    "HingeLoss",
    "InfogainLoss",
    "Loss",
    "MultinomialLogisticLoss",
    "SigmoidCrossEntropyLoss",
    "SoftmaxWithLoss",
    "log_probability",
]

#: No probability is taken for less before its logarithm: FLT_MIN in softmax_loss_layer.cpp ...
_SOFTMAX_FLOOR: Final = torch.finfo(torch.float32).tiny
#: ... and kLOG_THRESHOLD in loss_layer.hpp.
_LOG_FLOOR: Final = 1e-20
#: What contrastive_loss_layer.cpp adds to a distance before it divides by it.
_DISTANCE_EPS: Final = 1e-4
#: The least loss that the v1 fork's euclidean_loss_layer.cpp divides its gradient by.
_LEAST_ROOT: Final = 1e-6


def _floor(x: Tensor, least: float) -> Tensor:
    """``max(x, least)`` that passes every gradient, as Caffe's losses do."""
    return straight_through(x, x.clamp(min=least))


def log_probability(scores: Tensor, numbers: Tensor, axis: int) -> Tensor:
    """``log softmax`` at the labels, no less than FLT_MIN's (softmax_loss_layer.cpp).

    Args:
        scores: any shape.
        numbers: labels, int64, in that shape without ``axis``.
        axis: of the classes.

    Returns:
        in the shape of ``numbers``.
    """
    log_p = F.log_softmax(scores, axis).gather(axis, numbers.unsqueeze(axis)).squeeze(axis)
    return _floor(log_p, math.log(_SOFTMAX_FLOOR))


class Loss(CaffeLayer):
    """What losses have in common: the form of their result, labels to ignore, a divisor."""

    layer: kinds.Loss
    #: Sums a number over the processes that share a batch; here one process has all of it.
    total: Callable[[Tensor | int], Tensor | int] = staticmethod(lambda number: number)

    def _result(self, loss: Tensor) -> Tensor:
        """A single number without axes, in the v1 fork with four."""
        return loss.reshape((1, 1, 1, 1) if self.is_legacy else ())

    def _normalizer(self, counts: Tensor, batch: int) -> Tensor | int:
        """What the sum is divided by (softmax_loss_layer.cpp, get_normalizer); at least 1."""
        if self.layer.normalization == "VALID":
            return torch.as_tensor(self.total(counts.sum())).clamp(min=1)
        if self.layer.normalization == "NONE":
            return 1
        return self.total(max(1, counts.numel() if self.layer.normalization == "FULL" else batch))


@register("SoftmaxWithLoss")
class SoftmaxWithLoss(Loss):
    """Mean of ``-log softmax`` at the labels (softmax_loss_layer.cpp).

    The v1 fork takes several labels to ignore and a weight per class, and divides by the sum of
    the weights of all labels that count, even if that is 0.
    """

    layer: kinds.SoftmaxWithLoss
    class_weights: Tensor | None

    def __init__(
        self,
        layer: kinds.SoftmaxWithLoss,
        bottoms: Sequence[Shape],
        shapes: LayerShapes,
        quirks: Quirks,
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        source, weights = layer.weight_source, None
        if source is not None:
            weights = self._read_weights(source, bottoms[0][1])
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor | tuple[Tensor, ...]:
        """Scores of any shape, labels for every place outside the axis."""
        axis = self.layer.axis % scores.dim()
        places = scores.shape[:axis] + scores.shape[axis + 1 :]
        numbers, counts = label_numbers(self, labels, scores.shape[axis], self.layer.ignore)
        numbers, counts = numbers.reshape(places), counts.reshape(places)
        log_p = log_probability(scores, numbers, axis)
        if self.is_legacy:
            weights = counts.to(scores.dtype)
            if self.class_weights is not None:
                weights = weights * self.class_weights.to(scores.dtype)[numbers]
            loss = -(log_p * weights).sum() / self.total(weights.sum())
        else:
            batch = scores.shape[:axis].numel()
            loss = -log_p.where(counts, 0).sum() / self._normalizer(counts, batch)
        if self.num_tops == 1:
            return self._result(loss)
        return self._result(loss), scores.detach().softmax(axis)

    def _read_weights(self, source: str, classes: int | None) -> Tensor:
        try:
            weights = [float(word) for word in Path(source).read_text().split()]
        except (OSError, ValueError) as error:
            self.refuse(f"weight_source cannot be read: {error}")
        if classes is not None and len(weights) != classes:
            self.refuse("weight_source holds another number of weights", expected=classes,
                        got=len(weights))  # fmt: skip
        if any(weight < 0 for weight in weights):
            self.refuse("weight_source holds a negative weight", got=min(weights))
        return torch.tensor(weights)


@register("InfogainLoss")
class InfogainLoss(Loss):
    """Cross entropy with a matrix H of how much each class is worth at each label.

    infogain_loss_layer.cpp.  BVLC's takes scores, applies softmax over an axis and knows labels to
    ignore; the DeepLab forks' takes probabilities, one label an item, and divides by the batch.
    """

    layer: kinds.InfogainLoss
    matrix: Tensor | None

    def __init__(
        self,
        layer: kinds.InfogainLoss,
        bottoms: Sequence[Shape],
        shapes: LayerShapes,
        quirks: Quirks,
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        source, matrix = layer.source, None
        if len(bottoms) == 2 and source is not None:
            matrix = self._read_matrix(source)
        self.register_buffer("matrix", matrix, persistent=False)

    def forward(
        self, x: Tensor, labels: Tensor, matrix: Tensor | None = None
    ) -> Tensor | tuple[Tensor, ...]:
        """x (N, C, ...), labels for every place, H of C * C values."""
        h = self.matrix if matrix is None else matrix.detach()
        assert h is not None
        if not self.layer.takes_scores:
            x = x.reshape(x.shape[0], -1)
            rows = self._rows(h, x.shape[1], x)
            numbers, _ = label_numbers(self, labels, x.shape[1])
            log_p = _floor(x, _LOG_FLOOR).log()
            return self._result(-(rows[numbers.reshape(-1)] * log_p).sum() / self.total(len(x)))
        axis = self.layer.axis % x.dim()
        classes = x.shape[axis]
        scores = x.movedim(axis, -1)
        rows = self._rows(h, classes, x)
        numbers, counts = label_numbers(self, labels, classes, self.layer.ignore)
        log_p = _floor(scores.log_softmax(-1), math.log(_LOG_FLOOR)).reshape(-1, classes)
        worth = rows[numbers.reshape(-1)] * counts.reshape(-1, 1)
        batch = x.shape[:axis].numel()
        loss = self._result(-(worth * log_p).sum() / self._normalizer(counts, batch))
        return loss if self.num_tops == 1 else (loss, x.detach().softmax(axis))

    def _rows(self, h: Tensor, classes: int, x: Tensor) -> Tensor:
        if h.numel() != classes * classes:
            self.refuse("the infogain matrix has another size", expected=f"{classes} x {classes}",
                        got=h.numel())  # fmt: skip
        return h.reshape(classes, classes).to(x.dtype)

    def _read_matrix(self, source: str) -> Tensor:
        """A BlobProto file."""
        try:
            blob: Any = message_class("bvlc", "BlobProto").FromString(Path(source).read_bytes())
        except Exception as error:
            self.refuse(f"source cannot be read: {error}")
        return torch.tensor(list(blob.data or blob.double_data))


@register("MultinomialLogisticLoss")
class MultinomialLogisticLoss(Loss):
    """Mean of ``-log p`` at the labels, p given (multinomial_logistic_loss_layer.cpp)."""

    def forward(self, p: Tensor, labels: Tensor) -> Tensor:
        """(N, ...) probabilities, N labels."""
        p = p.reshape(p.shape[0], -1)
        numbers, _ = label_numbers(self, labels, p.shape[1])
        picked = p.gather(1, numbers.reshape(-1, 1))
        return self._result(-_floor(picked, _LOG_FLOOR).log().sum() / self.total(len(p)))


@register("HingeLoss")
class HingeLoss(Loss):
    """One against all: how far scores are on the wrong side of a margin of 1, or its square.

    hinge_loss_layer.cpp; nothing flows back from a score just at its margin.
    """

    layer: kinds.HingeLoss

    def forward(self, scores: Tensor, labels: Tensor) -> Tensor:
        """(N, ...) scores, N labels."""
        scores = scores.reshape(scores.shape[0], -1)
        numbers, _ = label_numbers(self, labels, scores.shape[1])
        sign = torch.ones_like(scores).scatter(1, numbers.reshape(-1, 1), -1.0)
        over = F.relu(1 + sign * scores)
        over = over if self.layer.norm == "L1" else over.square()
        return self._result(over.sum() / self.total(len(scores)))


class _Root(torch.autograd.Function):
    """Square root whose gradient divides by no less than 1e-6 (the v1 fork's L2sqrt)."""

    @staticmethod
    def forward(x: Tensor) -> Tensor:
        return x.sqrt()

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
        ctx.save_for_backward(output)

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (root,) = ctx.saved_tensors
        return grads[0] / (2 * root.clamp(min=_LEAST_ROOT))


@register("EuclideanLoss")
class EuclideanLoss(Loss):
    """Half the squared distance per item; both bottoms get gradients (euclidean_loss_layer.cpp).

    The v1 fork takes the mean over all values instead, and knows its root (``type: L2sqrt``).
    """

    layer: kinds.EuclideanLoss

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Two of the same number of values."""
        squares = (x - target.reshape(x.shape)).square()
        if not self.is_legacy:
            return self._result(squares.sum() / (2 * self.total(len(x))))
        if self.layer.is_root:
            root: Tensor = _Root.apply(squares.mean())
            return self._result(root)
        return self._result(squares.sum() / (2 * self.total(x.numel())))


@register("SigmoidCrossEntropyLoss")
class SigmoidCrossEntropyLoss(Loss):
    """Cross entropy of sigmoids (sigmoid_cross_entropy_loss_layer.cpp).

    Divided by the batch unless ``loss_param`` says otherwise; the DeepLab forks read neither that
    nor a label to ignore.
    """

    layer: kinds.SigmoidCrossEntropyLoss

    def forward(self, x: Tensor, target: Tensor) -> Tensor:
        """Two of the same number of values; nothing flows back to the target."""
        target = target.detach().reshape(x.shape)
        counts = torch.ones_like(target, dtype=torch.bool)
        for value in self.layer.ignore:
            counts &= target.long() != value
        losses = F.binary_cross_entropy_with_logits(x, target.to(x.dtype), reduction="none")
        total = losses.where(counts, 0).sum()
        return self._result(total / self._normalizer(counts, x.shape[0]))


class _Contrastive(torch.autograd.Function):
    """The loss of ContrastiveLoss with contrastive_loss_layer.cpp's own gradient.

    There the distance by which the pull of unlike pairs is divided is enlarged by 1e-4.
    """

    @staticmethod
    def forward(
        a: Tensor, b: Tensor, similar: Tensor, margin: float, is_legacy: bool
    ) -> tuple[Tensor, Tensor]:
        difference = a - b
        squares = difference.square().sum(1)
        distance = squares.sqrt()
        lack = margin - (squares if is_legacy else distance)
        if is_legacy:
            apart, pull = lack.clamp(min=0), -torch.ones_like(lack)
        else:
            apart, pull = lack.clamp(min=0).square(), -lack / (distance + _DISTANCE_EPS)
        pull = torch.where(similar, 1, pull.where(lack > 0, 0)) / a.shape[0]
        loss = torch.where(similar, squares, apart).sum() / (2 * a.shape[0])
        return loss, pull.unsqueeze(1) * difference

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
        ctx.save_for_backward(output[1])
        ctx.mark_non_differentiable(output[1])

    @staticmethod
    def backward(ctx: Any, *grads: Any) -> Any:
        (slope,) = ctx.saved_tensors
        return grads[0] * slope, -grads[0] * slope, None, None, None


@register("ContrastiveLoss")
class ContrastiveLoss(Loss):
    """Pairs that belong together are pulled, others pushed apart to a margin.

    contrastive_loss_layer.cpp: the margin is one of distances; in the v1 fork, and with
    ``legacy_version``, one of squared distances.
    """

    layer: kinds.ContrastiveLoss

    def forward(self, a: Tensor, b: Tensor, similar: Tensor) -> Tensor:
        """(N, C) twice, and N flags."""
        flags = similar.detach().reshape(-1).long() != 0
        loss, _ = _Contrastive.apply(
            a.flatten(1), b.flatten(1), flags, self.layer.margin, self.layer.squared_margin
        )
        return self._result(loss * (len(a) / self.total(len(a))))
