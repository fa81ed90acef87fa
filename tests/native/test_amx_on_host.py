"""The kernels of the matrix unit on any processor with AVX-512, the unit itself in software."""

import shutil
import subprocess
from pathlib import Path

import pytest
import torch

from deeplab_repro.native import backends

HERE = Path(__file__).resolve().parent
CSRC = HERE.parent.parent / "csrc"
CPU = CSRC / "atrous_conv2d" / "cpu"
SOURCES = [
    *(CPU / f"{name}.cpp" for name in ("direct", "pointwise", "pixel_plan", "aligned_bytes")),
    CSRC / "common" / "team_cpu.cpp",
]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(shutil.which("g++") is None, reason="needs g++"),
    pytest.mark.skipif(
        not backends.has_cpu()
        or torch.ops.deeplab_repro.cpu_instruction_set() not in ("avx512", "amx"),
        reason="the kernels around the unit need AVX-512",
    ),
]


def test_the_matrix_unit_in_software(tmp_path: Path) -> None:
    unit = ["-include", str(HERE / "amx_on_host.h"), "-c", str(CPU / "kernels_amx.cpp")]
    # The plans and loads that all instruction sets share are held to what C++ defines on the way.
    defined = ["-fsanitize=undefined", "-fno-sanitize-recover=undefined"]
    flags = ["g++", "-std=c++17", "-O2", *defined, f"-I{CSRC}"]
    kernels, program = tmp_path / "kernels_amx.o", tmp_path / "amx_on_host"
    subprocess.run([*flags, *unit, "-o", str(kernels)], check=True)
    sources = [str(path) for path in (HERE / "amx_on_host.cpp", *SOURCES)]
    subprocess.run([*flags, *sources, str(kernels), "-pthread", "-o", str(program)], check=True)
    done = subprocess.run([program], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
