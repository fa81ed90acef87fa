"""The course of a training: iterations, losses, snapshots, and when to stop (solver.cpp)."""

from __future__ import annotations

import secrets
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any, Literal, Protocol, TypeVar

import torch
from torch import Tensor, nn
from torch.backends.cpu import get_cpu_capability

from deeplab_repro.caffe.layers.base import UnexpectedLabel
from deeplab_repro.processes import Processes
from deeplab_repro.train.batches import Batches
from deeplab_repro.train.closing import Closing
from deeplab_repro.train.journal import Journal, small, told
from deeplab_repro.train.optim import CaffeOptimizer
from deeplab_repro.train.precision import MixedPrecision, Precision
from deeplab_repro.train.team import Team
from deeplab_repro.train.updates import seeded

__all__ = ["Course", "Network", "Training"]

_Net = TypeVar("_Net", bound=nn.Module)


class Course(Protocol):
    """What a training's settings say about its course."""

    @property
    def max_iter(self) -> int:
        """Iterations in all."""

    @property
    def iter_size(self) -> int:
        """Passes of an iteration, of all processes together, whose gradients are averaged."""

    @property
    def display(self) -> int:
        """How often the loss is told, in iterations; 0 for never."""

    @property
    def average_loss(self) -> int:
        """Over how many iterations the told loss is averaged."""

    @property
    def test_interval(self) -> int:
        """How often to test, in iterations; 0 for never."""

    @property
    def test_initialization(self) -> bool:
        """Whether to test before the first iteration too."""

    @property
    def snapshot(self) -> int:
        """How often to write a snapshot, in iterations; 0 for never."""

    @property
    def snapshot_after_train(self) -> bool:
        """Whether to write one at the end."""


class Network(Protocol):
    """A network in training."""

    def __call__(self, **blobs: Tensor) -> dict[str, Tensor]:
        """The outputs for a batch."""

    def loss(self, outputs: dict[str, Tensor]) -> Tensor:
        """The objective, ()."""

    @property
    def loss_weights(self) -> Mapping[str, float]:
        """Output -> its weight in the objective, for those that are losses."""


