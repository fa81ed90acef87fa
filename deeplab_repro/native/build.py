"""The compile commands of the native libraries, for setup.py and for `deeplab-repro build`.

Imports the standard library alone, so that setup.py can run it by path in an environment that has
neither this package nor torch. torch is looked up, never imported: its headers are all that a build
needs, and the stable ABI makes one build serve every torch from 2.10 on and every Python.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import importlib.util
import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

LIBRARIES = {"cpu": "libdeeplab_repro_cpu.so", "cuda": "libdeeplab_repro_cuda.so"}
RECORD = "build.json"
MODES = ("auto", "cpu", "cuda", "none")
MIN_TORCH = (2, 10)
MIN_CUDA = (12, 0)
# The stable ABI of torch 2.10: nothing newer may be called.
TARGET = "-DTORCH_TARGET_VERSION=0x020a000000000000"
# Turing to Blackwell; PTX of the last serves what comes after.
DEFAULT_ARCHITECTURES = ("7.5", "8.0", "8.6", "8.9", "9.0", "10.0+PTX")


class BuildError(RuntimeError):
    """A build that was asked for and cannot be done, or a compiler that failed."""


@dataclass(frozen=True)
class Toolchain:
    """What was found on this machine; None where nothing was found, and why."""

    cxx: str | None
    nvcc: str | None
    torch_dir: Path | None
    torch_version: str | None
    missing: dict[str, str]  # {"cxx" | "nvcc" | "torch": one line}


@dataclass(frozen=True)
class Plan:
    """Which libraries to build, and one line of reason for each decision."""

    cpu: bool
    cuda: bool
    reasons: tuple[str, ...]
    tools: Toolchain


def source_dir() -> Path:
    """The C++ and CUDA sources: in a checkout csrc/, in an installed package _csrc/."""
    package = Path(__file__).resolve().parent.parent
    installed = package / "_csrc"
    return installed if installed.is_dir() else package.parent / "csrc"


def source_files(folder: Path | None = None) -> list[Path]:
    """Every source file that a library is made of, sorted by name."""
    folder = folder or source_dir()
    kinds = {".h", ".inc", ".cpp", ".cu", ".cuh"}
    return sorted(p for p in folder.rglob("*") if p.suffix in kinds)


def source_hash(folder: Path | None = None) -> str:
    """16 hex digits that change with any source file; "" where there are no sources."""
    folder = folder or source_dir()
    files = source_files(folder)
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + b"\0")
        digest.update(path.read_bytes() + b"\0")
    return digest.hexdigest()[:16] if files else ""


def user_cache() -> Path:
    """This package's folder in the user's cache (XDG_CACHE_HOME, or else ~/.cache)."""
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "deeplab-repro"


def cache_dir() -> Path:
    """Where `deeplab-repro build` puts the libraries: the user's cache, one folder per source."""
    return user_cache() / f"{platform.machine()}-{source_hash()}"


def find_tools() -> Toolchain:
    """Look for a C++ compiler (CXX), nvcc (NVCC, CUDA_HOME, PATH) and torch's headers."""
    missing = {}
    cxx = _program(os.environ.get("CXX"), "c++", "g++", "clang++")
    if cxx is None:
        missing["cxx"] = "no C++ compiler (CXX, c++, g++, clang++)"
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH"), "/usr/local/cuda"]
    in_homes = [str(Path(home) / "bin" / "nvcc") for home in homes if home]
    nvcc = _program(os.environ.get("NVCC"), *in_homes[:-1], "nvcc", in_homes[-1])
    if nvcc is None:
        missing["nvcc"] = "no nvcc (NVCC, CUDA_HOME, PATH, /usr/local/cuda)"
    elif (release := _nvcc_release(nvcc)) < MIN_CUDA:
        missing["nvcc"] = f"{nvcc} is release {'.'.join(map(str, release))}, 12.0 is needed"
        nvcc = None
    torch_dir, version = _find_torch()
    if torch_dir is None:
        missing["torch"] = "no torch in this environment"
    elif _version_pair(version) < MIN_TORCH:
        missing["torch"] = f"torch {version} is older than {MIN_TORCH[0]}.{MIN_TORCH[1]}"
        torch_dir = None
    return Toolchain(cxx, nvcc, torch_dir, version, missing)


