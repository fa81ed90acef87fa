"""Eltwise and SpatialProduct."""

from __future__ import annotations

import pytest
import torch

from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import make, row, run, slope


def eltwise(*bottoms: torch.Tensor, param: str = "") -> torch.Tensor:
    return run(f'type: "Eltwise" eltwise_param {{ {param} }}', *bottoms)


def test_sum_is_the_default() -> None:
    assert eltwise(row(1, 2), row(10, 20), row(100, 200)).flatten().tolist() == [111, 222]


def test_sum_with_coefficients() -> None:
    a, b = row(1, 2), row(10, 20)
    y = eltwise(a, b, param="coeff: 1 coeff: -2")
    assert y.flatten().tolist() == [-19, -38]
    assert slope(eltwise(a, b, param="coeff: 3 coeff: -2"), b) == [-2, -2]


def test_max_gives_a_tie_to_the_second_of_the_first_two_then_to_the_earlier() -> None:
    # Columns: 0 largest, 1 largest, 2 largest, 0 = 1, 1 = 2, all equal.
    a, b, c = row(3, 1, 1, 2, 1, 5), row(1, 3, 1, 2, 4, 5), row(2, 2, 3, 1, 4, 5)
    y = eltwise(a, b, c, param="operation: MAX")
    assert y.flatten().tolist() == [3, 3, 3, 2, 4, 5]
    grads = torch.autograd.grad(y.sum(), (a, b, c))
    assert [g.flatten().tolist() for g in grads] == [
        [1, 0, 0, 0, 0, 0],
        [0, 1, 0, 1, 1, 1],
        [0, 0, 1, 0, 0, 0],
    ]


def test_product_is_stable_by_default() -> None:
    a, b, c = row(0, 2), row(3, 3), row(5, 5)
    y = eltwise(a, b, c, param="operation: PROD")
    assert y.flatten().tolist() == [0, 30]
    assert slope(y, a) == [15, 15]


def test_product_divides_when_told_to() -> None:
    a, b = row(0, 2), row(3, 3)
    y = eltwise(a, b, param="operation: PROD stable_prod_grad: false")
    grad = torch.tensor(slope(y, a))
    assert grad[0].isnan()
    assert grad[1] == 3


@pytest.mark.parametrize(
    ("param", "shapes", "message"),
    [
        ("", [(1, 2, 3, 3), (1, 2, 3, 4)], "bottom 1 is not shaped like bottom 0"),
        ("coeff: 1", [(1, 1, 1, 1)] * 2, "one coeff per bottom"),
        ("operation: PROD coeff: 1 coeff: 1", [(1, 1, 1, 1)] * 2, "PROD takes no coeff"),
        ("", [(1, 1, 1, 1)], "wrong number of bottoms"),
    ],
)
def test_refused(param: str, shapes: list[tuple[int, ...]], message: str) -> None:
    with pytest.raises(CaffeImportError, match=message):
        make(f'type: "Eltwise" eltwise_param {{ {param} }}', *shapes)


def test_spatial_product() -> None:
    x = torch.tensor([1.0, 2, 3, 4]).reshape(1, 2, 1, 2).requires_grad_()
    weight = row(10, 100)
    y = run('type: "SpatialProduct"', x, weight, dialect="dl2")
    assert y.flatten().tolist() == [10, 200, 30, 400]
    assert slope(y, weight) == [4, 6]


def test_spatial_product_refuses_several_weights_a_pixel() -> None:
    with pytest.raises(CaffeImportError, match="bottom 1"):
        make('type: "SpatialProduct"', (1, 2, 3, 3), (1, 2, 3, 3), dialect="dl2")
