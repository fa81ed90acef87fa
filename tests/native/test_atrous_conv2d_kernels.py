"""The CUDA kernels of the atrous convolution: on the host harness, and with -m cuda on a GPU."""

import dataclasses

import numpy as np
import pytest
import torch

from tests.native.atrous_conv2d_cases import (
    CASES,
    ROUNDING,
    Case,
    assert_near,
    column_loops,
    loops,
    make,
)
from tests.native.conftest import ORDERS

DTYPES = (torch.float32, torch.float64, torch.float16, torch.bfloat16)
PRECISIONS = {name: number for number, name in enumerate(ROUNDING)}
each_case = pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=str)
each_precision = pytest.mark.parametrize("precision", PRECISIONS)
in_each_format = pytest.mark.parametrize("channels_last", [False, True], ids=["nchw", "nhwc"])


def array(tensor):
    """The tensor's memory; numpy has no bfloat16, so 16-bit types go as bits."""
    tensor = tensor.contiguous()
    return (tensor.view(torch.int16) if tensor.element_size() == 2 else tensor).numpy()


def to_format(tensor, channels_last):
    return tensor.permute(0, 2, 3, 1) if channels_last else tensor


class OnHost:
    """The launchers of one dtype on the harness, with tensors in and out as the ops have them."""

    def __init__(self, library, case, dtype, order=0, **settings):
        self.library, self.case, self.dtype, self.order = library, case, dtype, order
        values = {
            "precision": "fp32",
            "tensor_cores": 1,
            "channels_last": 0,
            "relu": 0,
            "real_tiles": 0,
            "max_blocks": 0,
            **settings,
        }
        self.precision = values["precision"]
        self.channels_last = bool(values["channels_last"])
        values["precision"] = PRECISIONS[self.precision]
        self.settings = np.array(list(values.values()), np.int64)

    def call(self, function, shape, *tensors, plain=False):
        """plain: the result is no map and has no memory format."""
        out = torch.empty(shape, dtype=self.dtype)
        out = to_format(out, self.channels_last and not plain).contiguous()
        memory = array(out)
        memory.fill(-1 if memory.dtype == np.int16 else np.nan)  # all ones: a NaN of any width
        name = f"{function}_{str(self.dtype).removeprefix('torch.')}"
        arrays = [t if t is None else array(t) for t in tensors]
        self.library.call(name, self.case.geometry(), *arrays, memory, self.settings, self.order)
        return out.permute(0, 3, 1, 2) if self.channels_last and not plain else out

    def forward(self, x, weight, bias=None):
        x = to_format(x, self.channels_last)
        return self.call("direct", self.case.shapes["y"], x, weight, bias)

    def grad_input(self, grad_y, weight):
        grad_y = to_format(grad_y, self.channels_last)
        return self.call("grad_input", self.case.shapes["x"], grad_y, weight)

    def grad_weight(self, grad_y, x):
        maps = (to_format(t, self.channels_last) for t in (grad_y, x))
        return self.call("grad_weight", self.case.shapes["weight"], *maps, plain=True)


def expected(case, tensors, precision="fp32"):
    """Pairs (sum, sum of absolute products) of y, grad_x, grad_weight, operands as multiplied."""
    operands = [tensors[name] for name in ("x", "weight", "grad_y")]
    if operands[0].dtype == torch.float32:
        operands = [ROUNDING[precision](t) for t in operands]
    sums = loops(case, *operands)
    sizes = loops(case, *(t.abs() for t in operands))
    return list(zip(sums, sizes, strict=True))


def check_all(on, tensors):
    """Forward and both gradients against the loops."""
    x, weight, grad_y = (tensors[name] for name in ("x", "weight", "grad_y"))
    got = (on.forward(x, weight), on.grad_input(grad_y, weight), on.grad_weight(grad_y, x))
    for result, (want, size) in zip(got, expected(on.case, tensors, on.precision), strict=True):
        assert result.shape == want.shape
        assert_near(result, want, size, on.precision)
    return got