def plan(mode: str | None = None, tools: Toolchain | None = None) -> Plan:
    """Decide what to build.

    Args:
        mode: "auto" (what is possible and can be loaded: minutes of nvcc are not spent for a torch
            without CUDA), "cpu", "cuda" (both libraries), "none"; None reads DEEPLAB_REPRO_BUILD,
            default "auto".
        tools: what there is to build with; found by itself where it is None.

    Raises:
        BuildError: for an unknown mode, and where "cpu" or "cuda" is impossible.
    """
    mode = mode or os.environ.get("DEEPLAB_REPRO_BUILD") or "auto"
    if mode not in MODES:
        raise BuildError(f"DEEPLAB_REPRO_BUILD={mode}: must be one of {', '.join(MODES)}")
    tools = tools or find_tools()
    if mode == "none":
        return Plan(False, False, ("no native library: DEEPLAB_REPRO_BUILD=none",), tools)
    if not sys.platform.startswith("linux"):
        tools.missing["platform"] = f"native libraries are built on Linux only, not {sys.platform}"
    no_cpu = [tools.missing[k] for k in ("platform", "cxx", "torch") if k in tools.missing]
    no_cuda = no_cpu + [tools.missing[k] for k in ("nvcc",) if k in tools.missing]
    if mode == "cpu" and no_cpu:
        raise BuildError(f"DEEPLAB_REPRO_BUILD=cpu, but {'; '.join(no_cpu)}")
    if mode == "cuda" and no_cuda:
        raise BuildError(f"DEEPLAB_REPRO_BUILD=cuda, but {'; '.join(no_cuda)}")
    if mode == "auto" and not no_cuda and (tools.torch_version or "").endswith("+cpu"):
        no_cuda = [f"torch {tools.torch_version} has no CUDA (DEEPLAB_REPRO_BUILD=cuda builds it)"]
    cpu = not no_cpu
    cuda = not no_cuda and mode != "cpu"
    if cpu:
        cpu_line = f"CPU library: yes, {tools.cxx}, torch {tools.torch_version}"
    else:
        cpu_line = f"CPU library: no, {'; '.join(no_cpu)} (pure Python)"
    if cuda:
        cuda_line = f"CUDA library: yes, {tools.nvcc}, for {' '.join(_architectures(tools.nvcc))}"
    elif mode == "cpu":
        cuda_line = "CUDA library: no, DEEPLAB_REPRO_BUILD=cpu"
    else:
        cuda_line = f"CUDA library: no, {'; '.join(no_cuda)}"
    return Plan(cpu, cuda, (cpu_line, cuda_line), tools)


def build(target: Path | str | None = None, what: Plan | None = None) -> list[Path]:
    """Compile the libraries of `what` (default: plan()) into `target` (default: cache_dir()).

    Libraries that are there already, made from the same sources by the same commands, are kept.
    Each file is written under a temporary name and then renamed, so a reader never sees half of
    one. MAX_JOBS bounds the number of compilers that run at a time.

    Returns:
        The paths of the libraries.

    Raises:
        BuildError: with the compiler's output, if one fails.
    """
    what = what or plan()
    target = Path(target) if target is not None else cache_dir()
    folder = source_dir()
    wanted = [kind for kind in ("cpu", "cuda") if getattr(what, kind)]
    if not wanted:
        return []
    commands = {kind: _compile_command(kind, what.tools, folder) for kind in wanted}
    record = {
        "sources": source_hash(folder),
        "torch": what.tools.torch_version,
        "architectures": _architectures(what.tools.nvcc) if what.cuda else [],
        # Without the folders that differ between checkouts: only what changes the machine code.
        "commands": {kind: _portable(commands[kind], what.tools, folder) for kind in wanted},
    }
    paths = [target / LIBRARIES[kind] for kind in wanted]
    before = read_record(target)
    same = before == {**record, "warnings": before.get("warnings")}
    if same and all(p.is_file() for p in paths):
        return paths
    target.mkdir(parents=True, exist_ok=True)
    jobs = []
    with tempfile.TemporaryDirectory(prefix="deeplab-repro-build-") as scratch:
        for kind in wanted:
            suffix = ".cpp" if kind == "cpu" else ".cu"
            for source in (p for p in source_files(folder) if p.suffix == suffix):
                out = Path(scratch) / ("-".join(source.relative_to(folder).parts) + ".o")
                jobs.append((kind, [*commands[kind], "-c", str(source), "-o", str(out)], out))
        limit = int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)
        with ThreadPoolExecutor(max(1, limit)) as pool:
            said = list(pool.map(lambda job: _run(job[1]), jobs))
        # A stale record must not vouch for new libraries, nor a new record for stale ones.
        (target / RECORD).unlink(missing_ok=True)
        for kind, path in zip(wanted, paths, strict=True):
            objects = [str(out) for k, _, out in jobs if k == kind]
            temporary = target / f".{path.name}.{os.getpid()}"
            try:
                said.append(_run(_link_command(kind, what.tools, objects, temporary)))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        temporary = target / f".{RECORD}.{os.getpid()}"
        record["warnings"] = "".join(said)
        temporary.write_text(json.dumps(record, indent=2) + "\n")
        os.replace(temporary, target / RECORD)
    return paths


def read_record(folder: Path) -> dict:
    """What build() wrote: sources, torch, architectures, commands, the compilers' warnings."""
    try:
        record = json.loads((folder / RECORD).read_text())
    except (OSError, ValueError):
        return {}
    return record if isinstance(record, dict) else {}


