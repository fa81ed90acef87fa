"""What was measured on this machine: `auto` takes it before the table of rules.

The table here is empty until :func:`deeplab_repro.autotune` is called. A measured choice holds for
exactly its problem and number of threads; the rules decide all others.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch

from deeplab_repro.ops import _atrous_rules
from deeplab_repro.ops._atrous_rules import Problem

_choices: dict[tuple[int, Problem], str] = {}
_listeners: list[Callable[[Problem], None]] = []


def choose(problem: Problem) -> str:
    """The algorithm for a problem: the one that was the fastest, or what the rules say."""
    # A compiled graph serves other sizes too, and other machines, if it is stored.
    if not torch.compiler.is_compiling():
        for listener in _listeners:
            listener(problem)
        if _choices and (found := _measured(problem)) is not None:
            return found
    return _atrous_rules.choose(problem)


def prefer(problem: Problem, algorithm: str) -> None:
    """Take this algorithm for a problem from now on, with as many threads as torch has now."""
    _choices[torch.get_num_threads(), problem] = algorithm


def forget() -> None:
    """Let the rules alone decide again."""
    _choices.clear()


@contextmanager
def listening(listener: Callable[[Problem], None]) -> Iterator[None]:
    """Tell a function every problem that is decided meanwhile, in whatever thread."""
    _listeners.append(listener)
    try:
        yield
    finally:
        _listeners.remove(listener)


def _measured(problem: Problem) -> str | None:
    try:
        return _choices.get((torch.get_num_threads(), problem))
    except TypeError:  # sizes that are symbols, while torch writes a graph down, have no hash
        return None
