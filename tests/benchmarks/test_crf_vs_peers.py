"""benchmarks/crf_vs_peers.py: peers count where they run, and where they do not it says so."""

import importlib
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


@pytest.fixture
def benchmark(module, monkeypatch):
    """The benchmark with one tiny case, whose memory is not measured."""
    found = module("crf_vs_peers")
    params = module("_crf_problems").crf_params(20, 10)
    monkeypatch.setattr(found, "CASES", {"A": found.Case("noise", 40, 30, 3, params)})
    megabytes = {"ours": 30.0, "pydensecrf": 40.0, "SimpleCRF": 20.0}
    monkeypatch.setattr(
        found, "memory_in_fresh_process", lambda name, batch, who, t: megabytes[who]
    )
    monkeypatch.setattr(found, "copy_bandwidth", lambda threads: 10.0)
    return found


def run(benchmark, monkeypatch, tmp_path, capsys, *words: str) -> tuple[dict, str]:
    path = tmp_path / "crf_vs_peers.json"
    command = ["crf_vs_peers.py", "--cases", "A", "--runs", "3", "--json", str(path), *words]
    monkeypatch.setattr(sys, "argv", command)
    benchmark.main()
    (result,) = json.loads(path.read_text())["results"]
    return result, capsys.readouterr().out


def use_as(module, monkeypatch, peer: str, name: str) -> None:
    peers = module("_crf_peers").PEERS
    monkeypatch.setitem(peers, peer, peers[peer]._replace(module=name))


def test_a_missing_peer_is_named_and_no_ratio_is_claimed(
    module, benchmark, monkeypatch, tmp_path, capsys
):
    for peer in ("pydensecrf", "SimpleCRF"):
        use_as(module, monkeypatch, peer, f"there_is_no_{peer}")
    result, shown = run(benchmark, monkeypatch, tmp_path, capsys, "--threads", "1")
    assert result["times_faster"] == result["peers_memory_mb"] == {}
    assert sorted(result["missing_peers"]) == ["SimpleCRF", "pydensecrf"]
    assert "pydensecrf was not measured: ModuleNotFoundError" in shown
    (row,) = (line.split() for line in shown.splitlines() if line.startswith("A 40x30x3"))
    ours, ratio, theirs, drop_in, megabytes, of_its = row[3:]
    assert (ratio, theirs, of_its) == ("-", "-", "-")
    assert float(ours) >= 0
    assert drop_in.endswith("%")
    assert megabytes == "30"
    assert not any("pydensecrf" in name for name in result["seconds"])


def test_a_peer_runs_in_turns_with_ours(module, benchmark, monkeypatch, tmp_path, capsys):
    """pydensecrf by a module with its interface: the drop-in itself."""
    name = "deeplab_repro.crf.pydensecrf.densecrf"
    use_as(module, monkeypatch, "pydensecrf", name)
    use_as(module, monkeypatch, "SimpleCRF", "there_is_no_SimpleCRF")
    monkeypatch.setitem(sys.modules, "pydensecrf", sys.modules[__name__])
    monkeypatch.setitem(sys.modules, "pydensecrf.densecrf", importlib.import_module(name))
    result, shown = run(benchmark, monkeypatch, tmp_path, capsys, "--threads", "1", "2")
    seconds = {name: timing["median"] for name, timing in result["seconds"].items()}
    for t in ("1", "2"):
        ratio = seconds["pydensecrf"] / seconds[f"ours, {t} threads"]
        assert result["times_faster"]["pydensecrf"][t] == pytest.approx(ratio)
        cost = seconds[f"drop-in, {t} threads"] / seconds[f"marginals, {t} threads"]
        assert result["drop_in_over_ours"][t] == pytest.approx(cost)
    assert set(result["mean_difference"]) == {"reference", "drop-in", "pydensecrf"}
    assert result["peers_memory_mb"] == {"pydensecrf": 40.0}
    assert " 0.75" in next(line for line in shown.splitlines() if line.startswith("A 40x30x3"))
    assert "pydensecrf was not measured" not in shown


def test_marginals_that_differ_end_it(module, benchmark, monkeypatch):
    peers = module("_crf_peers")
    honest = peers.with_pydensecrf
    monkeypatch.setattr(benchmark, "with_pydensecrf", lambda *given: honest(*given) + 1e-4)
    whole = benchmark.problem(benchmark.CASES["A"], 1)
    with pytest.raises(SystemExit, match="marginals differ from drop-in's by 1.0e-04"):
        benchmark.check("A", whole)


@pytest.mark.parametrize("words", [["--cases", "Z"], ["--threads", "two"], ["--isa", "mmx"]])
def test_bad_words(benchmark, monkeypatch, capsys, words):
    monkeypatch.setattr(sys, "argv", ["crf_vs_peers.py", *words])
    with pytest.raises(SystemExit) as ended:
        benchmark.parsed()
    assert ended.value.code == 2
    assert words[1] in capsys.readouterr().err.splitlines()[-1]


def test_peers_of_another_machine_are_in_no_table_and_no_picture(module, tmp_path):
    """Older results have them, marked as stored."""
    timing = {"median": 0.2}
    result = {
        "case": "A", "device": "cpu", "batch": 1, "size": [500, 375], "labels": 21,
        "seconds": {"ours, 1 threads": timing, "pydensecrf": {"median": 0.8}}, "memory_mb": 90.0,
        "times_faster": {"pydensecrf": {"1": 4.0}, "SimpleCRF (stored)": {"1": 9.0}},
        "peers_memory_mb": {"pydensecrf": 100.0},
    }  # fmt: skip
    machine = {"cpu": "C", "torch": "2"}
    path = tmp_path / "m" / "crf_vs_peers.json"
    path.parent.mkdir()
    content = {"name": "crf_vs_peers", "command": "x", "machine": machine, "results": [result]}
    path.write_text(json.dumps(content))
    (block,) = module("_tables").crf(tmp_path)
    row = block.splitlines()[-1]
    assert row.startswith("| A: 500x375, 21 labels | 3 | 49 and 5 | 200 ms |  | 90 MB |")
    assert row.endswith("| pydensecrf 4.0 | none was there | pydensecrf 0.90 |")
    ((_, figure),) = module("_plots").crf_vs_peers([result])
    labels = {text.get_text() for text in figure.legends[0].get_texts()}
    assert labels == {"ours, 1 thread", "pydensecrf"}