def _compile_command(kind: str, tools: Toolchain, folder: Path) -> list[str]:
    include = ["-I", str(folder), "-isystem", str(_torch(tools) / "include"), TARGET]
    # No fast-math: exp and division must stay Caffe's. No -march: one build for every x86-64.
    if kind == "cpu":
        flags = ["-std=c++17", "-O3", "-fPIC", "-fvisibility=hidden", "-Wall", "-Wextra"]
        return [*shlex.split(tools.cxx or ""), *flags, *include]
    flags = ["-std=c++17", "-O3", "-DUSE_CUDA", "-Xcompiler=-fPIC,-fvisibility=hidden,-Wall"]
    return [*_nvcc(tools), *flags, *_gencode(_architectures(tools.nvcc)), *include]


def _link_command(kind: str, tools: Toolchain, objects: list[str], out: Path) -> list[str]:
    # No rpath: torch has loaded its libraries before ours, and the loader finds them by name.
    into = ["-shared", *objects, "-o", str(out), "-L", str(_torch(tools) / "lib")]
    if kind == "cpu":
        return [*shlex.split(tools.cxx or ""), *into, "-ltorch_cpu"]
    # libtorch.so is a shell that brings libtorch_cuda.so where torch has CUDA. A CPU-only torch
    # lacks the latter, and need not have it: a shared library may leave symbols open.
    return [*_nvcc(tools), *into, "-Xlinker=--no-as-needed", "-ltorch", "-ltorch_cpu"]


def _nvcc(tools: Toolchain) -> list[str]:
    # nvcc compiles the host half with its own choice unless told of ours (a bare program: nvcc
    # takes no "ccache g++").
    cxx = shlex.split(os.environ.get("CXX", ""))
    return [tools.nvcc or "", *(["-ccbin", cxx[0]] if len(cxx) == 1 else [])]


def _torch(tools: Toolchain) -> Path:
    if tools.torch_dir is None:
        raise BuildError("torch's headers are needed to build")
    return tools.torch_dir


def _portable(command: list[str], tools: Toolchain, folder: Path) -> str:
    text = shlex.join(command)
    return text.replace(str(_torch(tools)), "<torch>").replace(str(folder), "<csrc>")


def _architectures(nvcc: str | None) -> list[str]:
    """TORCH_CUDA_ARCH_LIST, or those of the default list that this nvcc knows."""
    asked = re.split(r"[;,\s]+", os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip())
    asked = [a for a in asked if a]
    for arch in asked:
        if not re.fullmatch(r"\d+\.\d[af]?(\+PTX)?", arch):
            raise BuildError(
                f"TORCH_CUDA_ARCH_LIST: cannot read {arch!r}, expected e.g. 8.6 9.0+PTX"
            )
    if asked:
        return asked
    listing = subprocess.run([nvcc or "", "--list-gpu-arch"], capture_output=True, text=True)
    known = set(re.findall(r"compute_(\d+)", listing.stdout))
    usable = [a for a in DEFAULT_ARCHITECTURES if _digits(a) in known]
    if not usable:
        raise BuildError(f"{nvcc} knows none of {' '.join(DEFAULT_ARCHITECTURES)}")
    last = usable[-1]
    return [*usable[:-1], last if last.endswith("+PTX") else last + "+PTX"]


def _digits(arch: str) -> str:
    return arch.removesuffix("+PTX").replace(".", "")


def _gencode(architectures: list[str]) -> list[str]:
    flags = []
    for arch in architectures:
        number = _digits(arch)
        flags.append(f"-gencode=arch=compute_{number},code=sm_{number}")
        if arch.endswith("+PTX"):
            flags.append(f"-gencode=arch=compute_{number},code=compute_{number}")
    return flags


def _run(command: list[str]) -> str:
    """The compiler's warnings, which are printed too; a clean build prints nothing."""
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        raise BuildError(f"{shlex.join(command)}\n{result.stdout}")
    if result.stdout.strip():
        print(result.stdout, file=sys.stderr)
    return result.stdout.strip()


def _program(asked: str | None, *names: str) -> str | None:
    """The one asked for by the environment (and no other), else the first that exists."""
    if asked:
        # "ccache g++" and the like: a command line whose first word is the program.
        return asked if shutil.which(shlex.split(asked)[0]) else None
    return next((found for found in map(shutil.which, names) if found), None)


def _find_torch() -> tuple[Path | None, str | None]:
    try:
        spec = importlib.util.find_spec("torch")
        version = importlib.metadata.version("torch")
    except (ImportError, ValueError, importlib.metadata.PackageNotFoundError):
        return None, None
    if spec is None or spec.origin is None:
        return None, None
    folder = Path(spec.origin).parent
    if not (folder / "include" / "torch" / "csrc" / "stable" / "library.h").is_file():
        return None, None
    return folder, version


def _nvcc_release(nvcc: str) -> tuple[int, int]:
    listing = subprocess.run([nvcc, "--version"], capture_output=True, text=True)
    found = re.search(r"release ([\d.]+)", listing.stdout)
    return _version_pair(found[1] if found else None)


def _version_pair(version: str | None) -> tuple[int, int]:
    numbers = re.match(r"(\d+)\.(\d+)", version or "")
    return (int(numbers[1]), int(numbers[2])) if numbers else (0, 0)
