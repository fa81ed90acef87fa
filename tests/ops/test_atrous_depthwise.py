"""Filters of single channels: the native ops, their twins, and what atrous_conv2d makes of them."""

import pytest
import torch
import torch.nn.functional as F

from deeplab_repro.native import backends
from deeplab_repro.ops import AtrousConv2d, atrous_conv2d, choose_algorithm, reference
from tests.ops.atrous_conv2d_cases import Case, assert_close, loops, make

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")

OPS = torch.ops.deeplab_repro
CASES = {
    "plain": Case((1, 2, 5, 6), (2, 1, 3, 3), groups=2),
    "rate": Case((2, 3, 5, 4), (3, 1, 3, 3), (1, 1), (2, 2), (2, 2), 3),
    "rate beyond the map": Case((1, 2, 3, 3), (2, 1, 3, 3), (1, 1), (6, 6), (6, 6), 2),
    "a vector and more": Case((1, 2, 9, 37), (2, 1, 3, 3), (1, 1), (1, 1), groups=2),
    "channels of a block and more": Case((1, 35, 3, 4), (35, 1, 3, 3), (1, 1), (1, 1), groups=35),
    "stride": Case((1, 2, 7, 35), (2, 1, 3, 3), (2, 2), (1, 1), groups=2),
    "stride and rate": Case((1, 2, 9, 8), (2, 1, 3, 3), (2, 2), (3, 3), (3, 3), 2),
    "stride beyond the filter": Case((1, 2, 8, 9), (2, 1, 2, 1), (3, 4), groups=2),
    "unequal pairs": Case((1, 2, 7, 9), (2, 1, 2, 5), (1, 2), (0, 3), (3, 2), 2),
    "5x5": Case((1, 2, 9, 9), (2, 1, 5, 5), (1, 1), (4, 4), (2, 2), 2),
    "1x1": Case((1, 3, 4, 5), (3, 1, 1, 1), groups=3),
    "one channel": Case((2, 1, 5, 5), (1, 1, 3, 3), (1, 1), (1, 1)),
    "empty batch": Case((0, 2, 5, 5), (2, 1, 3, 3), (1, 1), (1, 1), groups=2),
}
FORMATS = {"nchw": torch.contiguous_format, "nhwc": torch.channels_last}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_kind = pytest.mark.parametrize("ops", [OPS, reference], ids=["native", "twin"])
each_dtype = pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
in_each_format = pytest.mark.parametrize("layout", FORMATS.values(), ids=FORMATS.keys())


def window(case):
    (down, across) = case.padding
    return list(case.stride), [down, down, across, across], list(case.rate)


@in_each_format
@each_kind
@each_dtype
@each_case
def test_agrees_with_loops(case, dtype, ops, layout, device):
    x, weight, bias, grad_y = make(case, dtype, device)
    y, grad_x, grad_weight, _ = loops(case, x, weight, bias, grad_y)
    x, grad_y = (t.contiguous(memory_format=layout) for t in (x, grad_y))
    key = str(dtype).removeprefix("torch.")
    got = ops.atrous_depthwise(x, weight, bias, *window(case), False, "none")
    assert_close(got, y, key)
    got = ops.atrous_depthwise_grad_input(grad_y, weight, list(case.x[2:]), *window(case))
    assert_close(got, grad_x, key)
    got = ops.atrous_depthwise_grad_weight(grad_y, x, list(case.weight[2:]), *window(case))
    assert_close(got, grad_weight, key)
    assert got.is_contiguous()


@in_each_format
@each_kind
@pytest.mark.parametrize("activation", ["none", "relu", "relu6"])
def test_relu_before_and_activation_after(activation, ops, layout, device):
    case = CASES["a vector and more"]
    x, weight, bias, grad_y = make(case, torch.float64, device)
    x = 4 * x
    y = loops(case, x.relu(), weight, bias, grad_y)[0]
    y = {"none": y, "relu": y.relu(), "relu6": F.relu6(y)}[activation]
    assert (y == 6).any() == (activation == "relu6")
    x = x.contiguous(memory_format=layout)
    got = ops.atrous_depthwise(x, weight, bias, *window(case), True, activation)
    assert_close(got, y)
    assert got.is_contiguous(memory_format=layout)


