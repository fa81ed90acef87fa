"""Training as the original programs did it.

Caffe's solver files, its six solvers, data layers and snapshots:

>>> solver = Solver("solver.prototxt", weights="init.caffemodel")
>>> solver.step(10)
>>> solver.net, solver.iter

DeepLab v3 and v3+ as TensorFlow's train.py, its losses, rates and checkpoints:

>>> trainer = Trainer(net, options, loader, folder="run", weights="model.ckpt-30000")
>>> trainer.solve()
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from deeplab_repro.train.solver import Solver
    from deeplab_repro.train.trainer import Trainer

__all__ = ["Solver", "Trainer"]

_HOMES = {"Solver": "solver", "Trainer": "trainer"}


def __getattr__(name: str) -> Any:
    # Looked up at first use: `deeplab-repro plot` reads logs without waiting for torch.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
