"""The CRF inside torch.compile and torch.export: one graph, the same values, the same errors."""

from __future__ import annotations

import io

import pytest
import torch
from torch import Tensor

from deeplab_repro.crf import CRFParams, DenseCRF, dense_crf, dense_crf_features
from deeplab_repro.crf.features import bilateral_features

pytestmark = pytest.mark.slow  # each compiles

PARAMS = CRFParams(iterations=2, pos_w=2, pos_xy_std=2, bi_w=3, bi_xy_std=6, bi_rgb_std=20)


@pytest.fixture(autouse=True)
def fresh_compiler():
    torch.compiler.reset()


def problem(batch: int = 2, size: tuple[int, int] = (5, 6)) -> tuple[Tensor, Tensor]:
    image = torch.randint(0, 256, (batch, 3, *size), dtype=torch.uint8)
    return torch.randn(batch, 3, *size) * 2, image


def compiled(function, **options):
    return torch.compile(function, backend="aot_eager", fullgraph=True, **options)


@pytest.mark.parametrize("output", ["marginals", "labels", "log"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
def test_one_graph_of_the_same_values(output, dtype):
    unary, image = problem()

    def refined(unary, image):
        return dense_crf(unary, image, PARAMS, compatibility=1.5, output=output)

    args = unary.to(dtype), image
    assert torch.equal(compiled(refined)(*args), refined(*args))


def test_every_option():
    unary, image = problem()
    mu = torch.randn(3, 3)

    def refined(unary, image, mu):
        return dense_crf(
            unary, image, PARAMS, [None, mu], ["after", "symmetric"], 0.7,
            expnorm="exact", padding_points=True, energies=True,
        )  # fmt: skip

    q, energies = compiled(refined)(unary, image, mu)
    expected, terms = refined(unary, image, mu)
    assert torch.equal(q, expected)
    assert all(torch.equal(a, b) for a, b in zip(energies, terms, strict=True))


def test_features():
    unary, image = problem()

    def refined(unary, features):
        return dense_crf_features(unary, [features, features[0]], [1.0, 2.0], iterations=2)

    features = bilateral_features(image, 6, 20, dtype=torch.float32)
    assert torch.equal(compiled(refined)(unary, features), refined(unary, features))


@pytest.mark.parametrize("axes", [0, 1, 2])
def test_gradients(axes):
    unary, image = problem()
    inputs = [unary, torch.tensor([0.7, 1.3]), *([torch.randn((3,) * axes)] if axes else [])]
    inputs = [tensor.requires_grad_() for tensor in inputs]

    def loss(unary, weights, *mu):
        q = dense_crf(unary, image, PARAMS, mu[0] if mu else None, relaxation=0.8, weights=weights)
        return (q[:, 0] * 3 + q[:, 1]).square().sum()

    ours = torch.autograd.grad(compiled(loss)(*inputs), inputs)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(*inputs), inputs))


def test_one_graph_for_every_size():
    refine = compiled(lambda unary, image: dense_crf(unary, image, PARAMS), dynamic=True)
    refine(*problem(2, (5, 6)))
    with torch.compiler.set_stance("fail_on_recompile"):
        for batch, size in ((3, (9, 7)), (4, (8, 11))):
            unary, image = problem(batch, size)
            assert torch.equal(refine(unary, image), dense_crf(unary, image, PARAMS))


def test_a_layer_learns_inside_a_compiled_network():
    unary, image = problem()
    crf = DenseCRF(PARAMS, learn=["weights", "compatibility"], labels=3)
    network = torch.nn.Conv2d(3, 3, 1)
    target = torch.zeros(2, 5, 6, dtype=torch.int64)

    def loss(scores):
        log = crf(-network(scores), image, output="log")
        return torch.nn.functional.nll_loss(log, target)

    parameters = [*network.parameters(), *crf.parameters()]
    ours = torch.autograd.grad(compiled(loss)(unary), parameters)
    torch.testing.assert_close(ours, torch.autograd.grad(loss(unary), parameters))


def test_errors_are_those_of_eager():
    unary, image = problem()
    refine = compiled(lambda unary, image: dense_crf(unary, image, PARAMS))
    refine(unary, image)
    unary[0, 1, 2, 3] = torch.nan
    with pytest.raises(ValueError, match="dense_crf: unary holds NaN"):
        refine(unary, image)
    small = CRFParams(pos_xy_std=1e-4)
    with pytest.raises(ValueError, match=r"the spatial kernel \(pos_xy_std 0.0001\).*limit"):
        compiled(lambda unary, image: dense_crf(unary, image, small))(*problem())


@pytest.mark.parametrize("strict", [False, True])
def test_exports_and_comes_back_from_a_file(strict):
    unary, image = problem()
    crf = DenseCRF(PARAMS, [0.5, 1.0, 1.5])
    sizes = {0: torch.export.Dim("n"), 2: torch.export.Dim("h"), 3: torch.export.Dim("w")}
    program = torch.export.export(
        crf, (unary, image), dynamic_shapes=(sizes, sizes, None)[:2], strict=strict
    )
    file = io.BytesIO()
    torch.export.save(program, file)
    file.seek(0)
    loaded = torch.export.load(file).module()
    for args in ((unary, image), problem(3, (9, 7))):
        assert torch.equal(loaded(*args), crf(*args))


def test_the_op_is_what_it_says():
    """Schema, fake tensors, and the autograd registration."""
    unary, image = problem()
    position = torch.empty(1, 0, 5, 6)
    args = [
        unary.requires_grad_(), torch.tensor([2.0, 3.0]).requires_grad_(),
        [torch.empty(0), torch.randn(3, 3, requires_grad=True)], "dense_crf", ["a", "b"],
        [position, image],
        [2.0, 2.0, 6.0, 6.0, 20.0, 20.0, 20.0], ["after", "none"], 0.8, 2, "exact", False, True,
    ]  # fmt: skip
    torch.library.opcheck(torch.ops.deeplab_repro.dense_crf.default, args)


def test_inductor():
    unary, image = problem()
    unary.requires_grad_()

    def refined(unary, image):
        return dense_crf(unary * 2, image, PARAMS, output="log").exp() + 1

    ours, expected = torch.compile(refined, fullgraph=True)(unary, image), refined(unary, image)
    torch.testing.assert_close(ours, expected)
    torch.testing.assert_close(
        *(torch.autograd.grad(y[:, 0].sum(), unary)[0] for y in (ours, expected))
    )
