"""The files that TensorFlow wrote, and what it read back from them."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

STORED = Path(__file__).parents[1] / "data" / "tensorflow" / "checkpoints"


@pytest.fixture(scope="session")
def stored():
    """The folder with TensorFlow's files."""
    return STORED


@pytest.fixture(scope="session")
def expected():
    """File -> variable -> (type, shape, digest) of what TensorFlow read from it."""
    return json.loads((STORED / "expected.json").read_text())


def digest(array, ends_only=False):
    """As tests/make_tensorflow_checkpoint_data.py has it."""
    if array.dtype == object:
        content = b"\0".join(array.reshape(-1))
    elif ends_only and array.size > 64:
        flat = array.reshape(-1)
        content = np.concatenate([flat[:32], flat[-32:]]).tobytes()
    else:
        content = array.tobytes()
    return hashlib.sha256(content).hexdigest()[:16]


@pytest.fixture
def described():
    """What `expected` has, of variables that were read."""

    def describe(variables, ends_only=False):
        return {
            name: [array.dtype.name, list(array.shape), digest(array, ends_only)]
            for name, array in variables.items()
        }

    return describe
