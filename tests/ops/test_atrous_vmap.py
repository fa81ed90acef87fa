"""torch.vmap over atrous_conv2d and over its gradients, against a loop over the examples."""

from __future__ import annotations

import pytest
import torch

from deeplab_repro.ops import ALGORITHMS, atrous_conv2d
from tests.ops.atrous_conv2d_cases import CASES, make

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

COUNT = 3
NAMES = ("unequal pairs", "groups", "stride 2 at rate 3")
#: Where the examples of x, weight and bias are; None: the same for all.
DIMS = [
    (0, None, None), (2, None, None), (None, 0, None), (None, 1, 0), (0, 0, None), (1, 0, 0),
    (None, None, 0), (0, None, 0), (4, 4, 1),
]  # fmt: skip


def examples(case, dims):
    """x, weight and bias, those with a dim COUNT times along it."""
    generator = torch.Generator().manual_seed(1)
    found = []
    for tensor, dim in zip(make(case)[:3], dims, strict=True):
        if dim is None:
            found.append(tensor)
        else:
            noise = torch.randn(COUNT, *tensor.shape, generator=generator, dtype=tensor.dtype)
            found.append((tensor + noise).movedim(0, dim))
    return found


def one_by_one(function, tensors, dims):
    """What vmap should give: the examples in a loop."""
    results = []
    for i in range(COUNT):
        picked = [t if d is None else t.select(d, i) for t, d in zip(tensors, dims, strict=True)]
        results.append(function(*picked))
    if isinstance(results[0], tuple):
        return tuple(map(torch.stack, zip(*results, strict=True)))
    return torch.stack(results)


@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("dims", DIMS, ids=str)
@pytest.mark.parametrize("name", NAMES)
def test_forward(name, dims, algorithm):
    case = CASES[name]
    tensors = examples(case, dims)

    def op(x, weight, bias):
        return atrous_conv2d(x, weight, bias, *case.how, algorithm=algorithm, activation="relu")

    torch.testing.assert_close(torch.vmap(op, dims)(*tensors), one_by_one(op, tensors, dims))


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ["auto", *ALGORITHMS])
@pytest.mark.parametrize("dims", DIMS, ids=str)
def test_gradients_of_each_example(dims, algorithm):
    case = CASES["groups"]
    tensors = examples(case, dims)

    def loss(x, weight, bias):
        y = atrous_conv2d(x, weight, bias, *case.how, algorithm=algorithm, activation="relu")
        return y.square().sum()

    grad = torch.func.grad(loss, argnums=(0, 1, 2))
    torch.testing.assert_close(torch.vmap(grad, dims)(*tensors), one_by_one(grad, tensors, dims))


def test_gradient_of_vmap_and_vmap_of_vmap():
    case = CASES["unequal pairs"]
    x, weight, bias = examples(case, (0, 0, 0))

    def op(x, weight, bias):
        return atrous_conv2d(x, weight, bias, *case.how, algorithm="direct")

    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    both = (torch.vmap(op)(*leaves), torch.stack([op(*one) for one in zip(*leaves, strict=True)]))
    grads = [torch.autograd.grad(y.square().sum(), leaves) for y in both]
    torch.testing.assert_close(*grads)
    every = torch.vmap(torch.vmap(op, (None, 0, 0)), (0, None, None))(x, weight, bias)
    for i in range(COUNT):
        for j in range(COUNT):
            torch.testing.assert_close(every[i, j], op(x[i], weight[j], bias[j]))


@pytest.mark.slow
def test_second_derivatives_of_each_example():
    case = CASES["plain"]
    x, weight, bias = examples(case, (0, None, None))

    def penalty(x):
        grad = torch.func.grad(
            lambda x: atrous_conv2d(x, weight, bias, *case.how, algorithm="direct").pow(3).sum()
        )
        return grad(x).square().sum()

    ours = torch.vmap(torch.func.grad(penalty))(x)
    torch.testing.assert_close(ours, torch.stack([torch.func.grad(penalty)(one) for one in x]))
