"""benchmarks/atrous_vs_cudnn.py on tiny convolutions: its table, its JSON, its limits."""

import importlib
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import pytest

from deeplab_repro.native import backends

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"
TINY = "16-24-r2@9"

needs_kernels = pytest.mark.skipif(
    not backends.has_cpu(), reason="the compiled kernels are missing"
)


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def run(*words: str) -> subprocess.CompletedProcess:
    script = str(BENCHMARKS / "atrous_vs_cudnn.py")
    env = {**os.environ, "PYTHONPATH": str(ROOT), "COLUMNS": "100"}
    return subprocess.run(
        [sys.executable, script, "--device", "cpu", *words], env=env, capture_output=True, text=True
    )


@pytest.mark.slow
@needs_kernels
def test_a_row_for_each_shape_and_a_result_for_each_number_of_threads(tmp_path):
    path = tmp_path / "x.json"
    words = ["--shapes", TINY, "40-5-r3@9", "--threads", "1", "2", "--runs", "3"]
    done = run(*words, "--json", str(path))
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    (row,) = (line.split() for line in lines if line.startswith(TINY))
    # 9 x 9 pixels, of which taps at rate 2 see 9, 7 and 7 in each axis.
    assert row[1] == f"{23**2 / 27**2:.0%}"
    content = json.loads(path.read_text())
    assert content["name"] == "atrous_vs_cudnn"
    timed = [r for r in content["results"] if "seconds" in r]
    assert [(r["shape"], r["threads"]) for r in timed] == [
        (name, threads) for name in (TINY, "40-5-r3@9") for threads in (1, 2)
    ]
    for r in timed:
        for name in ("auto", "auto fast", "direct fp32", "winograd", "library fp32"):
            both = [r["seconds"][name + last]["median"] for last in ("", " channels-last")]
            assert r["best_seconds"][name] == min(both)
            assert 0 < r["relative_difference"][name] < 1e-5
    for threads in (1, 2):
        (row,) = (
            r for r in content["results"] if r.get("group") == "all" and r["threads"] == threads
        )
        some = [r["best_seconds"] for r in timed if r["threads"] == threads]
        product = math.prod(best["library fp32"] / best["auto"] for best in some)
        assert row["library_over"]["auto"] == pytest.approx(math.sqrt(product))
        assert (row["goal"], row["fast_goal"]) == (1.4, 1.8)
        assert row["share_of_product_peak"]["auto"] > 0


@pytest.mark.slow
@needs_kernels
def test_everything_of_a_tiny_one(tmp_path):
    """--full: both directions, every algorithm, and memory."""
    path = tmp_path / "x.json"
    words = ["--full", "--shapes", TINY, "--threads", "1", "--runs", "3", "--json", str(path)]
    done = run(*words)
    assert done.returncode == 0, done.stderr
    timed = [r for r in json.loads(path.read_text())["results"] if "seconds" in r]
    kinds = [(r["batch"], r["direction"]) for r in timed]
    assert kinds == [(n, way) for n in (1, 10) for way in ("forward", "backward")]
    for r in timed:
        names = {
            "auto fast",
            "winograd fast",
            "im2col",
            "interlace",
            "unfold",
            "winograd",
            "direct fp32",
            "auto",
            "library fp32",
        }
        assert names <= set(r["best_seconds"])
        for name in ("winograd anew", "winograd fast anew", "library packed"):
            assert (name in r["best_seconds"]) == (r["direction"] == "forward")
        if r["batch"] == 1:
            assert set(r["working_memory_bytes"]) == set(r["seconds"])


@pytest.mark.slow
@pytest.mark.skipif(
    backends.instruction_set() in ("", "baseline"), reason="there is nothing above the cap"
)
def test_a_cap_holds_for_both_sides(tmp_path):
    path = tmp_path / "x.json"
    words = ["--shapes", TINY, "--threads", "1", "--runs", "3", "--json", str(path)]
    done = run("--isa", "avx2", *words)
    assert done.returncode == 0, done.stderr
    results = json.loads(path.read_text())["results"]
    assert [r["instruction_set"] for r in results if "seconds" in r] == ["avx2"]
    (row,) = (r for r in results if r.get("group") == "all")
    assert (row["goal"], row["fast_goal"]) == (1.35, None)


def test_the_caps_reach_every_library(module):
    """What a child process is told is what its libraries have understood."""
    program = (
        "import torch; from deeplab_repro.native import backends;"
        "print(torch.backends.cpu.get_cpu_capability(), backends.instruction_set())"
    )
    caps = module("_capped").CAPS["avx2"]
    assert sorted(caps) == [
        "ATEN_CPU_CAPABILITY",
        "DEEPLAB_REPRO_CPU_ISA",
        "MKL_ENABLE_INSTRUCTIONS",
        "ONEDNN_MAX_CPU_ISA",
    ]
    if backends.instruction_set() in ("", "baseline"):
        pytest.skip("there is nothing above the cap")
    env = {**os.environ, **caps, "PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, text=True)
    assert done.stdout.split() == ["AVX2", "avx2"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--shapes", "wide"], "a shape's name is like 512-1024-r12@41, got 'wide'"),
        (["--threads", "0"], "expected a number of threads from 1 on, got '0'"),
        (["--isa", "sse"], "invalid choice: 'sse'"),
    ],
)
def test_bad_words(module, monkeypatch, capsys, words, message):
    monkeypatch.setattr(sys, "argv", ["atrous_vs_cudnn.py", *words])
    with pytest.raises(SystemExit) as ended:
        module("atrous_vs_cudnn").parsed()
    assert ended.value.code == 2
    assert message in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.slow
