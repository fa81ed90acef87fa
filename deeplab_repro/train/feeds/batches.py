"""The batches of all data layers, each a function of its number; and who reads them ahead."""

from __future__ import annotations

import atexit
import itertools
import multiprocessing
import os
import signal
import threading
import weakref
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import resource_tracker
from typing import Any, TypeAlias

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler

from deeplab_repro.errors import BadInput
from deeplab_repro.train.feeds.sources import Source, naming

__all__ = ["Batch", "Batches", "Reader", "Share"]


@dataclass(frozen=True)
class Share:
    """The part of the batches that one of several processes gets.

    A process gets its part of each batch where all batches have an item for every process.  Where
    they have not, as with one picture per pass and many passes per iteration, the passes of an
    iteration are dealt out whole.

    Attributes:
        rank: number of the process, from 0.
        count: how many there are.
        iter_size: passes per iteration.
        dealt: whether passes are dealt out whole.
    """

    rank: int
    count: int
    iter_size: int
    dealt: bool

    @property
    def passes(self) -> int:
        """Passes per iteration that the process makes."""
        return self.iter_size // self.count if self.dealt else self.iter_size

    def first(self, batches: int) -> int:
        """Which of its own batches the process is to go on with after ``batches`` of all."""
        return batches // self.count if self.dealt else batches

    def items(self, own: int, batch_size: int) -> range:
        """The items of a layer that are in the process's own batch number ``own``."""
        if self.dealt:
            start = (own * self.count + self.rank) * batch_size
            return range(start, start + batch_size)
        start, size = own * batch_size, batch_size
        return range(
            start + self.rank * size // self.count, start + (self.rank + 1) * size // self.count
        )


@dataclass(frozen=True)
class Batch:
    """One batch.

    Attributes:
        blobs: blob -> tensor, for all tops of all data layers.
        origins: layer -> where each of its items comes from.
    """

    blobs: dict[str, Tensor]
    origins: dict[str, list[str]]


#: Errors come back as values: another process could not raise them here as they are.
_Outcome: TypeAlias = Batch | BadInput


@dataclass(frozen=True)
class Batches(Dataset[_Outcome]):
    """The batches of one process.

    Attributes:
        sources: layer -> what it reads.
        share: the process's part.
    """

    sources: dict[str, Source]
    share: Share

    def __getitem__(self, number: int) -> _Outcome:
        """Batch ``number`` of this process, or what is wrong with it."""
        blobs: dict[str, Tensor] = {}
        origins = {}
        try:
            for name, source in self.sources.items():
                items = self.share.items(number, source.batch_size)
                with naming(name):
                    arrays = source.blobs(items)
                blobs.update((top, torch.from_numpy(array)) for top, array in arrays.items())
                origins[name] = [source.origin(item) for item in items]
        except BadInput as error:
            return error
        return Batch(blobs, origins)


class Reader:
    """Reads batches one after the other, here or ahead in other processes.

    Args:
        batches: what to read.
        workers: processes that read ahead; 0 reads when a batch is asked for.
        prefetch: batches that each of them has ready.
    """

    def __init__(self, batches: Batches, workers: int, prefetch: int) -> None:
        self._batches = batches
        self._numbers = _Numbers()
        self._loader: DataLoader[_Outcome] | None = None
        self._ahead: Iterator[_Outcome] | None = None
        # What a worker has ready still takes milliseconds to get here, most of them spent waiting,
        # so a thread fetches the next batch while this one is in use.
        self._fetcher: ThreadPoolExecutor | None = None
        self._coming: Future[_Outcome] | None = None
        if workers:
            self._fetcher = ThreadPoolExecutor(1, "fetcher")
            # At the end of a program that does not close it, multiprocessing would wait for ever
            # for the workers, which do not see its SIGTERM.
            self._at_exit = partial(_close, weakref.ref(self))
            atexit.register(self._at_exit)
            self._loader = DataLoader(
                batches,
                sampler=self._numbers,
                batch_size=None,
                num_workers=workers,
                prefetch_factor=prefetch,
                collate_fn=_as_it_is,
                worker_init_fn=_end_with_the_reader,
                persistent_workers=True,
                # By default it draws a number from torch's own, and dropout in this process would
                # then depend on whether there are workers.
                generator=torch.Generator(),
                # A copy of this process would inherit its threads' locks and its GPU.
                multiprocessing_context="spawn",
            )

    def next(self) -> _Outcome:
        """The next batch."""
        number = self._numbers.next
        if self._loader is None or self._fetcher is None:
            outcome = self._batches[number]
        else:
            if self._ahead is None:
                with _signals_held_back():
                    self._ahead = iter(self._loader)
                    self._coming = self._fetcher.submit(next, self._ahead)
            assert self._coming is not None  # it goes with what is ahead
            outcome = self._coming.result()
            self._coming = self._fetcher.submit(next, self._ahead)
        self._numbers.next = number + 1
        return outcome

    def seek(self, number: int) -> None:
        """Go on with batch ``number``; what was read ahead is dropped."""
        if number != self._numbers.next:
            self._drop()
            self._numbers.next = number

    def close(self) -> None:
        """End the processes; what is asked for afterwards is read here."""
        self._drop()
        if self._fetcher is not None:
            self._fetcher.shutdown()
            atexit.unregister(self._at_exit)
        self._fetcher = self._loader = None  # nothing else holds the loader, which ends them

    def _drop(self) -> None:
        """Let go of what was read ahead, once nobody is fetching it any more."""
        if self._coming is not None:
            wait([self._coming])
        self._coming = self._ahead = None


def _close(reader: weakref.ref[Reader]) -> None:
    """Close a reader if it is still there."""
    there = reader()
    if there is not None:
        there.close()


class _Numbers(Sampler[int]):
    """Batch numbers without end."""

    def __init__(self) -> None:
        self.next = 0

    def __iter__(self) -> Iterator[int]:
        return itertools.count(self.next)


def _as_it_is(outcome: Any) -> Any:
    return outcome


def _end_with_the_reader(worker: int) -> None:
    """End this worker as soon as the process that reads its batches has ended, or was killed.

    DataLoader looks every few seconds whether the parent of its worker is another than at first;
    a worker that was still starting when its parent was killed would stay for ever.
    """
    reader = multiprocessing.parent_process()
    assert reader is not None

    def follow() -> None:
        reader.join()
        os._exit(1)

    threading.Thread(target=follow, daemon=True).start()
    # A worker has nothing to clear away.  Taking Python down while large batches are on their way
    # to the reader mostly aborts it, which DataLoader then reports as a failure.
    atexit.register(os._exit, 0)


@contextmanager
def _signals_held_back() -> Iterator[None]:
    """Processes that are started meanwhile never see Ctrl-C or SIGTERM.

    A terminal sends Ctrl-C to all processes, and a scheduler SIGTERM.  This one decides what is to
    be done, such as one more snapshot, for which it may need another batch.  The others end when
    it ends or closes them.
    """
    resource_tracker.ensure_running()  # starting it, the first process would unblock both again
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
