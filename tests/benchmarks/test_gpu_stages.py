"""benchmarks/run_on_gpu.sh, with the CPU in the GPU's place: what it writes, whatever happens."""

import importlib
import json
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).resolve().parents[2] / "benchmarks"
BLOCK = """
import sys

class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {names} or name.startswith("google.protobuf"):
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Blocked())
"""
#: All but torch and numpy.
NAMES = {"scipy", "h5py", "cv2", "safetensors", "click", "rich", "PIL", "matplotlib", "pytest"}


@pytest.fixture
def module(monkeypatch):
    """A module of benchmarks/ by its name."""
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    return importlib.import_module


def read(path: Path) -> dict[str, dict]:
    return {result["case"]: result for result in json.loads(path.read_text())["results"]}


@pytest.fixture(scope="module")
def tried(tmp_path_factory):
    """The conv and the crf stage of the script itself, where torch and numpy are all there is."""
    blocked = tmp_path_factory.mktemp("blocked")
    (blocked / "sitecustomize.py").write_text(BLOCK.format(names=NAMES))
    out = tmp_path_factory.mktemp("out")
    # Strict in the script: a fall back to the reference would be an error.
    env = {**os.environ, "PYTHONPATH": str(blocked)}
    for stage in ("conv", "crf"):
        words = ["bash", str(BENCHMARKS / "run_on_gpu.sh"), "--stage", stage, "--device", "cpu"]
        done = subprocess.run([*words, str(out), sys.executable], env=env, capture_output=True)
        assert done.returncode == 0, done.stdout.decode() + done.stderr.decode()
    return out


@pytest.mark.slow
def test_files_of_the_stages(tried):
    assert {path.name for path in tried.iterdir()} == {"conv.json", "crf.json", "log.txt"}
    text = (tried / "log.txt").read_text()
    assert text.count("== conv") == text.count("== crf") == 1
    content = json.loads((tried / "conv.json").read_text())
    assert content["name"] == "conv"
    assert content["machine"]["torch"] == torch.__version__


@pytest.mark.slow
def test_conv_stage(tried):
    cases = read(tried / "conv.json")
    assert cases["peaks"]["matrix_tflop_per_s"]["fp32"] > 0
    assert cases["backends"]["backends"]["cpu"]["available"]
    names = [name for name in cases if name not in ("backends", "peaks")]
    # The headline first, gradients last.
    assert names == [
        f"{shape} batch 2 {direction} compiled"
        for direction in ("forward", "backward")
        for shape in ("16-24-r2@9", "40-5-r3@9")
    ]
    for name in names:
        case = cases[name]
        assert case["errors"] == {}
        assert sorted(case["candidates"]) == [
            f"{who} fp32 {layout}"
            for who in ("compiled", "cudnn")
            for layout in ("channels-last", "contiguous")
        ]
        for candidate in case["candidates"].values():
            assert 0 < candidate["gpu"]["median"] < 1
            assert candidate["with_launch"]["runs"] >= 3
            assert candidate["relative_difference"] < 1e-5
            assert candidate["share_of_peak"] > 0
        assert case["cudnn_takes_times_as_long"]["fp32"]["gpu"] > 0
    # 9 x 9 pixels, of which a tap at rate 2 sees 9 or 7 in each axis.
    assert cases[names[0]]["gflop"] == pytest.approx(2 * 2 * 9 * 81 * 16 * 24 / 1e9)
    assert cases[names[0]]["useful_gflop"] == pytest.approx(2 * 2 * 23**2 * 16 * 24 / 1e9)


@pytest.mark.slow
def test_crf_stage(tried):
    cases = read(tried / "crf.json")
    names = [name for name in cases if name not in ("backends", "copy")]
    assert len(names) == 2
    for name in names:
        case = cases[name]
        assert case["errors"] == {}
        assert case["mean_difference"] < 1e-5
        for clock in ("gpu", "with_launch"):
            parts = ["build", "no iterations", "iterations", "whole call"]
            assert list(case["seconds"][clock]) == parts
        assert case["gb_per_s"] == pytest.approx(
            case["bytes_per_iteration"]["compulsory"] / case["iteration_ms"] / 1e6, rel=0.01
        )
    assert cases[names[1]]["vertices"][0] == 2 * cases[names[0]]["vertices"][0]


def test_the_file_is_whole_after_every_case(module, tmp_path):
    path = tmp_path / "x.json"
    report = module("_report").Report(path, "x")
    assert read(path) == {}

    def seen_while_running(number):
        before = read(path)
        assert "did not end" in before[f"case {number}"]["error"]
        return {"others": sorted(before)}

    report.run("case 1", lambda: seen_while_running(1))
    assert read(path)["case 1"]["others"] == ["case 1"]
    report.run("case 2", lambda: seen_while_running(2))
    assert list(read(path)) == ["case 1", "case 2"]
    assert "error" not in read(path)["case 2"]
    assert [p.name for p in tmp_path.iterdir()] == ["x.json"]  # no temporary file is left


