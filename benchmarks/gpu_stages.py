"""One stage of what is to be shown on a GPU; run_on_gpu.sh calls it with a time limit.

python benchmarks/gpu_stages.py STAGE --json FILE [--device cpu] [--seconds S] [--resume]

The JSON is whole after every case, and a case that fails is in it with its error: _report.py. Exit
code 0: every case gave something; 1: some failed; 75: the GPU takes no more work of this process,
so call again with --resume, which runs what the file does not have. On the CPU, which is for trying
this out, everything is tiny.
"""

from __future__ import annotations

import argparse
import dataclasses
import importlib.util
import json
import math
import os
import shutil
import subprocess
import sys
import tempfile
import time
import xml.etree.ElementTree
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from _report import Report

from deeplab_repro.native import build

ROOT = Path(__file__).resolve().parent.parent
#: What whole networks, and most tests, read their files with.
FILE_MODULES = ("scipy", "h5py", "cv2", "google.protobuf", "safetensors", "click", "rich")
NETWORKS = ("resnet101-msc-aspp@321", "largefov@513", "aspp-l@321")
#: Some thirty tests for the smoke stage, of the compiled library; compiling for CuPy takes longer.
SMOKE_TESTS = (
    "cuda- and (test_in_a_graph or test_on_another_stream or test_same_bits"
    " or (test_mean_field_on_gpu and 21-)"
    " or (test_agrees_with_loops_on_gpu and (regions or wide or narrow)"
    " and (float32 or bfloat16)))"
)
#: What compute-sanitizer looks for, the most telling first.
SANITIZERS = ("memcheck", "racecheck", "synccheck")


def smoke(report: Report, options: argparse.Namespace) -> None:
    """Some tests, and one case of each benchmark."""
    import _gpu_conv
    import _gpu_crf

    device = options.device
    if device == "cuda":
        report.run("tests", lambda: pytest(report, ["tests/native"], "-k", SMOKE_TESTS))
    conv = dataclasses.replace(conv_settings(device), runs=5, seconds=2)
    case = next(_gpu_conv.cases(conv))
    report.run(case.name, lambda: _gpu_conv.measure(case, conv, {}))
    crf = dataclasses.replace(crf_settings(device), runs=5, seconds=2)
    report.run(crf.cases[0].name, lambda: _gpu_crf.measure(crf.cases[0], crf, None))


def conv(report: Report, options: argparse.Namespace) -> None:
    """The atrous convolution beside cuDNN's."""
    import _gpu_conv

    _gpu_conv.run(report, conv_settings(options.device))


def crf(report: Report, options: argparse.Namespace) -> None:
    """The dense CRF, in parts and as a whole."""
    import _gpu_crf

    _gpu_crf.run(report, crf_settings(options.device))


def conv_settings(device: str) -> Any:
    """All of it on a GPU, and tiny convolutions on the CPU."""
    import _gpu_conv as conv

    if device == "cuda":
        return conv.Settings(device)
    return conv.Settings(device, conv.TINY[:1], conv.TINY, (2,), runs=3, seconds=1, matrix=64)


def crf_settings(device: str) -> Any:
    """All of it on a GPU, and tiny pictures on the CPU."""
    import _gpu_crf as crf

    if device == "cuda":
        return crf.Settings(device)
    return crf.Settings(device, crf.TINY, runs=3, seconds=1, copy_bytes=1 << 20)


def tests(report: Report, options: argparse.Namespace) -> None:
    """The tests marked for a GPU, folder by folder; those by CuPy, which has to compile, last."""
    folders = ["native", "ops", "crf", "caffe", "models", "inference", "cli"]
    missing = missing_modules()
    if missing:
        # The kernels' tests need torch, numpy and pytest alone.
        report.run("modules", lambda: {"missing": missing, "tests": folders[:2]})
        folders = folders[:2]
    for folder in folders:
        path = f"tests/{folder}"
        report.run(path, lambda path=path: pytest(report, [path], "-k", "not cupy-"))
    report.run("CuPy", lambda: pytest(report, ["tests/native"], "-k", "cupy-"))


def nets(report: Report, options: argparse.Namespace) -> None:
    """Whole networks, as Caffe computes them and fused."""
    for network in NETWORKS:
        report.run(network, lambda network=network: forward(report, network, options.device))


def sanitize(report: Report, options: argparse.Namespace) -> None:
    """Accesses out of bounds, races and misused barriers, in one small run of every kernel."""
    for tool in SANITIZERS:
        report.run(tool, lambda tool=tool: sanitizer(report, tool))


STAGES: dict[str, Callable[[Report, argparse.Namespace], None]] = {
    stage.__name__: stage for stage in (smoke, conv, crf, tests, nets, sanitize)
}


def missing_modules() -> list[str]:
    """Of those that read files, the ones that are not installed."""

    def there(name: str) -> bool:
        try:
            return importlib.util.find_spec(name) is not None
        except ImportError:
            return False

    return [name for name in FILE_MODULES if not there(name)]


def built() -> dict[str, Any]:
    """The libraries, compiled where they are not there yet."""
    started = time.monotonic()
    plan = build.plan("cuda")
    known = subprocess.run([plan.tools.nvcc or "", "--help"], capture_output=True, text=True).stdout
    if "--split-compile " in known:
        # One file holds most kernels: else one processor compiles it while the others wait.
        os.environ.setdefault("NVCC_APPEND_FLAGS", "--split-compile=0")
    paths = build.build(what=plan)
    seconds = round(time.monotonic() - started, 1)
    return {"seconds": seconds, "plan": plan.reasons, "libraries": [path.name for path in paths]}


