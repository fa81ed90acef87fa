"""Finds and loads the compiled kernels, and says what there is and why something is not.

Every op exists always: its schema comes from the CPU library, or where that cannot be loaded from
csrc/schemas.inc. For each call torch's dispatcher takes the compiled kernel of the tensor's device;
where there is none it comes to `provide`'s default kernel, which takes CuPy (CUDA tensors) or the
torch reference. The order is therefore: compiled CUDA, CuPy, compiled CPU, torch reference.

A fall back to the reference warns once per op and device. DEEPLAB_REPRO_STRICT=1 makes it an error.
DEEPLAB_REPRO_BACKENDS, a comma-separated list of cuda, cupy, cpu and torch, restricts the choice
(default: all); what is excluded that way is not missed, so choosing "torch" alone does not warn.
"""

from __future__ import annotations

import ast
import importlib.util
import os
import re
import warnings
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from deeplab_repro.native import build

NAMESPACE = "deeplab_repro"
BACKENDS = ("cuda", "cupy", "cpu", "torch")


class FallbackWarning(UserWarning):
    """An op runs on the torch reference because its kernel is not available."""


class FallbackError(RuntimeError):
    """The same, under DEEPLAB_REPRO_STRICT=1."""


@dataclass(frozen=True)
class Backend:
    """One way of computing the ops.

    Attributes:
        name: one of `BACKENDS`.
        available: whether it is used for tensors of its device.
        reason: why it is not, or how it comes to be available, in one line.
        detail: "path", "version", "architectures", "instructions", ... where they apply.
    """

    name: str
    available: bool
    reason: str
    detail: dict[str, str] = field(default_factory=dict)


def library_dirs() -> list[Path]:
    """Where compiled libraries are looked for: in the package, then in the user's cache."""
    return [Path(__file__).resolve().parent.parent / "lib", build.cache_dir()]


def has_cpu() -> bool:
    """Whether the compiled CPU kernels are loaded."""
    return _state["cpu"].available


def has_cuda() -> bool:
    """Whether the compiled CUDA kernels are loaded."""
    return _state["cuda"].available


def instruction_set() -> str:
    """What the compiled CPU kernels use: "amx", "avx512", "avx2", "baseline"; "" without them."""
    return _state["cpu"].detail.get("instructions", "")


def backends() -> dict[str, Backend]:
    """Every backend by name, in the order of choice: cuda, cupy, cpu, torch."""
    return {name: _state[name] for name in BACKENDS}


def strict() -> bool:
    """Whether a fallback is an error (DEEPLAB_REPRO_STRICT=1)."""
    return os.environ.get("DEEPLAB_REPRO_STRICT", "") not in ("", "0")


def provide(op: str, reference: Callable[..., Any]) -> None:
    """Register what runs where no compiled kernel does.

    Args:
        op: the op's name in csrc/schemas.inc.
        reference: the torch twin with the op's arguments but without max_blocks.
    """

    def default_kernel(*args: Any) -> Any:
        device = next(a.device.type for a in args if isinstance(a, torch.Tensor))
        if device == "cuda" and _state["cupy"].available:
            from deeplab_repro.native import cupy_backend

            return cupy_backend.KERNELS[op](*args)
        _report_fallback(op, device)
        return reference(*args[: _arity(op) - 1])

    torch.library.impl(f"{NAMESPACE}::{op}", "CompositeExplicitAutograd", default_kernel)


def _arity(op: str) -> int:
    schema = getattr(getattr(torch.ops, NAMESPACE), op).default._schema
    return len(schema.arguments)


_reported: set[tuple[str, str]] = set()


def _report_fallback(op: str, device: str) -> None:
    compiled = _state.get(device if device in ("cpu", "cuda") else "")
    if compiled is None:
        why = f"there is no kernel for {device} tensors"
    elif device == "cuda":
        why = f"compiled CUDA: {compiled.reason}; CuPy: {_state['cupy'].reason}"
    else:
        why = f"compiled CPU: {compiled.reason}"
    if device in ("cpu", "cuda") and not _missed(device):
        return
    message = f"{op} runs on the torch reference for {device} tensors ({why})"
    if strict():
        raise FallbackError(f"{message}, which DEEPLAB_REPRO_STRICT=1 forbids")
    if (op, device) not in _reported:
        _reported.add((op, device))
        warnings.warn(message, FallbackWarning, stacklevel=2)


def _missed(device: str) -> bool:
    """Whether any backend that was allowed for this device is not there."""
    names = ("cuda", "cupy") if device == "cuda" else ("cpu",)
    return any(name in _allowed() for name in names)


