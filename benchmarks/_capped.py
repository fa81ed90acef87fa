"""Caps the instruction set of our kernels, of torch's and of what torch multiplies with, alike.

Libraries look at these variables once, when they are loaded, so a benchmark runs itself again.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys

from _timing import refuse

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


def add_option(parser: argparse.ArgumentParser) -> None:
    """--isa."""
    parser.add_argument("--isa", choices=CAPS, help="cap the instruction set of both sides")


def obey(isa: str | None) -> None:
    """Where this process is not capped so, run the program again in one that is, and end.

    A processor that has less than that is refused.
    """
    if isa is None:
        return
    if any(os.environ.get(name) != value for name, value in CAPS[isa].items()):
        command = [sys.executable, *sys.argv]
        raise SystemExit(subprocess.run(command, env={**os.environ, **CAPS[isa]}).returncode)
    from deeplab_repro.native import backends

    if backends.instruction_set() != isa:
        refuse(f"--isa {isa}: this machine has {backends.instruction_set() or 'no kernels'}")
