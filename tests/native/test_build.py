"""The build switches, the compile commands and what gets installed."""

import ctypes
import os
import shutil
import stat
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
import torch

import deeplab_repro.native.backends as native
from deeplab_repro.native import build

ROOT = Path(build.__file__).resolve().parents[2]
TOOLS = build.find_tools()


def tools(**changes) -> build.Toolchain:
    found = {
        "cxx": "/usr/bin/c++",
        "nvcc": None,
        "torch_dir": Path("/torch"),
        "torch_version": "2.10.0",
        "missing": {"nvcc": "no nvcc"},
    }
    return build.Toolchain(**{**found, **changes})


def test_auto_builds_what_is_possible():
    plan = build.plan("auto", tools())
    assert (plan.cpu, plan.cuda) == (True, False)
    assert plan.reasons == (
        "CPU library: yes, /usr/bin/c++, torch 2.10.0",
        "CUDA library: no, no nvcc",
    )


def test_auto_leaves_out_what_torch_could_not_load():
    found = tools(nvcc="/usr/bin/nvcc", torch_version="2.13.0+cpu", missing={})
    plan = build.plan("auto", found)
    assert (plan.cpu, plan.cuda) == (True, False)
    assert "CUDA library: no, torch 2.13.0+cpu has no CUDA" in plan.reasons[1]


def test_auto_without_torch_is_pure_python():
    missing = {"torch": "no torch in this environment"}
    plan = build.plan("auto", tools(torch_dir=None, torch_version=None, missing=missing))
    assert (plan.cpu, plan.cuda) == (False, False)
    assert "no, no torch in this environment (pure Python" in plan.reasons[0]


def test_cpu_leaves_cuda_out(monkeypatch):
    plan = build.plan("cpu", tools(nvcc="/usr/bin/nvcc", missing={}))
    assert (plan.cpu, plan.cuda) == (True, False)
    assert plan.reasons[1] == "CUDA library: no, DEEPLAB_REPRO_BUILD=cpu"


def test_none_builds_nothing(tmp_path):
    plan = build.plan("none", tools())
    assert (plan.cpu, plan.cuda) == (False, False)
    assert build.build(tmp_path, plan) == []
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("mode", "missing", "message"),
    [
        ("cpu", {"cxx": "no C++ compiler"}, "DEEPLAB_REPRO_BUILD=cpu, but no C\\+\\+ compiler"),
        ("cuda", {"nvcc": "no nvcc"}, "DEEPLAB_REPRO_BUILD=cuda, but no nvcc"),
        ("cuda", {"torch": "no torch"}, "DEEPLAB_REPRO_BUILD=cuda, but no torch"),
        ("gpu", {}, "DEEPLAB_REPRO_BUILD=gpu: must be one of auto, cpu, cuda, none"),
    ],
)
def test_impossible_or_unknown_switch_is_an_error(mode, missing, message):
    with pytest.raises(build.BuildError, match=message):
        build.plan(mode, tools(missing=missing))


def test_switch_comes_from_the_environment(monkeypatch):
    monkeypatch.setenv("DEEPLAB_REPRO_BUILD", "none")
    assert build.plan().reasons == ("no native library: DEEPLAB_REPRO_BUILD=none",)


def fake_program(folder: Path, name: str, script: str) -> str:
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_compilers_named_in_the_environment_are_used(tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", fake_program(tmp_path, "my-cxx", ""))
    monkeypatch.setenv("NVCC", fake_program(tmp_path, "my-nvcc", "echo release 12.4, V12.4.99"))
    found = build.find_tools()
    assert found.cxx == str(tmp_path / "my-cxx")
    assert found.nvcc == str(tmp_path / "my-nvcc")
    monkeypatch.setenv("CXX", "does-not-exist")
    assert build.find_tools().cxx is None
    monkeypatch.delenv("NVCC")
    (tmp_path / "bin").mkdir()
    fake_program(tmp_path / "bin", "nvcc", "echo release 13.0, V13.0.1")
    monkeypatch.setenv("CUDA_HOME", str(tmp_path))
    assert build.find_tools().nvcc == str(tmp_path / "bin" / "nvcc")
    fake_program(tmp_path / "bin", "nvcc", "echo release 11.8, V11.8.89")
    assert "is release 11.8, 12.0 is needed" in build.find_tools().missing["nvcc"]


def test_architectures(tmp_path, monkeypatch):
    # An nvcc that has dropped the oldest and does not know the newest of the default list.
    known = " ".join(f"compute_{n}" for n in (80, 86, 87, 89, 90))
    nvcc = fake_program(tmp_path, "nvcc", f"echo {known}")
    monkeypatch.delenv("TORCH_CUDA_ARCH_LIST", raising=False)
    assert build._architectures(nvcc) == ["8.0", "8.6", "8.9", "9.0+PTX"]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "8.6;9.0a 10.0+PTX")
    assert build._architectures(nvcc) == ["8.6", "9.0a", "10.0+PTX"]
    assert build._gencode(["8.6", "10.0+PTX"]) == [
        "-gencode=arch=compute_86,code=sm_86",
        "-gencode=arch=compute_100,code=sm_100",
        "-gencode=arch=compute_100,code=compute_100",
    ]
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "Volta")
    with pytest.raises(build.BuildError, match="cannot read 'Volta'"):
        build._architectures(nvcc)


