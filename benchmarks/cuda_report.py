"""What ptxas and the machine code say of the kernels: registers, spills, instructions.

    python benchmarks/cuda_report.py [--arch 9.0 ...] [--match direct_kernel] [--json FILE]

Registers, static shared memory and spills of every kernel by architecture; of the main ones on
sm_90, how many instructions a warp issues for one unit of their work (`WORK`), which needs
nvdisasm (pip install nvidia-cuda-nvdisasm). Needs nvcc and torch's headers, and no GPU. Exit code
1 if a kernel spills registers to memory.
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
from dataclasses import asdict, dataclass
from pathlib import Path

import _sass

from deeplab_repro.native import build

ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0a", "10.0")
COUNTED = "90"  # what instructions are counted of: sm_90 or sm_90a


@dataclass(frozen=True)
class Usage:
    """One kernel on one architecture; shared and spilled in bytes."""

    kernel: str
    architecture: str
    registers: int
    shared: int
    spilled: int


@dataclass(frozen=True)
class Work:
    """A unit of a kernel's work, and the loop that does `units` of them in one pass of a warp.

    The loop is the innermost with all of `opcodes`. passes: how often the loops within it run for
    one pass of it, in the order of the code. Both arms of a branch count.
    """

    kernel: str
    unit: str
    units: float
    opcodes: tuple[str, ...]
    passes: tuple[float, ...] = ()


@dataclass(frozen=True)
class Count:
    """Instructions that a warp issues for one unit of a kernel's work; None: other loops found."""

    kernel: str
    unit: str
    instructions: float | None
    reason: str = ""


_PRODUCTS = ("HMMA", "LDGSTS")
_WIDE, _NARROW = "Tile<128, 128, 2, 4>", "Tile<128, 32, 4, 1>"
_OF_21 = 32 / 6  # rows of 21 channels, six quads, that a warp works on
# Passes of an iteration over a tile: the cursor's loop over short taps once, and products of two
# steps at a time twice, where they are not all unrolled.
WORK = (
    Work(f"direct_kernel<Tf32x3, {_WIDE}, float>", "product, 3 x tf32", 192, _PRODUCTS, (1, 2)),
    Work(f"direct_kernel<Tf32x3, {_NARROW}, float>", "product, 3 x tf32", 96, _PRODUCTS, (1, 2)),
    Work(f"direct_kernel<Tf32, {_WIDE}, float>", "product", 64, _PRODUCTS, (1,)),
    Work(f"direct_kernel<Bf16, {_WIDE}, BFloat16>", "product", 64, _PRODUCTS, (1,)),
    Work(f"grad_weight_kernel<Tf32x3, {_WIDE}>", "product, 3 x tf32", 96, _PRODUCTS, (1,) * 5),
    # Of nine regions that a 3 x 3 filter cuts, a tile lies in the fifth, or in the sixth too.
    Work(
        f"direct_kernel<Tf32x3, {_WIDE}, float>",
        "tile, outside its products",
        1,
        ("HMMA", "STG"),
        (5, 2, 5, 1, 1, 0, 1, 2),
    ),
    Work("pack_map_kernel<Tf32x3, float>", "32 elements", 4, ("BAR",)),
    Work("pack_map_kernel<Bf16, BFloat16>", "32 elements", 4, ("BAR",)),
    # Nine taps, four at a time and the last one by itself.
    Work("pack_weight_kernel<Tf32x3, float>", "32 rows of 9 taps", 1, ("UIMAD", "LDG"), (2,)),
    # Two kernels, with 3 and 6 corners, three corners at a time; no matrices.
    Work("update_kernel<8, 1>", "pixel of 21 labels", 4, ("SHFL",), (2, 1.5, 0, 0, 0, 0, 0)),
    # Four entries at a time, as a vertex of the colours has them in most pictures, and two more.
    Work("splat_kernel<float>", "entry of 21 channels", 14 * _OF_21, ("STG",), (3,)),
    Work("blur_kernel<float>", "vertex of 21 channels", _OF_21, ("STG",)),
    Work("slice_kernel<float>", "point of 21 channels, 6 corners", _OF_21, ("STG",), (2, 0)),
)


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


