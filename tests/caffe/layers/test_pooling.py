"""Pooling against nested loops over Caffe's windows, and on values worked by hand."""

from __future__ import annotations

import itertools

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.pooling import pool2d
from prototxt_import import CaffeImportError
from prototxt_import.layers import Pool, pool_output
from tests.caffe.layers.one_layer import make, row, run, slope

FLT_MAX = torch.finfo(torch.float32).max


def loops(x: Tensor, pool: Pool) -> tuple[Tensor, Tensor]:
    """Top and mask (MAX only), window by window as pooling_layer.cpp walks them."""
    (height, width), (kh, kw) = x.shape[2:], pool.kernel
    oh, ow = (
        pool_output(n, k, s, p, pool.floor)
        for n, k, s, p in zip(x.shape[2:], pool.kernel, pool.stride, pool.pad, strict=True)
    )
    y, mask = x.new_zeros(*x.shape[:2], oh, ow), x.new_full((*x.shape[:2], oh, ow), -1)
    for n, c, i, j in itertools.product(*(range(size) for size in y.shape)):
        top, left = i * pool.stride[0] - pool.pad[0], j * pool.stride[1] - pool.pad[1]
        bottom, right = min(top + kh, height + pool.pad[0]), min(left + kw, width + pool.pad[1])
        size = (bottom - top) * (right - left)
        best, place, total = -FLT_MAX, -1, 0.0
        for h in range(max(top, 0), min(bottom, height)):
            for w in range(max(left, 0), min(right, width)):
                value = float(x[n, c, h, w])
                total += value
                if value > best:
                    best, place = value, h * width + w
        if pool.method == "MAX":
            y[n, c, i, j], mask[n, c, i, j] = best, place
        else:
            y[n, c, i, j] = total / size
    return y, mask


WINDOWS = [
    pytest.param(method, kernel, stride, pad, floor, id=f"{method} k{kernel} s{stride} p{pad}"
                 + (" floor" if floor else ""))
    for method in ("MAX", "AVE")
    for kernel, stride, pad, floor in [
        ((2, 2), (2, 2), (0, 0), False),
        ((3, 3), (2, 2), (0, 0), False),
        ((3, 3), (2, 2), (1, 1), False),
        ((3, 3), (1, 1), (1, 1), False),
        ((2, 2), (2, 2), (1, 1), False),
        ((2, 2), (1, 1), (1, 1), False),
        ((3, 2), (1, 3), (0, 1), False),
        ((3, 3), (2, 2), (2, 2), False),  # pads of more than half a kernel
        ((4, 3), (3, 2), (3, 1), False),
        ((5, 5), (4, 4), (4, 4), False),
        ((3, 3), (2, 2), (0, 0), True),
        ((3, 3), (2, 2), (2, 2), True),
        ((7, 6), (1, 1), (0, 0), False),  # the whole map
        ((9, 9), (4, 4), (0, 0), False),  # more than the map
        ((9, 9), (3, 3), (1, 1), False),
    ]
]  # fmt: skip


@pytest.mark.parametrize(("method", "kernel", "stride", "pad", "floor"), WINDOWS)
def test_against_loops(
    method: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    floor: bool,
    device: str,
) -> None:
    pool = Pool(method, kernel, stride, pad, floor)
    if floor and any(n + 2 * p < k for n, k, p in zip((7, 6), kernel, pad, strict=True)):
        pytest.skip("nothing to pool")
    # Few different values, so that maxima tie; negative, so that zeros would win.
    x = -torch.randint(1, 5, (2, 2, 7, 6), generator=torch.Generator().manual_seed(0)).float()
    y, mask = loops(x, pool)
    ours, where = pool2d(x.to(device), pool, with_mask=method == "MAX")
    torch.testing.assert_close(ours.cpu(), y)
    if method == "MAX":
        assert where is not None
        assert torch.equal(where.cpu(), mask)


@pytest.mark.parametrize(("method", "kernel", "stride", "pad", "floor"), WINDOWS)
@pytest.mark.sampled(10)
def test_gradients(
    method: str,
    kernel: tuple[int, int],
    stride: tuple[int, int],
    pad: tuple[int, int],
    floor: bool,
) -> None:
    pool = Pool(method, kernel, stride, pad, floor)
    generator = torch.Generator().manual_seed(0)
    # Values far apart: a maximum must not change hands within gradcheck's step.
    x = torch.randperm(2 * 42, generator=generator).double().reshape(1, 2, 7, 6)
    assert torch.autograd.gradcheck(lambda x: pool2d(x, pool)[0], x.requires_grad_())


def test_output_sizes_round_up_and_the_last_window_begins_inside() -> None:
    assert [pool_output(n, 3, 2, 0) for n in (5, 6, 7)] == [2, 3, 3]
    assert [pool_output(n, 3, 2, 0, floor=True) for n in (5, 6, 7)] == [2, 2, 3]
    assert [pool_output(n, 2, 2, 1) for n in (4, 5)] == [3, 3]  # 5: a 4th would begin at 5 + 1
    assert pool_output(514, 2, 2, 1) == 258  # the plain DeepLab, networks.md section 4


def test_a_map_smaller_than_the_kernel_still_gives_one_window() -> None:
    pooling = 'type: "Pooling" pooling_param { pool: MAX kernel_size: 3 stride: 2 }'
    assert run(pooling, row(1, 5)[..., :2].expand(1, 1, 2, 2)).flatten().tolist() == [5]


def test_max_gives_the_gradient_of_a_tie_to_the_first() -> None:
    x = row(1, 4, 4, 0)
    y = run('type: "Pooling" pooling_param { kernel_h: 1 kernel_w: 4 }', x)
    assert slope(y, x) == [0, 1, 0, 0]


