"""What is added to a convolution before its activation, in one pass where that is there."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch._subclasses.fake_tensor import FakeTensorMode

from deeplab_repro.native import backends
from deeplab_repro.ops import AtrousConv2d, atrous_conv2d
from deeplab_repro.ops._atrous_rules import ALGORITHMS

OPS = torch.ops.deeplab_repro
FORMS = (torch.contiguous_format, torch.channels_last)
ACTIVATIONS: dict[str | None, Callable] = {
    None: lambda y: y,
    "relu": torch.relu,
    "relu6": lambda y: y.clamp(0, 6),
}
native = pytest.mark.skipif(not backends.has_cpu(), reason="the CPU kernels are not loaded")


def operands(kernel: int = 1, dtype: torch.dtype = torch.float32) -> tuple[torch.Tensor, ...]:
    """x, weight, bias, shortcut."""
    generator = torch.Generator().manual_seed(0)
    shapes = ((2, 40, 9, 11), (35, 40, kernel, kernel), (35,), (2, 35, 9, 11))
    return tuple(torch.randn(shape, dtype=dtype, generator=generator) for shape in shapes)


def expected(x, weight, bias, shortcut, activation: str | None) -> torch.Tensor:
    """In float64."""
    y = F.conv2d(x.double(), weight.double(), bias.double(), padding=weight.shape[2] // 2)
    return ACTIVATIONS[activation](y + shortcut.double())


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("kernel", [1, 3])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("form", FORMS, ids=str)
def test_every_algorithm_adds_it(
    algorithm: str, kernel: int, activation: str | None, form: torch.memory_format
) -> None:
    x, weight, bias, shortcut = operands(kernel)
    kept = shortcut.clone()
    given = x.contiguous(memory_format=form)
    how: dict[str, Any] = {"padding": kernel // 2, "algorithm": algorithm, "activation": activation}
    with torch.inference_mode():
        y = atrous_conv2d(given, weight, bias, shortcut=shortcut, **how)
    assert y.is_contiguous(memory_format=form)
    reference = expected(x, weight, bias, shortcut, activation)
    torch.testing.assert_close(y.double(), reference, rtol=1e-5, atol=2e-5)
    assert shortcut.equal(kept)


def test_relu_before_the_convolution() -> None:
    x, weight, bias, shortcut = operands()
    y = atrous_conv2d(
        x.contiguous(memory_format=torch.channels_last),
        weight,
        bias,
        shortcut=shortcut,
        algorithm="direct",
        pre_activation="relu",
        activation="relu",
    )
    reference = expected(x.relu(), weight, bias, shortcut, "relu")
    torch.testing.assert_close(y.double(), reference, rtol=1e-5, atol=1e-5)


@native
def test_filters_of_one_tap_do_it_in_their_pass(monkeypatch: pytest.MonkeyPatch) -> None:
    x, weight, bias, shortcut = operands()
    x = x.contiguous(memory_format=torch.channels_last)
    calls = []

    def spy(*args: Any) -> torch.Tensor:
        calls.append(args)
        return spied(*args)

    spied = OPS.pointwise_conv2d
    monkeypatch.setattr(OPS, "pointwise_conv2d", spy)
    atrous_conv2d(x, weight, bias, shortcut=shortcut, activation="relu", algorithm="direct")
    assert len(calls) == 1
    atrous_conv2d(x.contiguous(), weight, bias, shortcut=shortcut, algorithm="direct")
    assert len(calls) == 1


@pytest.mark.parametrize("algorithm", ["auto", "direct", "library"])
def test_gradients(algorithm: str) -> None:
    given = [t.requires_grad_() for t in operands(dtype=torch.float64)]
    x, weight, bias, shortcut = given
    y = atrous_conv2d(x, weight, bias, shortcut=shortcut, algorithm=algorithm, activation="relu")
    grad = torch.randn_like(y)
    ours = torch.autograd.grad(y, given, grad)
    theirs = torch.autograd.grad(expected(x, weight, bias, shortcut, "relu"), given, grad)
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other)


def test_gradient_of_the_shortcut_alone() -> None:
    x, weight, bias, shortcut = operands()
    y = atrous_conv2d(x, weight, bias, shortcut=shortcut.requires_grad_())
    (grad,) = torch.autograd.grad(y.sum(), shortcut)
    assert grad.equal(torch.ones_like(shortcut))


def test_vmap_autocast_arrays_and_tensors_without_values() -> None:
    x, weight, bias, shortcut = operands()
    reference = atrous_conv2d(x, weight, bias, shortcut=shortcut)

    mapped = torch.vmap(lambda one, add: atrous_conv2d(one[None], weight, bias, shortcut=add[None]))
    torch.testing.assert_close(mapped(x, shortcut)[:, 0], reference)

    with torch.autocast("cpu", torch.bfloat16):
        half = atrous_conv2d(x, weight, bias, shortcut=shortcut)
    assert half.dtype == torch.bfloat16
    torch.testing.assert_close(half.float(), reference, rtol=0.05, atol=0.2)

    arrays = [t.numpy() for t in (x, weight, bias)]
    y = atrous_conv2d(*arrays, shortcut=shortcut.numpy())
    assert isinstance(y, np.ndarray)
    np.testing.assert_allclose(y, reference.numpy(), rtol=1e-5, atol=1e-5)

    with FakeTensorMode():
        fake = torch.empty(2, 40, 9, 11).contiguous(memory_format=torch.channels_last)
        how = {"shortcut": torch.empty(2, 35, 9, 11), "algorithm": "direct"}
        assert atrous_conv2d(fake, torch.empty(35, 40, 1, 1), **how).shape == (2, 35, 9, 11)


@pytest.mark.slow
def test_compiled_and_exported() -> None:
    x, weight, bias, shortcut = operands()
    layer = AtrousConv2d(40, 35, 1, activation="relu").eval()
    with torch.no_grad():
        layer.weight.copy_(weight)
        layer.bias.copy_(bias)
        reference = layer(x, shortcut)
        program = torch.export.export(layer, (x, shortcut)).module()
        torch.testing.assert_close(program(x, shortcut), reference)
        compiled = torch.compile(layer, backend="aot_eager")
        torch.testing.assert_close(compiled(x, shortcut), reference)


@pytest.mark.parametrize(
    ("shortcut", "message"),
    [
        (torch.ones(2, 35, 9, 10), r"shortcut must have y's shape \(2, 35, 9, 11\), got \(2, 35"),
        (torch.ones(35), "shortcut must have y's shape"),
        (torch.ones(2, 35, 9, 11).double(), "shortcut must have x's dtype torch.float32, got"),
        (torch.ones(2, 35, 9, 11, device="meta"), "shortcut must be on x's device cpu, got meta"),
        (1.0, "shortcut must be a tensor or None, got float"),
    ],
)
def test_what_cannot_be_added(shortcut: Any, message: str) -> None:
    with pytest.raises((TypeError, ValueError), match=message):
        atrous_conv2d(*operands()[:3], shortcut=shortcut)


@native
def test_the_op_refuses_what_does_not_fit() -> None:
    x, weight, bias, shortcut = operands()
    tail = ((1, 1), False)
    with pytest.raises(RuntimeError, match=r"weight must have shape \(K, 40, 1, 1\), got"):
        OPS.pointwise_conv2d(x, operands(3)[1], bias, shortcut, *tail)
    with pytest.raises(RuntimeError, match="shortcut must have the shape of the result"):
        OPS.pointwise_conv2d(x, weight, bias, shortcut[:1], *tail)
    with pytest.raises(RuntimeError, match="dtype"):
        OPS.pointwise_conv2d(x, weight, bias, shortcut.double(), *tail)
    with pytest.raises(RuntimeError, match=r"bias must have shape \(35\)"):
        OPS.pointwise_conv2d(x, weight, bias[:3], shortcut, *tail)
    with pytest.raises(RuntimeError, match="stride must be two ints"):
        OPS.pointwise_conv2d(x, weight, bias, shortcut, (0, 1), False)
