"""CuPy's half that needs no GPU: the source it is handed, its constants, and NVRTC's opinion."""

import ctypes
import ctypes.util
import glob
import re
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_repro.native import build
from deeplab_repro.native.cupy_backend import channel_affine, runtime

KERNELS = "channel_affine/channel_affine_kernels.cuh"
NAMES = tuple(
    f"deeplab::{kernel}<{dtype}>"
    for kernel in ("channel_affine_kernel", "channel_affine_reduce_kernel")
    for dtype in ("float", "double")
)


def test_source_is_whole_and_holds_each_header_once():
    source = runtime.assemble(KERNELS)
    assert '#include "' not in source
    assert source.count("struct ChannelAffineGeometry {") == 1
    assert source.count("HOST_DEVICE Index ceil_div") == 1
    assert source.index("ceil_div") < source.index("channel_affine_reduce_kernel")
    assert "ucontext" not in source  # the host harness stays out


def test_source_includes_no_system_header():
    assert "#include <" not in runtime.assemble(KERNELS)  # NVRTC has none


def test_constants_are_those_of_the_launchers():
    def constant(file: str, name: str) -> int:
        text = (build.source_dir() / file).read_text()
        return int(re.search(rf"constexpr \w+ {name} = (\d+);", text)[1])

    assert constant(KERNELS, "kChannelAffineThreads") == channel_affine.THREADS
    assert constant("common/cuda_launch.cuh", "kAutomaticMaxBlocks") == runtime.AUTOMATIC_MAX_BLOCKS


@pytest.mark.parametrize(
    ("items", "per_block", "max_blocks", "blocks"),
    [(1, 256, 0, 1), (256, 256, 0, 1), (257, 256, 0, 2), (9999, 256, 3, 3), (10**9, 256, 0, 4096)],
)
def test_grid_size(items, per_block, max_blocks, blocks):
    assert runtime.grid_size(items, per_block, max_blocks) == blocks


def test_geometry_has_the_layout_of_the_struct():
    geometry = channel_affine.geometry(torch.empty(2, 3, 5, 7))
    assert geometry.tobytes() == np.array([2, 3, 35], np.int64).tobytes()
    assert channel_affine.geometry(torch.empty(4, 6)).tobytes() == (
        np.array([4, 6, 1], np.int64).tobytes()
    )
    fields = re.findall(
        r"Index (\w+);", (build.source_dir() / "channel_affine/geometry.h").read_text()
    )
    assert tuple(fields) == geometry.dtype.names


@pytest.fixture
def fake_gpu(monkeypatch, on_host):
    """runtime.launch with the host harness in the GPU's place: same names, grids and arguments."""
    library = on_host("channel_affine")
    calls = []

    def launch(kernel_file, names, name, device, blocks, threads, args):
        assert name in names
        assert kernel_file == KERNELS
        assert threads == channel_affine.THREADS
        function, dtype = re.fullmatch(r"deeplab::(\w+)_kernel<(\w+)>", name).groups()
        arrays = [a.numpy() if isinstance(a, torch.Tensor) else a for a in args]
        library.call(f"{function}_{dtype}", *arrays, blocks, 0)
        calls.append(name)

    monkeypatch.setattr(runtime, "launch", launch)
    return calls


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
@pytest.mark.parametrize("shape", [(2, 3, 5, 7), (1, 300, 2), (0, 3, 2), (2, 0, 3), (2, 3, 0)])
def test_glue_calls_the_kernels_rightly(fake_gpu, shape, dtype):
    from tests.ops.channel_affine_cases import assert_agrees, loops, make

    x, scale, shift, grad_y = make(shape, dtype)
    got = (
        channel_affine.channel_affine(x, scale, shift),
        *channel_affine.channel_affine_backward(grad_y, x, scale, True, True, True),
    )
    assert_agrees(got, loops(x, scale, shift, grad_y), dtype)
    # Compare the mask too: what is not needed is not computed.
    fake_gpu.clear()
    grads = channel_affine.channel_affine_backward(grad_y, x, scale, False, False, True)
    assert [g.numel() for g in grads] == [0, 0, shape[1]]
    assert len(fake_gpu) == (shape[1] > 0)
    if shape[1]:
        torch.testing.assert_close(grads[2], got[3])


def find_nvrtc() -> str | None:
    """A libnvrtc that the loader knows, that lies beside nvcc, or that came as a Python package."""
    nvcc = build.find_tools().nvcc
    home = Path(nvcc).resolve().parent.parent if nvcc else Path("/usr/local/cuda")
    patterns = [str(home / "lib64" / "libnvrtc.so*")]
    patterns += [str(Path(p) / "nvidia" / "*" / "lib" / "libnvrtc.so*") for p in sys.path if p]
    found = ctypes.util.find_library("nvrtc")
    candidates = [found] if found else []
    candidates += [path for pattern in patterns for path in sorted(glob.glob(pattern))]
    candidates += ["libnvrtc.so", "libnvrtc.so.13", "libnvrtc.so.12"]
    for candidate in candidates:
        try:
            # NVRTC asks the loader for its built-in headers by name, which finds them once loaded.
            for builtins in glob.glob(str(Path(candidate).parent / "libnvrtc-builtins.so*")):
                ctypes.CDLL(builtins)
            ctypes.CDLL(candidate)
        except OSError:
            continue
        return candidate
    return None


def compile_with_nvrtc(kernel_file: str, names: Sequence[str], architecture: str) -> None:
    """Skips where there is no NVRTC; fails with its log if it objects or warns."""
    path = find_nvrtc()
    if path is None:
        pytest.skip("no libnvrtc on this machine")
    nvrtc = ctypes.CDLL(path)
    program = ctypes.c_void_p()
    source = runtime.assemble(kernel_file).encode()
    assert nvrtc.nvrtcCreateProgram(ctypes.byref(program), source, b"k.cu", 0, None, None) == 0
    for name in names:
        assert nvrtc.nvrtcAddNameExpression(program, name.encode()) == 0
    options = [
        *(o.encode() for o in runtime.OPTIONS),
        f"--gpu-architecture={architecture}".encode(),
    ]
    status = nvrtc.nvrtcCompileProgram(
        program, len(options), (ctypes.c_char_p * len(options))(*options)
    )
    size = ctypes.c_size_t()
    nvrtc.nvrtcGetProgramLogSize(program, ctypes.byref(size))
    log = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetProgramLog(program, log)
    assert status == 0, log.value.decode()
    assert "warning" not in log.value.decode()
    nvrtc.nvrtcGetPTXSize(program, ctypes.byref(size))
    ptx = ctypes.create_string_buffer(size.value)
    nvrtc.nvrtcGetPTX(program, ptx)
    for name in names:
        lowered = ctypes.c_char_p()
        assert nvrtc.nvrtcGetLoweredName(program, name.encode(), ctypes.byref(lowered)) == 0
        assert f".entry {lowered.value.decode()}(".encode() in ptx.value
    nvrtc.nvrtcDestroyProgram(ctypes.byref(program))


def test_nvrtc_compiles_what_cupy_is_given():
    compile_with_nvrtc(KERNELS, NAMES, "compute_80")
