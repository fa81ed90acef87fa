"""Jobs that go through three stages at the same time: read ahead, run, finish behind.

While the network runs on one picture, the next ones are read and the last ones refined and written.
The results come in the order of the jobs, and no more than a few pictures are in memory.

A picture on each of torch's threads takes less time than all threads on one picture after the
other: those that finish share them out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Hashable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from typing import Any, Generic, TypeVar

import torch

__all__ = ["FAILURES", "Stages"]

Job = TypeVar("Job")
Item = TypeVar("Item")
Output = TypeVar("Output")
Result = TypeVar("Result")

#: What one picture can be at fault for: BadInput is a ValueError, and torch's "out of memory" a
#: RuntimeError.  Anything else is a fault of the program and ends all stages.
FAILURES = (ValueError, OSError, MemoryError, RuntimeError)


@dataclass(frozen=True)
class Stages(Generic[Job, Item, Output, Result]):
    """What is done to each job, and how much of it at a time.

    Attributes:
        read: job -> item; in threads of its own, ahead of the others.
        run: items -> one output each; in the thread that asks for the results.
        finish: (job, item, output) -> result; in threads of its own, behind the others.
        alike: only items for which this is equal go through ``run`` together.
        batch: how many items go through ``run`` together, at most.
        readers: threads that read.
        finishers: threads that finish; each computes with its share of torch's threads.
    """

    read: Callable[[Job], Item]
    run: Callable[[list[Item]], list[Output]]
    finish: Callable[[Job, Item, Output], Result]
    alike: Callable[[Item], Hashable] = lambda item: None
    batch: int = 1
    readers: int = 2
    finishers: int = 1

    def __call__(
        self, jobs: Iterable[Job]
    ) -> Generator[tuple[Job, Result | Exception], None, None]:
        """(job, result or one of :data:`FAILURES`) in the order of the jobs.

        An item that fails in ``run`` with others is run again alone, so that they do not fail with
        it.  Whoever leaves early, by an exception such as KeyboardInterrupt too, waits for the jobs
        that are in a thread at that moment, and no others are begun.
        """
        jobs = iter(jobs)
        entries: deque[_Entry[Job, Item, Result]] = deque()  # all whose result is not given yet
        unread: deque[_Entry[Job, Item, Result]] = deque()  # those of them that are being read
        groups: dict[Hashable, list[_Entry[Job, Item, Result]]] = {}  # and those read, if alike
        behind: set[Future[Result]] = set()
        ahead = self.readers + 1
        share = max(1, torch.get_num_threads() // self.finishers)
        window = ahead + 4 * self.batch + 2 * self.finishers
        with (
            _pool(ThreadPoolExecutor(self.readers, "read")) as reading,
            _threads_kept(),
            _pool(
                ThreadPoolExecutor(self.finishers, "finish", torch.set_num_threads, (share,))
            ) as finishing,
        ):
            while True:
                for job in islice(jobs, min(ahead - len(unread), window - len(entries))):
                    entry = _Entry[Job, Item, Result](job, reading.submit(self.read, job))
                    entries.append(entry)
                    unread.append(entry)
                if unread:
                    ready = self._joined(unread.popleft(), groups)
                elif groups:
                    ready = groups.pop(max(groups, key=lambda kind: len(groups[kind])))
                else:
                    ready = []
                while len(behind) > self.finishers and ready:
                    behind = wait(behind, return_when=FIRST_COMPLETED).not_done
                for entry, output in self._outputs(ready):
                    entry.finishing = finishing.submit(self.finish, entry.job, entry.item, output)
                    entry.item = None
                    behind.add(entry.finishing)
                idle = not unread and not groups
                while entries and (idle or entries[0].settled):
                    yield entries[0].job, entries[0].outcome()
                    entries.popleft()
                    idle = False
                if not entries and idle:
                    return

    def _joined(
        self,
        entry: _Entry[Job, Item, Result],
        groups: dict[Hashable, list[_Entry[Job, Item, Result]]],
    ) -> list[_Entry[Job, Item, Result]]:
        """Wait for an item and put it to those alike; the group, if it is full with it."""
        assert entry.reading is not None
        try:
            entry.item = entry.reading.result()
            entry.reading = None  # it would keep the item
            kind = self.alike(entry.item)
        except FAILURES as error:
            entry.error = error
            return []
        group = groups.setdefault(kind, [])
        group.append(entry)
        return groups.pop(kind) if len(group) == self.batch else []

    def _outputs(
        self, group: list[_Entry[Job, Item, Result]]
    ) -> list[tuple[_Entry[Job, Item, Result], Output]]:
        """The outputs of a group, without those that failed."""
        if not group:
            return []
        try:
            outputs = self.run([entry.item for entry in group])
        except FAILURES as error:
            if len(group) > 1:
                return [found for entry in group for found in self._outputs([entry])]
            group[0].error = error
            return []
        return list(zip(group, outputs, strict=True))


@dataclass
class _Entry(Generic[Job, Item, Result]):
    """A job on its way."""

    job: Job
    reading: Future[Item] | None
    item: Any = None  # an Item between reading and finishing
    finishing: Future[Result] | None = None
    error: Exception | None = None

    @property
    def settled(self) -> bool:
        return self.error is not None or (self.finishing is not None and self.finishing.done())

    def outcome(self) -> Result | Exception:
        """What came of it, which is waited for."""
        if self.error is not None:
            return self.error
        assert self.finishing is not None
        try:
            return self.finishing.result()
        except FAILURES as error:
            return error


@contextmanager
def _pool(pool: ThreadPoolExecutor) -> Iterator[ThreadPoolExecutor]:
    """A pool that begins nothing more once it is left, whatever was submitted."""
    try:
        yield pool
    finally:
        pool.shutdown(cancel_futures=True)


@contextmanager
def _threads_kept() -> Iterator[None]:
    """Set torch's threads back: a number that one thread sets is that of later threads, too."""
    threads = torch.get_num_threads()
    try:
        yield
    finally:
        torch.set_num_threads(threads)
