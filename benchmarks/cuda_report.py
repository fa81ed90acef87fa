"""What ptxas says of every kernel: registers, static shared memory and spills, by architecture.

    python benchmarks/cuda_report.py [--arch 9.0 ...] [--match direct_kernel]

Needs nvcc and torch's headers, and no GPU. Exit code 1 if a kernel spills registers to memory.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from deeplab_repro.native import build

ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0a", "10.0")


@dataclass(frozen=True)
class Usage:
    """One kernel on one architecture; shared and spilled in bytes."""

    kernel: str
    architecture: str
    registers: int
    shared: int
    spilled: int


def parse(log: str) -> list[Usage]:
    """The kernels in what `ptxas -v` printed."""
    found = []
    parts = re.split(r"Compiling entry function '(\S+)' for 'sm_(\w+)'", log)
    for name, architecture, text in zip(parts[1::3], parts[2::3], parts[3::3], strict=True):
        spilled = sum(int(n) for n in re.findall(r"(\d+) bytes spill", text))
        registers = int(re.search(r"Used (\d+) registers", text)[1])
        shared = re.search(r"(\d+) bytes smem", text)
        size = int(shared[1]) if shared else 0
        found.append(Usage(name, architecture, registers, size, spilled))
    return found


def compile_log(source: Path, architecture: str) -> str:
    """What nvcc and ptxas print; raises BuildError where the source does not compile."""
    tools = build.find_tools()
    if tools.nvcc is None:
        raise build.BuildError(tools.missing["nvcc"])
    number = architecture.replace(".", "")
    torch = tools.torch_dir
    with tempfile.TemporaryDirectory() as folder:
        command = [tools.nvcc, "-std=c++17", "-O3", "-DUSE_CUDA", "-cubin", f"-arch=sm_{number}"]
        command += ["-Xptxas=-v", build.TARGET, "-I", str(build.source_dir())]
        command += ["-isystem", f"{torch}/include", str(source), "-o", f"{folder}/out.cubin"]
        result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode != 0:
        raise build.BuildError(result.stderr)
    return result.stderr


def readable(names: list[str]) -> list[str]:
    """Demangled, without namespace and arguments; as they are where there is no c++filt."""
    program = shutil.which("c++filt")
    if program is None:
        return names
    text = subprocess.run([program], input="\n".join(names), capture_output=True, text=True).stdout
    return [re.sub(r"\(.*|void |deeplab::", "", line) for line in text.splitlines()]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--match", default="", help="only kernels whose name contains this")
    options = parser.parse_args()
    sources = [p for p in build.source_files() if p.name.endswith("_cuda.cu")]
    jobs = [(source, arch) for source in sources for arch in options.arch]
    try:
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            logs = list(pool.map(lambda job: compile_log(*job), jobs))
    except build.BuildError as error:
        print(error, file=sys.stderr)
        return 2
    usages = [usage for log in logs for usage in parse(log)]
    rows = list(zip(readable([u.kernel for u in usages]), usages, strict=True))
    rows = sorted((row for row in rows if options.match in row[0]), key=lambda row: row[0])
    print(f"{'sm':>5} {'registers':>9} {'shared':>7} {'spilled':>7}  kernel")
    for name, u in rows:
        print(f"{u.architecture:>5} {u.registers:>9} {u.shared:>7} {u.spilled:>7}  {name}")
    spilling = sum(u.spilled > 0 for _, u in rows)
    print(f"{len(rows)} kernels, {spilling} spill")
    return int(spilling > 0)


if __name__ == "__main__":
    sys.exit(main())
