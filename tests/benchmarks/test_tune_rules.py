"""benchmarks/tune_rules.py finds the thresholds that made-up measurements were made with."""

import importlib
import itertools
import json
import sys
from pathlib import Path

import pytest

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
WIDTHS = (64, 128, 256, 512)


@pytest.fixture
def tuner(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module("tune_rules")


def measured(isa: str, kept: int, anew: int, useful: float) -> list[dict]:
    """winograd pays from so many channels on, direct on contiguous maps less useful than that."""
    found = []
    sizes = (channels, filters) = WIDTHS, WIDTHS
    for channels, filters, rate in itertools.product(*sizes, (1, 6, 12, 24)):
        inside = ((41 + 2 * (41 - rate)) / 123) ** 2
        seconds = {}
        for last in ("", " channels-last"):
            seconds["library fp32" + last] = 1.0
            seconds["direct fp32" + last] = 0.8 if inside < useful and not last else 1.2
            for name, least in (("winograd", kept), ("winograd anew", anew)):
                pays = min(channels, filters) >= least
                seconds[name + last] = seconds[name.replace("grad", "grad fast") + last] = (
                    0.5 if pays else 1.5
                )
        found.append(
            {"shape": "x", "channels": channels, "filters": filters, "size": 41, "rate": rate,
             "batch": 1, "direction": "forward", "instruction_set": isa,
             "seconds": {name: {"median": value} for name, value in seconds.items()}}
        )  # fmt: skip
    return found


def write(path: Path, results: list[dict]) -> Path:
    # Means and backward passes are passed over.
    others = [{"group": "all"}, {"direction": "backward", "seconds": {}}]
    path.write_text(json.dumps({"results": results + others}))
    return path


def run(tuner, monkeypatch, *words: object) -> int:
    monkeypatch.setattr(sys, "argv", ["tune_rules.py", *map(str, words)])
    return tuner.main()


def test_thresholds_of_each_instruction_set(tuner, monkeypatch, tmp_path, capsys):
    files = [
        write(tmp_path / "a.json", measured("avx512", 256, 512, 0.75)),
        write(tmp_path / "b.json", measured("avx2", 128, 1000, 0.0)),
    ]
    assert run(tuner, monkeypatch, *files) == 0
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    middle = len(lines) // 2
    first, second = "\n".join(lines[:middle]), "\n".join(lines[middle:])
    assert lines[0].startswith("avx512, forward, 512 cases")
    for kind in ("exact", "fast"):
        assert f"winograd {kind}, kept min(channels, filters) >= 256 " in first
        assert f"winograd {kind}, not kept min(channels, filters) >= 512 " in first
        assert f"winograd {kind}, kept min(channels, filters) >= 128 " in second
        assert f"winograd {kind}, not kept never " in second
    assert "direct, contiguous channels >= 64, filters > 0, useful < 0.7 1.000" in first
    assert "direct, channels last never 1.000" in first
    assert "direct, contiguous never 1.000" in second
    assert "all: 1.000; the rules in the code 1." in first


def test_a_check_fails_where_the_rules_choose_worse(tuner, monkeypatch, tmp_path, capsys):
    """The rules are those of the code: here they take the library, or winograd, for everything."""
    path = write(tmp_path / "a.json", measured("avx512", 256, 512, 0.75))
    fit = tuner.fitted(tuner.read(path))
    monkeypatch.setattr(tuner, "rules", fit.choose)
    assert run(tuner, monkeypatch, path, "--check") == 0
    monkeypatch.setattr(tuner, "rules", lambda case: "library")
    assert run(tuner, monkeypatch, path) == 0
    assert run(tuner, monkeypatch, path, "--check") == 1
    assert "the rules for avx512 choose worse" in capsys.readouterr().out


def test_rules_are_asked_as_on_that_processor(tuner, tmp_path):
    from deeplab_repro.ops import _atrous_rules

    path = write(tmp_path / "a.json", measured("avx512", 256, 512, 0.75)[:4])
    (first, *_) = tuner.read(path)
    seen = []
    with pytest.MonkeyPatch.context() as patches:
        row = _atrous_rules.Rule(
            "direct",
            ("forward",),
            "cpu",
            (first.problem.dtype,),
            lambda p: bool(seen.append(_atrous_rules.backends.instruction_set())),
            "",
        )
        patches.setattr(_atrous_rules, "RULES", (row,))
        patches.setattr(_atrous_rules.backends, "has_cpu", lambda: True)
        assert tuner.rules(first) == "library"
    assert seen == ["avx512"]


@pytest.mark.parametrize("text", ["", "[]", '{"results": [{"group": "all"}]}'])
def test_bad_files(tuner, monkeypatch, tmp_path, capsys, text):
    path = tmp_path / "bad.json"
    path.write_text(text)
    with pytest.raises(SystemExit) as ended:
        run(tuner, monkeypatch, path)
    assert ended.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"{path}: expected a result of atrous_vs_cudnn.py --full, got " in line
