"""Parameters of the CRF learned from labelled pictures."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from deeplab_repro.crf import CRFParams, DenseCRF, Example, Objective, dense_crf, fit

START = CRFParams(3, 1.0, 1.5, 1.0, 4.0, 40.0)


def drawing(seed: int) -> Example:
    """A disc of another colour than its ground, and scores that are hardly better than noise."""
    generator = torch.Generator().manual_seed(seed)
    y, x = torch.meshgrid(torch.arange(24.0), torch.arange(20.0), indexing="ij")
    center = 6 + 10 * torch.rand(2, generator=generator)
    labels = ((y - center[0]).hypot(x - center[1]) < 5).long()
    noise = torch.randn(3, 24, 20, generator=generator)
    image = 90 + 70 * labels + 10 * noise
    scores = torch.nn.functional.one_hot(labels, 2).permute(2, 0, 1) + 1.5 * noise[:2]
    labels[:2] = 255
    return Example(-scores, image, labels.to(torch.uint8))


def wrong(params: CRFParams, examples: list[Example]) -> float:
    """The share of pixels with another label."""
    misses: list[Tensor] = []
    for unary, image, labels in examples:
        found = dense_crf(unary[None], image[None], params, output="labels")[0]
        misses.append((found != labels)[labels != 255].float())
    return torch.cat(misses).mean().item()


@pytest.mark.slow
@pytest.mark.parametrize("objective", ["likelihood", "iou"])
def test_what_is_learned_helps_with_other_pictures(objective: Objective) -> None:
    seen, others = [drawing(i) for i in range(4)], [drawing(i) for i in range(10, 16)]
    crf = DenseCRF(START, learn=["weights", "stds"], expnorm="exact")
    told: list[float] = []
    losses = fit(crf, seen, epochs=4, lr=0.2, objective=objective, progress=told.append)
    assert len(losses) == 4
    assert len(told) == 16
    assert losses[-1] < losses[0] / 2
    learned = crf.learned_params()
    assert wrong(learned, others) < wrong(START, others) / 2
    again = DenseCRF(START, learn=["weights", "stds"], expnorm="exact")
    assert fit(again, seen, epochs=4, lr=0.2, objective=objective) == losses


def test_objectives_by_hand() -> None:
    """Two labels on four pixels of which one is void; without kernels Q is softmax(-unary)."""
    q = torch.tensor([[0.9, 0.6, 0.2, 0.5], [0.1, 0.4, 0.8, 0.5]])
    labels = torch.tensor([[0, 1, 1, 255]])
    example = Example(-q.log()[:, None], torch.zeros(3, 1, 4), labels)
    params = CRFParams(iterations=0)
    expected = {
        "likelihood": -torch.tensor([0.9, 0.4, 0.8]).log().mean().item(),
        # Label 0: 0.9 of 0.9 + 0.6 + 0.2 + 1 - 0.9; label 1: 1.2 of 1.3 + 2 - 1.2.
        "iou": 1 - (0.9 / 1.8 + 1.2 / 2.1) / 2,
    }
    for objective, loss in expected.items():
        crf = DenseCRF(params, learn=["weights"], expnorm="exact")
        found = fit(crf, [example], epochs=1, objective=objective)  # type: ignore[arg-type]
        assert found == [pytest.approx(loss, rel=1e-5)]


def test_pictures_without_labels_teach_nothing() -> None:
    unary, image, labels = drawing(0)
    crf = DenseCRF(START, learn=["weights"], expnorm="exact")
    before = crf.weights.clone()
    assert fit(crf, [Example(unary, image, torch.full_like(labels, 255))], epochs=1) == [0.0]
    assert torch.equal(crf.weights, before)


@torch.no_grad()
def test_it_learns_where_gradients_are_off() -> None:
    crf = DenseCRF(START, learn=["weights"], expnorm="exact")
    before = crf.weights.clone()
    fit(crf, [drawing(0)], epochs=1)
    assert not torch.equal(crf.weights, before)


def test_bad_input() -> None:
    unary, image, labels = drawing(0)
    crf = DenseCRF(START, learn=["weights"], expnorm="exact")
    frozen = DenseCRF(START, learn=["weights"], expnorm="exact").requires_grad_(False)
    for nothing in (DenseCRF(START, expnorm="exact"), frozen):
        with pytest.raises(ValueError, match="the CRF learns nothing"):
            fit(nothing, [drawing(0)])
    with pytest.raises(ValueError, match="must have expnorm='exact', got 'deeplab'"):
        fit(DenseCRF(START, learn=["weights"]), [drawing(0)])
    with pytest.raises(ValueError, match="epochs must be at least 1, got 0"):
        fit(crf, [drawing(0)], epochs=0)
    with pytest.raises(ValueError, match="there are no examples"):
        fit(crf, [])
    with pytest.raises(ValueError, match="must be one of likelihood, iou, got 'dice'"):
        fit(crf, [drawing(0)], objective="dice")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"example 0 must have the energies' size \(24, 20\), got"):
        fit(crf, [Example(unary, image, labels[1:])])
    labels[3, 3] = 2
    with pytest.raises(ValueError, match=r"example 0 has the label 2; expected 0\.\.1, or 255"):
        fit(crf, [Example(unary, image, labels)])
