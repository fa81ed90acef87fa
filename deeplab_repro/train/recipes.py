"""A training out of a flag file of the original's train.py."""

from __future__ import annotations

import secrets
from pathlib import Path
from typing import Any

import torch

from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.network import DeepLabV3, meta_network
from deeplab_repro.ops import AtrousConv2d
from deeplab_repro.processes import Processes
from deeplab_repro.tensorflow.flags import Recipe
from deeplab_repro.train.feeds.crops import CropFeed
from deeplab_repro.train.trainer import STATE_FILE, Trainer
from deeplab_repro.train.updates import seeded

__all__ = ["made_trainer"]


def made_trainer(
    recipe: Recipe,
    *,
    weights: str | None = None,
    snapshot: str | None = None,
    resume: bool = False,
    workers: int = 0,
    processes: Processes | None = None,
    algorithm: str = "auto",
    accuracy: str = "exact",
    **options: Any,
) -> Trainer:
    """The training that a recipe describes, ready for its first step or the next one.

    Args:
        recipe: as :func:`deeplab_repro.tensorflow.flags.read_flags` reads it.
        weights: what it starts from in place of the recipe's ``tf_initial_checkpoint``.
        snapshot: a checkpoint of a training to go on from.
        resume: go on from the newest checkpoint of ``train_logdir``; begin where there is none.
        workers: processes that read pictures ahead.
        processes: those that train together, see :class:`Trainer`.
        algorithm, accuracy: how convolutions are computed, see
            :func:`deeplab_repro.ops.atrous_conv2d`.
        options: of :class:`Trainer`.

    Raises:
        BadInput: a file that cannot be used, a network that is too large, or a folder that holds a
            training already.
    """
    meta_network(recipe.network, recipe.file)  # which is refused before anything is made
    data = recipe.data
    processes = processes or Processes()
    seed = processes.gather(secrets.randbits(31) if data.seed is None else data.seed)[0]
    folder = _folder(data.train_logdir, goes_on=resume or snapshot is not None)
    with seeded(torch.device("cpu"), seed, 0):
        net = DeepLabV3(recipe.network)
    for module in net.modules():
        if isinstance(module, AtrousConv2d):
            module.algorithm, module.accuracy = algorithm, accuracy
    share = {"rank": processes.rank, "count": processes.count}
    trainer = Trainer(
        net,
        recipe.training,
        CropFeed(recipe, seed=seed, workers=workers, **share),
        folder=folder,
        weights=weights or data.tf_initial_checkpoint if snapshot is None else None,
        resume=resume and snapshot is None,
        display=data.log_steps,
        checkpoint_every=data.save_interval_steps,
        seed=seed,
        processes=processes,
        **options,
    )
    if snapshot is not None:
        trainer.restore(snapshot)
    return trainer


def _folder(name: str, goes_on: bool) -> Path:
    folder = Path(name)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"flag train_logdir: {error.strerror}", file=folder) from None
    if not goes_on and (folder / STATE_FILE).exists():
        raise InputError(
            "flag train_logdir: a training lies there already",
            file=folder,
            expected="another folder, or --resume to go on with it",
        )
    return folder
