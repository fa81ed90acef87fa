"""Training of DeepLab v3 and v3+ as the original's train.py does it."""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Final

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.errors import BadInput, InputError
from deeplab_repro.models.v3.network import DeepLabV3
from deeplab_repro.models.v3.variables import (
    VariableMatch,
    copy_variables,
    from_tensorflow,
    match_variables,
    to_tensorflow,
)
from deeplab_repro.processes import Processes, local_device
from deeplab_repro.tensorflow.schedule import gradient_multiplier, is_last_layer
from deeplab_repro.tensorflow.training import TrainingOptions, losses
from deeplab_repro.train.batches import Batches, Feed, Given, IteratedFeed
from deeplab_repro.train.journal import Journal
from deeplab_repro.train.optim import CaffeAdam, CaffeSGD
from deeplab_repro.train.precision import Precision
from deeplab_repro.train.snapshots import first_whole
from deeplab_repro.train.training import Training
from prototxt_import.files import replacing
from tensorflow_import import read_variables, write_checkpoint
from tensorflow_import.paths import locate

__all__ = ["STATE_FILE", "Adam", "Momentum", "Trainer"]

#: Start of the name of every checkpoint.
_PREFIX: Final = "model.ckpt"
_STEP: Final = "global_step"
#: The powers of Adam's betas that TensorFlow keeps, those of the next update -> ours for the betas.
_POWERS: Final = {"beta1_power": "momentum", "beta2_power": "momentum2"}
#: The text file that names the newest checkpoint of a folder.
STATE_FILE: Final = "checkpoint"


class Momentum(CaffeSGD):
    """acc = momentum * acc + g; w -= lr * acc (TensorFlow's MomentumOptimizer).

    Caffe's has the rate inside: a change of the rate does not reach back there, and does here.
    Arguments as for :class:`CaffeSGD`.
    """

    slots = ("Momentum",)

    def _update(self, diff: Tensor, memory: Sequence[Tensor], group: dict[str, Any]) -> Tensor:
        return memory[0].mul_(group["momentum"]).add_(diff) * group["lr"]


class Adam(CaffeAdam):
    """TensorFlow's AdamOptimizer, which computes what Caffe's does; see :class:`CaffeAdam`."""

    slots = ("Adam", "Adam_1")


@dataclass(frozen=True)
class Course:
    """When a training ends, and what it tells and writes on the way.

    Attributes:
        max_iter: steps in all (``training_number_of_steps``).
        iter_size: processes that train together, each with its part of a batch (``num_clones``).
        display: how often the loss is told, in steps (``log_steps``); 0 for never.
        snapshot: how often to write a checkpoint, in steps; 0 for the end alone.
    """

    max_iter: int
    iter_size: int
    display: int
    snapshot: int
    average_loss: ClassVar[int] = 1
    test_interval: ClassVar[int] = 0
    test_initialization: ClassVar[bool] = False
    snapshot_after_train: ClassVar[bool] = True