@each_case
@each_precision
@pytest.mark.sampled(6)
def test_each_precision_on_host(on_host, case, precision):
    on = OnHost(on_host("atrous_conv2d"), case, torch.float32, precision=precision)
    check_all(on, make(case, torch.float32))


@each_case
@each_dtype
@pytest.mark.sampled(6)
def test_channels_last_on_host(on_host, case, dtype):
    on = OnHost(on_host("atrous_conv2d"), case, dtype, channels_last=1)
    check_all(on, make(case, dtype))


@each_dtype
@pytest.mark.parametrize("name", ["regions", "stride_and_rate", "groups"])
def test_without_tensor_cores_on_host(on_host, name, dtype):
    on = OnHost(on_host("atrous_conv2d"), CASES[name], dtype, tensor_cores=0)
    check_all(on, make(CASES[name], dtype))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.float64], ids=str)
@pytest.mark.sampled(1)
def test_any_grid_and_order_on_host(on_host, dtype):
    case = dataclasses.replace(CASES["regions"], in_channels=9, out_channels=35)
    settings = {"channels_last": dtype == torch.float16}
    tensors = make(case, dtype)
    first = check_all(OnHost(on_host("atrous_conv2d"), case, dtype, **settings), tensors)
    x, weight, grad_y = (tensors[name] for name in ("x", "weight", "grad_y"))
    # Each order at the real grid, and where one block takes all tiles, whose memory it uses again.
    for max_blocks, order in ((0, "backwards"), (1, "backwards"), (1, "shuffled"), (2, "shuffled")):
        on = OnHost(
            on_host("atrous_conv2d"), case, dtype, ORDERS[order], max_blocks=max_blocks, **settings
        )
        got = (on.forward(x, weight), on.grad_input(grad_y, weight), on.grad_weight(grad_y, x))
        assert all(a.equal(b) for a, b in zip(got, first, strict=True)), (max_blocks, order)


@pytest.mark.parametrize("relu", [0, 1])
@pytest.mark.parametrize("with_bias", [0, 1])
@pytest.mark.parametrize(
    "case",
    # Of many channels, the work of a tile is cut into pieces, which another kernel adds.
    [CASES["groups"], Case(1, 600, 6, (3, 5), padding=(1, 1), groups=2)],
    ids=["whole", "pieces"],
)
@in_each_format
@pytest.mark.sampled(4)
def test_bias_and_relu_on_host(on_host, case, channels_last, with_bias, relu):
    tensors = make(case, torch.float32)
    settings = {"channels_last": channels_last, "relu": relu, "precision": "bf16"}
    on = OnHost(on_host("atrous_conv2d"), case, torch.float32, **settings)
    bias = tensors["bias"] if with_bias else None
    got = on.forward(tensors["x"], tensors["weight"], bias)
    want, size = expected(case, tensors, "bf16")[0]
    if with_bias:
        want = want + bias.double().view(1, -1, 1, 1)
        size = size + bias.double().abs().view(1, -1, 1, 1)
    assert_near(got, want.relu() if relu else want, size, "bf16")
    assert (got < 0).any() != bool(relu)


@pytest.mark.parametrize("case", [CASES["ragged_tiles"], CASES["regions"]], ids=["wide", "narrow"])
@pytest.mark.parametrize("precision", ["fp32", "fp16"])
@pytest.mark.sampled(1)
def test_tiles_of_the_product_on_host(on_host, case, precision):
    on = OnHost(on_host("atrous_conv2d"), case, torch.float32, precision=precision, real_tiles=1)
    check_all(on, make(case, torch.float32))


@pytest.mark.parametrize("tensor_cores", [0, 1])
def test_float32_is_as_near_as_float32_can_be(on_host, tensor_cores):
    """Over 2304 products of equal sign, where sums that are cut off would drift away."""
    case = Case(1, 256, 1, (3, 3), padding=(1, 1))
    tensors = {name: t.abs() for name, t in make(case, torch.float32).items()}
    on = OnHost(on_host("atrous_conv2d"), case, torch.float32, tensor_cores=tensor_cores)
    got = on.forward(tensors["x"], tensors["weight"])
    want, size = expected(case, tensors)[0]
    # One rounding for each addition in order would be 2304 * 2^-24 at worst, 1e-6 in practice.
    assert ((got.double() - want) / size).abs().max() < 3e-7


