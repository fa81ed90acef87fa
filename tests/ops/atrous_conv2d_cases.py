"""Geometries and oracle of the atrous convolution's tests, on every device."""

from __future__ import annotations

import itertools
import random
from typing import NamedTuple

import torch

from deeplab_repro.parity.tolerances import CLOSE


class Case(NamedTuple):
    """x (N, C, H, W), weight (K, C / groups, R, S); pairs are (h, w)."""

    x: tuple[int, int, int, int]
    weight: tuple[int, int, int, int]
    stride: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    rate: tuple[int, int] = (1, 1)
    groups: int = 1

    @property
    def window(self):
        """The arguments behind kernel_size of the column ops."""
        return list(self.stride), list(self.padding), list(self.rate)

    @property
    def how(self):
        """The arguments behind bias of atrous_conv2d."""
        return self.stride, self.padding, self.rate, self.groups

    @property
    def out(self):
        """(H', W')."""
        return tuple(
            (self.x[2 + i] + 2 * self.padding[i] - self.rate[i] * (self.weight[2 + i] - 1) - 1)
            // self.stride[i]
            + 1
            for i in range(2)
        )

    @property
    def y(self):
        """(N, K, H', W')."""
        return (self.x[0], self.weight[0], *self.out)


CASES = {
    "plain": Case((1, 2, 5, 6), (3, 2, 3, 3)),
    "same size at rate 2": Case((2, 2, 5, 6), (3, 2, 3, 3), (1, 1), (2, 2), (2, 2)),
    "rate as large as the map": Case((1, 2, 4, 5), (2, 2, 3, 3), (1, 1), (4, 5), (4, 5)),
    "rate beyond the map": Case((1, 1, 3, 3), (1, 1, 3, 3), (1, 1), (6, 6), (6, 6)),
    "rate far beyond the map": Case((1, 2, 2, 3), (1, 2, 3, 3), (1, 1), (40, 33), (40, 33)),
    "less padding than rate": Case((1, 2, 9, 8), (2, 2, 3, 3), (1, 1), (2, 1), (3, 3)),
    "more padding than reach": Case((1, 1, 3, 4), (2, 1, 2, 2), (1, 1), (5, 7), (2, 3)),
    "stride 2, odd size": Case((1, 2, 7, 5), (2, 2, 3, 3), (2, 2), (1, 1)),
    "stride 3": Case((2, 1, 8, 10), (2, 1, 3, 3), (3, 3), (1, 1)),
    "stride 2 at rate 2": Case((1, 2, 7, 8), (2, 2, 3, 3), (2, 2), (2, 2), (2, 2)),
    "stride 2 at rate 3": Case((1, 2, 9, 8), (2, 2, 3, 3), (2, 2), (3, 3), (3, 3)),
    "stride 2 at rate 4": Case((1, 1, 9, 11), (2, 1, 3, 3), (2, 2), (4, 4), (4, 4)),
    "stride 3 at rate 2": Case((1, 1, 8, 9), (1, 1, 3, 3), (3, 3), (2, 2), (2, 2)),
    "stride beyond the map": Case((1, 2, 4, 3), (2, 2, 2, 2), (9, 7), (1, 1)),
    "unequal pairs": Case((1, 2, 7, 9), (2, 2, 2, 3), (1, 2), (0, 3), (3, 2)),
    "even kernel": Case((1, 2, 6, 5), (2, 2, 4, 2), (1, 1), (3, 2), (2, 3)),
    "kernel larger than the map": Case((1, 2, 2, 3), (2, 2, 5, 6), (1, 1), (2, 2)),
    "groups": Case((1, 4, 5, 5), (6, 2, 3, 3), (1, 1), (2, 2), (2, 2), 2),
    "depthwise": Case((2, 3, 5, 4), (3, 1, 3, 3), (1, 1), (2, 2), (2, 2), 3),
    "depthwise, two filters a channel": Case((1, 3, 4, 4), (6, 1, 2, 3), (2, 1), groups=3),
    "1x1": Case((2, 3, 4, 5), (4, 3, 1, 1)),
    "1x1 with stride, padding and rate": Case((1, 2, 5, 5), (3, 2, 1, 1), (2, 2), (1, 1), (5, 5)),
    "one row": Case((1, 2, 1, 9), (2, 2, 3, 3), (1, 1), (2, 2), (2, 2)),
    "one column": Case((2, 1, 7, 1), (1, 1, 3, 3), (2, 1), (3, 3), (3, 3)),
    "one pixel": Case((1, 3, 1, 1), (2, 3, 3, 3), (1, 1), (1, 1)),
    "one channel, one filter": Case((1, 1, 5, 5), (1, 1, 3, 3), (1, 1), (1, 1)),
    "21 filters": Case((1, 3, 4, 5), (21, 3, 3, 3), (1, 1), (6, 6), (6, 6)),
    "empty batch": Case((0, 2, 5, 5), (3, 2, 3, 3), (1, 1), (1, 1)),
}