def found_backends() -> dict[str, Any]:
    """Which backends there are, and why others are not."""
    from deeplab_repro.native import backends

    found = {name: dataclasses.asdict(b) for name, b in backends.backends().items()}
    return {"backends": found, "gpu": _gpu()}


def _gpu() -> dict[str, Any]:
    if not torch.cuda.is_available():
        return {}
    gpu = torch.cuda.get_device_properties(0)
    return {
        "name": gpu.name,
        "capability": f"{gpu.major}.{gpu.minor}",
        "memory_gib": round(gpu.total_memory / 2**30, 1),
        "l2_mib": gpu.L2_cache_size / 2**20,
        "cudnn": torch.backends.cudnn.version(),
    }


def command(report: Report, words: Sequence[str], **environment: str) -> int:
    """Run a program with its output in the log, for as long as the report may take.

    Returns its exit code; subprocess.TimeoutExpired where it takes longer.
    """
    print("$", *words, flush=True)
    limit = None if math.isinf(report.seconds_left) else max(1.0, report.seconds_left)
    env = {**os.environ, **environment}
    return subprocess.run(words, cwd=ROOT, env=env, timeout=limit, stderr=sys.stdout).returncode


def pytest(report: Report, paths: Sequence[str], *more: str) -> dict[str, Any]:
    """Counts of `pytest -m cuda`; RuntimeError with what failed, where that is not nothing."""
    with tempfile.TemporaryDirectory() as folder:
        xml_file = Path(folder) / "junit.xml"
        words = [sys.executable, "-m", "pytest", *paths, "-m", "cuda", *more, "-q"]
        words += ["-p", "no:cacheprovider", "--junitxml", str(xml_file)]
        environment = {}
        if importlib.util.find_spec("xdist"):
            workers = max(1, min(8, len(os.sched_getaffinity(0)) // 2))
            words += ["-n", str(workers)]
            environment["OMP_NUM_THREADS"] = "2"
        code = command(report, words, **environment)
        if code == 5:  # pytest's word for: no test is there
            return {"passed": 0}
        if not xml_file.is_file():
            raise RuntimeError(f"pytest ended with code {code}; why is in the log")
        return read_junit(xml_file.read_text(), code)


def read_junit(text: str, code: int) -> dict[str, Any]:
    """{"passed", "skipped", "failed"}, the failed ones by name with their message.

    RuntimeError where tests failed, with all of that; or where pytest ended otherwise than well.
    """
    passed, skipped, failed = 0, 0, {}
    for test in xml.etree.ElementTree.fromstring(text).iter("testcase"):
        problem = next((part for part in test if part.tag in ("failure", "error")), None)
        if problem is not None:
            failed[test.get("name")] = (problem.get("message") or "").splitlines()[:4]
        elif test.find("skipped") is not None:
            skipped += 1
        else:
            passed += 1
    found = {"passed": passed, "skipped": skipped, "failed": failed}
    if failed or code != 0:
        raise RuntimeError(f"pytest ended with code {code}: {json.dumps(found)}")
    return found


def forward(report: Report, network: str, device: str) -> dict[str, Any]:
    """What benchmarks/forward.py measures of one network."""
    if missing := missing_modules():
        raise RuntimeError(f"not installed: {', '.join(missing)}")
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "forward.json"
        words = [sys.executable, "benchmarks/forward.py", "--case", network, "--device", device]
        code = command(report, [*words, "--json", str(results)])
        if code != 0:
            raise RuntimeError(f"forward.py ended with code {code}")
        found: dict[str, Any] = json.loads(results.read_text())["results"][0]
        return found


def sanitizer(report: Report, tool: str) -> dict[str, Any]:
    """One small run of every kernel under compute-sanitizer."""
    program = shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"
    if not Path(program).is_file():
        raise RuntimeError("compute-sanitizer is not installed; it comes with CUDA's toolkit")
    words = [program, "--tool", tool, "--error-exitcode", "9", "--print-limit", "20"]
    known = subprocess.run([program, "--help"], capture_output=True, text=True).stdout
    if "--kernel-regex" in known:
        words += ["--kernel-regex", "kns=deeplab"]  # ours alone
    script = [sys.executable, "benchmarks/_gpu_exercise.py"]
    # Each tensor an allocation of its own, so that reading behind its end is seen.
    code = command(report, [*words, *script], PYTORCH_NO_CUDA_MEMORY_CACHING="1")
    if code != 0:
        raise RuntimeError(f"compute-sanitizer ended with code {code}; what it found is in the log")
    return {"tool": tool}


def parse(words: Sequence[str] | None = None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("stage", choices=STAGES)
    parser.add_argument("--json", type=Path, required=True)
    parser.add_argument("--device", choices=["cuda", "cpu"], default="cuda")
    parser.add_argument("--seconds", type=float, default=math.inf)
    parser.add_argument("--resume", action="store_true")
    return parser.parse_args(words)


def main() -> int:
    options = parse()
    report = Report(options.json, options.stage, options.seconds, options.resume)
    if options.device == "cuda":
        report.run("build", built)  # before anything looks for the libraries
    report.run("backends", found_backends)
    STAGES[options.stage](report, options)
    for case in report.failed:
        print(f"failed: {case}")
    return int(bool(report.failed))


if __name__ == "__main__":
    sys.exit(main())
