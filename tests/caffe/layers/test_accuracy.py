"""Accuracy with its two rules for ties, and SegAccuracy."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import make, run

# Four places of three classes: label 1 wins, loses, ties with 0, ties with 2.
TIES = torch.tensor([[1.0, 5, 2], [6, 5, 2], [5, 5, 2], [1, 5, 5]])
ONES = torch.ones(4)


def accuracy(x: Tensor, labels: Tensor, param: str = "", **options: object) -> Tensor:
    return run(f'type: "Accuracy" accuracy_param {{ {param} }}', x, labels, **options)


@pytest.mark.parametrize(
    ("dialect", "top_k", "right"),
    [
        pytest.param("bvlc", 1, 1, id="a tie is lost in bvlc"),
        pytest.param("bvlc", 2, 4, id="two may be as good in bvlc"),
        pytest.param("dl2", 1, 2, id="a tie goes to the higher class in the forks"),
        pytest.param("dl2", 2, 4, id="second best in the forks"),
        pytest.param("dl1", 1, 2, id="the v1 fork"),
    ],
)
def test_ties(dialect: str, top_k: int, right: int) -> None:
    if dialect == "dl1":
        x, labels = TIES[..., None, None], ONES[:, None, None, None]
        y = run("type: ACCURACY", x, labels, dialect=dialect)
        assert y.shape == (1, 1, 1, 1)
    else:
        y = accuracy(TIES, ONES, f"top_k: {top_k}", dialect=dialect)
        assert y.shape == ()
    assert y.item() == right / 4


def test_accuracy_over_an_axis_with_labels_to_ignore() -> None:
    x = torch.tensor([[[9.0, 0], [0, 9], [0, 9]]])  # axis 2 has the classes
    labels = torch.tensor([[0.0, 1, 7]])
    assert accuracy(x, labels, "axis: -1 ignore_label: 7").item() == 1
    assert accuracy(x, torch.tensor([[1.0, 1, 7]]), "axis: 2 ignore_label: 7").item() == 0.5
    nothing = torch.full((1, 3), 7.0)
    assert accuracy(x, nothing, "axis: 2 ignore_label: 7").item() == 0
    assert accuracy(x, nothing, "axis: 2 ignore_label: 7", dialect="dl2").isnan()


def test_accuracy_per_class_is_zero_for_absent_classes() -> None:
    total, each = accuracy(TIES[:2], torch.tensor([1.0, 1.0]), tops=2)
    assert total.item() == 0.5
    assert each.tolist() == [0, 0.5, 0]


def test_accuracy_refuses() -> None:
    with pytest.raises(CaffeImportError, match=r"bad top_k; expected 1..3, got 4"):
        accuracy(TIES, ONES, "top_k: 4")
    with pytest.raises(ValueError, match="layer 'op': Accuracy: unexpected label 3"):
        accuracy(TIES, ONES * 3)
    with pytest.raises(CaffeImportError, match="predictions and labels differ"):
        accuracy(TIES, torch.ones(3))


def seg(param: str = "", dialect: str = "dl2") -> torch.nn.Module:
    if dialect == "dl1":
        body = f"type: SEG_ACCURACY seg_accuracy_param {{ {param} }}"
    else:
        body = f'type: "SegAccuracy" seg_accuracy_param {{ {param} }}'
    return make(body, (1, 3, 1, 4), (1, 1, 1, 4), dialect=dialect)


def pixels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32).reshape(1, 1, 1, 4)


def scores(*classes: int) -> Tensor:
    """(1, 3, 1, 4): the largest score at these classes."""
    return torch.nn.functional.one_hot(torch.tensor(classes), 3).t().reshape(1, 3, 1, 4).float()


def test_seg_accuracy() -> None:
    # Labels 0 0 1 ignored, predictions 0 1 1 2: class 2 is neither seen nor predicted.
    y = seg("ignore_label: 255")(scores(0, 1, 1, 2), pixels(0, 0, 1, 255))
    assert y.shape == (1, 1, 1, 3)
    assert y.flatten().tolist() == pytest.approx([2 / 3, (0.5 + 1) / 2, (0.5 + 0.5 + 1) / 3])


def test_seg_accuracy_gives_ties_to_the_higher_class() -> None:
    y = seg()(torch.zeros(1, 3, 1, 4), pixels(2, 2, 2, 0))
    assert y.flatten()[0].item() == 0.75


def test_seg_accuracy_with_everything_ignored() -> None:
    y = seg("ignore_label: 255 ignore_label: 0")(scores(0, 1, 1, 2), pixels(0, 0, 255, 255))
    assert y.flatten().tolist() == [0, 0, 1]


@pytest.mark.parametrize(
    ("param", "dialect", "second"),
    [("", "dl2", 0), ("reset: true", "dl2", 0), ("reset: false", "dl2", 0.5), ("", "dl1", 0)],
)
def test_seg_accuracy_adds_up_unless_it_resets(param: str, dialect: str, second: float) -> None:
    module = seg(param, dialect)
    assert module(scores(0, 1, 2, 0), pixels(0, 1, 2, 0)).flatten()[0] == 1
    assert module(scores(0, 0, 0, 0), pixels(1, 1, 1, 1)).flatten()[0] == second
    module.reset()
    assert module(scores(0, 0, 0, 0), pixels(1, 1, 1, 1)).flatten()[0] == 0


def test_seg_accuracy_refuses_unknown_labels() -> None:
    with pytest.raises(ValueError, match="layer 'op': SegAccuracy: unexpected label 255"):
        seg()(scores(0, 0, 0, 0), pixels(0, 0, 0, 255))
    with pytest.raises(CaffeImportError, match="heights of scores and labels differ"):
        make('type: "SegAccuracy"', (1, 3, 2, 4), (1, 1, 1, 4), dialect="dl2")
