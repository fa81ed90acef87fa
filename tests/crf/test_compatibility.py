"""What may be written for the compatibility."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from deeplab_repro.crf import CRFParams, DenseCRF, dense_crf, dense_crf_features

PARAMS = CRFParams(iterations=2, pos_w=2, pos_xy_std=2, bi_w=3, bi_xy_std=6, bi_rgb_std=20)
UNARY = torch.randn(1, 3, 5, 6, generator=torch.Generator().manual_seed(1)) * 2
IMAGE = torch.randint(0, 256, (1, 3, 5, 6), generator=torch.Generator().manual_seed(2))
ROWS = [[-1.0, 0.5, 0.25], [0.0, -2, 1], [0.125, 0, -1]]


def refined(compatibility):
    return dense_crf(UNARY, IMAGE, PARAMS, compatibility)


@pytest.mark.parametrize(
    ("given", "same"),
    [
        (1.0, None),
        (1, None),
        (np.float32(1), None),
        (torch.tensor(1.0), None),
        (1.5, torch.tensor([-1.5, -1.5, -1.5])),
        ([-1, -2.0, np.float32(0.5)], torch.tensor([-1, -2, 0.5])),
        ((-1, -2, -3), torch.tensor([-1.0, -2, -3])),
        (ROWS, torch.tensor(ROWS)),
        (np.array(ROWS), torch.tensor(ROWS)),
        (torch.tensor(ROWS).double(), torch.tensor(ROWS)),
        (np.array([-1, -2, -3]), torch.tensor([-1.0, -2, -3])),
        ([2.0, None], [torch.full((3,), -2.0), None]),
        ([None, ROWS], [None, torch.tensor(ROWS)]),
        ([np.array([-1.0, -2, -3]), None], [torch.tensor([-1.0, -2, -3]), None]),
    ],
    ids=str,
)
def test_numbers_lists_and_arrays(given, same):
    ours = refined(given)
    torch.testing.assert_close(ours, refined(same), rtol=0, atol=1e-6)
    if same is not None:
        assert not torch.allclose(ours, refined(None), atol=1e-3)
    features = [torch.randn(2, 5, 6)] * 2
    by_features = [
        dense_crf_features(UNARY, features, [1, 2], mu, iterations=1) for mu in (given, same)
    ]
    torch.testing.assert_close(*by_features, rtol=0, atol=1e-6)


@pytest.mark.parametrize("given", [None, 0.5, [-1, -2, -3], ROWS, np.array(ROWS)], ids=str)
def test_the_module(given):
    crf = DenseCRF(PARAMS, given)
    assert torch.equal(crf(UNARY, IMAGE), refined(given))
    again = DenseCRF(PARAMS, given)
    again.load_state_dict(crf.state_dict())
    assert crf.half()(UNARY, IMAGE).dtype == torch.float32


def test_a_number_is_where_learning_starts():
    crf = DenseCRF(PARAMS, 0.5, learn="compatibility", labels=3)
    assert torch.equal(crf.compatibility, -0.5 * torch.eye(3))
    with pytest.raises(ValueError, match="give labels"):
        DenseCRF(PARAMS, 0.5, learn="compatibility")


def test_a_tensor_without_axes_is_learned():
    number = torch.tensor(0.5, requires_grad=True)
    (grad,) = torch.autograd.grad(refined(number)[:, 0].sum(), number)
    step = 1e-2
    difference = (refined(0.5 + step) - refined(0.5 - step))[:, 0].sum() / (2 * step)
    assert grad.item() == pytest.approx(difference.item(), rel=1e-2)


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ("potts", TypeError, "a number, or an array or lists of real numbers, got 'potts'"),
        (True, TypeError, "got True"),
        (1j, TypeError, "got 1j"),
        (float("nan"), ValueError, "must be finite, got nan"),
        ([1.0, 2.0], ValueError, r"None, a number, \(3,\) or \(3, 3\), got \(2,\)"),
        ([[1.0, 2, 3]], ValueError, r"\(3,\) or \(3, 3\), got \(1, 3\)"),
        ([[1.0, 2], [3]], ValueError, "rows of different lengths"),
        (torch.eye(3) > 0, TypeError, "got a torch.bool tensor"),
        (np.array(["a"]), TypeError, "got a <U1 array"),
        (torch.zeros(3, 3, 3), ValueError, r"got \(3, 3, 3\)"),
        ([None, "potts"], TypeError, "got 'potts'"),
        ([None], ValueError, "one entry for each of 2 kernels"),
        ([], ValueError, "one entry for each of 2 kernels"),
    ],
    ids=str,
)
def test_everything_else_is_refused(given, error, message):
    with pytest.raises(error, match=message) as raised:
        refined(given)
    assert "\n" not in str(raised.value)


def test_the_module_refuses_a_list_for_each_kernel():
    with pytest.raises(TypeError, match="DenseCRF: compatibility must be None, a number"):
        DenseCRF(PARAMS, [None, 1.0])
