"""Every blob of a network against what Caffe computed.

By default on the bundled networks. On a model and activations of your own:

    pytest tests/parity --activations DIR --model X.caffemodel [--prototxt deploy.prototxt]
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

import pytest

from deeplab_repro import CaffeImportError, CaffeNet, load_caffe
from deeplab_repro.parity.comparison import BlobReport, compare_recording
from deeplab_repro.parity.recordings import Recording, bundled_recordings, find_recordings
from deeplab_repro.parity.tolerances import AGREEMENT

TOLERANCE = AGREEMENT["caffe"]
DATA = Path(__file__).parents[1] / "data"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "recording" in metafunc.fixturenames:
        try:
            recordings = recordings_of(metafunc.config)
            for recording in recordings:
                if not _is_bundled(recording):  # those are known to hold some
                    recording.blobs()  # none is a usage error, not a failed comparison
        except CaffeImportError as error:
            raise pytest.UsageError(str(error)) from None
        metafunc.parametrize("recording", recordings, ids=lambda item: item.name)


def _is_bundled(recording: Recording) -> bool:
    return recording.file.is_relative_to(DATA)


def recordings_of(config: pytest.Config) -> list[Recording]:
    activations, model, prototxt = (
        config.getoption(option) for option in ("--activations", "--model", "--prototxt")
    )
    if activations is None and model is None:
        return bundled_recordings(DATA)
    if activations is None or model is None:
        raise pytest.UsageError("--activations and --model are given together or not at all")
    for path in (activations, model, prototxt):
        if path is not None and not path.exists():
            raise pytest.UsageError(f"{path}: no such file or folder")
    return find_recordings(activations, model, prototxt)


@lru_cache(maxsize=1)  # all recordings of a user are of one model
def _load(model: Path, prototxt: Path | None) -> CaffeNet:
    if prototxt is None:
        return load_caffe(model, phase="TEST")
    return load_caffe(prototxt, model, phase="TEST")


@pytest.mark.sampled(2)
def test_blobs_are_what_caffe_computed(recording: Recording) -> None:
    net = _load(recording.model, recording.prototxt)
    reports = compare_recording(net, recording, TOLERANCE)
    if _is_bundled(recording):  # one that lost blobs would leave them untested
        assert {report.blob for report in reports} == set(recording.blobs())
    different = [report for report in reports if report.equal is False]
    if different:
        pytest.fail("\n".join(_told(reports, different)), pytrace=False)


def _told(reports: list[BlobReport], different: list[BlobReport]) -> Iterator[str]:
    yield (
        f"{len(different)} of {len(reports)} blobs differ; "
        f"allowed rel {TOLERANCE.rel:g}, max {TOLERANCE.max:g}; in the order of the network:"
    )
    for report in different:
        made_by = f"layer {report.layer} ({report.type})" if report.layer else "no layer"
        yield f"blob {report.blob}, made by {made_by}: {report.agreement}"


def test_the_networks_are_bundled() -> None:
    assert len(bundled_recordings(DATA)) == 6
