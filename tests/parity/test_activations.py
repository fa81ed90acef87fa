"""Every blob of a network against what Caffe computed.

By default on the bundled networks. On a model and activations of your own:

    pytest tests/parity --activations DIR --model X.caffemodel [--prototxt deploy.prototxt]
"""

from __future__ import annotations

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
    if {"recording", "blob"} <= set(metafunc.fixturenames):
        try:
            cases = [
                pytest.param(recording, blob, id=f"{recording.name}-{blob}")
                for recording in _recordings(metafunc.config)
                for blob in recording.blobs()
            ]
        except CaffeImportError as error:
            raise pytest.UsageError(str(error)) from None
        metafunc.parametrize(("recording", "blob"), cases)


def _recordings(config: pytest.Config) -> list[Recording]:
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


@lru_cache(maxsize=1)  # the blobs of one recording are tested one after the other
def compared(recording: Recording) -> dict[str, BlobReport]:
    """Blob -> how it compares, in the order in which the network makes them."""
    net = _load(recording.model, recording.prototxt)
    return {report.blob: report for report in compare_recording(net, recording, TOLERANCE)}


@lru_cache(maxsize=1)  # all recordings of a user are of one model
def _load(model: Path, prototxt: Path | None) -> CaffeNet:
    if prototxt is None:
        return load_caffe(model, phase="TEST")
    return load_caffe(prototxt, model, phase="TEST")


def test_blob_is_what_caffe_computed(recording: Recording, blob: str) -> None:
    reports = compared(recording)
    if blob not in reports:
        pytest.skip("made by a Split layer that Caffe added by itself")
    report = reports[blob]
    if not report.equal:
        first = next(other for other in reports.values() if other.equal is False)
        made_by = f"layer {report.layer} ({report.type})" if report.layer else "no layer"
        pytest.fail(
            f"blob {blob}, made by {made_by}: {report.agreement}; "
            f"allowed rel {TOLERANCE.rel:g}, max {TOLERANCE.max:g}. "
            f"First blob of the network that differs: {first.blob}",
            pytrace=False,
        )


@pytest.mark.parametrize("recording", bundled_recordings(DATA), ids=lambda item: item.name)
def test_every_blob_was_recorded(recording: Recording) -> None:
    """A recording that lost blobs would leave them untested without a word."""
    assert list(compared(recording))
    assert set(compared(recording)) == set(recording.blobs())


def test_the_networks_are_bundled() -> None:
    assert len(bundled_recordings(DATA)) == 6