@pytest.mark.parametrize(
    ("batch", "rate", "share"),
    # Useful: 0.81, 0.65, 0.50 and 0.37 of 9 taps a pixel; the rest is the last pixel tile and tiles
    # across a border between regions.
    [(1, 6, 0.92), (1, 12, 0.75), (1, 24, 0.47), (4, 6, 0.84), (4, 12, 0.67), (4, 24, 0.39)],
)
def test_tiles_skip_taps_outside_the_map(on_host, batch, rate, share):
    case = Case(batch, 512, 1024, (41, 41), padding=(rate, rate), rate=(rate, rate))
    taps = np.zeros(1, np.int64)
    on_host("atrous_conv2d").call("taps_run", case.geometry(), 128, taps)
    assert taps[0] / (9 * batch * 41 * 41) == pytest.approx(share, abs=0.006)


def test_plans_are_made_once_for_each_geometry(on_host):
    case = CASES["atrous"]
    cases = [
        case,
        dataclasses.replace(case, groups=2),
        case,
        dataclasses.replace(case, size=(9, 9)),
    ]
    cases += [dataclasses.replace(case, batch=10 + i) for i in range(1100)]
    geometries = np.concatenate([c.geometry() for c in [*cases, case, case]])
    plans, made = np.zeros(len(cases) + 2, np.int64), np.zeros(1, np.int64)
    on_host("atrous_conv2d").call("cached_plans", geometries, plans.size, plans, made)
    assert plans[:4].tolist() == [0, 1, 0, 3]
    # After more than are kept, the first is made anew, and kept again.
    assert plans[-2:].tolist() == [len(cases)] * 2
    assert made[0] == len(cases)


def test_extents_beyond_32_bits_are_refused(on_host):
    case = Case(1, 1, 1, (1, 1), (3, 1), padding=(2**28, 0), rate=(2**28, 1))
    on = OnHost(on_host("atrous_conv2d"), case, torch.float32)
    with pytest.raises(RuntimeError, match="at most 268435455 pixels"):
        check_all(on, make(case, torch.float32))
    largest = dataclasses.replace(case, padding=(2**27, 0), rate=(2**27 - 1, 1))
    on = OnHost(on_host("atrous_conv2d"), largest, torch.float32)
    assert largest.out_size == (3, 1)
    check_all(on, make(largest, torch.float32))


def test_no_channels_leave_the_bias_on_host(on_host):
    case = dataclasses.replace(CASES["atrous"], in_channels=0)
    tensors = make(case, torch.float32)
    on = OnHost(on_host("atrous_conv2d"), case, torch.float32)
    y = on.forward(tensors["x"], tensors["weight"], tensors["bias"])
    assert y.equal(tensors["bias"].view(1, -1, 1, 1).expand_as(y))


def test_not_a_number_survives_relu_on_host(on_host):
    case = Case(1, 4, 3, (2, 2), (1, 1))
    tensors = make(case, torch.float32)
    tensors["x"][0, 0, 1, 1] = float("nan")
    y = OnHost(on_host("atrous_conv2d"), case, torch.float32, relu=1).forward(
        tensors["x"], tensors["weight"]
    )
    assert y[0, :, 1, 1].isnan().all()
    assert not y[0, :, 0].isnan().any()


