"""What is no known mistake is not called one; every known one has a test."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from deeplab_repro.parity.traps import TRAPS
from tests.parity.spoil import LARGEFOV, blobs_of, diagnose, names, picture

SIZE = 65

pytestmark = pytest.mark.slow  # each runs networks and searches them, half a second


def test_equal_activations_have_no_cause(tmp_path):
    assert diagnose(LARGEFOV, blobs_of(LARGEFOV, picture(1, SIZE, SIZE)), tmp_path) == []


def test_garbage_is_unknown(tmp_path):
    generator = torch.Generator().manual_seed(0)
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33))
    for rectify in (False, True):
        garbage = {}
        for name, value in blobs.items():
            noise = torch.randn(value.shape, generator=generator) * value.std()
            garbage[name] = value if name == "data" else noise.relu() if rectify else noise
        assert names(diagnose(LARGEFOV, garbage, tmp_path)) == ["unknown"]


def test_one_damaged_blob_is_unknown(tmp_path):
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33))
    blobs["conv4_2"] = torch.randn_like(blobs["conv4_2"])
    (cause,) = diagnose(LARGEFOV, blobs, tmp_path)
    assert (cause.trap.id, cause.blob) == ("unknown", "conv4_2")
    assert "may be damaged" in cause.evidence[-1]
    blobs["conv4_2"] *= torch.nan
    assert names(diagnose(LARGEFOV, blobs, tmp_path)) == ["unknown"]


def test_one_blob_that_was_scaled_proves_no_other_weights(tmp_path):
    """With other weights, what reads the blob would differ too."""
    blobs = blobs_of(LARGEFOV, picture(1, 33, 33))
    blobs["conv3_1"] = blobs["conv3_1"] * 1.01
    (cause,) = diagnose(LARGEFOV, blobs, tmp_path)
    assert (cause.trap.id, cause.blob) == ("unknown", "conv3_1")


def test_rounding_that_grows(tmp_path):
    """Every layer off by less than the tolerance, all together by more."""

    def drift(module, *bottoms):
        return type(module).forward(module, *bottoms) * (1 + 8e-6)

    convolutions = [(f"conv{i}", drift) for i in ("1_1", "1_2", "2_1", "2_2", "3_1", "3_2")]
    causes = diagnose(LARGEFOV, blobs_of(LARGEFOV, picture(1, 33, 33), *convolutions), tmp_path)
    assert names(causes) == ["rounding"]


def test_every_trap_is_tested():
    """A detector that no test calls may never fire, or always."""
    own = Path(__file__)
    text = "".join(path.read_text() for path in (own, *own.parent.glob("test_traps_of_*.py")))
    assert [trap for trap in TRAPS if f'"{trap}' not in text] == []
