"""Caps the instruction set of our kernels, of torch's and of what torch multiplies with, alike.

Libraries look at these variables once, when they are loaded, so a benchmark runs itself again.
"""

from __future__ import annotations

import os
import subprocess
import sys

#: Instruction set -> what each library is told.
CAPS = {
    name: {
        "DEEPLAB_REPRO_CPU_ISA": name,
        "ONEDNN_MAX_CPU_ISA": onednn,
        "ATEN_CPU_CAPABILITY": name,
        "MKL_ENABLE_INSTRUCTIONS": name.upper(),
    }
    for name, onednn in (("avx2", "AVX2"), ("avx512", "AVX512_CORE"))
}


def is_capped(isa: str) -> bool:
    """Whether this process was started under that cap."""
    return all(os.environ.get(name) == value for name, value in CAPS[isa].items())


def run_capped(isa: str) -> int:
    """Run this program again with its own arguments, capped; returns the exit code."""
    command = [sys.executable, *sys.argv]
    return subprocess.run(command, env={**os.environ, **CAPS[isa]}).returncode