@each_dtype
@each_case
@pytest.mark.parametrize("max_blocks", [1, 0])
@pytest.mark.sampled(6)
def test_columns_on_host(on_host, case, dtype, max_blocks):
    tensors = make(case, dtype)
    kind = str(dtype).removeprefix("torch.")
    columns, x = torch.full_like(tensors["columns"], 7), torch.full_like(tensors["x"], 7)
    library = on_host("atrous_conv2d")
    for function, source, out in (("im2col", "x", columns), ("col2im", "columns", x)):
        arrays = (array(tensors[source]), array(out))
        library.call(f"{function}_{kind}", case.geometry(), *arrays, max_blocks, 0)
    unfolded, folded = column_loops(case, tensors["x"], tensors["columns"])
    size = column_loops(case, tensors["x"], tensors["columns"].abs())[1]
    assert torch.equal(columns.double(), unfolded)
    assert_near(x, folded, size, "fp32")


# On a GPU: the compiled library and CuPy, the same cases.


# Large enough for whole tiles and several pieces, small enough for the loops.
GPU_CASES = {
    **CASES,
    "wide": Case(1, 130, 200, (13, 12), padding=(4, 4), rate=(4, 4)),
    "narrow": Case(2, 70, 21, (12, 13), padding=(6, 6), rate=(6, 6)),
}


@pytest.mark.cuda
@pytest.mark.parametrize(
    ("dtype", "precision"),
    [*((torch.float32, p) for p in PRECISIONS), *((d, "fp32") for d in DTYPES[1:])],
    ids=str,
)
@pytest.mark.parametrize("case", GPU_CASES.values(), ids=GPU_CASES.keys())
def test_agrees_with_loops_on_gpu(on_gpu, case, dtype, precision):
    tensors = make(case, dtype)
    want = expected(case, tensors, precision)
    weight = tensors["weight"].cuda()
    rest = (*map(list, (case.stride, case.padding, case.rate)), case.groups, precision)
    forward, grad_input, grad_weight = (
        on_gpu(f"atrous_conv2d_direct{suffix}") for suffix in ("", "_grad_input", "_grad_weight")
    )
    for memory, max_blocks in ((torch.contiguous_format, 0), (torch.channels_last, 1)):
        x, grad_y = (tensors[n].cuda().to(memory_format=memory) for n in ("x", "grad_y"))
        got = (
            forward(x, weight, None, *rest, False, max_blocks),
            grad_input(grad_y, weight, list(case.size), *rest, max_blocks),
            grad_weight(grad_y, x, list(case.kernel), *rest, max_blocks),
        )
        for result, (sums, sizes) in zip(got, want, strict=True):
            assert result.is_cuda
            assert_near(result, sums, sizes, precision)


@pytest.mark.cuda
@each_dtype
@each_case
def test_columns_on_gpu(on_gpu, case, dtype):
    tensors = make(case, dtype, "cuda")
    window = [list(p) for p in (case.kernel, case.stride, case.padding, case.rate)]
    columns = on_gpu("atrous_im2col")(tensors["x"], *window)
    x = on_gpu("atrous_col2im")(tensors["columns"], list(case.size), *window)
    unfolded, folded = column_loops(case, tensors["x"], tensors["columns"])
    size = column_loops(case, tensors["x"], tensors["columns"].abs())[1]
    assert torch.equal(columns.cpu().double(), unfolded)
    assert_near(x, folded, size, "fp32")


@pytest.mark.cuda
def test_same_bits_in_every_run_on_gpu(on_gpu):
    case = Case(2, 256, 128, (41, 41), padding=(12, 12), rate=(12, 12))
    tensors = make(case, torch.float32, "cuda")
    x, weight, grad_y = (tensors[name] for name in ("x", "weight", "grad_y"))
    rest = ([1, 1], [12, 12], [12, 12], 1, "fp32")

    def run():
        return (
            on_gpu("atrous_conv2d_direct")(x, weight, tensors["bias"], *rest, True),
            on_gpu("atrous_conv2d_direct_grad_input")(grad_y, weight, [41, 41], *rest),
            on_gpu("atrous_conv2d_direct_grad_weight")(grad_y, x, [3, 3], *rest),
        )

    first = run()
    for _ in range(5):
        assert all(a.equal(b) for a, b in zip(run(), first, strict=True))
