"""Recorded networks as the parameters of a test."""

from __future__ import annotations

import pytest

from deeplab_repro.parity.recordings import Recording


def recorded(recording: Recording):
    """A ``pytest.param`` by its name; a ResNet of three scales takes seconds, so it is slow."""
    slow = pytest.mark.slow if recording.name.startswith("resnet101_msc") else ()
    return pytest.param(recording, id=recording.name, marks=slow)