def test_ave_counts_padding_in_its_divisor_but_nothing_beyond() -> None:
    # Width 5, kernel 3, pad 1, stride 2: windows [-1, 2), [1, 4), [3, 6); 6 = 5 + pad.
    pooling = 'type: "Pooling" pooling_param { pool: AVE kernel_size: 3 stride: 2 pad: 1 }'
    x = torch.full((1, 1, 1, 5), 9.0)
    assert run(pooling, x).flatten().tolist() == [2, 3, 2]
    # Width 4: the last window [3, 6) is cut at 4 + 1, so that it holds 2 columns.
    assert run(pooling, x[..., :4]).flatten().tolist() == [2, 3, 1.5]


def test_a_window_beyond_the_map_without_padding() -> None:
    # (5 - 1) / 3 rounded up + 1 = 3 windows, the third at 6: nothing in it, as Caffe has it.
    y, where = pool2d(row(1, 2, 3, 4, 5).expand(1, 1, 1, 5), Pool("MAX", (1, 1), (1, 3)),
                      with_mask=True)  # fmt: skip
    assert where is not None
    assert y.flatten().tolist() == [1, 4, -FLT_MAX]
    assert where.flatten().tolist() == [0, 3, -1]


def test_mask_is_the_second_top() -> None:
    x = torch.tensor([[1.0, 7, 3], [4, 5, 9]]).reshape(1, 1, 2, 3)
    y, mask = run('type: "Pooling" pooling_param { kernel_size: 2 stride: 1 }', x, tops=2)
    assert y.flatten().tolist() == [7, 9]
    assert mask.flatten().tolist() == [1, 5]


@pytest.mark.parametrize(("method", "top"), [("MAX", 6), ("AVE", 3.5)])
def test_global_pooling(method: str, top: float) -> None:
    x = torch.arange(1.0, 7).reshape(1, 1, 2, 3)
    y = run(f'type: "Pooling" pooling_param {{ pool: {method} global_pooling: true }}', x)
    assert y.shape == (1, 1, 1, 1)
    assert y.item() == top


def test_stochastic_weighs_when_testing() -> None:
    # (1 + 9) / (1 + 3); a window of zeros gives 0.
    pooling = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_h: 1 kernel_w: 2 stride_h: 1 stride_w: 2 }'  # noqa: E501
    assert run(pooling, row(1, 3, 0, 0)).flatten().tolist() == [2.5, 0]


def test_stochastic_draws_when_training() -> None:
    pooling = 'type: "Pooling" pooling_param { pool: STOCHASTIC kernel_size: 2 stride: 2 }'
    x = torch.tensor([[1.0, 0], [0, 3]]).repeat(100, 100).reshape(1, 1, 200, 200)
    module = make(pooling, x.shape, phase="TRAIN")
    y = module(x.requires_grad_())
    assert set(y.unique().tolist()) == {1.0, 3.0}
    assert abs(float((y == 3).float().mean()) - 0.75) < 0.03
    assert slope(y, x).count(1.0) == y.numel()


def test_spp() -> None:
    x = torch.arange(9.0).reshape(1, 1, 3, 3)
    # 1 bin: 8.  2 x 2 bins: kernel 2, pad 1, so rows and columns are cut at 1: {0}, {1, 2}, ...
    y = run('type: "SPP" spp_param { pyramid_height: 2 }', x)
    assert y.tolist() == [[8, 0, 2, 6, 8]]
    y = run('type: "SPP" spp_param { pyramid_height: 1 pool: AVE }', x)
    assert y.tolist() == [[[[4]]]]


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("stride: 2", "kernel size is missing"),
        ("kernel_size: 2 kernel_h: 2 kernel_w: 2", "both given"),
        ("kernel_h: 2", "go together"),
        ("kernel_size: 2 pad: 2", "smaller than the kernel"),
        ("kernel_size: 2 stride: 0", "stride is zero"),
        ("kernel_size: 2 global_pooling: true", "no kernel size"),
        ("global_pooling: true pad: 1", "pad 0"),
        ("pool: STOCHASTIC kernel_size: 2 pad: 1", "no padding"),
        ("kernel_size: 9 stride: 2", "leaves nothing"),
    ],
)
def test_refused(param: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=f"op.*{message}"):
        make(f'type: "Pooling" pooling_param {{ {param} }}', (1, 1, 5, 5))


def test_spp_refuses_maps_too_small_for_its_bins() -> None:
    with pytest.raises(CaffeImportError, match="smaller than the kernel"):
        make('type: "SPP" spp_param { pyramid_height: 3 }', (1, 1, 5, 5))


@pytest.mark.parametrize("order", [torch.contiguous_format, torch.channels_last])
def test_maxima_are_found_again_for_the_gradient(order: torch.memory_format) -> None:
    """To the bit those of torch's own pooling, which keeps 64-bit places; of equal ones the first.

    The map alone is remembered.
    """
    pool = Pool("MAX", (3, 3), (2, 2), (1, 1))
    data = torch.randint(0, 4, (2, 3, 9, 8)).float().contiguous(memory_format=order)
    x, apart = (data.clone(memory_format=order).requires_grad_() for _ in range(2))
    kept: list[torch.Tensor] = []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: kept.append(t) or t, lambda t: t):
        y, _ = pool2d(x, pool)
    assert [t.data_ptr() for t in kept] == [x.data_ptr()]
    expected = F.max_pool2d(apart, 3, 2, 1, ceil_mode=True)
    assert torch.equal(y, expected)
    grad = torch.randn(y.shape)
    y.backward(grad)
    expected.backward(grad)
    assert torch.equal(x.grad, apart.grad)
    wide = torch.rand(1, 1, 5, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: pool2d(x, pool)[0].square(), wide)