@pytest.mark.parametrize("error", [RuntimeError("no such thing"), SystemExit("no such thing")])
def test_a_case_that_raises_is_recorded_and_the_next_one_runs(module, tmp_path, error):
    path = tmp_path / "x.json"
    report = module("_report").Report(path, "x")

    def fail():
        raise error

    report.run("bad", fail)
    report.run("good", lambda: {"value": 1})
    cases = read(path)
    assert cases["bad"]["error"] == f"{type(error).__name__}: no such thing"
    assert any("in fail" in line for line in cases["bad"]["traceback"])
    assert cases["good"]["value"] == 1
    assert report.failed == ["bad"]


def test_resume_keeps_what_is_there_and_goes_on_behind_it(module, tmp_path):
    path = tmp_path / "x.json"
    report_class = module("_report").Report
    first = report_class(path, "x")
    first.run("done", lambda: {"value": 1})
    first.results.append({"case": "crashed", "error": "did not end"})
    first._write()
    second = report_class(path, "x", resume=True)
    for case in ("done", "crashed", "new"):
        second.run(case, lambda: {"value": 2})
    cases = read(path)
    assert [cases[name].get("value") for name in ("done", "crashed", "new")] == [1, None, 2]
    assert second.failed == ["crashed"]
    third = report_class(path, "x")
    assert third.results == []


def test_no_case_is_begun_when_the_time_is_over(module, tmp_path):
    report = module("_report").Report(tmp_path / "x.json", "x", seconds=0.05)
    report.run("in time", lambda: time.sleep(0.1) or {})
    report.run("late", lambda: pytest.fail("was begun"))
    assert "left_out" in read(tmp_path / "x.json")["late"]
    assert report.failed == []


def test_a_lost_gpu_ends_the_process_with_its_own_exit_code(module, tmp_path, monkeypatch):
    report = module("_report")
    monkeypatch.setattr(report, "_gpu_is_lost", lambda: True)
    with pytest.raises(SystemExit) as ended:
        report.Report(tmp_path / "x.json", "x").run("bad", lambda: 1 / 0)
    assert ended.value.code == report.GPU_LOST
    assert "ZeroDivisionError" in read(tmp_path / "x.json")["bad"]["error"]


def test_one_candidate_that_fails_does_not_cost_the_others(module, tmp_path, monkeypatch):
    conv = module("_gpu_conv")
    honest = conv._pass

    def fails_in_one_format(who, case, precision, tensors):
        if who == "compiled" and not tensors[0].is_contiguous():
            raise RuntimeError("out of memory")
        call = honest(who, case, precision, tensors)
        if who == "cudnn" and tensors[0].is_contiguous():
            return lambda: tuple(2 * t for t in call())  # a wrong result
        return call

    monkeypatch.setattr(conv, "_pass", fails_in_one_format)
    settings = conv.Settings("cpu", ["4-4-r2@5"], [], [1], runs=3, seconds=1, matrix=8)
    case = next(conv.cases(settings))
    found = conv.measure(case, settings, {})
    assert sorted(found["candidates"]) == ["compiled fp32 contiguous", "cudnn fp32 channels-last"]
    assert "out of memory" in found["errors"]["compiled fp32 channels-last"]
    assert "relative difference" in found["errors"]["cudnn fp32 contiguous"]
    report = module("_report").Report(tmp_path / "x.json", "x")
    report.run(case.name, lambda: found)
    assert report.failed == [case.name]


def test_headlines_come_first_and_cupy_is_measured_on_a_gpu(module):
    conv, crf = module("_gpu_conv"), module("_gpu_crf")
    settings = conv.Settings("cuda")
    names = [case.name for case in conv.cases(settings)]
    assert names[:4] == [
        "512-1024-r12@41 batch 1 forward compiled",
        "512-1024-r12@41 batch 16 forward compiled",
        "2048-21-r24@41 batch 1 forward compiled",
        "2048-21-r24@41 batch 16 forward compiled",
    ]
    assert len(names) == len(set(names)) == 2 * (14 + 2 + 14)
    assert settings.precisions == ("bf16", "fp16", "tf32", "fp32")
    assert [(*case.size[:3], case.batch, case.ours) for case in crf.CASES[:2]] == [
        (500, 375, 21, 1, "compiled"),
        (500, 375, 21, 16, "compiled"),
    ]
    assert len({case.name for case in crf.CASES}) == len(crf.CASES)


def test_what_the_sanitizer_looks_at_runs(module, monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["_gpu_exercise.py", "cpu"])
    module("_gpu_exercise").main()
    assert "every kernel has run" in capsys.readouterr().out


