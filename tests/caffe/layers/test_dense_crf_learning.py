"""The DenseCRF layer with ``param`` entries: blobs, their gradients, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.crf import Bilateral, CRFParams, DenseCRF
from prototxt_import import CaffeImportError
from tests.caffe.layers.one_layer import layer, make

START = CRFParams(3, 2, 2, 4, 5, 60, (Bilateral(1, 3, 20),))
FIELDS = (
    "max_iter: 3 pos_w: 2 pos_xy_std: 2 bi_w: 4 bi_xy_std: 5 bi_rgb_std: 60"
    " bi_w: 1 bi_xy_std: 3 bi_rgb_std: 20"
)
WORDS = "weights", "stds", "compatibility"
SHAPES = (2, 4, 6, 9), (2, 1, 1, 2), (2, 3, 6, 9)


def learning(entries: int, fields: str = FIELDS, **options: Any) -> CaffeLayer:
    body = f'type: "DenseCRF" {"param { } " * entries} dense_crf_param {{ {fields} }}'
    return make(body, *options.pop("shapes", SHAPES), dialect="dl2", **options)


@pytest.fixture
def bottoms() -> tuple[Tensor, Tensor, Tensor]:
    random = torch.Generator().manual_seed(0)
    scores, _, image = (torch.rand(shape, generator=random) for shape in SHAPES)
    return scores * 4, torch.tensor([6.0, 9.0] * 2).view(2, 1, 1, 2), image * 255 - 110


def test_blobs_and_gradients_are_those_of_the_module(bottoms: tuple[Tensor, ...]) -> None:
    """Weights, logarithms of stds, compatibility; each item on its own picture, with no warning."""
    scores, sizes, image = bottoms
    ours = learning(3, f"{FIELDS} output_probability: false")
    theirs = DenseCRF(
        START, learn=["weights", "stds", "compatibility"], labels=4,
        expnorm="exact", padding_points=True,
    )  # fmt: skip
    assert [tuple(blob.shape) for blob in ours.blobs] == [(3,), (5,), (4, 4)]
    wanted = theirs.weights, theirs.log_stds, theirs.compatibility
    for found, expected in zip(ours.blobs, wanted, strict=True):
        assert expected is not None
        torch.testing.assert_close(found, expected)
    found = [scores.clone().requires_grad_(), *ours.blobs]
    expected = [scores.clone().requires_grad_(), *wanted]
    weighting = torch.rand(scores.shape)
    log = ours(found[0], sizes, image)
    (log * weighting).sum().backward()
    (theirs(-expected[0], image, output="log") * weighting).sum().backward()
    for one, other in zip(found, expected, strict=True):
        assert one.grad is not None
        assert one.grad.abs().min() > 0
        torch.testing.assert_close(one.grad, other.grad, rtol=1e-3, atol=1e-5)
    assert ours.crf_params() == theirs.learned_params() != CRFParams()


@pytest.mark.slow
def test_gradients_against_finite_differences() -> None:
    """In float64, with steps that must not go over a face of a simplex of the lattice."""
    shapes = (1, 3, 4, 5), (1, 1, 1, 2), (1, 3, 4, 5)
    module = learning(3, shapes=shapes).double()
    random = torch.Generator().manual_seed(1)
    scores, _, image = (torch.rand(s, generator=random, dtype=torch.float64) for s in shapes)
    sizes = torch.tensor([4.0, 5.0]).view(1, 1, 1, 2)

    def marginals(scores: Tensor, *blobs: Tensor) -> Any:
        values = {str(i): blob for i, blob in enumerate(blobs)}
        return torch.func.functional_call(module, values, (scores, sizes, image * 255))

    inputs = [scores * 3, *(blob.detach() + 0.01 for blob in module.blobs)]
    assert torch.autograd.gradcheck(
        marginals, [value.requires_grad_() for value in inputs], eps=1e-7, atol=1e-5
    )


def test_as_many_blobs_as_entries(bottoms: tuple[Tensor, ...]) -> None:
    """At first it gives what the layer without entries gives, but for the tiniest probabilities."""
    plain = learning(0, quirks=False)
    assert plain.blobs == []
    expected = plain(*bottoms)
    for entries in (1, 2, 3):
        module = learning(entries)
        assert len(module.blobs) == entries
        torch.testing.assert_close(module(*bottoms), expected, rtol=1e-4, atol=1e-6)
        assert module.layer.describe() == f"DenseCRF, learns {', '.join(WORDS[:entries])}"
    assert plain.layer.describe() == "DenseCRF"
    # Without a picture the bilateral kernels take no part, so that there is nothing to learn.
    spatial = learning(2, shapes=SHAPES[:2])
    assert [tuple(blob.shape) for blob in spatial.blobs] == [(1,), (1,)]
    assert spatial.crf_params().weights == (2, 0)


@pytest.mark.parametrize(
    ("entries", "fields", "message"),
    [
        (4, FIELDS, "has more param entries than parameters; expected at most 3, got 4"),
        (1, "max_iter: 3", r"has param entries, but no kernel \(pos_w, bi_w\) to learn"),
        (2, "pos_w: 3 pos_xy_std: -2", "learns logarithms of stds; expected positive stds, got -2"),
    ],
)
def test_refused_in_one_line(entries: int, fields: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=f"layer 'op'.*{message}") as caught:
        learning(entries, fields).layer.blobs  # noqa: B018 - whose making raises
    assert "\n" not in str(caught.value)


def test_the_first_fork_gives_no_logarithms() -> None:
    body = f"type: DENSE_CRF blobs_lr: 1 dense_crf_param {{ {FIELDS} }}"
    with pytest.raises(CaffeImportError, match="learns in the current format only"):
        layer(body, *SHAPES, dialect="dl1")


def test_several_spatial_kernels_are_no_crf_params() -> None:
    fields = "pos_w: 3 pos_xy_std: 2 pos_w: 1 pos_xy_std: 9"
    with pytest.raises(CaffeImportError, match="cannot be told as CRFParams; expected one spatial"):
        learning(2, fields, shapes=SHAPES[:2]).crf_params()
