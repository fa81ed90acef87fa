"""Sharing work between processes: one alone, or those that torchrun starts.

    torchrun --nproc-per-node 4 -m deeplab_repro evaluate ...

Every process runs the same program.  It takes its share of the pictures, what the shares come to is
summed or gathered, and the first process alone writes what belongs to all.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np
from numpy.typing import NDArray

if TYPE_CHECKING:
    import torch

__all__ = ["Processes", "local_device", "processes"]

_Item = TypeVar("_Item")


@dataclass(frozen=True)
class Processes:
    """The processes that work together, seen by one of them.

    Attributes:
        rank: number of this one, from 0.
        count: how many there are.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether this is the one that writes what belongs to all."""
        return self.rank == 0

    def share(self, items: Sequence[_Item]) -> Sequence[_Item]:
        """This process's part of `items`: every `count`-th, so that neighbours are spread."""
        return items[self.rank :: self.count]

    def merge(self, items: Sequence[_Item]) -> list[_Item]:
        """What every process made of its `share`, in the order of the whole; the same in all."""
        parts = self.gather(list(items))
        return [
            parts[i % self.count][i // self.count] for i in range(sum(len(part) for part in parts))
        ]

    def gather(self, value: _Item) -> list[_Item]:
        """The values of all processes in the order of their ranks; the same in all."""
        if self.count == 1:
            return [value]
        import torch.distributed as dist

        values: list[Any] = [None] * self.count
        dist.all_gather_object(values, value)
        return values

    def sum(self, counts: NDArray[np.int64]) -> NDArray[np.int64]:
        """The sum of an array over all processes; exact, and the same in all."""
        return np.sum(self.gather(counts), axis=0, dtype=np.int64)

    def wait(self) -> None:
        """Go on when all processes have come here."""
        self.gather(None)


@contextmanager
def processes() -> Iterator[Processes]:
    """The processes that torchrun has started; without torchrun, this one alone.

    A process group that the caller has made is used and left as it is.
    """
    if "RANK" not in os.environ or "WORLD_SIZE" not in os.environ:
        yield Processes()
        return
    import torch.distributed as dist

    own = not dist.is_initialized()
    if own:
        import torch

        # Objects and counts travel through gloo; nccl is there for tensors on GPUs.
        dist.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")
    try:
        yield Processes(dist.get_rank(), dist.get_world_size())
    finally:
        if own:
            dist.destroy_process_group()


def local_device() -> torch.device:
    """Where this process's network runs: a GPU of its own where there is one, or else the CPU."""
    import torch

    if not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")) % torch.cuda.device_count())
