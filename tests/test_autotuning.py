"""autotune: what it measures, what it chooses, and what it keeps in the user's cache."""

from __future__ import annotations

import gc
import json
import os
import warnings
from pathlib import Path

import pytest
import torch
from torch import nn

import deeplab_repro
from deeplab_repro import InputError, autotune, autotuning, load_caffe
from deeplab_repro.native import backends
from deeplab_repro.ops import (
    AtrousConv2d,
    _atrous_algorithms,
    _atrous_cache,
    _atrous_filters,
    _atrous_rules,
    _atrous_timing,
    _atrous_tuned,
    atrous_conv2d,
    choose_algorithm,
)
from deeplab_repro.ops._atrous_timing import candidates, measure

pytestmark = pytest.mark.filterwarnings("ignore::deeplab_repro.native.backends.FallbackWarning")
SHAPE = (1, 3, 9, 8)
BUNDLED = Path(__file__).parents[1] / "weights" / "largefov_v1_w8"


@pytest.fixture(autouse=True)
def _alone(tmp_path, monkeypatch):
    """A cache of its own, and nothing tuned before or after."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(_atrous_tuned, "_choices", {})
    monkeypatch.setattr(_atrous_timing, "kernels_are_there", lambda device: True)


@pytest.fixture
def timed(monkeypatch):
    """The problems that were measured; the times are those of `fastest` and 2 ms of the others."""

    class Timed(list):
        fastest = "interlace"

        def measure(self, problem, seconds):
            self.append(problem)
            return {name: 1.0 if name == self.fastest else 2.0 for name in candidates(problem)}

    found = Timed()
    monkeypatch.setattr(autotuning, "measure", found.measure)
    return found


def net(**options):
    torch.manual_seed(0)
    return nn.Sequential(
        AtrousConv2d(3, 4, 3, padding=2, rate=2, **options),
        nn.ReLU(),
        AtrousConv2d(4, 4, 3, padding=2, rate=2, **options),
        AtrousConv2d(4, 4, 3, padding=2, rate=2, **options),
        AtrousConv2d(4, 2, 1, **options),
    ).eval()


def used(network, x):
    """The algorithms that a pass takes, in order."""
    names = []

    class Spy:
        def __init__(self, name):
            self.name, self.original = name, _atrous_algorithms.BY_NAME[name]

        def __getattr__(self, method):
            def call(*arguments):
                names.append(self.name)
                return getattr(self.original, method)(*arguments)

            return call

    with pytest.MonkeyPatch.context() as patch, torch.no_grad():
        for name in ("direct", "interlace", "library", "winograd"):
            patch.setitem(_atrous_algorithms.BY_NAME, name, Spy(name))
        network(x)
    return names


# -------------------------------------------------------------------- measuring


class FakeClock:
    """Every algorithm takes as long as it is told to, and says that it ran."""

    def __init__(self, monkeypatch, **seconds):
        self.now, self.ran = 0.0, []
        for name, each in seconds.items():
            monkeypatch.setitem(_atrous_algorithms.BY_NAME, name, self.algorithm(name, each))

    def algorithm(self, name, seconds):
        clock = self

        class Fake:
            def run(self, *arguments):
                clock.ran.append(name)
                clock.now += seconds(len(clock.ran)) if callable(seconds) else seconds

            grad_input = grad_weight = run

        return Fake()

    def __call__(self):
        return self.now


def problem(**changes):
    return _atrous_rules.Problem(
        **{
            "direction": "forward",
            "device": "cpu",
            "dtype": torch.float32,
            "channels_last": False,
            "batch": 1,
            "channels": 3,
            "filters": 4,
            "image_size": (9, 8),
            "out_size": (9, 8),
            "kernel_size": (3, 3),
            "stride": (1, 1),
            "padding": (2, 2),
            "rate": (2, 2),
            "groups": 1,
            **changes,
        }
    )


def test_the_candidates():
    assert candidates(problem()) == ["library", "interlace", "direct", "winograd"]
    assert candidates(problem(rate=(1, 1))) == ["library", "direct", "winograd"]
    assert candidates(problem(kernel_size=(1, 1), rate=(1, 1))) == ["library", "direct"]
    assert "winograd" not in candidates(problem(direction="grad_weight"))
    assert "winograd" in candidates(problem(direction="grad_input"))
    assert candidates(problem(dtype=torch.bfloat16, rate=(1, 1))) == ["library"]


def test_without_kernels_there_is_torchs_own(monkeypatch):
    monkeypatch.setattr(_atrous_timing, "kernels_are_there", lambda device: False)
    assert candidates(problem()) == ["library", "interlace"]


def test_medians_of_turns(monkeypatch):
    def noisy(run):  # one of its turns is disturbed
        return 0.5 if run == 10 else 0.010

    times = {"library": 0.012, "interlace": noisy, "direct": 0.011, "winograd": 0.013}
    clock = FakeClock(monkeypatch, **times)
    found = measure(problem(), seconds=0.8, clock=clock)
    names = ["library", "interlace", "direct", "winograd"]
    assert clock.ran == names * (len(clock.ran) // 4)
    assert clock.now >= 0.8
    assert found == pytest.approx({"library": 12, "interlace": 10, "direct": 11, "winograd": 13})


def test_the_hopeless_get_no_turns(monkeypatch):
    clock = FakeClock(monkeypatch, library=0.010, interlace=0.021, direct=0.019, winograd=0.041)
    found = measure(problem(), seconds=0.05, clock=clock)
    assert found == pytest.approx({"library": 10, "interlace": 21, "direct": 19, "winograd": 41})
    assert clock.ran == [
        *("library", "interlace", "direct", "winograd"),  # prepares what is made once
        *("library", "interlace", "direct"),
        *("library", "direct") * 2,
    ]


def test_a_short_run_is_not_hopeless(monkeypatch):
    def disturbed(run):  # its second run
        return 0.004 if run == 7 else 0.0001

    times = {"library": 0.0003, "interlace": 0.0003, "direct": disturbed, "winograd": 0.0003}
    found = measure(problem(), seconds=0.3, clock=FakeClock(monkeypatch, **times))
    assert found["direct"] == pytest.approx(0.1)


def test_what_is_prepared_once_does_not_count(monkeypatch):
    def first(run):
        return 0.030 if run <= 4 else 0.001

    clock = FakeClock(monkeypatch, library=0.010, interlace=0.021, direct=first, winograd=0.011)
    found = measure(problem(), seconds=0, clock=clock)
    assert found["direct"] == pytest.approx(1)


@pytest.mark.skipif(not backends.has_cpu(), reason="the compiled CPU kernels are not loaded")
@pytest.mark.parametrize("direction", ["forward", "grad_input", "grad_weight"])
@pytest.mark.parametrize(
    "changes",
    [
        {"kept": True},
        {"fast": True, "channels_last": True},
        {"batch": 2, "groups": 2, "channels": 4, "dtype": torch.float64},
        {"stride": (2, 1), "out_size": (5, 8)},
        {"padding": (0, 1), "out_size": (5, 6)},
    ],
    ids=["kept", "channels last", "groups", "stride", "padding"],
)
def test_every_candidate_runs(direction, changes):
    found = measure(problem(direction=direction, **changes), seconds=0)
    assert list(found) == candidates(problem(direction=direction, **changes))
    assert all(value > 0 for value in found.values())


# -------------------------------------------------------------------- choosing


def test_auto_takes_the_fastest(timed):
    network, x = net(), torch.randn(SHAPE)
    assert used(network, x) == ["library"] * 4
    tuning = autotune(network, SHAPE)
    assert used(network, x) == ["interlace"] * 3 + ["library"]
    weight = torch.empty(4, 3, 3, 3)
    tuned = choose_algorithm(x, weight, padding=2, rate=2, kept=backends.has_cpu())
    assert tuned == "interlace"
    assert [timing.layers for timing in tuning.timings] == [("0",), ("2", "3"), ("4",)]
    assert len(timed) == 3
    assert tuning.total() == 1 + 2 * 1 + 2
    assert tuning.total(by_rules=True) == 2 + 2 * 2 + 2
    autotuning.forget()
    assert used(network, x) == ["library"] * 4


def test_nothing_changes_for_other_problems(timed):
    network = net()
    autotune(network, SHAPE)
    for x in (torch.randn(1, 3, 9, 9), torch.randn(2, *SHAPE[1:]), torch.randn(SHAPE).double()):
        assert used(network.to(x.dtype), x) == ["library"] * 4
    network.float()
    for layer in network:
        layer.accuracy = "fast"
    assert used(network, torch.randn(SHAPE)) == ["library"] * 4


def test_a_choice_holds_for_its_number_of_threads(timed):
    network, threads = net(), torch.get_num_threads()
    autotune(network, SHAPE)
    try:
        torch.set_num_threads(threads + 1)
        assert used(network, torch.randn(SHAPE)) == ["library"] * 4
    finally:
        torch.set_num_threads(threads)
    assert used(network, torch.randn(SHAPE)) == ["interlace"] * 3 + ["library"]


@pytest.mark.skipif(not backends.has_cpu(), reason="the compiled CPU kernels are not loaded")
@pytest.mark.parametrize("accuracy", ["exact", "fast"])
@pytest.mark.parametrize("fastest", ["direct", "interlace", "winograd"])
def test_the_results_differ_by_rounding(timed, fastest, accuracy):
    timed.fastest = fastest
    network, x = net(accuracy=accuracy), torch.randn(SHAPE)
    with torch.no_grad():
        before = network(x)
        autotune(network, SHAPE)
        torch.testing.assert_close(network(x), before, rtol=1e-5, atol=1e-5)
    assert {p.fast for p in timed} == {accuracy == "fast"}
    assert used(network, x)[:3] == [fastest] * 3


def test_training_measures_gradients_and_leaves_no_trace(timed):
    network = nn.Sequential(*net().train()[:3], nn.BatchNorm2d(4), nn.Dropout())
    network.train()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    tuning = autotune(network, SHAPE)
    assert torch.rand(3).equal(expected)
    after = network.state_dict()
    assert all(after[name].equal(value) for name, value in before.items())
    assert all(parameter.grad is None for parameter in network.parameters())
    directions = [timing.problem.direction for timing in tuning.timings]
    assert sorted(directions) == ["forward"] * 2 + ["grad_input"] + ["grad_weight"] * 2
    x = torch.randn(SHAPE, requires_grad=True)
    network(x).sum().backward()
    assert x.grad is not None


def test_what_is_computed_without_a_layer_counts(timed):
    class Plain(nn.Module):
        def forward(self, x):
            return {"y": atrous_conv2d(x, torch.ones(2, 3, 3, 3), padding=2, rate=2)}

    (timing,) = autotune(Plain(), SHAPE).timings
    assert timing.layers == ("",)


def test_all_that_the_choices_lead_to_is_measured(timed):
    """A choice may lead to another problem, here by the order in memory."""

    class Turning(nn.Module):
        def forward(self, x):
            weight = torch.ones(3, 3, 3, 3)
            chosen = choose_algorithm(x, weight, padding=2, rate=2)
            layout = torch.channels_last if chosen == "interlace" else torch.contiguous_format
            return atrous_conv2d(x.contiguous(memory_format=layout), weight, padding=2, rate=2)

    tuning = autotune(Turning(), SHAPE)
    assert [p.channels_last for p in timed] == [False, True]
    assert [t.problem.channels_last for t in tuning.timings] == [False, True]


def test_compile_and_export_are_by_the_rules(timed):
    network, x = net(), torch.randn(SHAPE)
    autotune(network, SHAPE)
    torch.compiler.reset()
    compiled = torch.compile(network, backend="aot_eager", fullgraph=True, dynamic=True)
    with torch.no_grad():
        torch.testing.assert_close(compiled(x), network(x))
        torch.testing.assert_close(compiled(x[..., :7, :7]), network(x[..., :7, :7]))
        program = torch.export.export(network, (x,))
        torch.testing.assert_close(program.module()(x), network(x))


def test_the_table(timed):
    text = str(autotune(net(), SHAPE))
    lines = text.splitlines()
    names = ["library", "interlace", "direct", "winograd"]
    assert lines[0].split() == ["layer", "convolution", *names, "chosen", "by", "rules"]
    assert lines[2].startswith("2 and 1 more  4 -> 4, 3x3, rate 2, 9x8 ")
    assert lines[2].split()[-6:] == ["2", "1", "2", "2", "interlace", "library"]
    assert lines[3].split()[-6:] == ["2", "-", "2", "-", "library", "library"]
    assert "all convolutions of a pass: 5 as chosen, 8 by the rules" in " ".join(lines)


@pytest.mark.skipif(not backends.has_cpu(), reason="the compiled CPU kernels are not loaded")
def test_layers_that_find_no_room_for_their_filters(timed, monkeypatch):
    timed.fastest = "winograd"
    network = net()
    gc.collect()
    with torch.no_grad():
        network[0].algorithm = "winograd"
        network(torch.randn(SHAPE))
        limit = _atrous_filters.kept_bytes()  # room for the first layer, and then for no other
        network[0].algorithm = "auto"
        network[0].kept.clear()
    monkeypatch.setattr(_atrous_filters, "limit", lambda: limit)
    tuning = autotune(network, SHAPE)
    found = [(t.layers, t.problem.kept) for t in tuning.timings]
    assert found == [(("0",), True), (("2", "3"), False), (("4",), False)]
    lines = str(tuning).splitlines()
    assert [i for i, line in enumerate(lines) if "filters not kept" in line] == [2]


def test_a_real_network():
    """Whatever the clock says, the network computes the same."""
    network = load_caffe(BUNDLED / "weights.caffemodel").fuse()
    x = 50 * torch.randn(1, 3, 97, 97)
    with torch.no_grad():
        before = network(x)["fc8_interp"]
        tuning = autotune(network, x.shape, seconds=0)
        after = network(x)["fc8_interp"]
    assert (after - before).norm() <= 1e-5 * before.norm()
    assert sum(len(timing.layers) for timing in tuning.timings) == 16
    json.dumps(tuning.to_dict())


# -------------------------------------------------------------------- bad input


@pytest.mark.parametrize("shape", [(3, 9, 8), (1, 3, 0, 8), (1, 3, 9.0, 8), ()])
def test_a_wrong_shape(shape):
    with pytest.raises(InputError, match=r"input_shape; expected \(N, C, H, W\) of at least 1"):
        autotune(net(), shape)


def test_a_shape_that_the_network_cannot_use():
    with pytest.raises(ValueError, match="needs x with 3 channels"):
        autotune(net(), (1, 4, 9, 8))


@pytest.mark.parametrize(
    ("network", "got"),
    [
        (nn.Sequential(nn.Conv2d(3, 4, 3)), "got none with holes"),
        (net(algorithm="im2col"), "got 4 by im2col"),
    ],
    ids=["none", "im2col"],
)
def test_a_network_without_such_layers(network, got, tmp_path):
    with pytest.raises(InputError, match=f"no convolution to choose an algorithm for.*{got}"):
        autotune(network, SHAPE)
    assert not list(tmp_path.iterdir())


# -------------------------------------------------------------------- the cache


def cache_of(tuning):
    return json.loads(tuning.cache.read_text())


def test_what_was_measured_is_kept(timed, tmp_path):
    first = autotune(net(), SHAPE)
    assert first.cache.parent == tmp_path / "deeplab-repro" / "autotune"
    assert len(cache_of(first)["timings"]) == len(timed) == 3
    assert cache_of(first)["machine"]["threads"] == torch.get_num_threads()
    assert os.listdir(first.cache.parent) == [first.cache.name]
    autotuning.forget()
    second = autotune(net(), SHAPE)
    assert len(timed) == 3
    assert [(t.milliseconds, t.chosen) for t in second.timings] == [
        (t.milliseconds, t.chosen) for t in first.timings
    ]
    assert {t.is_new for t in first.timings} == {True}
    assert {t.is_new for t in second.timings} == {False}
    assert used(net(), torch.randn(SHAPE)) == ["interlace"] * 3 + ["library"]
    autotune(net(), (1, 3, 10, 8))  # beside the others
    assert len(cache_of(first)["timings"]) == 6


def test_it_is_not_read_before_autotune_is_called(timed):
    autotune(net(), SHAPE)
    autotuning.forget()
    assert used(net(), torch.randn(SHAPE)) == ["library"] * 4


@pytest.mark.parametrize("how", ["argument", "environment"])
def test_without_the_cache(timed, tmp_path, monkeypatch, how):
    if how == "environment":
        monkeypatch.setenv("DEEPLAB_REPRO_AUTOTUNE_CACHE", "0")
    for _ in range(2):
        tuning = autotune(net(), SHAPE, cache=how != "argument")
        assert tuning.cache is None
    assert len(timed) == 6
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("name", "value"),
    [("processor_name", "another"), ("version", "0.0.1")],
)
def test_another_machine_has_a_file_of_its_own(timed, monkeypatch, name, value):
    first = autotune(net(), SHAPE).cache
    monkeypatch.setattr(_atrous_cache, name, lambda *_: value)
    assert autotune(net(), SHAPE).cache != first
    assert len(timed) == 6


def test_so_has_another_number_of_threads(timed):
    threads = torch.get_num_threads()
    first = autotune(net(), SHAPE).cache
    try:
        torch.set_num_threads(threads + 1)
        assert autotune(net(), SHAPE).cache != first
    finally:
        torch.set_num_threads(threads)


def without_a_field(text):
    return text.replace('"groups"', '"grupps"')


def not_finite(text):
    return text.replace('"library": 2.0', '"library": NaN')


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[: len(text) // 2],
        lambda text: "",
        lambda text: "[]",
        lambda text: "[" * 100_000,
        lambda text: '{"timings": [3]}',
        without_a_field,
        not_finite,
        lambda text: text.replace('"float32"', '"nn"'),
        lambda text: "\ud800",
    ],
    ids=["half", "empty", "list", "nested", "entry", "field", "NaN", "dtype", "no UTF-8"],
)
def test_a_damaged_file_is_measured_anew(timed, damage):
    path = autotune(net(), SHAPE).cache
    whole = path.read_text()
    path.write_bytes(damage(whole).encode("utf-8", "surrogatepass"))
    with pytest.warns(UserWarning, match="cannot be used, all is measured anew") as seen:
        autotune(net(), SHAPE)
    assert len(seen) == 1
    assert str(path) in str(seen[0].message)
    assert Path(seen[0].filename) == Path(__file__)
    assert len(timed) == 6
    assert path.read_text() == whole


def test_times_of_other_candidates_are_measured_anew(timed, monkeypatch):
    path = autotune(net(), SHAPE).cache
    path.write_text(path.read_text().replace('"winograd"', '"fft"'))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        autotune(net(), SHAPE)
    assert len(timed) == 5


def test_a_cache_that_is_no_folder(timed, tmp_path):
    (tmp_path / "deeplab-repro").write_text("")
    with pytest.warns(UserWarning, match="autotune: .*Not a directory"):
        autotune(net(), SHAPE)
    assert used(net(), torch.randn(SHAPE)) == ["interlace"] * 3 + ["library"]


def test_what_was_measured_before_an_interruption_is_kept(timed, monkeypatch, tmp_path):
    original = autotuning.measure

    def interrupted(*arguments):
        if len(timed) == 2:
            raise KeyboardInterrupt
        return original(*arguments)

    monkeypatch.setattr(autotuning, "measure", interrupted)
    with pytest.raises(KeyboardInterrupt):
        autotune(net(), SHAPE)
    (path,) = (tmp_path / "deeplab-repro" / "autotune").iterdir()
    assert len(json.loads(path.read_text())["timings"]) == 2


def test_it_is_found_at_the_top():
    assert deeplab_repro.autotune is autotuning.autotune
