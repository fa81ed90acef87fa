"""Which backend is chosen, what is said about the others, and what a fallback does."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import deeplab_repro.native.backends as native
from deeplab_repro import doctor
from deeplab_repro.native import build

ROOT = Path(build.__file__).resolve().parents[2]


def python(code: str, **environment: str) -> subprocess.CompletedProcess:
    """Run code in a fresh interpreter: libraries are loaded once per process."""
    env = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code], capture_output=True, text=True, env=env
    )


USE_IT = """
import torch
from deeplab_repro.ops import channel_affine
for _ in range(2):
    x = torch.ones(1, 2, 3, requires_grad=True)
    y = channel_affine(x, torch.tensor([2.0, 3.0]))
print(y.tolist())
"""
RESULT = "[[[2.0, 2.0, 2.0], [3.0, 3.0, 3.0]]]"


def test_every_backend_is_accounted_for():
    backends = native.backends()
    assert list(backends) == ["cuda", "cupy", "cpu", "torch"]
    assert backends["torch"].available
    assert all(b.reason for b in backends.values())
    if not torch.cuda.is_available():
        assert not backends["cuda"].available
        assert "CUDA" in backends["cuda"].reason
        assert not backends["cupy"].available
    assert native.has_cpu() == backends["cpu"].available
    assert native.has_cuda() == backends["cuda"].available


@pytest.mark.skipif(
    build.read_record(native.library_dirs()[0]).get("sources") is None,
    reason="installed without native libraries (DEEPLAB_REPRO_BUILD=none, or no compiler)",
)
def test_built_cpu_library_is_used():
    assert native.has_cpu(), native.backends()["cpu"].reason


def without_libraries(tmp_path: Path) -> str:
    """Code that makes the package look where nothing has been built."""
    return (
        "import deeplab_repro.native.build as b, pathlib\n"
        f"b.LIBRARIES = dict.fromkeys(b.LIBRARIES, 'nothing.so')\n{USE_IT}"
    )


@pytest.mark.slow
def test_fallback_warns_once_and_computes(tmp_path):
    result = python(without_libraries(tmp_path), DEEPLAB_REPRO_STRICT="0")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == RESULT
    warnings = [line for line in result.stderr.splitlines() if "FallbackWarning" in line]
    assert len(warnings) == 1
    assert "channel_affine runs on the torch reference for cpu tensors" in warnings[0]
    assert "not built (run `deeplab-repro build`)" in warnings[0]


@pytest.mark.slow
def test_strict_makes_a_fallback_an_error(tmp_path):
    result = python(without_libraries(tmp_path), DEEPLAB_REPRO_STRICT="1")
    assert result.returncode != 0
    assert "FallbackError: channel_affine runs on the torch reference" in result.stderr


@pytest.mark.slow
def test_choosing_the_reference_is_no_fallback():
    result = python(USE_IT, DEEPLAB_REPRO_BACKENDS="torch", DEEPLAB_REPRO_STRICT="1")
    assert result.returncode == 0, result.stderr
    assert result.stdout.strip() == RESULT
    assert "FallbackWarning" not in result.stderr


@pytest.mark.slow
def test_unknown_backend_is_an_error():
    result = python("import deeplab_repro.ops", DEEPLAB_REPRO_BACKENDS="cpu,gpu")
    assert result.returncode != 0
    assert "DEEPLAB_REPRO_BACKENDS: unknown gpu; expected some of cuda, cupy" in result.stderr


def fake_library(folder: Path, kind: str, **record) -> None:
    folder.mkdir(exist_ok=True)
    (folder / build.LIBRARIES[kind]).write_bytes(b"not a library")
    record = {"sources": build.source_hash(), "architectures": ["9.0+PTX"], **record}
    (folder / build.RECORD).write_text(json.dumps(record))


@pytest.mark.skipif(torch.cuda.is_available(), reason="for machines without a GPU")
def test_cuda_library_is_not_touched_without_a_gpu(tmp_path, monkeypatch):
    fake_library(tmp_path, "cuda")
    monkeypatch.setattr(native, "library_dirs", lambda: [tmp_path])
    backend = native._load("cuda")
    assert not backend.available
    assert "built without CUDA" in backend.reason or "sees no CUDA device" in backend.reason
    assert backend.detail["path"] == str(tmp_path / build.LIBRARIES["cuda"])


def test_cuda_library_for_another_gpu_is_not_loaded(tmp_path, monkeypatch):
    fake_library(tmp_path, "cuda", architectures=["8.0", "9.0"])
    monkeypatch.setattr(native, "library_dirs", lambda: [tmp_path])
    monkeypatch.setattr(native, "_no_torch_cuda", lambda: "")
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: (12, 0))
    assert native._load("cuda").reason == "built for 8.0 9.0, the GPU is 12.0"


@pytest.mark.parametrize(
    ("architectures", "gpu", "runs"),
    [
        (["8.0"], (8, 6), True),
        (["8.6"], (8, 0), False),
        (["8.0"], (9, 0), False),
        (["8.0+PTX"], (9, 0), True),
        (["9.0+PTX"], (8, 9), False),
        (["7.5", "9.0"], (9, 0), True),
        ([], (9, 0), False),
    ],
)
def test_which_gpu_runs_which_code(architectures, gpu, runs, monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda: gpu)
    assert (native._unrunnable(architectures) == "") == runs


def test_library_of_other_sources_is_refused(tmp_path, monkeypatch):
    fake_library(tmp_path, "cpu", sources="0" * 16)
    monkeypatch.setattr(native, "library_dirs", lambda: [tmp_path])
    backend = native._load("cpu")
    assert not backend.available
    assert "was built from other sources (run `deeplab-repro build`)" in backend.reason


def test_broken_library_is_reported_not_raised(tmp_path, monkeypatch):
    fake_library(tmp_path, "cpu")
    monkeypatch.setattr(native, "library_dirs", lambda: [tmp_path])
    backend = native._load("cpu")
    assert not backend.available
    assert backend.reason.startswith("could not be loaded: ")
    assert build.LIBRARIES["cpu"] in backend.reason


def test_doctor_reports_and_checks_an_op():
    report = doctor.examine()
    assert json.loads(json.dumps(report.to_dict()))["ok"] == report.ok
    names = {f.name for f in report.sections["Backends"]}
    assert names == {"cuda", "cupy", "cpu", "torch"}
    check = report.sections["Self-test"][0]
    assert (check.name, check.status) == ("CPU", "ok")


def test_doctor_sees_a_wrong_op(monkeypatch):
    wrong = lambda x, scale, shift: doctor.reference.channel_affine(x, scale, shift * 1.001)  # noqa: E731
    monkeypatch.setattr(doctor, "channel_affine", wrong)
    report = doctor.examine()
    assert not report.ok
    assert report.sections["Self-test"][0].status == "problem"
