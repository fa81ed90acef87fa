"""benchmarks/shared_cores.py, with tiny work."""

import importlib
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def benchmark(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("shared_cores")


def test_a_row_for_each_piece_of_work(benchmark, monkeypatch, tmp_path, capsys):
    path = tmp_path / "x.json"
    words = ["--shape", "16-16-r2@9", "--size", "40", "30", "--busy", "0", "1", "--threads", "1"]
    words += ["2", "--runs", "3", "--json", str(path)]
    monkeypatch.setattr(sys, "argv", ["shared_cores.py", *words])
    benchmark.main()
    results = json.loads(path.read_text())["results"]
    pieces = ["CRF", "convolution", "torch's convolution"]
    expected = [(piece, others) for others in (0, 1) for piece in pieces]
    assert [(r["work"], r["busy_processes"]) for r in results] == expected
    for r in results:
        ratio = r["seconds"]["2"]["median"] / r["seconds"]["1"]["median"]
        assert r["over_fewest_threads"] == {"1": 1.0, "2": pytest.approx(ratio)}
    shown = capsys.readouterr().out
    ratio = results[0]["over_fewest_threads"]["2"]
    (row,) = (
        line.split() for line in shown.splitlines() if line.startswith("CRF") and " 0 " in line
    )
    assert row[-2:] == [f"{ratio:.2f}", "-"]


def seconds_of(process: subprocess.Popen) -> float:
    """What it has computed so far."""
    stat = Path(f"/proc/{process.pid}/stat").read_text()
    return int(stat.rpartition(")")[2].split()[11]) / os.sysconf("SC_CLK_TCK")


def test_other_processes_are_busy_until_the_end(benchmark):
    with benchmark.busy(2) as others:
        assert len(others) == 2
        until = time.monotonic() + 60
        while any(seconds_of(other) < 0.2 for other in others):
            assert time.monotonic() < until
            time.sleep(0.05)
        assert [other.poll() for other in others] == [None, None]
    assert all(other.poll() is not None for other in others)


def test_a_busy_process_ends_with_the_one_that_started_it(benchmark, tmp_path):
    script = tmp_path / "starts.py"
    script.write_text(
        "import os, subprocess, sys\n"
        f"command = [sys.executable, '-c', {benchmark.BUSY!r}, str(os.getpid())]\n"
        "print(subprocess.Popen(command, stdout=subprocess.DEVNULL).pid)\n"
    )
    done = subprocess.run([sys.executable, script], stdout=subprocess.PIPE, text=True, check=True)
    pid, until = int(done.stdout), time.monotonic() + 60
    stat = Path(f"/proc/{pid}/stat")
    try:
        while stat.exists() and ") Z " not in stat.read_text():
            assert time.monotonic() < until
            time.sleep(0.05)
    finally:
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
