"""What all tests of the command line share."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from deeplab_repro.cli import main
from tests.released.conftest import caffemodel, server, shelf  # noqa: F401


@pytest.fixture
def run(capfd: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """Call the command line: (exit code, stdout, stderr), those of C libraries included."""

    def call(*arguments: object) -> tuple[int, str, str]:
        with pytest.raises(SystemExit) as stopped:
            main([str(argument) for argument in arguments])
        out, err = capfd.readouterr()
        return stopped.value.code, out, err

    return call