def test_the_gpu_sleeps_until_all_is_queued(module, monkeypatch):
    """The clock behind a sleep: run() counts only if the GPU slept until it was queued."""
    slept, awake = [], iter([True, True, False])

    class Event:
        def __init__(self, enable_timing):
            assert enable_timing

        def record(self):
            pass

        def synchronize(self):
            pass

        def query(self):
            return next(awake)

        def elapsed_time(self, end):
            return 2.0 + len(slept)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "synchronize", lambda: None)
    monkeypatch.setattr(torch.cuda, "_sleep", slept.append)
    ran = []
    clock = module("_timing").gpu_seconds("cuda")
    assert clock(lambda: ran.append(1)) == pytest.approx(5e-3)
    assert slept == [1_000_000, 2_000_000, 4_000_000]
    assert len(ran) == 3


def test_what_pytest_reports_is_read(module):
    stages = module("gpu_stages")
    text = """<testsuites><testsuite><testcase name="a"/><testcase name="b"><skipped/></testcase>
    {}</testsuite></testsuites>"""
    assert stages.read_junit(text.format(""), 0) == {"passed": 1, "skipped": 1, "failed": {}}
    failed = (
        '<testcase name="c"><failure message="assert 1 == 2&#10;more">trace</failure></testcase>'
    )
    with pytest.raises(RuntimeError, match=r'"c": \["assert 1 == 2", "more"\]'):
        stages.read_junit(text.format(failed), 1)
    with pytest.raises(RuntimeError, match="code 2"):
        stages.read_junit(text.format(""), 2)


@pytest.mark.parametrize(
    "words", [["--stage", "none", "OUT"], [], ["--device", "tpu", "OUT"], ["--stage"]]
)
def test_bad_usage(words, tmp_path):
    script = str(BENCHMARKS / "run_on_gpu.sh")
    done = subprocess.run(["bash", script, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "bash benchmarks/run_on_gpu.sh [--stage STAGE]" in done.stderr
    assert list(tmp_path.iterdir()) == []


def calls_of_the_script(tmp_path, stage: str, *codes: int) -> tuple[int, list[str]]:
    """The script's exit code and its calls, with a Python that ends with these codes in turn."""
    python, calls = tmp_path / "python", tmp_path / "calls"
    python.write_text(
        f'#!/bin/sh\necho "$*" >>{calls}\n'
        f"set -- {' '.join(map(str, codes))}\nshift $(($(wc -l <{calls}) - 1))\nexit $1\n"
    )
    python.chmod(0o755)
    words = ["bash", str(BENCHMARKS / "run_on_gpu.sh"), "--stage", stage, "--device", "cpu"]
    done = subprocess.run([*words, str(tmp_path / "out"), str(python)], capture_output=True)
    return done.returncode, calls.read_text().splitlines()


def test_the_script_goes_on_where_a_case_took_the_process_with_it(tmp_path):
    code, calls = calls_of_the_script(tmp_path, "crf", 75, 139, 0)
    assert code == 0
    assert len(calls) == 3
    assert calls[0].startswith("benchmarks/gpu_stages.py crf --json ")
    assert ["--resume" in call for call in calls] == [False, True, True]


@pytest.mark.parametrize("code", [1, 2, 124])
def test_the_script_does_not_repeat_what_came_to_an_end(tmp_path, code):
    assert calls_of_the_script(tmp_path, "crf", code)[0] == 1
    assert len(calls_of_the_script(tmp_path, "crf", code, code, code)[1]) == 2  # one each


def test_all_runs_every_stage_whatever_the_others_do(tmp_path):
    code, calls = calls_of_the_script(tmp_path, "all", 0, 1, 0, 124, 0, 0)
    assert code == 1
    stages = [call.split()[1] for call in calls]
    assert stages == ["smoke", "conv", "crf", "tests", "nets", "sanitize"]


def test_compiling_is_spread_over_the_processors(module, tmp_path, monkeypatch):
    stages = module("gpu_stages")
    nvcc = tmp_path / "nvcc"
    nvcc.write_text("#!/bin/sh\necho '--split-compile <number>   (-split-compile)'\n")
    nvcc.chmod(0o755)
    tools = stages.build.Toolchain("c++", str(nvcc), tmp_path, "2.13.0", {})
    plan = stages.build.Plan(True, True, ("both",), tools)
    monkeypatch.setattr(stages.build, "plan", lambda mode: plan)
    monkeypatch.setattr(stages.build, "build", lambda what: [tmp_path / "libx.so"])
    monkeypatch.setenv("NVCC_APPEND_FLAGS", "x")  # restored afterwards
    monkeypatch.delenv("NVCC_APPEND_FLAGS")
    assert stages.built()["libraries"] == ["libx.so"]
    assert os.environ["NVCC_APPEND_FLAGS"] == "--split-compile=0"


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
@pytest.mark.slow
def test_without_a_gpu_it_says_so(tmp_path):
    words = ["bash", str(BENCHMARKS / "run_on_gpu.sh"), str(tmp_path / "out"), sys.executable]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 2
    assert "no torch that sees a GPU" in done.stderr
