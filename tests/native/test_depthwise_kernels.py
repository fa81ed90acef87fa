"""The CUDA kernels of the convolution of single channels: on the host harness, and on a GPU."""

import re

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from deeplab_repro.native import build, cupy_backend
from deeplab_repro.native.cupy_backend import atrous_depthwise
from tests.native.atrous_conv2d_cases import Case, assert_near, loops, make
from tests.native.conftest import ORDERS
from tests.native.test_atrous_conv2d_kernels import DTYPES, array, to_format
from tests.native.test_cupy_atrous_conv2d import fake_gpu  # noqa: F401
from tests.native.test_cupy_source import compile_with_nvrtc

# One name for each reason that a case is here. A thread has four rows of a chain.
CASES = {
    "plain": Case(2, 3, 3, (9, 8), padding=(1, 1), groups=3),
    "rate": Case(1, 5, 5, (11, 7), padding=(2, 2), rate=(2, 2), groups=5),
    "rate_above_map": Case(2, 3, 3, (3, 4), padding=(7, 7), rate=(7, 7), groups=3),
    "one_over_the_rows_of_a_thread": Case(1, 2, 2, (13, 5), padding=(3, 3), rate=(3, 3), groups=2),
    "5x5": Case(1, 3, 3, (9, 9), (5, 5), padding=(4, 4), rate=(2, 2), groups=3),
    "stride": Case(1, 4, 4, (9, 10), stride=(2, 3), padding=(1, 1), groups=4),
    "stride_and_rate": Case(1, 2, 2, (10, 9), (3, 2), (2, 2), (3, 2), (2, 3), groups=2),
    "stride_above_kernel": Case(1, 2, 2, (7, 8), (1, 2), (3, 4), groups=2),
    "many_taps": Case(1, 2, 2, (12, 12), (11, 1), padding=(5, 0), groups=2),
    "one_channel": Case(2, 1, 1, (5, 6), padding=(1, 1)),
    "several_blocks": Case(1, 3, 3, (41, 43), padding=(1, 1), groups=3),
    "pieces_of_the_sum": Case(2, 1, 1, (70, 71), padding=(6, 6), rate=(6, 6)),
}
ACTIVATIONS = ("none", "relu", "relu6")
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
in_each_format = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


class OnHost:
    """The launchers on the harness, with tensors in and out as the ops have them."""

    def __init__(self, library, case, dtype, channels_last=False, max_blocks=0, order=0):
        self.library, self.case, self.dtype, self.order = library, case, dtype, order
        self.channels_last, self.max_blocks = channels_last, max_blocks

    def call(self, function, shape, *tensors, relu_before=0, activation=0, channels_last=None):
        last = self.channels_last if channels_last is None else channels_last
        out = to_format(torch.empty(shape, dtype=self.dtype), last).contiguous()
        memory = array(out)
        memory.fill(-1 if memory.dtype == np.int16 else np.nan)  # all ones: a NaN of any width
        settings = np.array([last, relu_before, activation, self.max_blocks], np.int64)
        name = f"{function}_{str(self.dtype).removeprefix('torch.')}"
        arrays = [t if t is None else array(t) for t in tensors]
        self.library.call(name, self.case.geometry(), *arrays, memory, settings, self.order)
        return out.permute(0, 3, 1, 2) if last else out

    def forward(self, x, weight, bias=None, **settings):
        x = to_format(x, self.channels_last)
        return self.call("depthwise", self.case.shapes["y"], x, weight, bias, **settings)

    def all(self, x, weight, grad_y):
        """(y, grad_x, grad_weight)."""
        shapes = self.case.shapes
        grad = to_format(grad_y, self.channels_last)
        return (
            self.forward(x, weight),
            self.call("grad_input", shapes["x"], grad, weight),
            self.call("grad_weight", shapes["weight"], grad_y, x, channels_last=False),
        )


def operands(tensors):
    return [tensors[name] for name in ("x", "weight", "grad_y")]


def assert_right(case, tensors, got):
    sizes = loops(case, *(t.abs() for t in operands(tensors)))
    for result, want, size in zip(got, loops(case, *operands(tensors)), sizes, strict=True):
        assert result.shape == want.shape
        assert_near(result, want, size, "fp32")


@in_each_format
@each_dtype
@each_case
@pytest.mark.sampled(24)
def test_agrees_with_loops_on_host(on_host, case, dtype, channels_last):
    tensors = make(case, dtype)
    got = OnHost(on_host("depthwise"), case, dtype, channels_last).all(*operands(tensors))
    assert_right(case, tensors, got)


@pytest.mark.parametrize("name", ["stride_and_rate", "pieces_of_the_sum"])
def test_any_grid_and_order_on_host(on_host, name):
    case = CASES[name]
    tensors = make(case, torch.float32)
    first = OnHost(on_host("depthwise"), case, torch.float32).all(*operands(tensors))
    for max_blocks, order in ((0, "backwards"), (1, "shuffled"), (2, "forwards")):
        on = OnHost(
            on_host("depthwise"),
            case,
            torch.float32,
            max_blocks=max_blocks,
            order=ORDERS[order],
        )
        got = on.all(*operands(tensors))
        assert all(a.equal(b) for a, b in zip(got, first, strict=True)), (max_blocks, order)


def expected(case, tensors, bias, relu_before, activation):
    x = tensors["x"].double()
    x = x.relu() if relu_before else x
    y = loops(case, x, tensors["weight"], tensors["grad_y"])[0]
    if bias is not None:
        y = y + bias.double().view(1, -1, 1, 1)
    return {"none": y, "relu": y.relu(), "relu6": F.relu6(y)}[activation]


