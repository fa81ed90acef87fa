"""Compiles the kernels with the host's C++ compiler and hands them out as ctypes libraries."""

from __future__ import annotations

import ctypes
import hashlib
import shlex
import subprocess
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import pytest
import torch
from filelock import FileLock

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
def on_host(pytestconfig: pytest.Config, tmp_path_factory) -> Callable[[str], HostLibrary]:
    """on_host("channel_affine"): the library of channel_affine_on_host.cpp.

    Compiled once for the same sources and command: it stays in pytest's cache for later runs.
    """
    tools = build.find_tools()
    if tools.cxx is None:
        pytest.skip("no C++ compiler to run the CUDA kernels on the host")
    flags = ["-std=c++17", "-O1", "-Wall", "-Wextra", "-Werror", "-fPIC", "-shared"]
    flags.append("-U_FORTIFY_SOURCE")  # a fortified longjmp refuses to leave a fiber
    command = [*shlex.split(tools.cxx), *flags, "-I", str(build.source_dir())]
    kept = getattr(pytestconfig, "cache", None)  # None under -p no:cacheprovider
    folder = kept.mkdir("on_host") if kept else tmp_path_factory.mktemp("on_host")
    key = _key(command)

    @cache
    def get(name: str) -> HostLibrary:
        library = folder / f"{name}-{key}.so"
        with FileLock(folder / f"{name}.lock"):  # of several workers, one compiles
            if not library.exists():
                for old in folder.glob(f"{name}-*.so"):
                    old.unlink()
                out = library.with_suffix(".new")
                source = HERE / f"{name}_on_host.cpp"
                result = subprocess.run(
                    [*command, str(source), "-o", str(out)], capture_output=True, text=True
                )
                assert result.returncode == 0, result.stderr
                out.replace(library)
            return HostLibrary(library)

    return get


def _key(command: list[str]) -> str:
    """Of the compiler, its options and all that it may read; the system's headers come with it."""
    compiler = subprocess.run([command[0], "--version"], capture_output=True, text=True).stdout
    content = hashlib.sha256(f"{command} {compiler} {build.source_hash()}".encode())
    for source in sorted([*HERE.glob("*.cpp"), *HERE.glob("*.h")]):
        content.update(source.name.encode() + source.read_bytes())
    return content.hexdigest()[:16]


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
