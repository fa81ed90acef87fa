"""Arrays of other libraries as arguments of an op: CuPy, numpy, anything that speaks DLPack."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

#: An array with __dlpack__ and __dlpack_device__. No protocol: an op sees tensors alone.
Array = Any

_Op = TypeVar("_Op", bound=Callable[..., Any])


def takes_arrays(op: _Op) -> _Op:
    """Let an op on tensors take arrays, too, and give the result back as its first argument came.

    Arrays become tensors of the same memory (torch.from_dlpack). A result goes back as a CuPy array
    where the first argument was one, as a numpy array likewise, and else as a torch tensor, which
    any DLPack library can take. Gradients belong to tensors: arrays have none.
    """

    @functools.wraps(op)
    def call(*args: Any, **options: Any) -> Any:
        given = args[0] if args else next(iter(options.values()), None)
        if torch.compiler.is_compiling() or isinstance(given, torch.Tensor):
            return op(*args, **options)
        args = tuple(as_tensor(value) for value in args)
        options = {name: as_tensor(value) for name, value in options.items()}
        with torch.no_grad():
            return as_given(op(*args, **options), given)

    return call  # type: ignore[return-value]


def as_tensor(value: Any) -> Any:
    """An array as a tensor that shares its memory; anything else as it is."""
    if isinstance(value, torch.Tensor) or not hasattr(value, "__dlpack__"):
        return value
    flags = getattr(value, "flags", None)
    if getattr(flags, "writeable", True) is False:
        value = value.copy()  # neither numpy nor torch lends read-only memory
    return torch.from_dlpack(value)


def as_given(result: torch.Tensor, given: Any) -> Any:
    """result as an array of the library that `given` is of, sharing memory."""
    library = type(given).__module__.partition(".")[0]
    if library == "numpy":
        return result.numpy()
    if library == "cupy":
        return sys.modules["cupy"].from_dlpack(result)
    return result