def test_sixteen_of_the_networks(module):
    convolutions = module("_convolutions")
    assert len(set(convolutions.SIXTEEN)) == 16
    assert set(convolutions.SIXTEEN) <= set(module("atrous_vs_cudnn").shapes_of_networks())
    groups = module("_conv_goals").GROUPS
    shapes = [vars(convolutions.Shape.named(name)) for name in convolutions.SIXTEEN]
    assert [sum(group.has(shape) for shape in shapes) for group in groups] == [16, 5, 1, 1, 1, 5]


def test_a_wrong_result_is_not_timed(module, monkeypatch):
    benchmark = module("atrous_vs_cudnn")
    honest = benchmark.passes

    def a_little_off(candidate, tensors, direction):
        call = honest(candidate, tensors, direction)
        if candidate.key != "direct fp32 channels-last":
            return call
        return lambda: tuple(1.0001 * t for t in call())

    monkeypatch.setattr(benchmark, "passes", a_little_off)
    monkeypatch.setattr(sys, "argv", ["x", "--shapes", TINY, "--device", "cpu", "--threads", "1"])
    options = benchmark.parsed()
    with pytest.raises(SystemExit, match="direct fp32 channels-last: relative difference 1.00e-04"):
        list(benchmark.measure(options.shapes[0], 1, "forward", options))


def test_the_forward_pass_is_that_of_a_layer_which_keeps_its_filters(module, monkeypatch):
    ways = module("_conv_candidates")
    shape = module("_convolutions").Shape.named(TINY)
    tensors = module("_convolutions").make(shape, 1, "cpu")
    seen = []
    monkeypatch.setattr(
        ways.AtrousConv2d, "forward", lambda layer, x: seen.append(layer.kept) or x.detach()
    )
    names = [c.name for c in ways.candidates(shape, "cpu", "forward", False) if c.layer]
    assert set(names) >= {"auto", "direct fp32", "winograd"}
    for candidate in ways.candidates(shape, "cpu", "forward", False):
        (y,) = ways.passes(candidate, tensors, "forward")()
        assert not y.requires_grad
    assert len(seen) == len(names)
    assert None not in seen


def test_what_is_compared_on_a_gpu(module):
    """Every precision in both memory formats; cuDNN with and without TF32."""
    shape = module("_convolutions").Shape.named(TINY)
    found = list(module("_conv_candidates").candidates(shape, "cuda", "forward", True))
    both = [f"direct {precision}" for precision in ("fp32", "tf32", "bf16", "fp16")]
    both += ["library fp32", "library tf32"]
    keys = [name + last for last in ("", " channels-last") for name in both]
    assert [c.key for c in found] == ["auto", "im2col", "interlace", "unfold", *keys]
    assert {c.name for c in found if c.tf32} == {"library tf32"}
    limits = {c.name: c.limit for c in found}
    assert limits["library tf32"] == limits["direct tf32"] == "tf32"
    assert limits["library fp32"] == limits["auto"] == "fp32"


def test_rows_appear_as_they_are_added(module):
    from rich.console import Console

    live, out = module("_live"), []

    class Screen:
        def write(self, text):
            out.append(text)

        def flush(self):
            pass

    console = Console(file=Screen(), force_terminal=False, width=80)
    with live.LiveTable("title", ["", "a\nms"], out=console) as rows:
        rows.add("first", "1.0")
        assert "".join(out).splitlines()[-1].split() == ["first", "1.0"]
        rows.add("second", "2.0")
    assert "".join(out).count("second") == 1
    out.clear()
    console = Console(file=Screen(), force_terminal=True, width=80)
    with live.LiveTable("title", ["", "a\nms"], out=console) as rows:
        rows.add("first", "1.0")
        assert "first" in "".join(out)


def test_tables_and_pictures_of_both_kinds_of_results(module, tmp_path):
    """Older results have a file for each number of threads."""
    timing = {"median": 1.0}
    names = ("auto", "direct fp32", "winograd", "library fp32")
    case = {
        "shape": TINY, "channels": 16, "filters": 24, "size": 9, "rate": 2, "batch": 1,
        "direction": "forward", "seconds": {"auto": timing},
        "best_seconds": dict.fromkeys(names, 0.5) | {"library fp32": 1.0},
    }  # fmt: skip
    old, new = (
        tmp_path / "m" / "atrous_vs_cudnn_1_thread.json",
        tmp_path / "m" / "atrous_vs_cudnn.json",
    )
    old.parent.mkdir()
    about = {
        "name": "atrous_vs_cudnn",
        "command": "python x",
        "machine": {"cpu": "C", "torch": "2"},
    }
    old.write_text(json.dumps(about | {"results": [case]}))
    results = [case | {"threads": threads, "instruction_set": "avx2"} for threads in (1, 2)]
    shares = {"library fp32": 0.8, "auto": 1.25}
    results.append(
        {"group": "all", "threads": 1, "goal": 1.4, "fast_goal": 1.8,
         "library_over": {"auto": 2.0, "direct fp32": 1.5}, "share_of_product_peak": shares}
    )  # fmt: skip
    new.write_text(json.dumps(about | {"results": results}))
    (block,) = module("_tables").convolutions(tmp_path)
    assert "| all | 1 | 2.00 | 1.40 | - | 1.80 | 1.50 | - | 80 % | 125 % |" in block
    assert block.count(f"| {TINY.split('@')[0]}, 9 |") == 2
    drawn = module("_plots").draw_all(tmp_path)
    assert sorted(path.name for path in drawn) == [
        "atrous_vs_cudnn_1_thread_forward.svg",
        "atrous_vs_cudnn_forward_1_thread.svg",
        "atrous_vs_cudnn_forward_2_threads.svg",
    ]
