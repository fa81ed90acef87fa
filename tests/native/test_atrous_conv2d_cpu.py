"""The convolutions that are native on every instruction set that this processor has."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from deeplab_repro.native import backends

ROOT = Path(__file__).resolve().parent.parent.parent
CHECKS = """
from importlib import import_module
for kind in ("conv2d", "winograd", "depthwise", "pointwise"):
    import_module(f"tests.native.atrous_{kind}_isa").main()
"""
ALL = ["baseline", "avx2", "avx512", "amx"]

pytestmark = pytest.mark.skipif(
    not backends.has_cpu(), reason="the compiled CPU kernels are not loaded"
)


def run(isa: str, *command: str) -> subprocess.CompletedProcess:
    environment = {**os.environ, "DEEPLAB_REPRO_CPU_ISA": isa, "PYTHONPATH": str(ROOT)}
    return subprocess.run(
        [sys.executable, *command], capture_output=True, text=True, env=environment, cwd=ROOT
    )


@pytest.mark.slow
@pytest.mark.parametrize("isa", ALL)
def test_instruction_set(isa):
    """In a process of its own, which chooses the instructions when it loads the library."""
    best = torch.ops.deeplab_repro.cpu_instruction_set()
    if ALL.index(isa) > ALL.index(best):
        pytest.skip(f"this processor has {best}")
    result = run(isa, "-c", CHECKS, "1")  # the seed
    assert result.returncode == 0, result.stderr


@pytest.mark.slow
def test_unknown_instruction_set_is_named():
    code = (
        "import deeplab_repro.native.backends, torch; torch.ops.deeplab_repro.cpu_instruction_set()"
    )
    result = run("sse9", "-c", code)
    assert result.returncode != 0
    assert "DEEPLAB_REPRO_CPU_ISA: this processor has baseline" in result.stderr
    assert "got sse9" in result.stderr
