"""A dense CRF's parameters learned from pictures whose labels are known."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Final, Literal, NamedTuple, TypeAlias

import torch
from torch import Tensor
from torch.nn.functional import nll_loss, one_hot

from deeplab_repro.crf.module import DenseCRF

__all__ = ["Example", "Objective", "fit"]

Objective: TypeAlias = Literal["likelihood", "iou"]


class Example(NamedTuple):
    """What one picture teaches.

    Attributes:
        unary: (C, H, W) energies, -score or -log p.
        image: (channels, H, W) of any number type, 0..255 as a rule.
        labels: (H, W) of any whole number type.
    """

    unary: Tensor
    image: Tensor
    labels: Tensor


def fit(
    crf: DenseCRF,
    examples: Sequence[Example],
    *,
    epochs: int = 5,
    lr: float = 0.02,
    objective: Objective = "likelihood",
    ignore_index: int = 255,
    seed: int = 0,
    progress: Callable[[float], object] | None = None,
) -> list[float]:
    """Learn what ``crf`` learns, by Adam, a picture at a time.

    The search of the papers tries some dozens of settings; this follows the gradient instead,
    through all steps of mean field (P. Kraehenbuehl and V. Koltun, Parameter Learning and
    Convergent Inference for Dense Random Fields, 2013; S. Zheng et al., CRF as RNN, 2015).

    Args:
        crf: with ``learn`` and, because a label of probability 0 teaches nothing,
            ``expnorm="exact"``; it is changed.
        examples: of any sizes; they are asked for one by one, in another order each time, and so
            may be read when they are asked for.
        epochs: how often each is seen.
        lr: of Adam at first; it falls evenly to 0, so that the last pictures do not decide.  The
            stds are learned as logarithms: a step of 0.02 is one of 2 %.  Steps that are much
            larger follow the single picture, and lose what the others have taught.
        objective: what becomes as small as it can, of the pixels of one picture that count and
            their marginals Q: ``"likelihood"`` the mean of -log Q at the labels, in nats;
            ``"iou"`` 1 - the mean over the picture's labels of the intersection of Q and label
            over their union, so that small objects count as much as large ones.
        ignore_index: of pixels that do not count.
        seed: of the order.
        progress: is told the loss of each picture.

    Returns:
        the mean loss of each epoch, before the updates that it led to; pictures without a label do
        not count.

    Raises:
        ValueError: nothing to learn, another ``expnorm``, no examples or epochs, an unknown
            objective, labels of another size than the energies, or a label that there is no
            energy for.

    >>> crf = DenseCRF(learn=["weights", "stds"], expnorm="exact")
    >>> fit(crf, examples)
    >>> crf.learned_params()
    """
    parameters = [p for p in crf.parameters() if p.requires_grad]
    if not parameters:
        raise ValueError("fit: the CRF learns nothing; give DenseCRF learn=['weights', 'stds']")
    expnorm = crf.options["expnorm"]
    if expnorm != "exact":
        raise ValueError(f"fit: the CRF must have expnorm='exact', got {expnorm!r}")
    if epochs < 1:
        raise ValueError(f"fit: epochs must be at least 1, got {epochs}")
    if len(examples) == 0:
        raise ValueError("fit: there are no examples")
    if objective not in _OBJECTIVES:
        known = ", ".join(_OBJECTIVES)
        raise ValueError(f"fit: objective must be one of {known}, got {objective!r}")
    optimizer = torch.optim.Adam(parameters, lr)
    order = torch.Generator().manual_seed(seed)
    losses = []
    for epoch in range(epochs):
        own = []
        for n, i in enumerate(torch.randperm(len(examples), generator=order).tolist()):
            unary, image, labels = examples[i]
            labels = _checked(labels, unary, ignore_index, i)
            counts = labels != ignore_index
            if not counts.any():
                continue
            optimizer.param_groups[0]["lr"] = lr * (1 - (epoch + n / len(examples)) / epochs)
            optimizer.zero_grad()
            with torch.enable_grad():
                log = crf(unary[None], image[None], output="log")[0]
                loss = _OBJECTIVES[objective](log[:, counts], labels[counts])
            loss.backward()
            optimizer.step()
            own.append(loss.item())
            if progress is not None:
                progress(own[-1])
        losses.append(sum(own) / max(1, len(own)))
    return losses


def _likelihood(log: Tensor, labels: Tensor) -> Tensor:
    return nll_loss(log.t(), labels)


def _iou(log: Tensor, labels: Tensor) -> Tensor:
    present, own = labels.unique(return_inverse=True)
    q = log[present].exp()
    truth = one_hot(own, len(present)).t().to(q)
    both = (q * truth).sum(1)
    return 1 - (both / (q.sum(1) + truth.sum(1) - both)).mean()


#: Of log Q (C, P) and labels (P,).
_OBJECTIVES: Final[Mapping[str, Callable[[Tensor, Tensor], Tensor]]] = {
    "likelihood": _likelihood,
    "iou": _iou,
}


def _checked(labels: Tensor, unary: Tensor, ignore_index: int, i: int) -> Tensor:
    """The labels as ``nll_loss`` takes them."""
    if labels.shape != unary.shape[1:]:
        raise ValueError(
            f"fit: the labels of example {i} must have the energies' size"
            f" {tuple(unary.shape[1:])}, got {tuple(labels.shape)}"
        )
    labels = labels.long()
    wrong = labels[((labels < 0) | (labels >= len(unary))) & (labels != ignore_index)]
    if len(wrong):
        raise ValueError(
            f"fit: example {i} has the label {int(wrong[0])}; expected 0..{len(unary) - 1},"
            f" or {ignore_index} for pixels that do not count"
        )
    return labels
