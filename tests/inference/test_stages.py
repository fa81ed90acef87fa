"""Stages that run at the same time: order, bounds, errors, and leaving early."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from itertools import chain

import pytest
import torch

from deeplab_repro.inference.stages import Stages


def doubled(numbers: list[int]) -> list[int]:
    return [2 * number for number in numbers]


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("threads", [1, 3])
def test_results_come_in_the_order_of_the_jobs(batch: int, threads: int) -> None:
    """However long each takes, and whichever others it waits for."""
    groups: list[list[int]] = []

    def run(numbers: list[int]) -> list[int]:
        groups.append(numbers)
        return doubled(numbers)

    def finish(job: str, number: int, output: int) -> tuple[int, int]:
        time.sleep(0.002 * (number % 4))
        return number, output

    stages = Stages[str, int, int, tuple[int, int]](
        read=int,
        run=run,
        finish=finish,
        alike=lambda number: number % 2 + number // 29,
        batch=batch,
        readers=threads,
        finishers=threads,
    )
    jobs = [str(i) for i in range(30)]
    assert list(stages(jobs)) == [(job, (int(job), 2 * int(job))) for job in jobs]
    assert sorted(chain.from_iterable(groups)) == list(range(30))
    assert all(len(group) <= batch for group in groups)
    assert all(len({n % 2 + n // 29 for n in group}) == 1 for group in groups)
    assert len(groups) <= 30 // batch + 2
    assert list(stages([])) == []


def test_the_stages_overlap() -> None:
    """Each stage waits until another picture has come to the stage before it."""
    meetings = {"read": threading.Barrier(2), "finish": threading.Barrier(2)}

    def meet(stage: str, number: int) -> None:
        if number:  # the last of five has nobody behind it
            meetings[stage].wait(timeout=10)

    def read(number: int) -> int:
        meet("read", number)
        return number

    def run(numbers: list[int]) -> list[int]:
        meet("read", 4 - numbers[0])  # is met by the picture after this one
        meet("finish", numbers[0])  # and by the one before it
        return numbers

    def finish(number: int, _: int, output: int) -> int:
        meet("finish", 4 - number)
        return output

    stages = Stages[int, int, int, int](read=read, run=run, finish=finish, readers=1)
    assert [result for _, result in stages(range(5))] == list(range(5))


def test_an_error_is_that_of_its_job_alone() -> None:
    def read(job: int) -> int:
        if job == 2:
            raise OSError("no file")
        return job

    def run(numbers: list[int]) -> list[int]:
        if 5 in numbers:
            raise RuntimeError("out of memory")
        return doubled(numbers)

    def finish(job: int, number: int, output: int) -> int:
        if job == 7:
            raise ValueError("full disk")
        return output

    stages = Stages[int, int, int, int](read=read, run=run, finish=finish, batch=3)
    found = [str(result) for _, result in stages(range(9))]
    expected = ["0", "2", "no file", "6", "8", "out of memory", "12", "full disk", "16"]
    assert found == expected


def test_a_fault_of_the_program_ends_all() -> None:
    def finish(job: int, number: int, output: int) -> int:
        return [0, 1][output]

    stages = Stages[int, int, int, int](read=int, run=doubled, finish=finish)
    with pytest.raises(IndexError):
        list(stages(range(9)))
    assert not [t for t in threading.enumerate() if t.name.startswith(("read", "finish"))]


@pytest.mark.parametrize("slow", ["read", "finish", "caller"])
def test_few_items_are_there_at_a_time(slow: str) -> None:
    here = most = given = 0
    lock = threading.Lock()

    def jobs() -> Iterator[int]:
        nonlocal given
        for i in range(40):
            given += 1
            yield i

    def read(job: int) -> int:
        nonlocal here, most
        with lock:
            here += 1
            most = max(most, here)
        if slow == "read":
            time.sleep(0.002)
        return job

    def finish(job: int, number: int, output: int) -> int:
        if slow == "finish":
            time.sleep(0.004)
        return output

    stages = Stages[int, int, int, int](read=read, run=doubled, finish=finish)
    done = 0
    for job, result in stages(jobs()):
        assert result == 2 * job
        with lock:
            here -= 1
        done += 1
        if slow == "caller":
            time.sleep(0.002)
        assert given - done <= 12
    assert done == 40
    assert most <= 12


@pytest.mark.parametrize("error", [KeyboardInterrupt, GeneratorExit])
def test_whoever_leaves_early_leaves_nothing_running(error: type[BaseException]) -> None:
    begun: list[int] = []

    def finish(job: int, number: int, output: int) -> int:
        begun.append(job)
        time.sleep(0.01)
        return output

    def run(numbers: list[int]) -> list[int]:
        if error is KeyboardInterrupt and numbers == [5]:
            raise KeyboardInterrupt
        return numbers

    outcomes = Stages[int, int, int, int](read=int, run=run, finish=finish)(range(100))
    if error is KeyboardInterrupt:
        with pytest.raises(error):
            list(outcomes)
    else:
        next(outcomes)
        outcomes.close()
    assert not [t for t in threading.enumerate() if t.name.startswith(("read", "finish"))]
    assert len(begun) <= 6


@pytest.mark.parametrize(("finishers", "share"), [(1, 4), (2, 2), (3, 1), (9, 1)])
def test_threads_are_shared_out(finishers: int, share: int) -> None:
    def finish(job: int, number: int, output: int) -> tuple[int, int]:
        return output, torch.get_num_threads()

    def run(numbers: list[int]) -> list[int]:
        return [torch.get_num_threads()]

    before = torch.get_num_threads()
    torch.set_num_threads(4)
    try:
        stages = Stages[int, int, int, tuple[int, int]](
            read=int, run=run, finish=finish, finishers=finishers
        )
        # The network keeps all of them.
        assert {result for _, result in stages(range(9))} == {(4, share)}
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert [torch.get_num_threads(), *later] == [4, 4]
    finally:
        torch.set_num_threads(before)
