"""Training as Caffe did it: solver files, its six solvers, data layers, snapshots.

>>> solver = Solver("solver.prototxt", weights="init.caffemodel")
>>> solver.step(10)
>>> solver.net, solver.iter
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab_repro.train.solver import Solver

__all__ = ["Solver"]


def __getattr__(name: str) -> Any:
    # Looked up at first use: `deeplab-repro plot` reads logs without waiting for torch.
    if name != "Solver":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return import_module("deeplab_repro.train.solver").Solver
