"""The end of a residual unit, in one pass."""

from __future__ import annotations

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from deeplab_repro.ops._residual import add_relu_

FORMS = (torch.contiguous_format, torch.channels_last)


def maps(dtype: torch.dtype, form: torch.memory_format, of_other: torch.memory_format):
    generator = torch.Generator().manual_seed(0)
    y, other = (torch.randn(2, 5, 31, 7, dtype=dtype, generator=generator) for _ in range(2))
    y[0, 0, 0, :3] = torch.tensor([torch.nan, torch.inf, -torch.inf])
    return y.contiguous(memory_format=form), other.contiguous(memory_format=of_other)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("form", FORMS, ids=str)
@pytest.mark.parametrize("of_other", FORMS, ids=str)
def test_it_is_the_sum_and_the_relu(
    dtype: torch.dtype, form: torch.memory_format, of_other: torch.memory_format
) -> None:
    y, other = maps(dtype, form, of_other)
    expected = (y + other).relu()
    result = add_relu_(y, other)
    assert result is y
    assert y.is_contiguous(memory_format=form)
    torch.testing.assert_close(y, expected, rtol=0, atol=0, equal_nan=True)


def test_vectors_and_broadcasting() -> None:
    torch.testing.assert_close(
        add_relu_(torch.tensor([1.0, -2.0]), torch.ones(2)), torch.tensor([2.0, 0.0])
    )
    torch.testing.assert_close(
        add_relu_(torch.tensor([1.0, -2.0]), torch.ones(1)), torch.tensor([2.0, 0.0])
    )


def test_gradients_pass() -> None:
    x = torch.tensor([1.0, -3.0], requires_grad=True)
    other = torch.tensor([1.0, 1.0], requires_grad=True)
    add_relu_(2 * x, other).sum().backward()
    assert x.grad.tolist() == [2, 0]
    assert other.grad.tolist() == [1, 0]


def test_vmap() -> None:
    y, other = torch.randn(3, 4), torch.randn(3, 4)
    expected = (y + other).relu()
    torch.testing.assert_close(torch.vmap(lambda a, b: add_relu_(a * 1, b))(y, other), expected)


def test_tensors_without_values() -> None:
    with FakeTensorMode():
        y = torch.empty(2, 3, 4, 5)
        assert add_relu_(y, torch.empty(2, 3, 4, 5)) is y


def test_the_op_refuses_what_does_not_fit() -> None:
    y, other = maps(torch.float32, *FORMS)
    with pytest.raises(RuntimeError, match="both be contiguous, or both channels last"):
        torch.ops.deeplab_repro.add_relu_(y, other)
    with pytest.raises(RuntimeError, match="shape"):
        torch.ops.deeplab_repro.add_relu_(y, torch.ones(2))
    with pytest.raises(RuntimeError, match="dtype"):
        torch.ops.deeplab_repro.add_relu_(y, y.double())