def compiled(source: Path, architecture: str) -> tuple[str, str | None]:
    """What nvcc and ptxas print, and the machine code where it is to be counted.

    Raises BuildError where the source does not compile.
    """
    tools = build.find_tools()
    if tools.nvcc is None:
        raise build.BuildError(tools.missing["nvcc"])
    number = architecture.replace(".", "")
    torch = tools.torch_dir
    with tempfile.TemporaryDirectory() as folder:
        cubin = Path(folder, "out.cubin")
        command = [tools.nvcc, "-std=c++17", "-O3", "-DUSE_CUDA", "-cubin", f"-arch=sm_{number}"]
        command += ["-Xptxas=-v", build.TARGET, "-I", str(build.source_dir())]
        command += ["-isystem", f"{torch}/include", str(source), "-o", str(cubin)]
        result = subprocess.run(command, capture_output=True, text=True)
        if result.returncode != 0:
            raise build.BuildError(result.stderr)
        nvdisasm = _sass.find_nvdisasm(tools.nvcc)
        counted = nvdisasm is not None and number.rstrip("a") == COUNTED
        return result.stderr, _sass.listing(nvdisasm, cubin) if nvdisasm and counted else None


def counts(listing: str) -> list[Count]:
    """Of the kernels in a listing that WORK describes."""
    code = _sass.kernels(listing)
    loops = dict(zip(readable(list(code)), code.values(), strict=True))
    return [_count(work, loops[work.kernel]) for work in WORK if work.kernel in loops]


def _count(work: Work, loops: list[_sass.Loop]) -> Count:
    loop = _sass.innermost(loops, work.opcodes)
    if loop is None:
        return Count(work.kernel, work.unit, None, f"no loop with {' and '.join(work.opcodes)}")
    try:
        return Count(work.kernel, work.unit, round(loop.issued(work.passes) / work.units, 2))
    except _sass.CodeError as error:
        return Count(work.kernel, work.unit, None, str(error))


def readable(names: list[str]) -> list[str]:
    """Demangled, without namespace and arguments; as they are where there is no c++filt."""
    program = shutil.which("c++filt")
    if program is None:
        return names
    text = subprocess.run([program], input="\n".join(names), capture_output=True, text=True).stdout
    text = text.replace("(anonymous namespace)::", "")
    lines = (re.sub(r"\(.*|void |deeplab::", "", line) for line in text.splitlines())
    return [line.replace("> >", ">>") for line in lines]


def _release() -> str:
    """Of nvcc, since another one may issue other instructions."""
    command = [str(build.find_tools().nvcc), "--version"]
    text = subprocess.run(command, capture_output=True, text=True).stdout
    return re.search(r"V([\d.]+)", text)[1]


def print_counts(found: list[Count]) -> None:
    if not found:
        print("no instructions counted: for sm_90 alone, and nvdisasm must be there")
        return
    print(f"\n{'instructions':>12}  for a")
    for count in sorted(found, key=lambda count: count.kernel):
        number = f"{count.instructions:.2f}" if count.instructions is not None else "?"
        print(f"{number:>12}  {count.unit}: {count.kernel} {count.reason}".rstrip())


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--arch", nargs="+", default=ARCHITECTURES)
    parser.add_argument("--match", default="", help="only kernels whose name contains this")
    parser.add_argument("--json", type=Path, help="write the instructions to this file")
    options = parser.parse_args()
    sources = [p for p in build.source_files() if p.name.endswith("_cuda.cu")]
    jobs = [(source, arch) for source in sources for arch in options.arch]
    try:
        with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
            results = list(pool.map(lambda job: compiled(*job), jobs))
    except build.BuildError as error:
        print(error, file=sys.stderr)
        return 2
    usages = [usage for log, _ in results for usage in parse(log)]
    rows = list(zip(readable([u.kernel for u in usages]), usages, strict=True))
    rows = sorted((row for row in rows if options.match in row[0]), key=lambda row: row[0])
    print(f"{'sm':>5} {'registers':>9} {'shared':>7} {'spilled':>7}  kernel")
    for name, u in rows:
        print(f"{u.architecture:>5} {u.registers:>9} {u.shared:>7} {u.spilled:>7}  {name}")
    found = [count for _, listing in results if listing for count in counts(listing)]
    found = list(dict.fromkeys(count for count in found if options.match in count.kernel))
    print_counts(found)
    if options.json:
        from _timing import write_json  # imports torch, which nothing else here needs

        write_json(options.json, "cuda_report", [{**asdict(c), "nvcc": _release()} for c in found])
    spilling = sum(u.spilled > 0 for _, u in rows)
    print(f"{len(rows)} kernels, {spilling} spill")
    return int(spilling > 0)


if __name__ == "__main__":
    sys.exit(main())
