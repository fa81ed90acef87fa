"""Every recorded network by every algorithm of its convolutions."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch

from deeplab_repro import CaffeNet, load_caffe
from deeplab_repro.caffe.layers.conv import Convolution
from deeplab_repro.ops import ALGORITHMS
from deeplab_repro.ops._atrous_algorithms import BY_NAME
from deeplab_repro.parity.comparison import compare_recording
from deeplab_repro.parity.recordings import Recording, bundled_recordings
from deeplab_repro.parity.tolerances import AGREEMENT

RECORDINGS = bundled_recordings(Path(__file__).parents[1] / "data")
each_recording = pytest.mark.parametrize("recording", RECORDINGS, ids=lambda item: item.name)


@lru_cache(maxsize=1)
def load(recording: Recording) -> CaffeNet:
    return load_caffe(recording.prototxt, recording.model)


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)  # test_activations.py runs "auto"
@each_recording
def test_every_blob_is_what_caffe_computed(recording: Recording, algorithm: str) -> None:
    net = load(recording)
    net.set_algorithm(algorithm)
    reports = compare_recording(net, recording, AGREEMENT["caffe"])
    assert sum(report.agreement is not None for report in reports) > 10
    assert not [f"{r.blob}: {r.agreement}" for r in reports if r.equal is False]


@pytest.mark.slow
@each_recording
def test_fast_forms_keep_a_factor_of_two(recording: Recording) -> None:
    net = load_caffe(recording.prototxt, recording.model, algorithm="winograd", accuracy="fast")
    bars = AGREEMENT["caffe"]
    half = replace(bars, rel=bars.rel / 2, max=bars.max / 2)
    reports = compare_recording(net, recording, half)
    assert not [f"{r.blob}: {r.agreement}" for r in reports if r.equal is False]


@pytest.mark.slow
@pytest.mark.parametrize("algorithm", ALGORITHMS)
@each_recording
def test_fused_networks(recording: Recording, algorithm: str) -> None:
    net = load(recording)
    net.set_algorithm(algorithm)
    fused = net.fuse()
    with torch.inference_mode():
        outputs = fused(**{name: torch.from_numpy(recording.whole(name)) for name in net.inputs})
    for name, blob in outputs.items():
        found = recording.agreement(name, blob.numpy())
        assert found.within(AGREEMENT["fused"]), f"{name}: {found}"


def test_the_choice_reaches_every_convolution(monkeypatch: pytest.MonkeyPatch) -> None:
    recording = RECORDINGS[0]
    calls = []
    im2col = BY_NAME["im2col"]

    class Spy:
        def run(self, *arguments: Any) -> torch.Tensor:
            calls.append(arguments)
            return im2col.run(*arguments)

    monkeypatch.setitem(BY_NAME, "im2col", Spy())
    net = load_caffe(recording.prototxt, recording.model, algorithm="im2col")
    convolutions = [m for m in net.modules() if isinstance(m, Convolution)]
    assert {module.algorithm for module in convolutions} == {"im2col"}
    with torch.inference_mode():
        net(data=recording.whole("data"))
    assert len(calls) == len(convolutions)
    assert {m.algorithm for m in net.fuse().modules() if isinstance(m, Convolution)} == {"im2col"}
    net.set_algorithm("auto")
    assert {module.algorithm for module in convolutions} == {"auto"}
    with pytest.raises(ValueError, match="algorithm: expected one of auto, .* got 'fft'"):
        net.set_algorithm("fft")
    with pytest.raises(ValueError, match="got 'fft'"):
        load_caffe(recording.prototxt, recording.model, algorithm="fft")


def test_the_accuracy_reaches_every_convolution() -> None:
    recording = RECORDINGS[0]

    def accuracies(net: torch.nn.Module) -> list[str]:
        return [m.accuracy for m in net.modules() if isinstance(m, Convolution)]

    net = load_caffe(recording.prototxt, recording.model)
    count = len(accuracies(net))
    assert accuracies(net) == ["exact"] * count
    assert set(accuracies(net.fuse(accuracy="fast"))) == {"fast"}
    assert accuracies(net) == ["exact"] * count
    net = load_caffe(recording.prototxt, recording.model, algorithm="winograd", accuracy="fast")
    assert accuracies(net) == ["fast"] * count
    assert set(accuracies(net.fuse())) == {"fast"}
    assert set(accuracies(net.fuse(accuracy="exact"))) == {"exact"}
    seen: list[bool] = []
    winograd = BY_NAME["winograd"]

    class Spy:
        def run(self, *arguments: Any) -> torch.Tensor:
            seen.append(arguments[3].fast)
            return winograd.run(*arguments)

    with pytest.MonkeyPatch.context() as patch, torch.inference_mode():
        patch.setitem(BY_NAME, "winograd", Spy())
        net(data=recording.whole("data"))
    assert seen == [True] * count
    for call in (net.fuse, lambda **options: load_caffe(recording.prototxt, **options)):
        with pytest.raises(ValueError, match="accuracy: expected exact or fast, got 'quick'"):
            call(accuracy="quick")
