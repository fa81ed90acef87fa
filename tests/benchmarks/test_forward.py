"""benchmarks/forward.py: everything beside everything, in turns, and peers only where they are."""

import argparse
import importlib
import json
import os
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
BENCHMARKS = ROOT / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is missing")
def test_a_small_network_in_all_ways(tmp_path):
    path = tmp_path / "forward.json"
    words = ["--case", "aspp-l@321", "--width", "32", "--threads", "1", "--runs", "3"]
    env = {**os.environ, "PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    done = subprocess.run(
        [sys.executable, str(BENCHMARKS / "forward.py"), *words, "--device", "cpu", "--json", path],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    (result,) = json.loads(path.read_text())["results"]
    assert {"seconds", "fused_seconds", "fast_seconds"} <= set(result)
    peers = set(result["peers_seconds"])
    assert {"library", "onnxruntime"} <= peers
    assert peers | set(result["missing_peers"]) == {"library", "onnxruntime", "OpenVINO"}
    for peer in peers:
        ratio = result["peers_seconds"][peer]["median"] / result["fused_seconds"]["median"]
        assert result["times_faster"]["fused"][peer] == pytest.approx(ratio)
        assert 0 < result["relative_difference"][peer] < 1e-4
    assert result["relative_difference"]["unfused"] == 0
    shown = done.stdout.splitlines()
    (row,) = (line.split() for line in shown if line.startswith("aspp-l@321 onnxruntime"))
    assert row[3] == f"{result['times_faster']['fused']['onnxruntime']:.2f}"
    assert len(list(tmp_path.glob("deeplab_repro_onnx_*/aspp-l@321_*.onnx"))) == 1


def test_a_missing_runtime_is_a_row_without_a_ratio(module, monkeypatch):
    forward = module("forward")
    runtimes = module("_runtimes").RUNTIMES
    gone = runtimes["OpenVINO"]._replace(module="there_is_no_openvino")
    monkeypatch.setitem(runtimes, "OpenVINO", gone)
    options = argparse.Namespace(device="cpu", isa=None)
    missing = forward.missing_runtimes(options)
    assert "ModuleNotFoundError" in missing["OpenVINO"]
    one = {"median": 1.0}
    result = {
        "network": "x", "seconds": {"median": 3.0}, "fused_seconds": one, "missing_peers": missing,
        "peers_seconds": {"library": {"median": 1.5}}, "times_faster": {"fused": {"library": 1.5}},
        "goals": {"fused": 1.25, "fused fast": 1.6}, "caffe_recorded_seconds": 2.0,
    }  # fmt: skip
    rows = forward.rows(result)
    assert ["x library", "1.50", "1.50", "1.25", "-", "1.60"] in rows
    (row,) = (row for row in rows if "OpenVINO" in row[0])
    assert "No module named 'there_is_no_openvino'" in row[0]
    assert row[1:] == ["-"] * 5
    assert all(len(row) == 6 for row in rows)


def test_what_cannot_be_capped_is_no_peer_of_what_is(module):
    options = argparse.Namespace(device="cpu", isa="avx2")
    missing = module("forward").missing_runtimes(options)
    assert set(missing) == {"onnxruntime", "OpenVINO"}
    assert all("capped" in why for why in missing.values())


SERVED = """
import sys, time
sys.path.insert(0, {benchmarks!r})
from _workers import serve
runs = []
serve(lambda: runs.append(1), {{"threads": 3}}, lambda run: run() or 10.0 * len(runs))
"""


def test_workers_run_when_they_are_told_to(module, tmp_path):
    workers = module("_workers")
    script = tmp_path / "served.py"
    script.write_text(SERVED.format(benchmarks=str(BENCHMARKS)))
    with workers.Worker([str(script)]) as one, workers.Worker([str(script)]) as two:
        assert one.about == {"threads": 3}
        assert [one.run(), one.run(), two.run(), one.run()] == [10.0, 20.0, 10.0, 30.0]
    assert one._process.returncode == two._process.returncode == 0


def test_a_worker_that_ends_is_an_error(module, tmp_path):
    script = tmp_path / "ends.py"
    script.write_text("raise SystemExit(3)")
    with pytest.raises(SystemExit, match="exit code 3"):
        module("_workers").Worker([str(script)])


def test_candidates_rest_between_their_turns(module):
    """So that the threads of the one before do not take its core."""
    ends: list[float] = []
    starts: list[float] = []

    def run():
        starts.append(time.perf_counter())
        ends.append(time.perf_counter())

    module("_timing").compare({"a": run, "b": run}, runs=3, warm_up=0, rest=0.02)
    gaps = [start - end for start, end in zip(starts[1:], ends[:-1], strict=True)]
    assert len(gaps) == 5
    assert min(gaps) >= 0.02


@pytest.mark.slow
@pytest.mark.skipif(find_spec("onnxruntime") is None, reason="onnxruntime is missing")
def test_sizes_of_an_export_are_known_to_onnxruntime(module, tmp_path, monkeypatch):
    forward, runtimes = module("forward"), module("_runtimes")
    net = forward.prepare("largefov@513", "cpu", 64).fuse()
    x = torch.randn(1, 3, 65, 81, generator=torch.Generator().manual_seed(0))
    model = tmp_path / "x.onnx"
    forward.export_onnx(net, model, {"data": tuple(x.shape)})
    y = runtimes.with_onnxruntime(model, x, 1)()
    assert torch.allclose(y, forward.run(net, x), rtol=1e-4, atol=1e-5)


def test_tables_of_both_kinds_of_results(module, tmp_path):
    """Older results have no peers but Caffe's recorded figures."""
    seconds = {"median": 2.0}
    old = {
        "network": "x", "seconds": seconds, "fused_seconds": seconds, "caffe_recorded_seconds": 4.0,
        "process_peak_rss_mb": 500.0, "caffe_recorded_peak_mb": 1000.0,
    }  # fmt: skip
    new = old | {
        "threads": 1, "fast_seconds": {"median": 1.0},
        "peers_seconds": {"library": {"median": 3.0}},
        "times_faster": {"fused": {"library": 1.5}, "fused fast": {"library": 3.0}},
    }  # fmt: skip
    machine = {"cpu": "C", "torch": "2", "threads": 2}
    for folder, result in (("a", old), ("b", new)):
        (tmp_path / folder).mkdir()
        content = {"machine": machine, "results": [result]}
        (tmp_path / folder / "forward.json").write_text(json.dumps(content))
    first, second = module("_tables").forward(tmp_path)
    assert "on 2 threads" in first
    assert first.endswith("| x | 2.00 s | 2.00 s | 4.00 s | 0.50 GB | 1.0 GB |")
    assert "on 1 thread of" in second
    row = "| x | 2.00 s | 2.00 s | 1.00 s | 3.00 s, 1.50, 3.00 | 4.00 s | 0.50 GB | 1.0 GB |"
    assert second.endswith(row)
