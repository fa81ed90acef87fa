"""The native ops of the atrous convolution and their torch twins, by themselves."""

import pytest
import torch

from deeplab_repro.ops import reference
from deeplab_repro.ops.reference.atrous_conv2d import rounded
from tests.ops.atrous_conv2d_cases import (
    CASES,
    assert_close,
    columns_of,
    image_of,
    loops,
    make,
)

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

OPS = torch.ops.deeplab_repro
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_kind = pytest.mark.parametrize("ops", [OPS, reference], ids=["native", "twin"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)

SMALL = ("unequal pairs", "groups", "stride 2 at rate 3", "one row", "rate beyond the map")


def how(case):
    return *case.window, case.groups, "fp32"


@each_kind
@each_dtype
@each_case
def test_direct_agrees_with_loops(case, dtype, ops, device):
    x, weight, bias, grad_y = make(case, dtype, device)
    y, grad_x, grad_weight, _ = loops(case, x, weight, bias, grad_y)
    key = str(dtype).removeprefix("torch.")
    with_bias = ops.atrous_conv2d_direct(x, weight, bias, *how(case), False)
    assert_close(with_bias, y, key)
    assert_close(ops.atrous_conv2d_direct(x, weight, bias, *how(case), True), y.relu(), key)
    without = ops.atrous_conv2d_direct(x, weight, None, *how(case), False)
    assert_close(without, y - bias.double().cpu()[:, None, None], key)
    image, kernel = list(case.x[2:]), list(case.weight[2:])
    assert_close(
        ops.atrous_conv2d_direct_grad_input(grad_y, weight, image, *how(case)), grad_x, key
    )
    assert_close(
        ops.atrous_conv2d_direct_grad_weight(grad_y, x, kernel, *how(case)), grad_weight, key
    )


@each_kind
@each_dtype
@each_case
@pytest.mark.sampled(24)
def test_columns_agree_with_loops(case, dtype, ops, device):
    x = make(case, dtype, device)[0]
    kernel = list(case.weight[2:])
    columns = ops.atrous_im2col(x, kernel, *case.window)
    assert columns.cpu().equal(columns_of(case, x.cpu()))
    summed = ops.atrous_col2im(columns, list(case.x[2:]), kernel, *case.window)
    key = str(dtype).removeprefix("torch.")
    assert_close(summed, image_of(case, columns.double().cpu()), key)


@each_kind
def test_results_have_the_memory_format_of_the_first_tensor(ops, device):
    case = CASES["same size at rate 2"]
    x, weight, bias, grad_y = make(case, torch.float32, device)
    last = torch.channels_last
    for format in (last, torch.contiguous_format):
        first, grad = x.contiguous(memory_format=format), grad_y.contiguous(memory_format=format)
        y = ops.atrous_conv2d_direct(first, weight, bias, *how(case), False)
        grad_x = ops.atrous_conv2d_direct_grad_input(grad, weight, [5, 6], *how(case))
        assert y.is_contiguous(memory_format=format)
        assert grad_x.is_contiguous(memory_format=format)
        grad_weight = ops.atrous_conv2d_direct_grad_weight(grad, first, [3, 3], *how(case))
        assert grad_weight.is_contiguous()


@pytest.mark.slow
@pytest.mark.parametrize("name", SMALL)
def test_gradcheck(name):
    case = CASES[name]
    x, weight, bias, grad_y = (t.requires_grad_() for t in make(case))
    image, kernel = list(case.x[2:]), list(case.weight[2:])
    columns = columns_of(case, x.detach()).requires_grad_()
    for relu in (False, True):
        assert torch.autograd.gradcheck(
            lambda x, w, b, relu=relu: OPS.atrous_conv2d_direct(x, w, b, *how(case), relu),
            (x, weight, bias),
            fast_mode=True,
        )
    assert torch.autograd.gradcheck(
        lambda g, w: OPS.atrous_conv2d_direct_grad_input(g, w, image, *how(case)), (grad_y, weight)
    )
    assert torch.autograd.gradcheck(
        lambda g, x: OPS.atrous_conv2d_direct_grad_weight(g, x, kernel, *how(case)), (grad_y, x)
    )
    assert torch.autograd.gradcheck(lambda x: OPS.atrous_im2col(x, kernel, *case.window), (x,))
    assert torch.autograd.gradcheck(
        lambda c: OPS.atrous_col2im(c, image, kernel, *case.window), (columns,)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "format"),
    [
        ("unequal pairs", torch.contiguous_format),
        ("groups", torch.channels_last),
        ("empty batch", torch.channels_last),
    ],
    ids=str,
)
def test_opcheck(name, format):
    case = CASES[name]
    x, weight, bias, grad_y = (t.requires_grad_() for t in make(case, torch.float32))
    x, grad_y = (t.detach().contiguous(memory_format=format).requires_grad_() for t in (x, grad_y))
    image, kernel = list(case.x[2:]), list(case.weight[2:])
    columns = columns_of(case, x.detach()).requires_grad_()
    for op, args in (
        (OPS.atrous_conv2d_direct, (x, weight, bias, *how(case), True)),
        (OPS.atrous_conv2d_direct, (x, weight, None, *how(case), False)),
        (OPS.atrous_conv2d_direct_grad_input, (grad_y, weight, image, *how(case))),
        (OPS.atrous_conv2d_direct_grad_weight, (grad_y, x, kernel, *how(case))),
        (OPS.atrous_im2col, (x, kernel, *case.window)),
        (OPS.atrous_col2im, (columns, image, kernel, *case.window)),
    ):
        torch.library.opcheck(op.default, args)


def test_twins_round_operands_as_the_precision_says():
    x = torch.tensor([1 + 2**-10, 1 + 2**-11, 1 + 2**-12, -(1 + 2**-11), 3.0e38, 1e-40])
    tf32 = [1 + 2**-10, 1 + 2**-10, 1.0, -(1 + 2**-10)]
    assert rounded(x, "tf32")[:4].tolist() == tf32
    assert rounded(x, "tf32")[4:].isfinite().all()
    assert rounded(x, "bf16").equal(x.bfloat16().float())
    assert rounded(x, "fp16").equal(x.half().float())
    assert rounded(x, "fp32") is x
    special = torch.tensor([float("inf"), -float("inf"), float("nan")])
    assert rounded(special, "tf32")[:2].equal(special[:2])
    assert rounded(special, "tf32")[2].isnan()
    assert rounded(x.double(), "bf16").dtype == torch.float64
    case = CASES["unequal pairs"]
    x, weight, bias, _ = make(case, torch.float32)
    for precision in ("tf32", "bf16", "fp16"):
        ours = reference.atrous_conv2d_direct(x, weight, bias, *case.window, 1, precision, False)
        read = rounded(x, precision).double(), rounded(weight, precision).double()
        expected = torch.nn.functional.conv2d(*read, bias.double(), *case.how)
        assert_close(ours, expected, "float32")
