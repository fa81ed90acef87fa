"""What DeepLab minimises in training."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from deeplab_repro.caffe.layers.base import whole_labels
from deeplab_repro.caffe.layers.losses import log_probability
from deeplab_repro.models.architectures import Expansion
from deeplab_repro.models.layers import resize
from deeplab_repro.models.steps import Loss, Resize

__all__ = ["LossRule", "Total", "loss_rules", "whole"]

#: Sums a number over the processes that share a batch.
Total = Callable[[Tensor], Tensor]


def whole(number: Tensor) -> Tensor:
    """The sum over processes where one has the whole batch."""
    return number


@dataclass(frozen=True)
class LossRule:
    """Softmax loss of coarse scores, on labels of their size (softmax_loss_layer.cpp).

    Attributes:
        name: of the layer in the released files.
        shrink: every shrink-th row and column of the labels is compared.
        skip: rows and columns at the top and left of the labels that have no score.
    """

    name: str
    shrink: int
    skip: int = 0

    def __call__(
        self, scores: Tensor, labels: Tensor, ignore_label: int = 255, total: Total = whole
    ) -> Tensor:
        """The mean of -log softmax at the labels, over the pixels that count.

        Both normalizations of Caffe are this: VALID of the v2 fork, and that of the v1 fork with no
        weights of classes.  Where no pixel counts the loss is 0, as in the v2 fork.

        Args:
            scores: (N, C, h, w).
            labels: (N, H, W) or (N, 1, H, W) of any type, classes 0..C - 1.
            ignore_label: pixels that do not count.
            total: sums the number of pixels that count over the processes that share a batch, so
                that their losses add up to that of the whole.

        Returns:
            () float32, or float64 as the scores.

        Raises:
            ValueError: a label that is no class, or labels whose size does not fit the scores.
        """
        if labels.dim() == 3:
            labels = labels[:, None]
        if labels.dim() != 4 or labels.shape[1] != 1 or len(labels) != len(scores):
            raise ValueError(
                f"labels: expected ({len(scores)}, H, W) or ({len(scores)}, 1, H, W), "
                f"got {tuple(labels.shape)}"
            )
        scores = scores if scores.element_size() >= 4 else scores.float()
        # Through floats, as in Caffe: at sizes that fit nothing is mixed.
        small = resize(labels.to(scores.dtype), shrink=self.shrink, skip=self.skip)
        if small.shape[2:] != scores.shape[2:]:
            height, width = labels.shape[2:]
            raise ValueError(
                f"labels {height}x{width}: {self.name} compares every {self.shrink}th row and "
                f"column, which is {small.shape[2]}x{small.shape[3]}, with scores of "
                f"{scores.shape[2]}x{scores.shape[3]}; take sides of {self.shrink}k + "
                f"{1 + self.skip} and labels of the input's size"
            )
        numbers, counts = whole_labels(small[:, 0], scores.shape[1], (ignore_label,), self.name)
        log_p = log_probability(scores, numbers, 1)
        # The sign goes inside: outside, a sum over no pixels would give -0.0.
        return (-log_p).where(counts, 0).sum() / total(counts.sum()).clamp(min=1)


def loss_rules(expansion: Expansion) -> tuple[LossRule, ...]:
    """The losses of a network's steps for training, in their order."""
    shrunk = {step.top: step for step in expansion.steps if isinstance(step, Resize)}
    losses = (step for step in expansion.steps if isinstance(step, Loss))
    return tuple(
        LossRule(loss.name, shrunk[loss.bottoms[1]].shrink, shrunk[loss.bottoms[1]].skip)
        for loss in losses
    )
