"""BatchNorm, Scale, Bias, MVN and LRN on values worked by hand."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch

from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.caffe.quirks import QuirkWarning
from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import make, row, run, slope

BATCH_NORM = 'type: "BatchNorm" batch_norm_param {{ {} }}'


def batch_norm(param: str = "", **options: Any) -> CaffeLayer:
    return make(BATCH_NORM.format(param), (1, 1, 1, 4), **options)


def stats(module: torch.nn.Module) -> list[float]:
    return [float(blob) for blob in module.blobs]


def test_batch_norm_divides_its_sums_by_the_third_blob() -> None:
    module = batch_norm("eps: 0")
    for i, value in enumerate([4.0, 8.0, 2.0]):  # mean 4 / 2, variance 8 / 2
        module.set_blob(i, torch.tensor([value]))
    assert module(row(2, 6, 0, -2)).flatten().tolist() == pytest.approx([0, 2, -1, -2])
    assert slope(module(x := row(1, 2, 3, 4)), x) == [0.5] * 4


def test_batch_norm_with_a_third_blob_of_zero_takes_all_statistics_for_zero() -> None:
    module = batch_norm("eps: 0.25")
    module.set_blob(0, torch.tensor([7.0]))
    module.set_blob(1, torch.tensor([9.0]))
    assert module(row(1, 2, 3, 4)).flatten().tolist() == [2, 4, 6, 8]


def test_batch_norm_blobs_are_float32_buffers() -> None:
    module = batch_norm()
    assert not list(module.parameters())
    assert [(tuple(b.shape), b.dtype) for b in module.blobs] == [((1,), torch.float32)] * 3


def test_batch_norm_trains_with_the_batch_and_keeps_decaying_sums() -> None:
    module = batch_norm("moving_average_fraction: 0.5 eps: 0", phase="TRAIN")
    y = module(row(1, 3, 1, 3))  # mean 2, variance 1; unbiased 4/3
    assert y.flatten().tolist() == pytest.approx([-1, 1, -1, 1])
    assert stats(module) == pytest.approx([2, 4 / 3, 1])
    module(row(0, 0, 0, 8))  # mean 2, variance 12; unbiased 16
    assert stats(module) == pytest.approx([0.5 * 2 + 2, 0.5 * 4 / 3 + 16, 1.5])
    assert module.eval()(row(2, 2, 2, 2)).flatten().tolist() == pytest.approx([0] * 4)


def test_batch_norm_of_one_value_is_not_corrected() -> None:
    module = make(BATCH_NORM.format("eps: 1"), (1, 1, 1, 1), phase="TRAIN")
    assert module(row(5)).item() == 0
    assert stats(module) == [5, 0, 1]


def test_batch_norm_obeys_use_global_stats_in_either_phase() -> None:
    fixed = batch_norm("use_global_stats: true eps: 1", phase="TRAIN")
    x = row(1, 2, 3, 4)
    assert torch.equal(fixed(x), x)
    assert stats(fixed) == [0, 0, 0]
    live = batch_norm("use_global_stats: false eps: 0")
    assert live(row(1, 3, 1, 3)).flatten().tolist() == pytest.approx([-1, 1, -1, 1])


UPDATED = "use_global_stats: true update_global_stats: true eps: 1"


def test_batch_norm_update_global_stats_follows_batches_it_does_not_use() -> None:
    module = batch_norm(UPDATED, phase="TRAIN", dialect="dl2", quirks=False)
    x = row(1, 3, 1, 3)
    assert torch.equal(module(x), x)
    assert stats(module) == pytest.approx([2, 4 / 3, 1])
    module.eval()(x)
    assert stats(module) == pytest.approx([2, 4 / 3, 1])


def test_batch_norm_update_global_stats_as_the_fork_mixes_them() -> None:
    with pytest.warns(QuirkWarning, match="update_global_stats"):
        module = batch_norm(UPDATED, phase="TRAIN", dialect="dl2")
    for i, value in enumerate((6.0, 5.0, 2.0)):
        module.set_blob(i, torch.tensor([value]))
    # The global mean is 3, so the deviations are -2, 0, -2, 0: E(d^2) + eps = 3.
    y = module(row(1, 3, 1, 3)).flatten()
    assert y.tolist() == pytest.approx([-2 / math.sqrt(3), 0, -2 / math.sqrt(3), 0])
    # 0.999 * 6 + 3, 0.999 * 5 + 2 * 4 / 3, 0.999 * 2 + 1.
    assert stats(module) == pytest.approx([8.994, 4.995 + 8 / 3, 2.998])


def test_batch_norm_of_the_v2_fork_computes_no_variance() -> None:
    """The divisor starts at 0 and becomes sqrt(divisor + eps): 0.1, 0.3317, 0.5845, 0.7711."""
    with pytest.warns(QuirkWarning, match="no variance"):
        module = batch_norm("eps: 0.01", phase="TRAIN", dialect="dl2")
    divisor = 0.0
    for digits in (0.1, 0.3317, 0.5845, 0.7711):
        divisor = math.sqrt(divisor + 0.01)
        assert divisor == pytest.approx(digits, abs=1e-4)
        x = row(1, 3, 1, 3)
        y = module(x)
        assert y.flatten().tolist() == pytest.approx([-1 / divisor, 1 / divisor] * 2, rel=1e-5)
        # (d - mean(d) - y mean(d y)) / divisor, for d = 1, 0, 0, 0.
        (grad,) = torch.autograd.grad(y, x, torch.tensor([1.0, 0, 0, 0]).reshape(y.shape))
        a, b = 1 / divisor, 0.25 / divisor
        expected = [1 - 0.25 - a * b, -0.25 + a * b, -0.25 - a * b, -0.25 + a * b]
        assert grad.flatten().tolist() == pytest.approx([e / divisor for e in expected], rel=1e-4)
        assert stats(module) == [0, 0, 0]
    meant = batch_norm("eps: 0", phase="TRAIN", dialect="dl2", quirks=False)
    assert meant(row(1, 3, 1, 3)).flatten().tolist() == pytest.approx([-1, 1, -1, 1])


def test_batch_norm_gradients() -> None:
    module = make(BATCH_NORM.format(""), (3, 2, 2, 2), phase="TRAIN").double()
    x = torch.randn(3, 2, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(module, x)
    assert torch.autograd.gradcheck(module.eval(), x)


def test_batch_norm_of_a_vector_has_one_channel() -> None:
    module = make(BATCH_NORM.format("eps: 0"), (4,), phase="TRAIN")
    assert module.blobs[0].shape == (1,)
    assert module(torch.tensor([1.0, 3, 1, 3])).tolist() == pytest.approx([-1, 1, -1, 1])


def test_scale_starts_at_one_and_zero() -> None:
    module = make('type: "Scale" scale_param { bias_term: true }', (1, 3, 2, 2))
    assert [blob.tolist() for blob in module.blobs] == [[1] * 3, [0] * 3]


@pytest.mark.parametrize(
    ("param", "shape"),
    [
        pytest.param("", (3,), id="channels"),
        pytest.param("axis: 0", (2,), id="items"),
        pytest.param("axis: -1", (5,), id="the last axis"),
        pytest.param("axis: 1 num_axes: 2", (3, 4), id="two axes"),
        pytest.param("axis: 1 num_axes: -1", (3, 4, 5), id="all axes from 1 on"),
        pytest.param("axis: 0 num_axes: -1", (2, 3, 4, 5), id="all axes"),
        pytest.param("num_axes: 0", (), id="one number"),
    ],
)
@pytest.mark.parametrize("kind", ["Scale", "Bias"])
def test_scale_and_bias_along_axes(kind: str, param: str, shape: tuple[int, ...]) -> None:
    x = torch.randn(2, 3, 4, 5)
    extra = "bias_term: true" if kind == "Scale" else ""
    module = make(f'type: "{kind}" {kind.lower()}_param {{ {param} {extra} }}', x.shape)
    values = [torch.randn(shape) for _ in module.blobs]
    for i, value in enumerate(values):
        module.set_blob(i, value)
    axis = module.layer.axis % 4 if shape else 0
    wide = [v.reshape((1,) * axis + shape + (1,) * (4 - axis - len(shape))) for v in values]
    expected = x * wide[0] + wide[1] if kind == "Scale" else x + wide[0]
    torch.testing.assert_close(module(x), expected)
    # The same from a second bottom.
    pair = make(f'type: "{kind}" {kind.lower()}_param {{ {param} }}', x.shape, shape)
    assert pair.blobs == []
    torch.testing.assert_close(pair(x, values[0]), x * wide[0] if kind == "Scale" else expected)


def test_scale_of_two_bottoms_keeps_its_bias() -> None:
    body = 'type: "Scale" scale_param { bias_term: true bias_filler { value: 5 } }'
    module = make(body, (1, 2, 1, 1), (2,))
    x, factors = torch.ones(1, 2, 1, 1), torch.tensor([2.0, 3.0], requires_grad=True)
    y = module(x, factors)
    assert y.flatten().tolist() == [7, 8]
    assert slope(y, factors) == [1, 1]


def test_scale_gradients() -> None:
    body = 'type: "Scale" scale_param { bias_term: true filler { type: "gaussian" } }'
    module = make(body, (2, 3, 2, 2)).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda x, *blobs: module(x), (x, *module.blobs))


@pytest.mark.parametrize(
    ("body", "shapes"),
    [
        ('type: "Scale" scale_param { axis: 2 num_axes: 3 }', [(1, 2, 3, 4)]),
        ('type: "Scale"', [(1, 2, 3, 4), (3,)]),
        ('type: "Bias" bias_param { axis: 3 }', [(1, 2, 3, 4), (4, 1)]),
        ('type: "Bias" bias_param { num_axes: -2 }', [(1, 2, 3, 4)]),
    ],
)
def test_scale_and_bias_refused(body: str, shapes: list[tuple[int, ...]]) -> None:
    with pytest.raises(CaffeImportError, match="layer 'op'"):
        make(body, *shapes)


def mvn(param: str, x: torch.Tensor, dialect: str = "bvlc") -> torch.Tensor:
    if dialect == "dl1":
        return run(f"type: MVN mvn_param {{ {param} }}", x, dialect=dialect)
    return run(f'type: "MVN" mvn_param {{ {param} }}', x, dialect=dialect)


def test_mvn_adds_eps_to_the_deviation_not_to_the_variance() -> None:
    x = row(1, 3, 1, 3)  # deviation 1
    y = mvn("eps: 1", x)
    assert y.flatten().tolist() == [-0.5, 0.5, -0.5, 0.5]
    # Caffe's slope: (g - mean g - y mean(g y)) / (deviation + eps), for g = (8, 0, 0, 0):
    # mean g = 2, mean(g y) = -1, so (8 - 2 - 0.5) / 2, (0 - 2 + 0.5) / 2, ...
    y.backward(torch.tensor([8.0, 0, 0, 0]).reshape(1, 1, 1, 4))
    assert x.grad.flatten().tolist() == [2.75, -0.75, -1.25, -0.75]


def test_mvn_is_the_plain_gradient_where_eps_is_nothing() -> None:
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    for param in ("eps: 1e-30", "eps: 1e-30 across_channels: true", "normalize_variance: false"):
        module = make(f'type: "MVN" mvn_param {{ {param} }}', x.shape)
        assert torch.autograd.gradcheck(module, x), param


def test_mvn_across_channels() -> None:
    x = torch.tensor([1.0, 3, 5, 7]).reshape(1, 2, 1, 2)
    across = mvn("across_channels: true normalize_variance: false", x)
    assert across.flatten().tolist() == [-3, -1, 1, 3]
    assert mvn("normalize_variance: false", x).flatten().tolist() == [-1, 1, -1, 1]


def test_mvn_top_always_has_four_axes() -> None:
    assert mvn("", torch.ones(2, 3)).shape == (2, 3, 1, 1)


def test_mvn_of_the_v1_fork_passes_gradients_past_the_mean() -> None:
    x = row(1, 2, 3, 6)
    y = mvn("normalize_variance: false", x, dialect="dl1")
    assert y.flatten().tolist() == [-2, -1, 0, 3]
    assert slope(y * row(1, 2, 3, 4).detach(), x) == [1, 2, 3, 4]


def test_lrn_across_channels() -> None:
    x = torch.tensor([1.0, 2, 3]).reshape(1, 3, 1, 1)
    body = 'type: "LRN" lrn_param { local_size: 3 alpha: 3 beta: 1 k: 2 }'
    # 2 + the sum of squares of the neighbours and itself: 7, 16, 15.
    assert run(body, x).flatten().tolist() == pytest.approx([1 / 7, 2 / 16, 3 / 15])


def test_lrn_within_a_channel_takes_k_for_one() -> None:
    body = (
        'type: "LRN" lrn_param { local_size: 3 alpha: 9 beta: 0.5 k: 5'
        " norm_region: WITHIN_CHANNEL }"
    )
    # 1 + the sum of squares in 3 x 3: 6, 15, 14, divided by 9 however many are outside.
    y = run(body, row(1, 2, 3))
    assert y.flatten().tolist() == pytest.approx(
        [1 / math.sqrt(6), 2 / math.sqrt(15), 3 / math.sqrt(14)]
    )


def test_lrn_gradients() -> None:
    x = torch.randn(1, 4, 3, 3, dtype=torch.float64, requires_grad=True)
    for region in ("ACROSS_CHANNELS", "WITHIN_CHANNEL"):
        module = make(f'type: "LRN" lrn_param {{ norm_region: {region} }}', x.shape)
        assert torch.autograd.gradcheck(module, x), region


def test_lrn_refuses_even_sizes() -> None:
    with pytest.raises(CaffeImportError, match="must be odd"):
        make('type: "LRN" lrn_param { local_size: 4 }', (1, 4, 3, 3))
