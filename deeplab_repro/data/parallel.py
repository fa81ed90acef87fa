"""One function over many pictures, on several cores.

Threads do, since decoding, encoding and most of numpy let other threads run meanwhile.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["cores", "over"]

_Item = TypeVar("_Item")
_Result = TypeVar("_Result")


def cores() -> int:
    """Cores for this process; those that torchrun starts on one machine share them."""
    processes = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return max(1, len(os.sched_getaffinity(0)) // processes)


def over(
    work: Callable[[_Item], _Result],
    items: Iterable[_Item],
    workers: int | None = None,
    *,
    advance: Callable[[], object] = lambda: None,
) -> list[_Result]:
    """The results of ``work`` in the order of the items, whatever order they come in.

    Args:
        work: called with each item.
        items: to work on.
        workers: threads; as many as cores by default.  One works here, without a pool.
        advance: called in this thread after each item.

    Raises:
        Exception: what ``work`` raised first; what has not begun by then is left out.
    """
    workers = workers or cores()
    items = list(items)
    if workers == 1 or len(items) < 2:
        results = []
        for item in items:
            results.append(work(item))
            advance()
        return results
    pool = ThreadPoolExecutor(workers)
    try:
        futures: list[Future[_Result]] = [pool.submit(work, item) for item in items]
        results = []
        for future in futures:
            results.append(future.result())
            advance()
        return results
    finally:
        pool.shutdown(cancel_futures=True)
