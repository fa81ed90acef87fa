"""CuPy's glue of the atrous convolution, with the host harness in the GPU's place."""

import dataclasses
import re

import numpy as np
import pytest
import torch

from deeplab_repro.native import build, cupy_backend
from deeplab_repro.native.cupy_backend import atrous_conv2d, runtime
from tests.native.atrous_conv2d_cases import (
    CASES,
    ROUNDING,
    Case,
    assert_near,
    column_loops,
    loops,
    make,
)
from tests.native.test_cupy_source import compile_with_nvrtc

PAIRS = [
    (torch.float32, "fp32"),
    (torch.float32, "bf16"),
    (torch.bfloat16, "fp32"),
    (torch.float64, "fp32"),
]


@pytest.fixture
def fake_gpu(monkeypatch, on_host):
    """runtime.launch by name on the harness: same names, grids and arguments."""
    library = on_host("cupy")
    launched = []

    def launch(kernel_file, names, name, device, blocks, threads, args, shared_bytes=0):
        assert name in names
        values = [np.ascontiguousarray(as_value(a)) for a in args]
        pointers = np.array([v.ctypes.data for v in values], np.uint64)
        text = np.frombuffer(name.encode() + b"\0", np.uint8)
        library.call("run_kernel", text, blocks, threads, shared_bytes, pointers)
        launched.append((name, blocks))

    def as_value(argument):
        if argument is None or isinstance(argument, torch.Tensor):
            return np.uint64(0 if argument is None else argument.data_ptr())
        return argument

    monkeypatch.setattr(runtime, "launch", launch)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device: (9, 0))
    atrous_conv2d._plan.cache_clear()
    yield launched
    atrous_conv2d._plan.cache_clear()


def run(case, tensors, precision, memory_format=torch.contiguous_format, **options):
    """(y, grad_x, grad_weight) through KERNELS, with the ops' arguments."""
    x, grad_y = (tensors[n].to(memory_format=memory_format) for n in ("x", "grad_y"))
    weight = tensors["weight"]
    window = (case.stride, case.padding, case.rate, case.groups, precision)
    direct = [
        cupy_backend.KERNELS[f"atrous_conv2d_direct{s}"]
        for s in ("", "_grad_input", "_grad_weight")
    ]
    return (
        direct[0](x, weight, options.get("bias"), *window, options.get("relu", False)),
        direct[1](grad_y, weight, case.size, *window),
        direct[2](grad_y, x, case.kernel, *window),
    )


@pytest.mark.parametrize("memory_format", [torch.contiguous_format, torch.channels_last], ids=str)
@pytest.mark.parametrize(("dtype", "precision"), PAIRS, ids=str)
@pytest.mark.parametrize("name", ["regions", "stride_and_rate", "groups"])
@pytest.mark.sampled(4)
def test_glue_calls_the_kernels_rightly(fake_gpu, name, dtype, precision, memory_format):
    case = CASES[name]
    tensors = make(case, dtype)
    operands = [tensors[n] for n in ("x", "weight", "grad_y")]
    if dtype == torch.float32:
        operands = [ROUNDING[precision](t) for t in operands]
    sizes = loops(case, *(t.abs() for t in operands))
    got = run(case, tensors, precision, memory_format)
    for result, want, size in zip(got, loops(case, *operands), sizes, strict=True):
        assert_near(result, want, size, precision)
    assert all(t.is_contiguous(memory_format=memory_format) for t in got[:2])


@pytest.mark.slow
def test_bias_relu_and_pieces(fake_gpu):
    case = Case(1, 600, 40, (3, 3), padding=(1, 1))
    tensors = make(case, torch.float32)
    x, weight, bias = (tensors[n] for n in ("x", "weight", "bias"))
    direct = cupy_backend.KERNELS["atrous_conv2d_direct"]
    y = direct(x, weight, bias, (1, 1), (1, 1), (1, 1), 1, "fp32", True)
    want = torch.nn.functional.conv2d(x.double(), weight.double(), bias.double(), padding=1)
    torch.testing.assert_close(y.double(), want.relu(), rtol=0, atol=1e-4)
    names = [name for name, _ in fake_gpu]
    assert "deeplab::direct_kernel<deeplab::Tf32x3, deeplab::WideTile, float>" in names
    assert "deeplab::direct_sum_kernel<deeplab::Tf32x3, deeplab::WideTile, float>" in names


def test_a_plan_is_made_once(fake_gpu):
    tensors = make(CASES["groups"], torch.float32)
    for _ in range(2):
        run(CASES["groups"], tensors, "fp32")
    assert sum("forward_plan" in name for name, _ in fake_gpu) == 1


def test_maps_that_lie_well_are_read_where_they_are(fake_gpu):
    tensors = make(CASES["regions"], torch.float32)
    run(CASES["regions"], tensors, "fp32", torch.channels_last)
    packed = [name for name, _ in fake_gpu if "pack_map" in name]
    assert len(packed) == 2  # grad_y of 3 filters, for both gradients; x has 4 channels