def random_case(seed: int) -> Case:
    """A small geometry out of all; the same for the same seed."""
    pick = random.Random(seed)
    while True:
        groups = pick.choice([1, 1, 1, 2, 3])
        x = (pick.randint(1, 2), groups * pick.randint(1, 2), *(pick.randint(1, 8) for _ in "hw"))
        kernel = tuple(pick.randint(1, 4) for _ in "hw")
        weight = (groups * pick.randint(1, 3), x[1] // groups, *kernel)
        stride, padding, rate = (
            tuple(pick.randint(low, high) for _ in "hw") for low, high in ((1, 4), (0, 7), (1, 5))
        )
        case = Case(x, weight, stride, padding, rate, groups)
        if min(case.out) >= 1:
            return case


def make(case: Case, dtype=torch.float64, device="cpu"):
    """x, weight, bias, grad_y with seeded normal values."""
    generator = torch.Generator().manual_seed(3)
    shapes = (case.x, case.weight, case.weight[:1], case.y)
    return [torch.randn(s, generator=generator, dtype=dtype).to(device) for s in shapes]


def taps(case: Case):
    """Every (i, j, r, s, row, column) whose tap (r, s) of output (i, j) lies inside the map."""
    (height, width), (stride_h, stride_w) = case.x[2:], case.stride
    for i, j, r, s in itertools.product(*map(range, (*case.out, *case.weight[2:]))):
        row = i * stride_h - case.padding[0] + r * case.rate[0]
        column = j * stride_w - case.padding[1] + s * case.rate[1]
        if 0 <= row < height and 0 <= column < width:
            yield i, j, r, s, row, column


def loops(case: Case, x, weight, bias, grad_y):
    """(y, grad_x, grad_weight, grad_bias) in float64, product by product."""
    x, weight, bias, grad_y = (t.detach().cpu().double().numpy() for t in (x, weight, bias, grad_y))
    y, grad_x, grad_weight, grad_bias = (0 * t for t in (grad_y, x, weight, bias))
    for n, k in itertools.product(range(case.x[0]), range(case.weight[0])):
        y[n, k] = bias[k]
        grad_bias[k] += sum(grad_y[n, k].flat)
        first = k // (case.weight[0] // case.groups) * case.weight[1]
        for i, j, r, s, row, column in taps(case):
            for c in range(case.weight[1]):
                y[n, k, i, j] += weight[k, c, r, s] * x[n, first + c, row, column]
                grad_x[n, first + c, row, column] += weight[k, c, r, s] * grad_y[n, k, i, j]
                grad_weight[k, c, r, s] += x[n, first + c, row, column] * grad_y[n, k, i, j]
    return [torch.from_numpy(t) for t in (y, grad_x, grad_weight, grad_bias)]


def columns_of(case: Case, x):
    """Caffe's columns (N, C * R * S, H' * W') of x, value by value."""
    columns = torch.zeros((*case.x[:2], *case.weight[2:], *case.out), dtype=x.dtype)
    for i, j, r, s, row, column in taps(case):
        columns[:, :, r, s, i, j] = x[:, :, row, column]
    return columns.flatten(1, 3).flatten(2)


def image_of(case: Case, columns):
    """The sum of the columns at each pixel of x, value by value."""
    columns = columns.reshape(*case.x[:2], *case.weight[2:], *case.out)
    x = torch.zeros(case.x, dtype=columns.dtype)
    for i, j, r, s, row, column in taps(case):
        x[:, :, row, column] += columns[:, :, r, s, i, j]
    return x


def assert_close(ours, expected, key: str = "float64"):
    """Values of any dtype and device against float64 ones."""
    assert ours.shape == expected.shape
    torch.testing.assert_close(ours.detach().double().cpu(), expected, **CLOSE[key].kwargs)
