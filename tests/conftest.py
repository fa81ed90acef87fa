"""Options and fixtures that all tests share."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from tempfile import gettempdir
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from tests.testing.warm import Warm

DATA = Path(__file__).parent / "data"

# Under pytest-xdist each worker computes on one thread, and so do the programs that its tests
# start: threads of several programs that wait for each other busily would slow all of them down.
# Read when torch is first imported. Tests of thread counts set their own.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["OMP_WAIT_POLICY"] = "passive"

# From its cache, torch takes what it compiled for another instruction set, and computes nonsense.
if isa := os.environ.get("ATEN_CPU_CAPABILITY"):
    os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", f"{gettempdir()}/torchinductor_{isa}")

# The background jobs of a shell ignore Ctrl-C, and so would the programs that tests send it to.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("parity", "compare a model with activations saved from Caffe")
    group.addoption(
        "--activations",
        type=Path,
        metavar="PATH",
        help="an .h5 file with /blobs/NAME, or a folder of such files, as made by "
        "tests/parity/dump_activations.py; tests/parity then runs on these, not the bundled ones",
    )
    group.addoption(
        "--model",
        type=Path,
        metavar="FILE",
        help="the .caffemodel (or .caffemodel.h5, .safetensors) that made the activations",
    )
    group.addoption(
        "--prototxt", type=Path, metavar="FILE", help="its network, where MODEL does not hold it"
    )


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark as slow what `make check` has no time for.

    To write, read or run a ResNet-101 takes seconds: a test is slow with one as parameter.  Of a
    test marked ``sampled(n)``, all cases are slow but n, evenly spread.
    """
    sampled: dict[str, list[pytest.Item]] = {}
    for item in items:
        if "[" in item.name and "resnet101" in item.name:
            item.add_marker(pytest.mark.slow)
        elif item.get_closest_marker("sampled"):
            sampled.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for cases in sampled.values():
        (count,) = cases[0].get_closest_marker("sampled").args  # type: ignore[union-attr]
        kept = {len(cases) * i // count for i in range(count)}
        for i, item in enumerate(cases):
            if i not in kept:
                item.add_marker(pytest.mark.slow)


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """`device`: the CPU always, and the GPU where there is one (then also `pytest -m cuda`)."""
    if "device" in metafunc.fixturenames:
        import torch

        devices = [pytest.param("cpu")]
        if torch.cuda.is_available():
            devices.append(pytest.param("cuda", marks=pytest.mark.cuda))
        metafunc.parametrize("device", devices)


@pytest.fixture(autouse=True)
def _same_random_numbers_every_run() -> None:
    import torch

    # torch.manual_seed would do both, and without a GPU keep a printed stack for each of five
    # thousand tests, which takes longer than most of them.
    torch.default_generator.manual_seed(0)
    if torch.cuda.is_available():
        torch.cuda.manual_seed_all(0)


@pytest.fixture(scope="session")
def data() -> Path:
    """The folder of bundled test data."""
    return DATA


@pytest.fixture(scope="session")
def warm(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Warm]:
    """Starts `deeplab-repro` at once, as often as a test likes."""
    from tests.testing.warm import warm_program

    with warm_program(tmp_path_factory.mktemp("warm")) as started:
        yield started