def _allowed() -> set[str]:
    text = os.environ.get("DEEPLAB_REPRO_BACKENDS", "")
    names = {n for n in re.split(r"[,\s]+", text) if n} or set(BACKENDS)
    if unknown := names - set(BACKENDS):
        raise ValueError(
            f"DEEPLAB_REPRO_BACKENDS: unknown {', '.join(sorted(unknown))}; "
            f"expected some of {', '.join(BACKENDS)}"
        )
    return names


def _schemas() -> list[str]:
    lines = (build.source_dir() / "schemas.inc").read_text().splitlines()
    return [ast.literal_eval(line.rstrip(",")) for line in lines if line.startswith('"')]


def _no_torch_cuda() -> str:
    if torch.version.cuda is None:
        return f"torch {torch.__version__} is built without CUDA"
    return "" if torch.cuda.is_available() else "torch sees no CUDA device"


def _find(kind: str) -> tuple[Path | None, str]:
    """The library's path, or why there is none that could be used."""
    if tuple(map(int, re.findall(r"\d+", torch.__version__)[:2])) < build.MIN_TORCH:
        return None, f"torch {torch.__version__} is older than 2.10"
    sources = build.source_hash()
    why = "not built (run `deeplab-repro build`)"
    for folder in library_dirs():
        path = folder / build.LIBRARIES[kind]
        if not path.is_file():
            continue
        if sources and build.read_record(folder).get("sources") != sources:
            why = f"{path} was built from other sources (run `deeplab-repro build`)"
            continue
        return path, ""
    return None, why


def _unrunnable(architectures: list[str]) -> str:
    """Why code for these architectures does not run on the current GPU, or ""."""
    have = torch.cuda.get_device_capability()
    for arch in architectures:
        match = re.match(r"(\d+)\.(\d)", arch)
        if match is None:
            continue
        built = (int(match[1]), int(match[2]))
        # Machine code runs on later minor versions of its major version, PTX on anything later.
        if built <= have and (built[0] == have[0] or arch.endswith("+PTX")):
            return ""
    return f"built for {' '.join(architectures)}, the GPU is {have[0]}.{have[1]}"


def _load(kind: str) -> Backend:
    if kind not in _allowed():
        return Backend(kind, False, "excluded by DEEPLAB_REPRO_BACKENDS")
    path, why = _find(kind)
    detail: dict[str, str] = {}
    if path is not None:
        record = build.read_record(path.parent)
        architectures = record.get("architectures", []) if kind == "cuda" else []
        detail = {"path": str(path), "version": f"built with torch {record.get('torch')}"}
        if kind == "cuda":
            detail["architectures"] = " ".join(architectures)
            why = _no_torch_cuda() or _unrunnable(architectures)
    elif kind == "cuda" and _no_torch_cuda():
        why = f"{why}; {_no_torch_cuda()}"
    if path is None or why:
        return Backend(kind, False, why, detail)
    try:
        torch.ops.load_library(path)
    except OSError as error:
        # torch wraps the loader's own words, which name the missing symbol or library.
        return Backend(kind, False, f"could not be loaded: {error.__cause__ or error}", detail)
    if kind == "cpu":
        detail["instructions"] = torch.ops.deeplab_repro.cpu_instruction_set()
    return Backend(kind, True, "compiled library loaded", detail)


def _find_cupy() -> Backend:
    if "cupy" not in _allowed():
        return Backend("cupy", False, "excluded by DEEPLAB_REPRO_BACKENDS")
    if importlib.util.find_spec("cupy") is None:
        why = "not installed (pip install deeplab-repro[cupy])"
        no_cuda = _no_torch_cuda()
        return Backend("cupy", False, f"{why}; {no_cuda}" if no_cuda else why)
    if why := _no_torch_cuda():
        return Backend("cupy", False, why)
    try:
        import cupy
    except Exception as error:  # a CuPy for another CUDA fails in many ways
        return Backend("cupy", False, f"import failed: {error}")
    return Backend("cupy", True, "compiles the kernels at run time", {"version": cupy.__version__})


# One Library object for the process: its registrations end when it is collected.
_definitions: list[torch.library.Library] = []


def _load_all() -> dict[str, Backend]:
    state = {"cpu": _load("cpu")}
    if not state["cpu"].available:
        library = torch.library.Library(NAMESPACE, "DEF")
        for schema in _schemas():
            library.define(schema)
        _definitions.append(library)
    state["cuda"] = _load("cuda")
    state["cupy"] = _find_cupy()
    version = {"version": str(torch.__version__)}
    state["torch"] = Backend("torch", True, "the reference, on any device", version)
    return state


_state = _load_all()