class _Losses:
    """A network with its losses, as :class:`Training` wants it."""

    loss_weights: ClassVar[Mapping[str, float]] = {"cross_entropy": 1.0, "weight_decay": 1.0}

    def __init__(self, net: DeepLabV3, options: TrainingOptions) -> None:
        self.net, self.options = net, options
        self.name = net.name or net.options.model_variant
        self.global_step = 0

    def __call__(self, *, data: Tensor, label: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) and (N, H, W) or (N, 1, H, W) -> both losses."""
        both = losses(self.net, data, label, self.options, global_step=self.global_step)
        return dict(zip(self.loss_weights, both, strict=True))

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """Their sum."""
        return outputs["cross_entropy"] + outputs["weight_decay"]


class Trainer(Training):
    """Trains a network of DeepLab v3 or v3+ as the original's train.py does.

    Args:
        model: the network, which is put into train mode.
        options: how; by default train.py's defaults.
        batches: gives the batches: anything that can be iterated over again and again, such as a
            DataLoader, or a :class:`~deeplab_repro.train.batches.Feed`, for
            {"data": (N, 3, H, W) red, green, blue in 0..255, "label": (N, 1, H, W)}.  Of several
            processes each needs its own part.
        folder: for checkpoints; None writes none.
        weights: a checkpoint to start from, or {name: array}.  What it lacks stays as it is, and
            slots of the optimizer are taken too, as train.py does, those of adam together with the
            powers of its betas; ``initialize_last_layer`` says whether what stands behind the
            backbone is.
        resume: go on from the newest whole checkpoint in ``folder``; of damaged ones a warning
            tells.  Where there is none, begin with ``weights``.
        display: how often the loss is told, in steps; 0 for never.
        checkpoint_every: how often to write a checkpoint, in steps; 0 for the end alone.
        seed: of all random numbers; None for a different one in every run.
        processes: those that train together, as ``num_clones`` of the original did: each
            normalizes by its own part of a batch, gradients are averaged, and moving statistics
            are the first one's.
        log: is told the loss every ``display`` steps.
        device: where to compute; by default a GPU where there is one.
        channels_last, precision: see :class:`~deeplab_repro.train.training.Training`.

    Attributes:
        model: the network.
        optimizer: makes the updates.
        load_report: what was taken from ``weights``; None where there are none.

    :class:`~deeplab_repro.train.training.Training` lists what it tells of its course; ``iter`` is
    TensorFlow's ``global_step``.

    Raises:
        BadInput: a checkpoint or a setting that cannot be used.

    Example:
        >>> net = create_model("deeplab_v3plus_xception65")  # deeplab_repro.models
        >>> options = TrainingOptions.from_flags({"base_learning_rate": 0.007})
        >>> Trainer(net, options, loader, folder="run").solve()
    """

    settings: Course
    optimizer: Momentum | Adam

    def __init__(
        self,
        model: DeepLabV3,
        options: TrainingOptions | None = None,
        batches: Given = (),
        *,
        folder: str | os.PathLike[str] | None = None,
        weights: str | os.PathLike[str] | Mapping[str, Any] | None = None,
        resume: bool = False,
        display: int = 10,
        checkpoint_every: int = 0,
        seed: int | None = None,
        processes: Processes | None = None,
        log: Journal | None = None,
        device: torch.device | str | None = None,
        channels_last: bool | None = None,
        precision: Precision = "float32",
    ) -> None:
        self.options = options or TrainingOptions()
        processes = processes or Processes()
        steps = self.options.learning_rate.training_number_of_steps
        super().__init__(
            Course(steps, processes.count, display, checkpoint_every),
            seed=seed,
            processes=processes,
            log=log,
            device=torch.device(device) if device is not None else local_device(),
            channels_last=channels_last,
            precision=precision,
        )
        self.model = self._placed(model).train()
        self._folder = None if folder is None else Path(folder)
        if self._folder is not None:
            self._check_folder()
        self.net = _Losses(model, self.options)
        self._precision.prepare(model)
        self._batches = Batches(batches if isinstance(batches, Feed) else IteratedFeed(batches))
        self._passes = 1
        self._learning = {
            name: value for name, value in model.variables.items() if value.requires_grad
        }
        self.optimizer = _optimizer(self._learning.values(), self.options)
        self.lr = self._rate()
        self.load_report: VariableMatch | None = None
        newest = self._team.agreed(self._newest()) if resume else None
        if newest is not None:
            self.restore(newest)
        elif weights is not None:
            self.load_report = self._begin_with(weights)

    # ---------------------------------------------------------------- training

    def _rate(self) -> float:
        if isinstance(self.optimizer, Adam):
            return self.options.adam_learning_rate
        return self.options.learning_rate.rate(self.iter)

    def _iterate(self) -> None:
        self.net.global_step = self.iter
        super()._iterate()
        if not math.isfinite(self.loss):
            raise InputError(f"the loss of step {self.iter - 1} is no finite number", got=self.loss)

    def _update(self) -> None:
        options = self.options
        gradients = {n: v.grad for n, v in self._learning.items() if v.grad is not None}
        self._team.add_up(gradients.values())
        for name, gradient in gradients.items():
            multiplier = gradient_multiplier(
                name,
                options.last_layer_gradient_multiplier,
                logits_only=options.last_layers_contain_logits_only,
            )
            if multiplier != self._team.count:
                gradient.mul_(multiplier / self._team.count)
        for group in self.optimizer.param_groups:
            group["lr"] = self.lr
        self._precision.step(self.optimizer)

    # ---------------------------------------------------------------- checkpoints

    def variables(self) -> dict[str, Any]:
        """What a checkpoint holds: variables, the optimizer's slots and the step.

        Returns:
            TensorFlow's name -> array in TensorFlow's layout, a copy.
        """
        found: dict[str, Any] = {
            name: to_tensorflow(name, value).copy() for name, value in self.model.variables.items()
        }
        for name, value in self._learning.items():
            for slot in self.optimizer.slots:
                memory = self.optimizer.memory(value, slot)
                found[f"{name}/{slot}"] = to_tensorflow(name, memory).copy()
        if isinstance(self.optimizer, Adam):  # TensorFlow keeps the next step's powers
            (group, *_) = self.optimizer.param_groups
            for key, name in _POWERS.items():
                found[key] = np.float32(group[name] ** (group["iteration"] + 1))
        found[_STEP] = np.int64(self.iter)
        return found

    def snapshot(self) -> Path:
        """Write a checkpoint that TensorFlow reads, and name it as the newest one.

        Of several processes the first writes it.

        Returns:
            its prefix.

        Raises:
            BadInput: a file cannot be written.
        """
        if self._folder is None:
            raise InputError("a checkpoint has nowhere to go", expected="a folder")
        prefix = self._folder / f"{_PREFIX}-{self.iter}"
        if self._team.first:
            write_checkpoint(prefix, self.variables())
            self._name(prefix.name)
            self.last_snapshot = prefix
        return prefix

    def restore(self, prefix: str | os.PathLike[str]) -> None:
        """Go on from a checkpoint: variables, slots, the step, and the place in the data.

        Args:
            prefix: of a checkpoint that a training wrote, TensorFlow's or ours.

        Raises:
            BadInput: no checkpoint, or one of another network or without a step or a slot; then
                nothing has changed.
        """
        given = read_variables(prefix)
        step = _step_of(given, prefix)
        _, arrays = match_variables(self.model, given, file=prefix)
        slots = self._slots_of(given, self._learning, prefix)
        updates = self._updates_of(given, prefix)
        copy_variables(self.model, arrays)
        self._take(slots, step if updates is None else updates)
        self.iter = step
        self.lr = self._rate()
        self._batches.seek(self.iter)
        self.last_snapshot = Path(locate(prefix)[1])

    def close(self) -> None:
        """Give back the processes and files of the feed."""
        self._batches.close()

    def _check_folder(self) -> None:
        folder = self._folder
        if folder is not None and not (folder.is_dir() and os.access(folder, os.W_OK)):
            raise InputError(
                "a folder for checkpoints", expected="one that can be written", got=str(folder)
            )

    def _name(self, name: str) -> None:
        """Write down which checkpoint is the newest, as TensorFlow's Saver does."""
        assert self._folder is not None  # a checkpoint was written there
        with replacing(self._folder / STATE_FILE) as file:
            file.write_text(
                f'model_checkpoint_path: "{name}"\nall_model_checkpoint_paths: "{name}"\n'
            )

    def _newest(self) -> Path | None:
        """The prefix of the newest whole checkpoint in the folder; None where there is none.

        The one that the folder names as its newest goes before the others.  The first process looks
        for all, so that each warning is given once.
        """
        folder = self._folder
        if folder is None or not self._team.first:
            return None
        steps = {
            path.with_suffix(""): int(number)
            for path in folder.glob(f"{_PREFIX}-*.index")
            if (number := path.stem.removeprefix(f"{_PREFIX}-")).isdecimal()
        }
        found = sorted(steps, key=lambda prefix: -steps[prefix])
        if (folder / STATE_FILE).is_file():
            try:
                named = Path(locate(folder).path)
            except BadInput as error:
                warnings.warn(f"{error}: the checkpoints go by their steps", stacklevel=3)
            else:
                found = [named, *(prefix for prefix in found if prefix != named)]
        return first_whole(found, read_variables)

    def _begin_with(self, weights: str | os.PathLike[str] | Mapping[str, Any]) -> VariableMatch:
        """Take what is wanted of the weights to start from."""
        file = None if isinstance(weights, Mapping) else weights
        given = weights if isinstance(weights, Mapping) else read_variables(weights)
        if not self.options.initialize_last_layer:
            logits_only = self.options.last_layers_contain_logits_only
            given = {
                name: array
                for name, array in given.items()
                if not is_last_layer(name, logits_only=logits_only, as_prefix=True)
            }
        match, arrays = match_variables(self.model, given, strict=False, file=file)
        if match.unfit:
            raise InputError(match.unfit[0], file=file)
        if not match.loaded:
            raise InputError(
                "has no variable of this network", file=file, expected=next(iter(self._learning))
            )
        updates = self._updates_of(given, file)
        remembered = [
            name
            for name in self._learning
            if all(f"{name}/{slot}" in given for slot in self.optimizer.slots)
        ]
        if isinstance(self.optimizer, Adam) and updates is None:
            remembered = []  # their size would be taken for that of the first update's
        slots = self._slots_of(given, remembered, file)
        copy_variables(self.model, arrays)
        self._take(slots, updates or 0)
        match.slots = [f"{name}/{slot}" for name in remembered for slot in self.optimizer.slots]
        match.slots += _POWERS if updates is not None else ()
        taken = set(match.slots)
        match.left_over = [name for name in match.left_over if name not in taken]
        return match

    def _slots_of(
        self, given: Mapping[str, Any], names: Collection[str], file: object
    ) -> list[tuple[Tensor, Any]]:
        """What the optimizer is to remember of these variables, and its values in our layout."""
        found = []
        for name in names:
            for slot in self.optimizer.slots:
                key = f"{name}/{slot}"
                memory = self.optimizer.memory(self._learning[name], slot)
                array = np.asarray(given[key]) if key in given else None
                ours = None if array is None else from_tensorflow(name, array)
                if ours is None or ours.shape != tuple(memory.shape) or ours.dtype.kind != "f":
                    raise InputError(
                        f"{key} does not fit a training by {self.options.optimizer}",
                        file=file,
                        expected=f"{tuple(to_tensorflow(name, memory).shape)} floating point",
                        got="none" if array is None else f"{array.shape} {array.dtype}",
                    )
                found.append((memory, ours))
        return found

    def _updates_of(self, given: Mapping[str, Any], file: object) -> int | None:
        """How many updates adam has made, as the powers of its betas say; None without them.

        The second power tells it: it is the last one that float32 still holds, and behind that
        nothing is left to correct.
        """
        if not isinstance(self.optimizer, Adam) or not _POWERS.keys() <= given.keys():
            return None
        for key in _POWERS:
            power = np.asarray(given[key])
            if power.shape or power.dtype.kind != "f" or not 0 <= power < 1:
                raise InputError(key, file=file, expected="a number of 0 to 1", got=_told(power))
        beta = self.optimizer.param_groups[0]["momentum2"]
        least = max(float(given["beta2_power"]), float(np.finfo(np.float32).tiny))
        return max(0, round(math.log(least) / math.log(beta)) - 1)

    @torch.no_grad()
    def _take(self, slots: Iterable[tuple[Tensor, Any]], updates: int) -> None:
        """Give the optimizer what it remembered, and how many updates it has made."""
        for memory, array in slots:
            memory.copy_(torch.from_numpy(array.copy()))
        if isinstance(self.optimizer, Adam):
            self.optimizer.set_iteration(updates)


def _step_of(given: Mapping[str, Any], file: object) -> int:
    """The updates that a training had made when it wrote this checkpoint."""
    if _STEP not in given:
        raise InputError(f"lacks {_STEP}", file=file, expected="a checkpoint of a training")
    step = np.asarray(given[_STEP])
    if step.shape or step.dtype.kind not in "iu" or step < 0:
        raise InputError(_STEP, file=file, expected="a whole number of at least 0", got=_told(step))
    return int(step)


def _told(array: Any) -> str:
    """A variable for a message: a number, or the shape and type of anything else."""
    is_number = not array.shape and array.dtype.kind in "iuf"
    return str(array) if is_number else f"{array.shape} {array.dtype}"


def _optimizer(values: Iterable[Tensor], options: TrainingOptions) -> Momentum | Adam:
    if options.optimizer == "adam":
        return Adam(values, options.adam_learning_rate, delta=options.adam_epsilon)
    return Momentum(values, options.learning_rate.rate(0), momentum=options.momentum)