ASYMMETRIC = {
    "same, stride 2": ((1, 3, 8, 9), (3, 3), 2, (0, 1, 1, 1), 1),
    "same, 5x5": ((1, 2, 9, 8), (5, 5), 2, (2, 2, 1, 2), 1),
    "one side": ((2, 2, 6, 5), (3, 2), 1, (0, 4, 3, 0), (2, 3)),
}


@in_each_format
@pytest.mark.parametrize("algorithm", ["auto", "direct", "library", "im2col"])
@pytest.mark.parametrize("groups", ["single", "all"])
@pytest.mark.parametrize("case", ASYMMETRIC.values(), ids=ASYMMETRIC.keys())
def test_padding_of_four_sides(case, groups, algorithm, layout, device):
    shape, kernel, stride, padding, rate = case
    channels = shape[1]
    top, bottom, left, right = padding
    groups = channels if groups == "single" else 1
    x = torch.randn(shape, dtype=torch.float64, device=device).contiguous(memory_format=layout)
    weight = torch.randn(channels, channels // groups, *kernel, dtype=torch.float64, device=device)
    leaves = [x.requires_grad_(), weight.requires_grad_()]
    y = atrous_conv2d(*leaves, None, stride, padding, rate, groups, algorithm=algorithm)
    padded = F.pad(x, (left, right, top, bottom))
    expected = F.conv2d(padded, weight, None, stride, 0, rate, groups)
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(out, leaves, grad) for out in (y, expected))
    torch.testing.assert_close(ours, theirs)


