"""Compiles the kernels with the host's C++ compiler and hands them out as ctypes libraries."""

from __future__ import annotations

import ctypes
import shlex
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from deeplab_repro.native import backends, build, cupy_backend

HERE = Path(__file__).resolve().parent
ORDERS = {"forwards": 0, "backwards": 1, "shuffled": 2}


class HostLibrary:
    """Calls extern "C" functions with arrays, None and ints; raises what the harness says."""

    def __init__(self, path: Path):
        self._library = ctypes.CDLL(str(path))
        self._library.last_error_message.restype = ctypes.c_char_p

    def call(self, function: str, *args) -> None:
        if getattr(self._library, function)(*map(self._convert, args)) != 0:
            raise RuntimeError(self._library.last_error_message().decode())

    @staticmethod
    def _convert(value):
        if value is None:
            return ctypes.c_void_p(None)
        if isinstance(value, np.ndarray):
            assert value.flags.c_contiguous
            return ctypes.c_void_p(value.ctypes.data)
        return ctypes.c_longlong(value)


@pytest.fixture(scope="session")
def on_host(tmp_path_factory) -> Callable[[str], HostLibrary]:
    """on_host("channel_affine"): the library of channel_affine_on_host.cpp, compiled once."""
    compiler = build.find_tools().cxx
    if compiler is None:
        pytest.skip("no C++ compiler to run the CUDA kernels on the host")
    folder = tmp_path_factory.mktemp("on_host")
    libraries: dict[str, HostLibrary] = {}

    def get(name: str) -> HostLibrary:
        if name not in libraries:
            out = folder / f"{name}.so"
            flags = ["-std=c++17", "-O1", "-g", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
            include = ["-I", str(build.source_dir())]
            source = str(HERE / f"{name}_on_host.cpp")
            command = [*shlex.split(compiler), *flags, *include, source, "-o", str(out)]
            result = subprocess.run(command, capture_output=True, text=True, check=False)
            assert result.returncode == 0, result.stderr
            libraries[name] = HostLibrary(out)
        return libraries[name]

    return get


@pytest.fixture(params=["cuda", "cupy"])
def on_gpu(request) -> Callable[[str], Callable]:
    """on_gpu("channel_affine"): the op of that name, by the compiled library and by CuPy."""
    if not torch.cuda.is_available():
        pytest.skip("torch sees no CUDA device")
    backend = backends.backends()[request.param]
    if request.param == "cuda":
        assert backend.available, backend.reason
        return lambda name: getattr(torch.ops.deeplab_repro, name)
    if not backend.available:
        pytest.skip(f"CuPy: {backend.reason}")
    return cupy_backend.KERNELS.__getitem__
