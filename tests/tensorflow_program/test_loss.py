"""The loss of a batch against sums that are written out."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from deeplab_repro.caffe.layers.interp import align_corners
from deeplab_repro.caffe.quirks import QuirkWarning
from deeplab_repro.errors import InputError
from deeplab_repro.tensorflow.loss import LossOptions, cross_entropy, is_decayed, weight_penalty

CLASSES = 4


def batch(seed: int = 0) -> tuple[Tensor, Tensor]:
    random = np.random.default_rng(seed)
    scores = torch.from_numpy(random.normal(0, 2, (2, CLASSES, 3, 4)).astype(np.float32))
    labels = torch.from_numpy(random.integers(0, CLASSES, (2, 5, 7)).astype(np.int32))
    labels[0, 0, :3] = 255
    return scores, labels


def written_out(scores: Tensor, labels: Tensor, options: LossOptions, global_step: int) -> float:
    """Pixel by pixel, in float64, for scores of the labels' size."""
    losses, present = [], 0
    for item, label in zip(scores.double().numpy(), labels.numpy(), strict=True):
        for row, column in np.ndindex(label.shape):
            truth = int(label[row, column])
            if truth == options.ignore_label:
                losses.append(0.0)
                continue
            present += 1
            pixel = item[:, row, column]
            weights = options.label_weights
            weight = weights[truth] if isinstance(weights, tuple) else weights
            losses.append(weight * (np.log(np.exp(pixel).sum()) - pixel[truth]))
    if options.top_k_percent_pixels < 1:
        share = options.top_k_percent_pixels
        if options.hard_example_mining_step:
            done = min(1.0, global_step / options.hard_example_mining_step)
            share = done * share + (1 - done)
        losses = sorted(losses)[::-1][: int(share * len(losses))]
        present = sum(loss != 0 for loss in losses)
    return sum(losses) / max(present, 1e-5)


@pytest.mark.parametrize("upsample", [True, False])
@pytest.mark.parametrize(
    ("options", "global_step"),
    [
        ({}, 0),
        ({"label_weights": 0.5}, 0),
        ({"label_weights": (0.5, 1.0, 0.0, 2.0)}, 0),
        ({"ignore_label": 0}, 0),
        ({"top_k_percent_pixels": 0.25}, 0),
        ({"top_k_percent_pixels": 0.25, "hard_example_mining_step": 100}, 40),
        ({"top_k_percent_pixels": 0.25, "hard_example_mining_step": 100}, 1000),
        ({"top_k_percent_pixels": 0.99}, 0),
        ({"top_k_percent_pixels": 0.5, "label_weights": (0.0, 0.0, 0.0, 2.0)}, 0),
        ({"top_k_percent_pixels": 0.0}, 0),
    ],
)
def test_losses(options: dict[str, Any], global_step: int, upsample: bool) -> None:
    scores, labels = batch()
    if options.get("ignore_label") == 0:
        labels[labels == 255] = 1
    rule = LossOptions(upsample_logits=upsample, **options)
    loss = cross_entropy(scores, labels, rule, global_step=global_step)
    if upsample:
        scores = align_corners(scores, 5, 7)
    else:  # 5 rows -> 0, 2, 4; 7 columns -> 0, 2, 4, 6
        labels = labels[:, ::2, ::2]
    expected = written_out(scores, labels, rule, global_step)
    assert loss.item() == pytest.approx(expected, rel=1e-6)


def test_a_batch_without_a_pixel_that_counts() -> None:
    scores, labels = batch()
    for options in (LossOptions(), LossOptions(top_k_percent_pixels=0.5)):
        scores.requires_grad_()
        loss = cross_entropy(scores, torch.full_like(labels, 255), options)
        loss.backward()
        assert loss.item() == 0
        assert scores.grad is not None
        assert not scores.grad.any()


def test_labels_of_any_type_and_with_an_axis_more() -> None:
    scores, labels = batch()
    expected = cross_entropy(scores, labels)
    for other in (labels[:, None], labels.to(torch.uint8), labels.float()[:, None]):
        assert torch.equal(cross_entropy(scores, other), expected)


def test_a_label_that_is_no_class() -> None:
    """TensorFlow gives it a row of zeros: no loss, but softmax for a gradient."""
    scores, labels = batch()
    scores = align_corners(scores, 5, 7).requires_grad_()
    labels[1, 2, 3] = 77
    with pytest.warns(QuirkWarning, match="labels 77 are no class"):
        loss = cross_entropy(scores, labels)
    known = (labels >= 0) & (labels < CLASSES)
    own = cross_entropy(scores, labels.where(known, 255)) * known.sum() / (known.sum() + 1)
    assert loss.item() == pytest.approx(own.item(), rel=1e-6)
    loss.backward()
    assert scores.grad is not None
    expected = scores.detach()[1, :, 2, 3].softmax(0) / (known.sum() + 1)
    torch.testing.assert_close(scores.grad[1, :, 2, 3], expected)
    with pytest.raises(InputError, match="no class; expected 0 to 3 or ignore_label, got 77"):
        cross_entropy(scores, labels, quirks=False)


def test_the_number_of_mined_pixels_is_a_product_of_float32() -> None:
    assert int(0.29 * 100) == 28  # in float64
    assert LossOptions(top_k_percent_pixels=0.29).mined(100, 0) == 29
    ramp = LossOptions(top_k_percent_pixels=0.25, hard_example_mining_step=100)
    assert [ramp.mined(1000, step) for step in (0, 40, 100, 500)] == [1000, 700, 250, 250]


def test_what_cannot_be_used() -> None:
    scores, labels = batch()
    with pytest.raises(InputError, match=r"expected \(2, H, W\), got \(1, 5, 7\)"):
        cross_entropy(scores, labels[:1])
    with pytest.raises(InputError, match="label_weights; expected 4 numbers, got 2"):
        cross_entropy(scores, labels, LossOptions(label_weights=(1.0, 2.0)))
    with pytest.raises(InputError, match="top_k_percent_pixels; expected 0 to 1, got 1.5"):
        LossOptions(top_k_percent_pixels=1.5)
    with pytest.raises(InputError, match="hard_example_mining_step; expected 0 or more, got -1"):
        LossOptions(hard_example_mining_step=-1)


def test_weight_decay_is_for_the_weights_of_convolutions() -> None:
    assert is_decayed("aspp0/weights")
    assert is_decayed("logits/semantic/weights")
    for leaf in ("depthwise_weights", "biases", "BatchNorm/gamma", "BatchNorm/beta"):
        assert not is_decayed(f"aspp0/{leaf}")
    variables = {
        "a/weights": torch.tensor([1.0, 2.0]),
        "b/weights": torch.tensor([3.0]),
        "b/biases": torch.tensor([100.0]),
    }
    assert weight_penalty(variables, 0.1).item() == pytest.approx(0.05 * 14)
    assert weight_penalty(variables, 0.0).item() == 0