@pytest.mark.parametrize("empty", ["batch", "in_channels"])
def test_empty_operands(fake_gpu, empty):
    case = dataclasses.replace(CASES["atrous"], **{empty: 0})
    tensors = make(case, torch.float32)
    y, grad_x, grad_weight = run(case, tensors, "fp32", bias=tensors["bias"])
    assert y.equal(tensors["bias"].view(1, -1, 1, 1).expand_as(y))
    assert grad_x.shape == tensors["x"].shape
    assert not grad_weight.any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16], ids=str)
@pytest.mark.parametrize("name", ["stride_and_rate", "rate_above_map"])
def test_columns(fake_gpu, name, dtype):
    case = CASES[name]
    tensors = make(case, dtype)
    window = (case.kernel, case.stride, case.padding, case.rate)
    columns = cupy_backend.KERNELS["atrous_im2col"](tensors["x"], *window)
    x = cupy_backend.KERNELS["atrous_col2im"](tensors["columns"], case.size, *window)
    unfolded, folded = column_loops(case, tensors["x"], tensors["columns"])
    size = column_loops(case, tensors["x"], tensors["columns"].abs())[1]
    assert torch.equal(columns.double(), unfolded)
    assert_near(x, folded, size, "fp32")


def test_constants_are_those_of_the_kernels():
    folder = build.source_dir()
    text = "".join(p.read_text() for p in sorted((folder / "atrous_conv2d").glob("*.*h")))
    text += (folder / "common/mma.cuh").read_text()

    def constant(name: str) -> int:
        return int(re.search(rf"constexpr \w+ {name} = (\d+);", text)[1])

    assert constant("kIm2colThreads") == atrous_conv2d.IM2COL_THREADS
    assert constant("kPackThreads") == atrous_conv2d.PACK_THREADS
    assert constant("kPackSide") == atrous_conv2d.PACK_SIDE
    assert constant("kDirectSumThreads") == atrous_conv2d.DIRECT_SUM_THREADS
    assert constant("kGradSumThreads") == atrous_conv2d.GRAD_SUM_THREADS
    assert constant("kChunkBytes") == atrous_conv2d.CHUNK_BYTES
    shift = re.search(r"kMaxExtent = \(1 << (\d+)\) - 1;", text)[1]
    assert (1 << int(shift)) - 1 == atrous_conv2d.MAX_EXTENT
    narrow = re.search(r"NarrowTile = Tile<\d+, (\d+)", text)[1]
    assert int(narrow) == atrous_conv2d.NARROW_FILTERS


def test_geometry_has_the_layout_of_the_struct():
    case = CASES["stride_and_rate"]
    arguments = (case.kernel, case.stride, case.padding, case.rate, case.groups)
    g = atrous_conv2d.geometry(case.shapes["x"], case.out_channels, *arguments)
    assert g.tobytes() == case.geometry().tobytes()
    text = (build.source_dir() / "atrous_conv2d/geometry.h").read_text()
    body = text[text.index("struct ConvGeometry {") : text.index("HOST_DEVICE")]
    fields = [f for names in re.findall(r"Index ([\w, ]+);", body) for f in names.split(", ")]
    assert tuple(fields) == g.dtype.names


def test_extents_beyond_32_bits_are_refused():
    with pytest.raises(ValueError, match="at most 268435455 pixels on CUDA, got 536870912"):
        atrous_conv2d.geometry((1, 1, 1, 1), 1, (3, 1), (1, 1), (2**28, 0), (2**28, 1), 1)


@pytest.mark.parametrize("architecture", ["compute_75", "compute_80"])
def test_nvrtc_compiles_what_cupy_is_given(architecture):
    ways = {"Tf32x3": "WideTile", "Bf16": "NarrowTile", "MultiplyAdd<double>": "PlainTile"}
    if architecture == "compute_75":
        ways = {"MultiplyAdd<float>": "PlainTile"}
    names = []
    for way, tile in ways.items():
        way = f"deeplab::{way}"
        element = "double" if "double" in way else "float"
        pair = f"{way}, deeplab::{tile}"
        names += [f"deeplab::{k}_kernel<{way}, {element}>" for k in ("pack_map", "pack_weight")]
        names += [f"deeplab::{k}_kernel<{pair}, {element}>" for k in ("direct", "direct_sum")]
        names += [f"deeplab::grad_weight_sum_kernel<{way}, {element}>"]
        names += [f"deeplab::grad_weight_kernel<{pair}>"]
        for plan in ("forward", "grad_input", "grad_weight"):
            names.append(f"deeplab::{plan}_plan_kernel<{pair}>")
    compile_with_nvrtc(atrous_conv2d.KERNEL_FILE, names, architecture)
    names = [f"deeplab::{k}_kernel<deeplab::Half>" for k in ("im2col", "col2im")]
    compile_with_nvrtc(atrous_conv2d.IM2COL_FILE, names, architecture)
