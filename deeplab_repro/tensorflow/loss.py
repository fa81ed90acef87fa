"""What the original program minimises in training (utils/train_utils.py, core/utils.py)."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.caffe.quirks import QuirkWarning
from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.fields import check_types
from deeplab_repro.tensorflow.resizing import nearest

__all__ = ["LossOptions", "cross_entropy", "is_decayed", "weight_penalty"]

#: What F.cross_entropy gives no loss and no gradient.
_NO_CLASS: Final = -100


@dataclass(frozen=True)
class LossOptions:
    """How the loss of a batch is made; names and defaults are those of train.py's flags.

    Attributes:
        upsample_logits: compare scores of the labels' size; False compares labels of the scores'
            size, of which each is the nearest one.
        label_weights: what a pixel's loss is multiplied by, one number or one for each class.
        top_k_percent_pixels: share of the pixels, those of the greatest losses, that count; 1 for
            all.
        hard_example_mining_step: until this step the share shrinks from 1 to that one.
        ignore_label: label of pixels that do not count.

    Raises:
        InputError: a value of another type, a share outside 0 to 1, or a negative step.
    """

    upsample_logits: bool = True
    label_weights: float | tuple[float, ...] = 1.0
    top_k_percent_pixels: float = 1.0
    hard_example_mining_step: int = 0
    ignore_label: int = 255

    def __post_init__(self) -> None:
        check_types(self)
        if not 0 <= self.top_k_percent_pixels <= 1:
            raise InputError(
                "top_k_percent_pixels", expected="0 to 1", got=self.top_k_percent_pixels
            )
        if self.hard_example_mining_step < 0:
            raise InputError(
                "hard_example_mining_step", expected="0 or more", got=self.hard_example_mining_step
            )

    def mined(self, pixels: int, global_step: int) -> int:
        """How many pixels count, those of the greatest losses; a product of float32, cut.

        Args:
            pixels: of the batch.
            global_step: updates done.
        """
        share, every = np.float32(self.top_k_percent_pixels), np.float32(1)
        if self.hard_example_mining_step:
            done = np.float32(global_step) / np.float32(self.hard_example_mining_step)
            ratio = min(every, done)
            share = ratio * share + (every - ratio)
        return int(share * np.float32(pixels))


#: All pixels count, all alike.
EVERY_PIXEL: Final = LossOptions()


def cross_entropy(
    scores: Tensor,
    labels: Tensor,
    options: LossOptions = EVERY_PIXEL,
    *,
    global_step: int = 0,
    quirks: bool = True,
) -> Tensor:
    """The loss of one map of scores (add_softmax_cross_entropy_loss_for_each_scale).

    Without mining it is the sum of the weighted losses over the number of pixels that are not
    ``ignore_label``; weights are not in the divisor.  With mining it is that of the greatest losses
    over how many of these are not 0.  Both are 0 where there is nothing to divide by.

    A label that is neither a class nor ``ignore_label`` has no loss, but counts as a pixel, and its
    gradient pushes all scores down.  That is computed, with a warning.

    Args:
        scores: (N, C, h, w).
        labels: (N, H, W) or (N, 1, H, W), whole numbers of any type.
        options: what is computed.
        global_step: updates done, for the share of mined pixels.
        quirks: False refuses labels that are no class.

    Returns:
        () float32.

    Raises:
        InputError: labels that do not fit, weights of another number of classes, or with
            ``quirks=False`` a label that is no class.
    """
    if labels.dim() == 4 and labels.shape[1] == 1:
        labels = labels[:, 0]
    if labels.dim() != 3 or len(labels) != len(scores):
        raise InputError(
            "labels do not fit the scores",
            expected=f"({len(scores)}, H, W)",
            got=tuple(labels.shape),
        )
    scores = scores.float()
    if options.upsample_logits:
        scores = align_corners(scores, labels.shape[1], labels.shape[2])
    else:
        labels = nearest(labels, scores.shape[2], scores.shape[3])
    labels = labels.long()
    counts = labels != options.ignore_label
    losses = _pixel_losses(scores, labels, counts, quirks) * _weights(labels, scores, options)
    losses = losses.where(counts, 0).flatten()
    if options.top_k_percent_pixels == 1:
        present = counts.sum()
    else:
        losses = losses.topk(options.mined(losses.numel(), global_step)).values
        present = torch.count_nonzero(losses.detach())
    return losses.sum() / present.clamp(min=1)


def _pixel_losses(scores: Tensor, labels: Tensor, counts: Tensor, quirks: bool) -> Tensor:
    """(N, h, w), minus the logarithm of the probability of each pixel's class."""
    known = (labels >= 0) & (labels < scores.shape[1])
    losses = F.cross_entropy(
        scores, labels.where(known, _NO_CLASS), reduction="none", ignore_index=_NO_CLASS
    )
    stray = counts & ~known
    if not bool(stray.any()):
        return losses
    found = ", ".join(map(str, labels[stray].unique()[:8].tolist()))
    if not quirks:
        raise InputError("labels that are no class", expected=_classes(scores), got=found)
    warnings.warn(
        f"labels {found} are no class: the original counts their pixels without a loss, and their"
        " gradient lowers all scores. That is computed here; quirks=False refuses them.",
        QuirkWarning,
        stacklevel=4,
    )
    # TensorFlow's gradient of a pixel is softmax minus a row of zeros and a one, and here all of
    # the row is 0, as is the loss.
    total = scores.logsumexp(1)
    return losses.where(~stray, total - total.detach())


def _weights(labels: Tensor, scores: Tensor, options: LossOptions) -> Tensor | float:
    """What each pixel's loss is multiplied by; 0 where a list has no weight for a label."""
    weights = options.label_weights
    if not isinstance(weights, tuple):
        return weights
    classes = scores.shape[1]
    if len(weights) != classes:
        raise InputError("label_weights", expected=f"{classes} numbers", got=len(weights))
    table = torch.tensor(weights, dtype=torch.float32, device=scores.device)
    known = (labels >= 0) & (labels < classes)
    return table[labels.where(known, 0)].where(known, 0)


def _classes(scores: Tensor) -> str:
    return f"0 to {scores.shape[1] - 1} or ignore_label"


def is_decayed(name: str) -> bool:
    """Whether a variable has weight decay: the ``weights`` of convolutions, but no depthwise ones.

    Args:
        name: TensorFlow's.
    """
    return name.rpartition("/")[2] == "weights"


def weight_penalty(variables: Mapping[str, Tensor], weight_decay: float) -> Tensor:
    """Half the weight decay times the sum of the squares of the weights (slim.l2_regularizer).

    Args:
        variables: TensorFlow's name -> value.
        weight_decay: the factor.

    Returns:
        () float32.
    """
    squares = [value.square().sum() for name, value in variables.items() if is_decayed(name)]
    if not squares or not weight_decay:
        return torch.zeros(())
    return torch.stack(squares).sum() * (weight_decay / 2)