class Training(Closing, ABC):
    """A training of any kind: subclasses say what an update and a snapshot are.

    Args:
        settings: what they say about the course.
        seed: of all random numbers; None for a different one in every run.
        processes: those that train together.
        log: is told the loss every ``display`` iterations and the results of tests.
        device: where to compute.
        channels_last: keep the channels of a pixel together in memory.  None does so where
            convolutions are faster then: not on a CPU without AVX-512.
        precision: see :class:`~deeplab_repro.train.precision.MixedPrecision`.

    Attributes:
        iter: how many updates have been made.
        loss: the objective of the last iteration, before its update; NaN before the first.
        smoothed_loss: its mean over the last ``average_loss`` iterations.
        lr: the rate of the last update.
        outputs: output -> values in the last pass.
        load_report: what was copied from the weights to start from; None where there were none.
        last_snapshot: the snapshot that was written or read last.
        watchers: called with the training after every iteration, before its snapshot.
    """

    settings: Course
    net: Any
    optimizer: CaffeOptimizer
    lr: float
    load_report: Any
    _batches: Batches
    #: Passes of an iteration that this process makes.
    _passes: int
    #: Whether a pass's losses were divided by what the passes of all processes have.
    _splits_batches = False

    def __init__(
        self,
        settings: Course,
        *,
        seed: int | None,
        processes: Processes | None,
        log: Journal | None,
        device: torch.device,
        channels_last: bool | None,
        precision: Precision,
    ) -> None:
        self.settings = settings
        self.log = log
        self.watchers: list[Callable[[Any], object]] = []
        self.iter = 0
        self.loss = self.smoothed_loss = float("nan")
        self.outputs: Mapping[str, Tensor] = {}
        self.last_snapshot: Path | None = None
        self._team = Team(processes or Processes())
        self._seed = self._team.agreed(secrets.randbits(31) if seed is None else seed)
        self._losses: list[float] = []
        # What somebody asked this process for, perhaps a signal in the middle of an iteration, and
        # whether all processes have agreed to stop.
        self._wants_snapshot = self._wants_stop = False
        self._stopping = False
        self._device = device
        if channels_last is None:
            channels_last = device.type != "cpu" or get_cpu_capability() == "AVX512"
        self._channels_last = channels_last
        self._precision = MixedPrecision(precision, device)

    # ---------------------------------------------------------------- what subclasses say

    @abstractmethod
    def snapshot(self) -> Path:
        """Write down where the training stands; of several processes the first one does."""

    @abstractmethod
    def _check_folder(self) -> None:
        """Refuse a folder that snapshots cannot be written to, before hours of training."""

    @abstractmethod
    def _rate(self) -> float:
        """The learning rate of the present iteration."""

    @abstractmethod
    def _update(self) -> None:
        """Change the parameters by their gradients, which have been added up over the passes."""

    def test(self) -> object:
        """Test the present weights; nothing where there is nothing to test with."""
        return None

    @property
    def pictures_per_iteration(self) -> int:
        """How many items this process's part of an iteration has."""
        return self._batches.items * self._passes

    # ---------------------------------------------------------------- training

    def solve(self) -> bool:
        """Train until ``max_iter``, with snapshots and tests on the way (solver.cpp, Solve).

        Returns:
            whether the training came to its end; False if :meth:`request` stopped it.  Then a
            snapshot has been written all the same.
        """
        settings = self.settings
        if settings.snapshot_after_train:
            self._check_folder()
        self.step(settings.max_iter - self.iter)
        stopped = self._stopping
        is_written = bool(settings.snapshot) and self.iter % settings.snapshot == 0
        if (settings.snapshot_after_train or stopped) and not is_written:
            self.snapshot()
        if stopped:
            return False
        if settings.test_interval and self.iter % settings.test_interval == 0:
            self.test()
        return True

    def step(self, iterations: int) -> None:
        """Make that many iterations, fewer if :meth:`request` asks to stop (solver.cpp, Step).

        Args:
            iterations: how many; ``max_iter`` does not limit them.
        """
        settings = self.settings
        self._losses = []
        last = self.iter + iterations
        self._stopping = False
        while self.iter < last and not self._stopping:
            if (
                settings.test_interval
                and self.iter % settings.test_interval == 0
                and (self.iter > 0 or settings.test_initialization)
            ):
                self.test()
                if self._stopping:
                    return
            self._iterate()
            for watcher in self.watchers:
                watcher(self)
            wanted, self._stopping = self._team.any(self._wants_snapshot, self._wants_stop)
            # What a signal asks for from here on is for the next iteration.
            self._wants_snapshot = self._wants_snapshot and not wanted
            self._wants_stop = self._wants_stop and not self._stopping
            if wanted or (settings.snapshot and self.iter % settings.snapshot == 0):
                self.snapshot()

    def request(self, action: Literal["snapshot", "stop"]) -> None:
        """Ask for a snapshot, or for an end with a snapshot, after the present iteration.

        It only leaves a mark and so may be called from a signal handler.
        """
        if action == "stop":
            self._wants_stop = True
        else:
            self._wants_snapshot = True

    def _iterate(self) -> None:
        settings = self.settings
        self.optimizer.zero_grad()
        total = torch.zeros((), device=self._device)
        with self._random(1 + self.iter, self._team.rank):
            for _ in range(self._passes):
                with self._precision.forward():
                    outputs = self._forward(self.net, self._batches)
                loss = self.net.loss(outputs)
                if loss.requires_grad:
                    self._precision.backward(loss)
                total += loss.detach()
                # Detached, they do not keep the pass's graph while the next one runs.
                self.outputs = {name: value.detach() for name, value in outputs.items()}
        self._team.add_up([total])
        self.loss = float(total) / settings.iter_size
        self._smooth()
        self.lr = self._rate()
        if self.log is not None and settings.display and self.iter % settings.display == 0:
            values = {name: told(blob) for name, blob in self._whole_outputs().items()}
            self.log.train(self.iter, self.lr, self.smoothed_loss, values)
        self._update()
        self.iter += 1

    def _forward(self, net: Network, batches: Batches) -> dict[str, Tensor]:
        """The outputs for the next batch; a label that no class has is traced to its file."""
        batch = batches.next(self._device, self._channels_last)
        try:
            outputs: dict[str, Tensor] = net(**batch)
            return outputs
        except UnexpectedLabel as error:
            raise batches.blame(error) from None

    def _whole_outputs(self) -> dict[str, Tensor]:
        """The outputs of the last pass, small ones only, of all processes together.

        A loss that was divided by what all have is added up; anything else is averaged.
        """
        whole = {name: value.clone() for name, value in small(self.outputs).items()}
        self._team.add_up(whole.values())
        losses = self.net.loss_weights if self._splits_batches else {}
        for name in whole.keys() - losses.keys():
            whole[name] = whole[name] / self._team.count
        return whole

    def _smooth(self) -> None:
        """The mean over the last ``average_loss`` iterations since :meth:`step` was called."""
        self._losses.append(self.loss)
        del self._losses[: -self.settings.average_loss]
        self.smoothed_loss = sum(self._losses) / len(self._losses)

    def _stops(self) -> bool:
        """Whether to stop in the middle of a test."""
        # Of several processes each waits for the end of the test, where all can agree.
        if self._wants_stop and self._team.count == 1:
            self._stopping, self._wants_stop = True, False
        return self._stopping

    def _placed(self, net: _Net) -> _Net:
        """The network, moved to where and into the order in memory in which it computes."""
        net.to(self._device)
        if self._channels_last:
            net.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        return net

    def _random(self, *numbers: int) -> AbstractContextManager[None]:
        """Random numbers (dropout, fillers) that follow from the seed and ``numbers`` alone.

        A resumed training so draws what it would have drawn.
        """
        return seeded(self._device, self._seed, *numbers)
