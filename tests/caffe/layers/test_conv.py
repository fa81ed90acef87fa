"""Convolution, Deconvolution and Im2col against sums written out tap by tap."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import Tensor

from prototxt_import import CaffeImportError
from prototxt_import.layers import Window, conv_output
from tests.caffe.layers.one_layer import make, run


def taps(x: Tensor, window: Window) -> Tensor:
    """(N, C, kernel, out): what each tap of each window sees, 0 outside the map."""
    sizes = [
        conv_output(n, k, s, p, d)
        for n, k, s, p, d in zip(
            x.shape[2:], window.kernel, window.stride, window.pad, window.dilation, strict=True
        )
    ]
    seen = x.new_zeros(*x.shape[:2], *window.kernel, *sizes)
    for tap in itertools.product(*(range(k) for k in window.kernel)):
        for out in itertools.product(*(range(n) for n in sizes)):
            axes = zip(out, window.stride, window.pad, tap, window.dilation, strict=True)
            at = [o * s - p + t * d for o, s, p, t, d in axes]
            if all(0 <= a < n for a, n in zip(at, x.shape[2:], strict=True)):
                seen[(slice(None), slice(None), *tap, *out)] = x[(slice(None), slice(None), *at)]
    return seen


def convolved(x: Tensor, weight: Tensor, bias: Tensor, window: Window, groups: int) -> Tensor:
    """The convolution, as a sum over what the taps see."""
    per_group, kernel = x.shape[1] // groups, len(window.kernel)
    seen = taps(x, window).split(per_group, 1)
    parts = [
        torch.tensordot(s, w, dims=([1, *range(2, 2 + kernel)], [1, *range(2, 2 + kernel)]))
        .movedim(-1, 1)
        for s, w in zip(seen, weight.chunk(groups), strict=True)
    ]  # fmt: skip
    return torch.cat(parts, 1) + bias.reshape(-1, *[1] * kernel)


CONVOLUTIONS = [
    pytest.param((2, 4, 7, 8), "kernel_size: 3", id="plain"),
    pytest.param((2, 4, 7, 8), "kernel_size: 3 pad: 4 dilation: 4", id="atrous"),
    pytest.param((2, 4, 5, 4), "kernel_size: 3 pad: 6 dilation: 6", id="rate beyond the map"),
    pytest.param((2, 4, 7, 8), "kernel_h: 3 kernel_w: 2 pad_h: 1 pad_w: 2 stride_h: 2 stride_w: 3",
                 id="h and w"),
    pytest.param((1, 4, 7, 8), "kernel_size: 2 kernel_size: 3 pad: 0 pad: 1 stride: 3 stride: 1"
                 " dilation: 1 dilation: 2", id="one value an axis"),
    pytest.param((2, 4, 7, 8), "kernel_size: 3 stride_h: 2 stride_w: 1", id="stride h and w only"),
    pytest.param((2, 4, 7, 8), "kernel_size: 3 group: 2 pad: 1", id="two groups"),
    pytest.param((2, 4, 7, 8), "kernel_size: 3 group: 4 dilation: 2", id="a group a channel"),
    pytest.param((2, 4, 9), "kernel_size: 3 stride: 2 pad: 1 dilation: 2", id="1 axis"),
    pytest.param((1, 4, 3, 4, 5), "kernel_size: 2 pad: 1 dilation: 2 group: 2", id="3 axes"),
]  # fmt: skip


@pytest.mark.parametrize(("shape", "param"), CONVOLUTIONS)
def test_convolution(shape: tuple[int, ...], param: str, device: str) -> None:
    filler = 'weight_filler { type: "gaussian" } bias_filler { type: "gaussian" }'
    module = make(
        f'type: "Convolution" convolution_param {{ num_output: 4 {param} {filler} }}', shape
    ).double()
    weight, bias = module.blobs
    x = torch.randn(shape, dtype=torch.float64)
    window = module.layer.window_over(len(shape) - 2)
    groups = module.layer.group
    assert weight.shape == (4, 4 // groups, *window.kernel)
    expected = convolved(x, weight, bias, window, groups)
    torch.testing.assert_close(module.to(device)(x.to(device)).cpu(), expected)


@pytest.mark.parametrize(("shape", "param"), CONVOLUTIONS)
def test_deconvolution_is_the_gradient_of_convolution(shape: tuple[int, ...], param: str) -> None:
    filler = 'weight_filler { type: "gaussian" } bias_term: false'
    deconvolution = make(
        f'type: "Deconvolution" convolution_param {{ num_output: 4 {param} {filler} }}', shape
    ).double()
    x = torch.randn(shape, dtype=torch.float64)
    y = deconvolution(x)
    window = deconvolution.layer.window_over(len(shape) - 2)
    assert [
        conv_output(n, k, s, p, d)
        for n, k, s, p, d in zip(
            y.shape[2:], window.kernel, window.stride, window.pad, window.dilation, strict=True
        )
    ] == list(shape[2:])
    # <conv(z), x> = <z, deconv(x)> for any z; the weights of both are C_out x C_in here.
    z = torch.randn_like(y)
    (weight,) = deconvolution.blobs
    groups = deconvolution.layer.group
    forward = convolved(z, weight, torch.zeros(x.shape[1], dtype=z.dtype), window, groups)
    torch.testing.assert_close((forward * x).sum(), (z * y).sum())


def test_deconvolution_adds_a_bias_per_output() -> None:
    module = make(
        'type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 2 stride: 2'
        " weight_filler { value: 3 } bias_filler { value: 10 } }",
        (1, 1, 1, 1),
    )
    assert [tuple(blob.shape) for blob in module.blobs] == [(1, 2, 2, 2), (2,)]
    assert (module(torch.ones(1, 1, 1, 1)) == 13).all()


@pytest.mark.parametrize(
    ("shape", "param"), [c for c in CONVOLUTIONS if "group" not in c.values[1]]
)
@pytest.mark.sampled(3)
def test_im2col(shape: tuple[int, ...], param: str) -> None:
    x = torch.randn(shape, dtype=torch.float64, requires_grad=True)
    module = make(f'type: "Im2col" convolution_param {{ {param} }}', shape)
    window = module.layer.window_over(len(shape) - 2)
    expected = taps(x.detach(), window).flatten(1, 1 + len(window.kernel))
    assert torch.equal(module(x), expected)
    assert torch.autograd.gradcheck(module, x[:, :1].detach().requires_grad_())


def test_several_bottoms_share_the_weights() -> None:
    module = make(
        'type: "Convolution" convolution_param { num_output: 1 kernel_size: 1'
        " weight_filler { value: 2 } bias_filler { value: 1 } }",
        (1, 1, 2, 2),
        (1, 1, 2, 2),
        tops=2,
    )
    tops = module(torch.ones(1, 1, 2, 2), torch.full((1, 1, 2, 2), 5.0))
    assert [y.unique().tolist() for y in tops] == [[3], [11]]


def test_axes_before_the_channels_are_a_batch() -> None:
    body = 'type: "Convolution" convolution_param { axis: -3 num_output: 2 kernel_size: 3 weight_filler { type: "xavier" } }'  # noqa: E501
    module = make(body, (2, 3, 4, 5, 6))
    x = torch.randn(2, 3, 4, 5, 6)
    y = module(x)
    assert y.shape == (2, 3, 2, 3, 4)
    torch.testing.assert_close(y[1, 2], module(x[1:, 2:])[0, 0])


def test_no_spatial_axes_is_a_matrix_product() -> None:
    module = make(
        'type: "Convolution" convolution_param { num_output: 2 kernel_size: 1 bias_term: false }',
        (3, 2),
    )
    module.set_blob(0, torch.tensor([[1.0, 2], [3, 4]]))
    assert module(torch.tensor([[1.0, 10]])).tolist() == [[21, 43]]


def test_the_v1_fork_has_holes_and_biases_of_four_axes() -> None:
    module = make(
        "type: CONVOLUTION convolution_param { num_output: 3 kernel_size: 3 hole_h: 2 hole_w: 1"
        " bias_filler { value: 4 } }",
        (1, 2, 7, 7),
        dialect="dl1",
    )
    assert [tuple(blob.shape) for blob in module.blobs] == [(3, 2, 3, 3), (1, 1, 1, 3)]
    y = module(torch.zeros(1, 2, 7, 7))
    assert y.shape == (1, 3, 3, 5)
    assert (y == 4).all()


@pytest.mark.parametrize(
    ("param", "message"),
    [
        ("kernel_size: 3", "num_output is missing"),
        ("num_output: 2", "kernel_size has the wrong number"),
        ("num_output: 2 kernel_size: 3 group: 2", "channels is no multiple of group"),
        ("num_output: 2 kernel_size: 3 group: 3", "num_output is no multiple of group"),
        ("num_output: 2 kernel_size: 3 kernel_h: 3 kernel_w: 3", "both given"),
        ("num_output: 2 kernel_size: 3 stride: 0", "stride is too small"),
        ("num_output: 2 kernel_size: 3 dilation: 3", "kernel 3x3 leaves nothing"),
        ("num_output: 2 kernel_size: 3 axis: 4", "bad axis; expected -4..3, got 4"),
        ("num_output: 2 kernel_size: 1 axis: -5", "bad axis"),
        ("num_output: 2 kernel_size: 1 pad: 1 pad: 1 pad: 1", "pad has the wrong number"),
    ],
)
def test_refused(param: str, message: str) -> None:
    with pytest.raises(CaffeImportError, match=f"layer 'op': Convolution: .*{message}"):
        make(f'type: "Convolution" convolution_param {{ {param} }}', (1, 3, 5, 5))


def test_the_weights_gradient_sums_over_bottoms() -> None:
    body = 'type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 bias_term: false }'
    module = make(body, (1, 1, 1, 2), (1, 1, 1, 2), tops=2)
    a, b = module(torch.tensor([[[[1.0, 2]]]]), torch.tensor([[[[10.0, 20]]]]))
    (a.sum() + b.sum()).backward()
    assert module.blobs[0].grad.item() == 33


def test_run_gives_a_single_top_as_a_tensor() -> None:
    body = 'type: "Convolution" convolution_param { num_output: 1 kernel_size: 1 }'
    assert isinstance(run(body, torch.ones(1, 1, 2, 2)), Tensor)
