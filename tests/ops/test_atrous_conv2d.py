"""deeplab_repro.ops.atrous_conv2d: its rule against loops, and its checks."""

import itertools

import pytest
import torch

from deeplab_repro.ops import atrous_conv2d


def loops(x, weight, bias, stride, padding, rate, groups):
    """Tap by tap, in float64; a tap outside the map counts as zero."""
    n, _, h, w = x.shape
    k, c, r, s = weight.shape
    out_h = (h + 2 * padding[0] - rate[0] * (r - 1) - 1) // stride[0] + 1
    out_w = (w + 2 * padding[1] - rate[1] * (s - 1) - 1) // stride[1] + 1
    y = torch.zeros(n, k, out_h, out_w, dtype=x.dtype)
    for b, f, i, j in itertools.product(range(n), range(k), range(out_h), range(out_w)):
        total = bias[f].clone()
        first = f // (k // groups) * c
        for q, u, v in itertools.product(range(c), range(r), range(s)):
            row = i * stride[0] - padding[0] + u * rate[0]
            column = j * stride[1] - padding[1] + v * rate[1]
            if 0 <= row < h and 0 <= column < w:
                total += weight[f, q, u, v] * x[b, first + q, row, column]
        y[b, f, i, j] = total
    return y


CASES = {
    "plain": ((1, 2, 5, 6), (3, 2, 3, 3), (1, 1), (0, 0), (1, 1), 1),
    "same size at rate 2": ((2, 2, 5, 6), (3, 2, 3, 3), (1, 1), (2, 2), (2, 2), 1),
    "rate beyond the map": ((1, 1, 3, 3), (1, 1, 3, 3), (1, 1), (6, 6), (6, 6), 1),
    "stride 2, odd size": ((1, 2, 7, 5), (2, 2, 3, 3), (2, 2), (1, 1), (1, 1), 1),
    "unequal pairs": ((1, 2, 7, 9), (2, 2, 2, 3), (1, 2), (0, 3), (3, 2), 1),
    "groups": ((1, 4, 5, 5), (6, 2, 3, 3), (1, 1), (2, 2), (2, 2), 2),
    "empty batch": ((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), (1, 1), (1, 1), 1),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_agrees_with_loops(case):
    x_shape, w_shape, *how = case
    generator = torch.Generator().manual_seed(3)
    x, weight, bias = (
        torch.randn(s, generator=generator, dtype=torch.float64)
        for s in (x_shape, w_shape, w_shape[:1])
    )
    torch.testing.assert_close(atrous_conv2d(x, weight, bias, *how), loops(x, weight, bias, *how))


def test_int_means_both_axes():
    x, weight = torch.randn(1, 1, 9, 9), torch.randn(1, 1, 3, 3)
    assert atrous_conv2d(x, weight, None, 2, 1, 2).equal(
        atrous_conv2d(x, weight, None, (2, 2), [1, 1], (2, 2))
    )


X, W = torch.ones(1, 2, 5, 5), torch.ones(4, 2, 3, 3)


@pytest.mark.parametrize(
    ("error", "message", "call"),
    [
        (ValueError, r"x must have shape \(N, C, H, W\)", lambda: atrous_conv2d(X[0], W)),
        (ValueError, r"weight must have shape \(K, C, R, S\)", lambda: atrous_conv2d(X, W[0])),
        (TypeError, "x must be floating point", lambda: atrous_conv2d(X.int(), W.int())),
        (ValueError, "needs x with 1 channels", lambda: atrous_conv2d(X, W[:, :1])),
        (ValueError, "groups must divide", lambda: atrous_conv2d(X, W, groups=3)),
        (ValueError, r"bias must have shape \(4,\)", lambda: atrous_conv2d(X, W, W[0, 0, 0])),
        (TypeError, "weight must have x's dtype", lambda: atrous_conv2d(X, W.double())),
        (ValueError, "rate must be an int >= 1", lambda: atrous_conv2d(X, W, rate=0)),
        (ValueError, "stride must be an int >= 1", lambda: atrous_conv2d(X, W, stride=(1, 1, 1))),
        (ValueError, "padding must be an int >= 0", lambda: atrous_conv2d(X, W, padding=-1)),
        (ValueError, "spans 7 pixels in H at rate 3", lambda: atrous_conv2d(X, W, rate=3)),
    ],
)
def test_error_names_the_argument(error, message, call):
    with pytest.raises(error, match=message):
        call()