@in_each_format
@pytest.mark.parametrize("relu_before", [0, 1])
@pytest.mark.parametrize("activation", ACTIVATIONS)
@pytest.mark.parametrize("name", ["plain", "many_taps"])
def test_activations_on_host(on_host, name, activation, relu_before, channels_last):
    case = CASES[name]
    tensors = make(case, torch.float64)
    bias = 4 * tensors["bias"] + 3
    on = OnHost(on_host("depthwise"), case, torch.float64, channels_last)
    settings = {"relu_before": relu_before, "activation": ACTIVATIONS.index(activation)}
    got = on.forward(tensors["x"], tensors["weight"], bias, **settings)
    want = expected(case, tensors, bias, relu_before, activation)
    torch.testing.assert_close(got, want)
    assert (want == 6).any() == (activation == "relu6")


def test_not_a_number_survives_on_host(on_host):
    case = CASES["plain"]
    tensors = make(case, torch.float32)
    tensors["x"][0, 1, 4, 4] = float("nan")
    on = OnHost(on_host("depthwise"), case, torch.float32)
    y = on.forward(tensors["x"], tensors["weight"], relu_before=1, activation=2)
    assert y[0, 1, 3:6, 3:6].isnan().all()
    assert y.isnan().sum() == 9


# CuPy's glue, with the harness in the GPU's place, and what it shares with the kernels.


@in_each_format
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["rate", "5x5", "stride_and_rate", "pieces_of_the_sum"])
@pytest.mark.sampled(8)
def test_cupy_calls_the_kernels_rightly(fake_gpu, name, dtype, channels_last):  # noqa: F811
    case = CASES[name]
    tensors = make(case, dtype)
    assert_right(case, tensors, run_ops(cupy_backend.KERNELS.__getitem__, case, tensors,
                                        channels_last))  # fmt: skip


def test_cupy_pads_four_sides(fake_gpu):  # noqa: F811
    x, weight, bias = torch.randn(2, 3, 8, 9), torch.randn(3, 1, 3, 3), torch.randn(3)
    run = cupy_backend.KERNELS["atrous_depthwise"]
    y = run(x, weight, bias, (2, 2), (0, 1, 1, 2), (1, 1), True, "relu6")
    want = F.conv2d(F.pad(x.relu(), (1, 2, 0, 1)), weight, bias, 2, groups=3)
    torch.testing.assert_close(y, F.relu6(want))


def test_cupy_empty_operands(fake_gpu):  # noqa: F811
    window = ((1, 1), (1, 1, 1, 1), (1, 1))
    x, weight = torch.empty(0, 3, 4, 5), torch.randn(3, 1, 3, 3)
    ops = cupy_backend.KERNELS
    assert ops["atrous_depthwise"](x, weight, None, *window, False, "none").shape == x.shape
    assert ops["atrous_depthwise_grad_input"](x, weight, (4, 5), *window).shape == x.shape
    assert not ops["atrous_depthwise_grad_weight"](x, x, (3, 3), *window).any()


def run_ops(op_of, case, tensors, channels_last):
    """(y, grad_x, grad_weight) with the ops' arguments."""
    layout = torch.channels_last if channels_last else torch.contiguous_format
    x, grad_y = (tensors[n].contiguous(memory_format=layout) for n in ("x", "grad_y"))
    weight = tensors["weight"]
    window = (case.stride, [side for side in case.padding for _ in "ab"], case.rate)
    window = tuple(map(list, window))
    return (
        op_of("atrous_depthwise")(x, weight, None, *window, False, "none"),
        op_of("atrous_depthwise_grad_input")(grad_y, weight, list(case.size), *window),
        op_of("atrous_depthwise_grad_weight")(grad_y, x, list(case.kernel), *window),
    )


def test_constants_are_those_of_the_kernels():
    folder = build.source_dir() / "atrous_conv2d"
    text = "".join(p.read_text() for p in sorted(folder.glob("depthwise_*.cuh")))
    for name, value in (
        ("kDepthwiseThreads", atrous_depthwise.THREADS),
        ("kDepthwiseGradThreads", atrous_depthwise.GRAD_THREADS),
        ("kDepthwiseGradTaps", atrous_depthwise.GRAD_TAPS),
        ("kDepthwiseRows", atrous_depthwise.ROWS),
        ("kDepthwiseGradPixels", atrous_depthwise.GRAD_PIXELS),
        ("kDepthwiseMostPieces", atrous_depthwise.MOST_PIECES),
    ):
        assert int(re.search(rf"constexpr \w+ {name} = (\d+);", text)[1]) == value
    options = (folder / "options.h").read_text()
    names = re.search(r"enum class Activation \{ ([\w, ]+) \}", options)[1]
    assert tuple(names.split(", ")) == atrous_depthwise.ACTIVATIONS


def test_nvrtc_compiles_what_cupy_is_given():
    names = [f"deeplab::depthwise_kernel<deeplab::Half, {taps}>" for taps in (0, 3, 5)]
    names += [f"deeplab::depthwise_grad_weight{k}_kernel<double>" for k in ("", "_sum")]
    compile_with_nvrtc(atrous_depthwise.KERNEL_FILE, names, "compute_80")


# On a GPU: the compiled library and CuPy, the same cases.


@pytest.mark.cuda
@in_each_format
@each_dtype
@each_case
def test_agrees_with_loops_on_gpu(on_gpu, case, dtype, channels_last):
    tensors = make(case, dtype)
    on_device = {name: t.cuda() for name, t in tensors.items()}
    got = run_ops(on_gpu, case, on_device, channels_last)
    assert all(t.is_cuda for t in got)
    assert_right(case, tensors, got)
