"""Losses on values worked by hand; what the forks do differently."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from torch import Tensor

from prototxt_import import CaffeImportError
from prototxt_import.schema import message_class
from tests.caffe.layers.one_layer import make, run, slope

LN2, LN3, LN4 = math.log(2), math.log(3), math.log(4)


def logs(*rows: list[float]) -> Tensor:
    """Scores whose softmax is proportional to ``rows``."""
    return torch.log(torch.tensor(rows)).requires_grad_()


def labels(*values: float) -> Tensor:
    return torch.tensor(values, dtype=torch.float32)


# p = (1/4, 3/4) and (1/2, 1/2); labels 1 and 0: losses ln 4/3 and ln 2.
SCORES = ([1.0, 3.0], [2.0, 2.0])


@pytest.mark.parametrize(
    ("param", "divisor", "counts"),
    [
        pytest.param("", 2, 2, id="valid by default"),
        pytest.param("ignore_label: 0", 1, 1, id="ignored ones do not count"),
        pytest.param("ignore_label: 0 normalization: FULL", 2, 1, id="full"),
        pytest.param("ignore_label: 0 normalization: BATCH_SIZE", 2, 1, id="batch"),
        pytest.param("ignore_label: 0 normalization: NONE", 1, 1, id="none"),
        pytest.param("ignore_label: 0 normalize: false", 2, 1, id="the older normalize: false"),
        pytest.param("ignore_label: 0 normalize: true", 1, 1, id="the older normalize: true"),
        pytest.param("normalize: false normalization: NONE", 1, 2, id="the newer word counts"),
    ],
)
def test_softmax_loss_normalizations(param: str, divisor: int, counts: int) -> None:
    x = logs(*SCORES)
    loss = run(f'type: "SoftmaxWithLoss" loss_param {{ {param} }}', x, labels(1, 0))
    total = math.log(4 / 3) + (LN2 if counts == 2 else 0)
    assert loss.shape == ()
    assert loss.item() == pytest.approx(total / divisor)
    second = [-0.5, 0.5] if counts == 2 else [0, 0]
    expected = [value / divisor for value in [0.25, -0.25, *second]]
    assert slope(loss, x) == pytest.approx(expected, abs=1e-7)


def test_softmax_loss_with_everything_ignored_divides_by_one() -> None:
    x = logs(*SCORES)
    loss = run('type: "SoftmaxWithLoss" loss_param { ignore_label: 9 }', x, labels(9, 9))
    assert loss.item() == 0
    assert slope(loss, x) == [0] * 4


def test_softmax_loss_holds_probabilities_at_flt_min_but_not_gradients() -> None:
    x = torch.tensor([[0.0, 200.0]], requires_grad=True)
    loss = run('type: "SoftmaxWithLoss"', x, labels(0))
    assert loss.item() == pytest.approx(-math.log(1.17549435e-38))
    assert slope(loss, x) == [-1, 1]


def test_softmax_loss_over_another_axis_and_its_second_top() -> None:
    x = logs(*SCORES).t().detach().requires_grad_()
    loss, p = run(
        'type: "SoftmaxWithLoss" softmax_param { axis: 0 }', x, labels(1, 0).reshape(2, 1), tops=2
    )
    assert loss.item() == pytest.approx((math.log(4 / 3) + LN2) / 2)
    assert p.t().flatten().tolist() == pytest.approx([0.25, 0.75, 0.5, 0.5])
    assert not p.requires_grad


@pytest.mark.parametrize("shape", [(2, 1, 1, 2), (2, 2), (2, 1, 2)])
def test_softmax_loss_takes_labels_of_any_shape(shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 1, 2)
    wanted = torch.tensor([0.0, 2, 1, 1])
    loss = run('type: "SoftmaxWithLoss"', x, wanted.reshape(shape))
    expected = torch.nn.functional.cross_entropy(x, wanted.reshape(2, 1, 2).long())
    torch.testing.assert_close(loss, expected)


@pytest.mark.parametrize("bad", [-1.0, 2.0, 255.0])
def test_labels_out_of_range_name_the_layer(bad: float) -> None:
    with pytest.raises(
        ValueError, match=rf"layer 'op': SoftmaxWithLoss: unexpected label {bad:.0f}"
    ):
        run('type: "SoftmaxWithLoss"', logs(*SCORES), labels(0, bad))
    with pytest.raises(ValueError, match="layer 'op'"):
        v1_softmax("ignore_label: 7", labels(0, bad))


def v1_softmax(param: str, wanted: Tensor) -> tuple[float, list[float]]:
    x = logs(*SCORES)
    body = f"type: SOFTMAX_LOSS softmaxloss_param {{ {param} }}"
    loss = run(body, x[..., None, None], wanted[:, None, None, None], dialect="dl1")
    assert loss.shape == (1, 1, 1, 1)
    return loss.item(), slope(loss, x)


def test_v1_softmax_loss_ignores_several_labels() -> None:
    loss, gradient = v1_softmax("ignore_label: 0 ignore_label: 255", labels(1, 0))
    assert loss == pytest.approx(math.log(4 / 3))
    assert gradient == pytest.approx([0.25, -0.25, 0, 0])
    assert math.isnan(v1_softmax("ignore_label: 255", labels(255, 255))[0])


def test_v1_softmax_loss_weighs_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "weights.txt").write_text("3\n1\n")
    monkeypatch.chdir(tmp_path)
    loss, gradient = v1_softmax('weight_source: "weights.txt"', labels(1, 0))
    assert loss == pytest.approx((math.log(4 / 3) + 3 * LN2) / 4)
    assert gradient == pytest.approx([0.25 / 4, -0.25 / 4, -1.5 / 4, 1.5 / 4])


@pytest.mark.parametrize(
    ("text", "message"),
    [("1 2 3", "another number of weights; expected 2, got 3"), ("1 -1", "negative weight"),
     ("1 x", "cannot be read"), (None, "cannot be read")],
)  # fmt: skip
def test_v1_class_weights_refused(
    text: str | None, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if text is not None:
        (tmp_path / "w.txt").write_text(text)
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaffeImportError, match=message):
        v1_softmax('weight_source: "w.txt"', labels(1, 0))


H = torch.tensor([[1.0, 0.5], [0.0, 2.0]])


def infogain(x: Tensor, wanted: Tensor, param: str = "", dialect: str = "bvlc") -> Tensor:
    body = f'type: "InfogainLoss" loss_param {{ {param} }}'
    return run(body, x, wanted, H.reshape(1, 1, 2, 2), dialect=dialect)


def test_infogain_of_bvlc_applies_softmax() -> None:
    x = logs(*SCORES)
    loss = infogain(x, labels(1, 0))
    # Row 1: 2 ln 4/3.  Row 0: ln 2 + ln 2 / 2.
    assert loss.item() == pytest.approx((2 * math.log(4 / 3) + 1.5 * LN2) / 2)
    # p * (sum of the row) - the row: (1/4, 3/4) * 2 - (0, 2), (1/2, 1/2) * 1.5 - (1, 1/2).
    assert slope(loss, x) == pytest.approx([0.25, -0.25, -0.125, 0.125])


def test_infogain_of_bvlc_knows_labels_to_ignore() -> None:
    loss = infogain(logs(*SCORES), labels(1, 7), "ignore_label: 7")
    assert loss.item() == pytest.approx(2 * math.log(4 / 3))
    loss = infogain(logs(*SCORES), labels(1, 7), "ignore_label: 7 normalization: FULL")
    assert loss.item() == pytest.approx(math.log(4 / 3))


def test_infogain_of_the_forks_takes_probabilities() -> None:
    p = torch.tensor([[0.25, 0.75], [0.5, 0.5]], requires_grad=True)
    loss = infogain(p, labels(1, 0), dialect="dl2")
    assert loss.item() == pytest.approx((2 * math.log(4 / 3) + 1.5 * LN2) / 2)
    assert slope(loss, p) == pytest.approx([0, -2 / 0.75 / 2, -1 / 0.5 / 2, -0.5 / 0.5 / 2])


def test_infogain_matrix_from_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    blob = message_class("bvlc", "BlobProto")(num=1, channels=1, height=2, width=2,
                                              data=H.flatten().tolist())  # fmt: skip
    (tmp_path / "h.binaryproto").write_bytes(blob.SerializeToString())
    monkeypatch.chdir(tmp_path)
    body = 'type: "InfogainLoss" infogain_loss_param { source: "h.binaryproto" }'
    loss = run(body, logs(*SCORES), labels(1, 0))
    assert loss.item() == pytest.approx((2 * math.log(4 / 3) + 1.5 * LN2) / 2)
    with pytest.raises(CaffeImportError, match="another size"):
        run(body, torch.ones(1, 3), labels(1))
    with pytest.raises(CaffeImportError, match="cannot be read"):
        make('type: "InfogainLoss" infogain_loss_param { source: "no" }', (1, 2), (1,))
    with pytest.raises(CaffeImportError, match="no infogain matrix"):
        make('type: "InfogainLoss"', (1, 2), (1,))


def test_multinomial_logistic_loss() -> None:
    p = torch.tensor([[0.25, 0.75], [0.0, 1.0]], requires_grad=True)
    loss = run('type: "MultinomialLogisticLoss"', p, labels(1, 0))
    assert loss.item() == pytest.approx((math.log(4 / 3) - math.log(1e-20)) / 2)
    # A probability is taken for no less than 1e-20, in the gradient too.
    assert slope(loss, p) == pytest.approx([0, -1 / 0.75 / 2, -1e20 / 2, 0], rel=1e-5)


@pytest.mark.parametrize(
    ("norm", "value", "gradient"),
    [
        # Rows (2, 0, -1) at label 0: 1 - 2, 1 + 0, 1 - 1 = -1, 1, 0: only the second is over.
        # (0.5, -3, 1) at label 2: 1.5, -2, 1 - 1 = 0: only the first is.
        ("L1", (1 + 1.5) / 2, [0, 0.5, 0, 0.5, 0, 0]),
        ("L2", (1 + 2.25) / 2, [0, 1, 0, 1.5, 0, 0]),
    ],
)
def test_hinge_loss_is_flat_at_its_margin(norm: str, value: float, gradient: list[float]) -> None:
    x = torch.tensor([[2.0, 0, -1], [0.5, -3, 1]], requires_grad=True)
    loss = run(f'type: "HingeLoss" hinge_loss_param {{ norm: {norm} }}', x, labels(0, 2))
    assert loss.item() == pytest.approx(value)
    assert slope(loss, x) == pytest.approx(gradient)


def test_hinge_loss_of_a_label_on_the_wrong_side() -> None:
    x = torch.tensor([[-2.0, 0.0]], requires_grad=True)
    loss = run('type: "HingeLoss"', x, labels(0))
    assert loss.item() == 3 + 1
    assert slope(loss, x) == [-1, 1]


def test_euclidean_loss_is_divided_by_the_batch() -> None:
    a = torch.tensor([[1.0, 2], [3, 4]], requires_grad=True)
    b = torch.tensor([[1.0, 0], [0, 4]], requires_grad=True)
    loss = run('type: "EuclideanLoss"', a, b)
    assert loss.item() == (4 + 9) / 2 / 2
    assert slope(run('type: "EuclideanLoss"', a, b), a) == [0, 1, 1.5, 0]
    assert slope(loss, b) == [0, -1, -1.5, 0]


@pytest.mark.parametrize(
    ("kind", "value", "gradient"),
    [("L2", 9 / 2 / 4, [0, 0.75, 0, 0]), ("L2sqrt", 1.5, [0, 0.5, 0, 0])],
)
def test_euclidean_loss_of_the_v1_fork(kind: str, value: float, gradient: list[float]) -> None:
    a = torch.tensor([1.0, 3, 3, 4]).reshape(2, 2, 1, 1).requires_grad_()
    b = torch.tensor([1.0, 0, 3, 4]).reshape(2, 2, 1, 1)
    body = f"type: EUCLIDEAN_LOSS euclidean_loss_param {{ type: {kind} }}"
    loss = run(body, a, b, dialect="dl1")
    assert loss.shape == (1, 1, 1, 1)
    assert loss.item() == pytest.approx(value)
    assert slope(loss, a) == pytest.approx(gradient)
    assert slope(run(body, a, a.detach(), dialect="dl1"), a) == [0] * 4


@pytest.mark.parametrize(
    ("param", "dialect", "divisor", "ignored"),
    [
        ("", "bvlc", 2, False),
        ("normalization: FULL", "bvlc", 4, False),
        ("normalization: NONE", "bvlc", 1, False),
        ("ignore_label: 0", "bvlc", 2, True),
        ("ignore_label: 0 normalization: VALID", "bvlc", 2, True),
        ("ignore_label: 0 normalize: true", "bvlc", 2, True),
        ("ignore_label: 0 normalization: FULL", "dl2", 2, False),
    ],
)
def test_sigmoid_cross_entropy(param: str, dialect: str, divisor: int, ignored: bool) -> None:
    # Sigmoids 1/2, 3/4, 1/4, 1/2 at targets 1, 0, 1, 0: ln 2, ln 4, ln 4, ln 2.
    x = torch.tensor([[0.0, LN3], [-LN3, 0]], requires_grad=True)
    target = torch.tensor([[1.0, 0], [1, 0]])
    loss = run(f'type: "SigmoidCrossEntropyLoss" loss_param {{ {param} }}', x, target,
               dialect=dialect)  # fmt: skip
    total = LN2 + LN4 if ignored else 2 * (LN2 + LN4)
    assert loss.item() == pytest.approx(total / divisor)
    gradient = [-0.5, 0, -0.75, 0] if ignored else [-0.5, 0.75, -0.75, 0.5]
    assert slope(loss, x) == pytest.approx([g / divisor for g in gradient])


def test_sigmoid_cross_entropy_of_large_scores() -> None:
    x = torch.tensor([[200.0, -200.0]])
    assert run('type: "SigmoidCrossEntropyLoss"', x, torch.tensor([[0.0, 1.0]])).item() == 400


def contrastive(param: str, dialect: str = "bvlc") -> tuple[float, list[float]]:
    # Differences (3, 4) alike, (0, 1) and (0, 5) not.
    a = torch.tensor([[3.0, 4], [0, 1], [0, 5]], requires_grad=True)
    b = torch.zeros(3, 2, requires_grad=True)
    flags = labels(1, 0, 0)
    if dialect == "dl1":
        body = f"type: CONTRASTIVE_LOSS contrastive_loss_param {{ {param} }}"
        wide = [x[:, :, None, None] for x in (a, b, flags[:, None])]
        loss = run(body, *wide, dialect=dialect)
    else:
        loss = run(f'type: "ContrastiveLoss" contrastive_loss_param {{ {param} }}', a, b, flags)
    grads = torch.autograd.grad(loss.sum(), (a, b))
    assert torch.equal(grads[0], -grads[1])
    return loss.item(), (grads[0] * 3).flatten().tolist()


def test_contrastive_loss_enlarges_the_distance_it_divides_by() -> None:
    loss, gradient = contrastive("margin: 3")
    assert loss == pytest.approx((25 + (3 - 1) ** 2 + 0) / 2 / 3)
    assert gradient == pytest.approx([3, 4, 0, -2 / (1 + 1e-4), 0, 0])


@pytest.mark.parametrize(
    ("param", "dialect"), [("margin: 3 legacy_version: true", "bvlc"), ("margin: 3", "dl1")]
)
def test_contrastive_loss_once_had_its_margin_in_squares(param: str, dialect: str) -> None:
    loss, gradient = contrastive(param, dialect)
    assert loss == pytest.approx((25 + (3 - 1) + 0) / 2 / 3)
    assert gradient == pytest.approx([3, 4, 0, -1, 0, 0])


@pytest.mark.parametrize(
    ("body", "shapes"),
    [
        ('type: "EuclideanLoss"', [(2, 3), (2, 4)]),
        ('type: "EuclideanLoss"', [(2, 3), (3, 2)]),
        ('type: "SoftmaxWithLoss"', [(2, 3, 4, 4), (2, 1, 3, 4)]),
        ('type: "HingeLoss"', [(2, 3), (2, 2)]),
        ('type: "SigmoidCrossEntropyLoss"', [(2, 3), (2, 3, 2)]),
        ('type: "ContrastiveLoss"', [(2, 3), (2, 2), (2,)]),
        ('type: "MultinomialLogisticLoss"', [(2, 3), (3,)]),
    ],
)
def test_shapes_that_do_not_fit(body: str, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(CaffeImportError, match=r"layer 'op': .* differ; expected \d+, got \d+"):
        make(body, *shapes)


def test_losses_backpropagate_numerically() -> None:
    x = torch.randn(3, 4, 2, 2, dtype=torch.float64, requires_grad=True)
    wanted = torch.randint(0, 4, (3, 1, 2, 2)).double()
    module = make('type: "SoftmaxWithLoss" loss_param { ignore_label: 2 }', x.shape, wanted.shape)
    assert torch.autograd.gradcheck(lambda x: module(x, wanted), x)
    module = make('type: "SigmoidCrossEntropyLoss"', x.shape, x.shape)
    assert torch.autograd.gradcheck(lambda x: module(x, wanted.expand_as(x)), x)
