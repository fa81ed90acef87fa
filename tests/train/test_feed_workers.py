"""Feeds with worker processes: the same batches, errors that arrive whole, processes that end."""

from __future__ import annotations

import multiprocessing
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from deeplab_repro.errors import BadInput, InputError
from tests.train.feeding import feeds, seg_data, write_pictures
from tests.train.test_feeds import RANDOM


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:This DataLoader will create 3 worker processes")
def test_the_same_batches_with_any_number_of_workers(tmp_path: Path) -> None:
    write_pictures(tmp_path, 7)
    text = seg_data(tmp_path, "shuffle: true batch_size: 3", RANDOM)
    alone = feeds(text)
    wanted = [(alone.next(), alone.origins) for _ in range(9)]
    for workers in (1, 3):
        state = torch.random.get_rng_state()
        with feeds(text, workers=workers) as fed:
            order = [*range(5), 7, 8, 2, 3]
            for last, number in zip([-1, *order], order, strict=False):
                if number != last + 1:
                    fed.seek(number)
                batch = fed.next()
                assert all(torch.equal(batch[k], wanted[number][0][k]) for k in batch)
                assert batch.keys() == wanted[number][0].keys()
                assert fed.origins == wanted[number][1]
                # The one behind it comes without being asked for.
                coming = fed._reader._coming
                assert coming is not None
                coming.result(timeout=60)
            assert len(multiprocessing.active_children()) == workers
        assert not multiprocessing.active_children()
        # Dropout in this process must not depend on the workers.
        assert torch.equal(torch.random.get_rng_state(), state)


@pytest.mark.slow
def test_an_error_of_a_worker_is_the_same_error(tmp_path: Path) -> None:
    write_pictures(tmp_path, 3)
    (tmp_path / "1.png").write_bytes(b"")
    text = seg_data(tmp_path, "batch_size: 1")
    alone = feeds(text)
    alone.next()
    with pytest.raises(BadInput) as wanted:
        alone.next()
    with feeds(text, workers=1) as fed:
        fed.next()
        with pytest.raises(InputError) as caught:
            fed.next()
        assert str(caught.value) == str(wanted.value)
        assert f"{tmp_path}/1.png: layer 'd': " in str(caught.value)
        assert f"(line 2 of {tmp_path}/list.txt)" in str(caught.value)
        assert torch.equal(fed.next()["data"], alone.next()["data"])


PROGRAM = """
import sys, time
from tests.train.feeding import feeds
if __name__ == "__main__":
    with feeds(sys.argv[1], workers=2) as fed:
        fed.next()
        try:
            print("ready", flush=True)
            time.sleep(60)
        except KeyboardInterrupt:
            fed.next()  # a last snapshot may need another batch
            print("interrupted", flush=True)
"""


@pytest.mark.slow
@pytest.mark.parametrize("hard", [False, True])
def test_ctrl_c_ends_all_processes(tmp_path: Path, hard: bool) -> None:
    """A terminal sends it to the whole group.  After a kill the workers end by themselves.

    Also where they are still starting then.
    """
    write_pictures(tmp_path, 3)
    (tmp_path / "program.py").write_text(PROGRAM)
    program = subprocess.Popen(
        [sys.executable, str(tmp_path / "program.py"), seg_data(tmp_path)],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert program.stdout is not None
    if not hard:
        assert program.stdout.readline() == "ready\n"
    children = started(program.pid)
    if hard:
        program.kill()
        program.communicate(timeout=120)
    else:
        os.killpg(program.pid, signal.SIGINT)
        out, errors = program.communicate(timeout=120)
        assert (out, errors, program.returncode) == ("interrupted\n", "", 0)
    for _ in range(300):
        if not any(Path(f"/proc/{child}").exists() for child in children):
            return
        time.sleep(0.1)
    raise AssertionError("worker processes are left over")


CLOSED = """
import sys
from tests.train.feeding import feeds
if __name__ == "__main__":
    fed = feeds(sys.argv[1], workers=2)
    fed.next()
    if sys.argv[2] == "closed":
        fed.close()
"""


@pytest.mark.slow
@pytest.mark.parametrize("end", ["closed", "forgotten"])
def test_workers_end_without_a_word(end: str, tmp_path: Path) -> None:
    """Also where large batches are on their way and nobody takes them."""
    write_pictures(tmp_path, 4, (375, 500))
    crop = "crop_size: 321 mirror: true mean_value: 104 mean_value: 117 mean_value: 123"
    (tmp_path / "program.py").write_text(CLOSED)
    layer = seg_data(tmp_path, "batch_size: 10", crop)
    done = subprocess.run(
        [sys.executable, str(tmp_path / "program.py"), layer, end],
        capture_output=True, text=True, check=False, timeout=120,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
    )  # fmt: skip
    assert (done.stdout, done.stderr, done.returncode) == ("", "", 0)


def started(program: int) -> list[str]:
    """The two workers, and the process that multiprocessing starts for its own ends."""
    for _ in range(600):
        children = Path(f"/proc/{program}/task/{program}/children").read_text().split()
        if len(children) == 3:
            return children
        time.sleep(0.1)
    raise AssertionError("the workers do not start")