def test_cache_follows_xdg_and_the_sources(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert build.cache_dir().parent == tmp_path / "deeplab-repro"
    assert build.cache_dir().name.endswith(build.source_hash())
    copy = tmp_path / "csrc"
    shutil.copytree(build.source_dir(), copy)
    assert build.source_hash(copy) == build.source_hash()
    (copy / "registration.cpp").write_text("// changed\n")
    assert build.source_hash(copy) != build.source_hash()


def test_compiler_errors_are_shown(tmp_path, monkeypatch):
    cxx = fake_program(tmp_path, "c++", "echo the compiler says no; exit 1")
    plan = build.plan("cpu", tools(cxx=cxx, missing={}))
    with pytest.raises(build.BuildError, match="the compiler says no"):
        build.build(tmp_path / "out", plan)
    assert not list((tmp_path / "out").glob("*.so"))


needs_compiler = pytest.mark.skipif(
    any(k in TOOLS.missing for k in ("cxx", "torch")), reason=f"cannot build: {TOOLS.missing}"
)
needs_nvcc = pytest.mark.skipif(bool(TOOLS.missing), reason=f"cannot build: {TOOLS.missing}")


def copy_one_op(csrc: Path) -> None:
    """Sources of a library with one op: all steps of a build, in a tenth of the compiler's time."""
    csrc.mkdir(parents=True)
    for name in ("registration.cpp", "schemas.inc"):
        shutil.copy(build.source_dir() / name, csrc)
    for folder in ("common", "channel_affine"):
        shutil.copytree(build.source_dir() / folder, csrc / folder)


@pytest.fixture
def one_op(tmp_path, monkeypatch):
    """build() compiles the sources of one op."""
    csrc = tmp_path / "sources" / "csrc"
    copy_one_op(csrc)
    monkeypatch.setattr(build, "source_dir", lambda: csrc)
    return csrc


@pytest.mark.slow
@needs_compiler
def test_cpu_library_builds_once_and_again_when_a_source_changes(one_op, tmp_path, capsys):
    target, plan = tmp_path / "lib", build.plan("cpu")
    (library,) = build.build(target, plan)
    assert capsys.readouterr().err == build.read_record(target)["warnings"] == ""
    written = library.stat().st_mtime_ns
    assert build.build(target, plan) == [library]
    assert library.stat().st_mtime_ns == written
    assert sorted(p.name for p in target.iterdir()) == ["build.json", library.name]
    for source in build.source_files(one_op):
        if source.suffix == ".cpp":
            source.unlink()
    (one_op / "registration.cpp").write_text("static int nobody_reads_this = 0;\n")
    assert build.build(target, plan) == [library]
    assert library.stat().st_mtime_ns > written
    assert "nobody_reads_this" in build.read_record(target)["warnings"]
    assert "nobody_reads_this" in capsys.readouterr().err


installed = native.library_dirs()[0]
needs_installed = pytest.mark.skipif(
    build.read_record(installed).get("sources") is None,
    reason="installed without native libraries (DEEPLAB_REPRO_BUILD=none, or no compiler)",
)


@needs_installed
def test_installed_libraries_were_compiled_without_warnings():
    """At the optimization of users, where the compiler sees most."""
    assert build.read_record(installed)["warnings"] == ""


@needs_installed
def test_cpu_library_needs_no_python_and_torch_through_its_stable_abi():
    library = installed / build.LIBRARIES["cpu"]
    symbols = subprocess.run(["nm", "-D", "-u", library], capture_output=True, text=True).stdout
    # The whole promise of the stable ABI: torch through its C functions, and nothing of Python.
    torch_symbols = [s.split()[-1] for s in symbols.splitlines() if "torch" in s or " Py" in s]
    assert torch_symbols
    assert all(s.startswith(("aoti_torch_", "torch_")) for s in torch_symbols)


@pytest.mark.slow
@needs_nvcc
def test_cuda_library_builds_without_a_gpu_and_needs_one(one_op, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("TORCH_CUDA_ARCH_LIST", "9.0")
    libraries = build.build(tmp_path, build.plan("cuda"))
    assert [p.name for p in libraries] == list(build.LIBRARIES.values())
    assert capsys.readouterr().err == ""
    assert build.read_record(tmp_path)["architectures"] == ["9.0"]
    if torch.version.cuda is None:
        with pytest.raises(OSError, match="undefined symbol"):
            ctypes.CDLL(str(libraries[1]), mode=os.RTLD_NOW)


def wheel(tmp_path: Path, mode: str) -> subprocess.CompletedProcess:
    """pip wheel of a copy of the checkout, so that no file appears in the checkout itself."""
    copy = tmp_path / "checkout"
    ignore = shutil.ignore_patterns("__pycache__", "lib", "*.egg-info", "build", "largefov*")
    for folder in ("deeplab_repro", "prototxt_import", "weights"):
        shutil.copytree(ROOT / folder, copy / folder, ignore=ignore)
    if mode == "none":
        shutil.copytree(ROOT / "csrc", copy / "csrc")
    else:
        copy_one_op(copy / "csrc")
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, copy)
    command = [sys.executable, "-m", "pip", "wheel", "-v", "--no-build-isolation", "--no-deps"]
    return subprocess.run(
        [*command, "--wheel-dir", str(tmp_path), str(copy)],
        capture_output=True,
        text=True,
        env={**os.environ, "DEEPLAB_REPRO_BUILD": mode},
    )


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["none", pytest.param("cpu", marks=needs_compiler)])
def test_wheel(tmp_path, mode):
    pytest.importorskip("setuptools", minversion="77")
    result = wheel(tmp_path, mode)
    assert result.returncode == 0, result.stdout + result.stderr
    (path,) = tmp_path.glob("*.whl")
    names = set(zipfile.ZipFile(path).namelist())
    assert "deeplab_repro/_csrc/registration.cpp" in names
    assert "deeplab_repro/_csrc/channel_affine/channel_affine_kernels.cuh" in names
    assert {"deeplab_repro/py.typed", "prototxt_import/py.typed"} <= names
    assert {"deeplab_repro/_weights/manifest.json", "deeplab_repro/data/labels.py"} <= names
    for page in (
        "demo/page/demo.html",
        "evaluation/page/evaluate.html",
        "reproduction/page/reproduce.html",
    ):
        assert f"deeplab_repro/{page}" in names
    assert "deeplab_repro/pages/shared/base.html" in names
    built = "deeplab_repro/lib/libdeeplab_repro_cpu.so" in names
    assert built == (mode == "cpu")
    assert not any(n.startswith("tests/") for n in names)
    if mode == "none":
        assert "deeplab_repro/_csrc/atrous_conv2d/cpu/kernels.h" in names  # a folder in a folder
        assert path.name.endswith("-py3-none-any.whl")
        assert "no native library: DEEPLAB_REPRO_BUILD=none" in result.stdout + result.stderr
        return
    assert "-py3-none-linux" in path.name
    # Unpacked anywhere, it finds its library and its sources.
    zipfile.ZipFile(path).extractall(tmp_path / "site")
    code = (
        "import deeplab_repro.native.backends as n; b = n.backends()['cpu']; "
        "assert b.available, b.reason; print(b.detail['path'])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(tmp_path / "site")},
    )
    assert run.returncode == 0, run.stderr
    assert run.stdout.startswith(str(tmp_path / "site"))


@pytest.mark.slow
def test_impossible_wheel_fails_with_one_clear_line(tmp_path):
    pytest.importorskip("setuptools", minversion="77")
    environment = {"CXX": "no-such-compiler"}
    os.environ.update(environment)
    try:
        result = wheel(tmp_path, "cpu")
    finally:
        del os.environ["CXX"]
    assert result.returncode != 0
    assert (
        "deeplab-repro: DEEPLAB_REPRO_BUILD=cpu, but no C++ compiler"
        in result.stdout + result.stderr
    )
