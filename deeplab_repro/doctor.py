"""What is installed on this machine, what the ops run on, and what to do about what is missing."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shlex
import subprocess
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any

import torch

from deeplab_repro.native import backends, build
from deeplab_repro.native.processor import cpuinfo, processor_name
from deeplab_repro.ops import channel_affine, reference

REQUIRED = (
    "torch",
    "numpy",
    "scipy",
    "h5py",
    "opencv-python-headless",
    "protobuf",
    "safetensors",
    "click",
    "rich",
    "pillow",
    "matplotlib",
    "jinja2",
    "httpx",
    "filelock",
)
# Distributions that bring the same module under another name.
_SAME_MODULE = {
    "opencv-python-headless": (
        "opencv-python",
        "opencv-contrib-python",
        "opencv-contrib-python-headless",
    )
}
_CUPY = ("cupy-cuda13x", "cupy-cuda12x", "cupy")
_VECTOR_FLAGS = ("sse4_2", "avx", "avx2", "fma", "avx512f", "avx512_bf16", "amx_tile")


@dataclass(frozen=True)
class Finding:
    """One line of the report.

    status: "ok", "missing" (optional, something is slower or absent without it), "problem"
    (something does not work) or "info". hint: what to do, or "".
    """

    name: str
    value: str
    status: str = "info"
    hint: str = ""


@dataclass(frozen=True)
class Report:
    """Findings by section, in the order to show them."""

    sections: dict[str, list[Finding]]

    @property
    def problems(self) -> list[Finding]:
        return [f for found in self.sections.values() for f in found if f.status == "problem"]

    @property
    def ok(self) -> bool:
        return not self.problems

    def to_dict(self) -> dict[str, Any]:
        """For JSON: {"ok": bool, "sections": {section: [{name, value, status, hint}]}}."""
        sections = {name: [asdict(f) for f in found] for name, found in self.sections.items()}
        return {"ok": self.ok, "sections": sections}


def examine() -> Report:
    """Look at the machine and run a small op on every device; takes about a second."""
    return Report(
        {
            "Versions": _versions(),
            "Machine": _machine(),
            "Compilers": _compilers(),
            "Backends": _backends(),
            "Libraries": _libraries(),
            "Self-test": _self_test(),
        }
    )


def _version(*distributions: str) -> str | None:
    for name in distributions:
        try:
            return importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return None


def _versions() -> list[Finding]:
    own = _version("deeplab-repro") or "not installed, running from its sources"
    found = [
        Finding("deeplab-repro", own, "ok"),
        Finding("python", platform.python_version(), "ok"),
    ]
    for name in REQUIRED:
        version = _version(name, *_SAME_MODULE.get(name, ()))
        if version is None:
            found.append(Finding(name, "not installed", "problem", f"pip install {name}"))
        else:
            found.append(Finding(name, version, "ok"))
    cupy = _version(*_CUPY)
    if cupy:
        found.append(Finding("cupy", cupy, "ok"))
    else:
        hint = "GPU without nvcc: pip install deeplab-repro[cupy]"
        found.append(Finding("cupy", "not installed", "missing", hint))
    return found


def _machine() -> list[Finding]:
    flags = cpuinfo().get("flags", "").split()
    found = [
        Finding("system", f"{platform.system()} {platform.release()} {platform.machine()}"),
        Finding("processor", processor_name()),
        Finding("vector units", " ".join(f for f in _VECTOR_FLAGS if f in flags) or "unknown"),
        Finding("cores", str(os.cpu_count())),
        Finding("threads", f"{torch.get_num_threads()} (torch.set_num_threads, OMP_NUM_THREADS)"),
    ]
    for index in range(torch.cuda.device_count() if torch.cuda.is_available() else 0):
        gpu = torch.cuda.get_device_properties(index)
        text = f"{gpu.name}, {gpu.total_memory / 2**30:.0f} GiB, capability {gpu.major}.{gpu.minor}"
        found.append(Finding(f"GPU {index}", text))
    return found


def _compilers() -> list[Finding]:
    tools = build.find_tools()
    found = []
    for name, program in (("C++", tools.cxx), ("nvcc", tools.nvcc)):
        if program is None:
            missing = tools.missing["cxx" if name == "C++" else "nvcc"]
            found.append(Finding(name, missing, "missing"))
            continue
        listing = subprocess.run(
            [*shlex.split(program), "--version"], capture_output=True, text=True, check=False
        )
        lines = [line for line in listing.stdout.splitlines() if line.strip()]
        # nvcc says its release in the last line but one, the others in the first.
        release = [line for line in lines if "release" in line] or lines[:1] or ["unknown"]
        found.append(Finding(name, f"{program}: {release[0].strip()}", "ok"))
    return found


def _backends() -> list[Finding]:
    found = []
    for name, backend in backends.backends().items():
        details = (backend.detail.get(key) for key in ("instructions", "version"))
        text = "; ".join(filter(None, (backend.reason, *details)))
        found.append(Finding(name, text, "ok" if backend.available else "missing"))
    return found


def _libraries() -> list[Finding]:
    found = []
    for folder in backends.library_dirs():
        names = [n for n in build.LIBRARIES.values() if (folder / n).is_file()]
        stale = names and build.read_record(folder).get("sources") != build.source_hash()
        found.append(
            Finding(
                str(folder),
                (", ".join(names) or "empty") + (" (built from other sources)" if stale else ""),
                "missing" if stale else "ok" if names else "info",
                "deeplab-repro build" if stale else "",
            )
        )
    sources = build.source_dir()
    there = bool(build.source_hash())
    found.append(
        Finding(
            str(sources),
            "sources" if there else "no sources: nothing can be compiled",
            "ok" if there else "problem",
            "" if there else "reinstall deeplab-repro",
        )
    )
    return found


def _self_test() -> list[Finding]:
    """channel_affine forward and backward on each device, against the reference on the CPU."""
    found = [_try("CPU", lambda: _difference("cpu"))]
    if torch.cuda.is_available():
        found.append(_try("GPU", lambda: _difference("cuda")))
    return found


def _difference(device: str) -> float:
    generator = torch.Generator().manual_seed(0)
    inputs = [torch.randn(s, generator=generator) for s in ((2, 5, 33, 7), (5,), (5,))]

    def run(op: Callable[..., torch.Tensor], where: str) -> list[torch.Tensor]:
        leaves = [t.to(where, copy=True).requires_grad_() for t in inputs]
        y = op(*leaves)
        y.square().sum().backward()
        return [t.detach().cpu() for t in (y, *(leaf.grad for leaf in leaves)) if t is not None]

    pairs = zip(run(channel_affine, device), run(reference.channel_affine, "cpu"), strict=True)
    return max(float((a - b).abs().max() / b.abs().max()) for a, b in pairs)


def _try(name: str, difference: Callable[[], float]) -> Finding:
    try:
        rel = difference()
    except Exception as error:  # whatever goes wrong here is what the report is for
        return Finding(name, f"{type(error).__name__}: {error}", "problem")
    text = f"channel_affine forward and backward, rel {rel:.1e}"
    return Finding(name, text, "ok" if rel < 1e-5 else "problem")