@pytest.mark.parametrize("algorithm", ["direct", "library", "winograd"])
@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("activation", [None, "relu", "relu6"])
def test_activations_of_every_algorithm(activation, groups, algorithm, device):
    x = 3 * torch.randn(2, 4, 7, 8, dtype=torch.float64, device=device)
    weight = torch.randn(4, 4 // groups, 3, 3, dtype=torch.float64, device=device)
    bias = torch.randn(4, dtype=torch.float64, device=device)
    leaves = [t.requires_grad_() for t in (x, weight, bias)]
    options = {"activation": activation, "pre_activation": "relu", "algorithm": algorithm}
    y = atrous_conv2d(*leaves, padding=2, rate=2, groups=groups, **options)
    expected = F.conv2d(x.relu(), weight, bias, padding=2, dilation=2, groups=groups)
    expected = {None: expected, "relu": expected.relu(), "relu6": F.relu6(expected)}[activation]
    torch.testing.assert_close(y, expected)
    grad = torch.randn_like(y)
    ours, theirs = (torch.autograd.grad(out, leaves, grad) for out in (y, expected))
    torch.testing.assert_close(ours, theirs)
    with torch.no_grad():
        assert atrous_conv2d(*leaves, padding=2, rate=2, groups=groups, **options).equal(y)


@pytest.mark.slow
@pytest.mark.parametrize("activation", [None, "relu6"])
@pytest.mark.parametrize("name", ["stride and rate", "one channel"])
def test_gradcheck(name, activation):
    case = CASES[name]
    leaves = [t.requires_grad_() for t in make(case)[:3]]

    def run(x, weight, bias):
        return atrous_conv2d(
            x, weight, bias, *case.how, algorithm="direct", pre_activation="relu",
            activation=activation,
        )  # fmt: skip

    assert torch.autograd.gradcheck(run, leaves)
    assert torch.autograd.gradgradcheck(run, leaves)


@pytest.mark.slow
def test_opcheck():
    case = CASES["stride and rate"]
    x, weight, bias, grad_y = make(case, torch.float32)
    for layout in FORMATS.values():
        x, grad_y = (t.contiguous(memory_format=layout) for t in (x, grad_y))
        rest = window(case)
        for op, args in (
            (OPS.atrous_depthwise, (x, weight, bias, *rest, True, "relu6")),
            (OPS.atrous_depthwise_grad_input, (grad_y, weight, [9, 8], *rest)),
            (OPS.atrous_depthwise_grad_weight, (grad_y, x, [3, 3], *rest)),
        ):
            torch.library.opcheck(op.default, args)


def test_meta_tensors_have_the_shape():
    x, weight = torch.empty(2, 3, 9, 8, device="meta"), torch.empty(3, 1, 3, 3, device="meta")
    assert atrous_conv2d(x, weight, None, 2, (0, 1, 1, 1), groups=3).shape == (2, 3, 4, 4)


def test_auto_takes_the_native_kernel():
    if not backends.has_cpu():
        pytest.skip("the compiled CPU kernels are not loaded")
    x, weight = torch.empty(1, 8, 9, 9), torch.empty(8, 1, 3, 3)
    for direction in ("forward", "grad_input", "grad_weight"):
        assert choose_algorithm(x, weight, groups=8, direction=direction) == "direct"
    assert choose_algorithm(x, weight, padding=(0, 1, 0, 1), groups=8) == "direct"
    assert choose_algorithm(x, torch.empty(16, 1, 3, 3), groups=8) == "library"
    assert choose_algorithm(x.half(), weight.half(), padding=(0, 1, 0, 1), groups=8) == "library"


def test_layer_names_what_is_not_the_default():
    layer = AtrousConv2d(
        4, 4, 3, 2, (0, 1, 0, 1), groups=4, activation="relu6", pre_activation="relu"
    )
    text = "stride=(2, 2), padding=(0, 1, 0, 1), groups=4, activation=relu6, pre_activation=relu"
    assert text in repr(layer)
    x = torch.randn(1, 4, 6, 6)
    expected = F.conv2d(F.pad(x.relu(), (0, 1, 0, 1)), layer.weight, layer.bias, 2, groups=4)
    torch.testing.assert_close(layer(x), F.relu6(expected))
    assert AtrousConv2d(1, 1, 3, padding=(1, 1, 2, 2)).padding == (1, 2)


@pytest.mark.parametrize("activation", [None, "relu6"])
def test_exported_program_is_torch_alone(activation):
    layer = AtrousConv2d(
        4, 4, 3, 2, (0, 1, 0, 1), groups=4, activation=activation, pre_activation="relu"
    ).eval()
    x = torch.randn(1, 4, 6, 6)
    program = torch.export.export(layer, (x,))
    assert "deeplab_repro" not in str(program.graph)
    torch.testing.assert_close(program.module()(x), layer(x))


X, W = torch.randn(1, 2, 5, 6), torch.randn(2, 1, 3, 3)
WINDOW = ([1, 1], [1, 1, 1, 1], [1, 1])


@pytest.mark.skipif(not backends.has_cpu(), reason="the compiled CPU kernels are not loaded")
@pytest.mark.parametrize(
    ("message", "call"),
    [
        (r"weight must have shape \(2, 1, R, S\), got \(2, 2, 3, 3\)",
         lambda: OPS.atrous_depthwise(X, W.expand(2, 2, 3, 3), None, *WINDOW, False, "none")),
        ("padding must be four ints >= 0",
         lambda: OPS.atrous_depthwise(X, W, None, [1, 1], [1, 1], [1, 1], False, "none")),
        ("activation must be none, relu or relu6, got tanh",
         lambda: OPS.atrous_depthwise(X, W, None, *WINDOW, False, "tanh")),
        ("x must be float32 or float64, got Half",
         lambda: OPS.atrous_depthwise(X.half(), W.half(), None, *WINDOW, False, "none")),
        ("the filter spans 9 pixels in H at rate 4, the padded input only 7",
         lambda: OPS.atrous_depthwise(X, W, None, *WINDOW[:2], [4, 1], False, "none")),
        (r"grad_y must have shape \(1, 2, 5, 6\), got \(1, 2, 5, 5\)",
         lambda: OPS.atrous_depthwise_grad_weight(X[..., :5], X, [3, 3], *WINDOW)),
    ],
)  # fmt: skip
def test_native_error_names_the_argument(message, call):
    with pytest.raises(RuntimeError, match=message):
        call()


@pytest.mark.parametrize(
    ("message", "options"),
    [
        ("pre_activation must be one of None, relu, got 'relu6'", {"pre_activation": "relu6"}),
        (r"padding must be an int >= 0 or .*, got \(0, 1, 2\)", {"padding": (0, 1, 2)}),
        ("padding must be an int >= 0 or", {"padding": (0, 1, 2, -1)}),
        ("spans 9 pixels in W at rate 4, the padded input only 8", {"padding": (3, 3, 2, 0),
                                                                     "rate": 4}),
    ],
)  # fmt: skip
def test_error_names_the_argument(message, options):
    with pytest.raises(ValueError, match=f"^atrous_conv2d: .*{message}"):
        atrous_conv2d(X, W, groups=2, **options)
