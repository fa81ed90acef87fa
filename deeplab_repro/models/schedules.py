"""How the networks of the papers were trained: the numbers of their solver prototxts.

From the released files (results.md and networks.md of the reference list them): DeepLab v1 lowers
its rate by 10 in steps, DeepLab v2 lowers it with every iteration.  Every network is trained twice:
on train_aug, and for the test set of VOC 2012 from there on trainval_aug.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

__all__ = ["POLY_RESNET", "POLY_VGG", "STEP", "STEP_AVERAGED", "STEP_PLAIN", "Schedule", "Stages"]


@dataclass(frozen=True, kw_only=True)
class Schedule:
    """One stage of training.  Momentum is 0.9 and weight decay 0.0005 in every released file.

    Attributes:
        policy: "step": base_lr * 0.1 ** (iteration // stepsize); "poly": base_lr * (1 - iteration /
            max_iter) ** 0.9.
        base_lr: The rate of iteration 0, for parameters with lr_mult 1.
        max_iter: Iterations; each sees `batch` pictures of the network `iter_size` times.
        stepsize: Iterations between two steps; 0 for "poly".
        iter_size: Passes whose gradients are averaged for one update.
        average_loss: The loss that is shown is the mean of so many iterations.
        display: Iterations between two lines of the log.
        snapshot: Iterations between two snapshots.
    """

    policy: Literal["step", "poly"]
    base_lr: float
    max_iter: int
    stepsize: int = 0
    iter_size: int = 1
    average_loss: int = 1
    display: int
    snapshot: int


Stages = tuple[Schedule, Schedule]  # on train_aug, and then on trainval_aug

_FIRST = Schedule(
    policy="step", base_lr=0.001, max_iter=6000, stepsize=2000, display=10, snapshot=2000
)
#: Most of DeepLab v1.  Of the first stage of LargeFOV there are copies with steps of 1000 and of
#: 2000 iterations; the paper says 2000.
STEP: Stages = (_FIRST, replace(_FIRST, max_iter=8000))
#: The first network, whose second stage starts anew with a larger rate.
STEP_PLAIN: Stages = (_FIRST, replace(_FIRST, base_lr=0.01, max_iter=12000, stepsize=3000))
#: DeepLab-MSc with a large field of view.
STEP_AVERAGED: Stages = (replace(STEP[0], average_loss=10), replace(STEP[1], average_loss=10))

_POLY = Schedule(
    policy="poly", base_lr=0.001, max_iter=20000, average_loss=20, display=20, snapshot=10000
)
#: DeepLab v2 with VGG-16; both stages alike.
POLY_VGG: Stages = (_POLY, _POLY)
_POLY_RESNET = replace(_POLY, base_lr=0.00025, iter_size=10)
#: DeepLab v2 with ResNet-101; both stages alike.
POLY_RESNET: Stages = (_POLY_RESNET, _POLY_RESNET)
