"""What a solver's updates are made by: the optimizer of its file, and numbers that repeat."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from deeplab_repro.caffe.net import LearnableParam
from deeplab_repro.train.optim import SOLVERS, CaffeOptimizer
from deeplab_repro.train.settings import SolverSettings
from prototxt_import import CaffeImportError

__all__ = ["float32", "make_optimizer", "seeded"]


def make_optimizer(settings: SolverSettings, params: Sequence[LearnableParam]) -> CaffeOptimizer:
    """The optimizer that a solver file asks for, with a group for each pair of multipliers.

    Args:
        settings: of the solver.
        params: those of the network.

    Raises:
        CaffeImportError: there are none.
    """
    options = dict(settings.options)
    decay = options.pop("weight_decay")
    rate = settings.policy.rate(settings.base_lr, 0)
    groups: dict[tuple[float, float], dict[str, Any]] = {}
    for param in params:
        multipliers = param.lr_mult, param.decay_mult
        group = groups.setdefault(
            multipliers,
            {
                "params": [],
                "lr": float32(rate * param.lr_mult),
                "weight_decay": float32(decay * param.decay_mult),
                "lr_mult": param.lr_mult,
                "decay_mult": param.decay_mult,
            },
        )
        group["params"].append(param.value)
    if not groups:
        raise CaffeImportError("the network has no parameters to learn", file=settings.file)
    return SOLVERS[settings.type](list(groups.values()), lr=settings.base_lr, **options)


@contextmanager
def seeded(device: torch.device, *numbers: int) -> Iterator[None]:
    """Random numbers that follow from ``numbers`` alone; the caller's generators stay as they are.

    Args:
        device: where they are drawn, beside the CPU.
        numbers: a seed, and what it is for.
    """
    (seed,) = np.random.SeedSequence(numbers).generate_state(1, np.uint64)
    is_cuda = device.type == "cuda"
    with torch.random.fork_rng([device] if is_cuda else []):
        torch.default_generator.manual_seed(int(seed))
        if is_cuda:
            with torch.cuda.device(device):
                torch.cuda.manual_seed(int(seed))
        yield


def float32(value: float) -> float:
    """The value with a float's rounding, as Caffe's solvers compute with it."""
    return float(np.float32(value))
