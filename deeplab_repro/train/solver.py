"""``caffe train``'s solver, iteration by iteration (solver.cpp, sgd_solver.cpp)."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import UnexpectedLabel
from deeplab_repro.caffe.net import CaffeNet, load_caffe
from deeplab_repro.processes import Processes
from deeplab_repro.train.batches import Batches, FeedMaker
from deeplab_repro.train.closing import Closing
from deeplab_repro.train.feeds import Feeds, Sinks
from deeplab_repro.train.journal import Journal, small, told
from deeplab_repro.train.optim import SOLVERS, CaffeAdam, CaffeOptimizer
from deeplab_repro.train.settings import NetSource, SolverSettings, read_solver
from deeplab_repro.train.snapshots import (
    learned_net,
    read_state,
    restore_history,
    write_snapshot,
)
from deeplab_repro.train.team import Team
from deeplab_repro.train.weights import StrPath, file_names, merged_weights
from prototxt_import import CaffeImportError, Phase, read_weights
from prototxt_import.matching import WeightMatch
from prototxt_import.net import filter_net

__all__ = ["Solver"]


class Solver(Closing):
    """Trains a network as a solver file says.

    Args:
        solver_prototxt: the solver file, or what :func:`~deeplab_repro.train.settings.read_solver`
            made of one.
        weights: caffemodels to start from, in the order in which they are copied; a single text may
            name several with commas between.  Layers are found by name.
        snapshot: a ``.solverstate`` of Caffe's or of ours to go on from, instead of weights.
        placeholders: values of ``${NAME}`` in the solver file and its networks.
        feeds: makes what gives the batches, from a network's data layers; by default
            :class:`deeplab_repro.train.feeds.Feeds`.
        workers: processes that read ahead for the network in training.
        processes: those that train it together, see :func:`deeplab_repro.processes.processes`.
            Each gets its part of every batch or of every iteration's passes, all end with the same
            weights, and the first one writes the snapshots.  Tests run whole in each.
        log: is told the loss every ``display`` iterations and the results of tests.
        device: where to compute; by default as ``solver_mode`` says, on the CPU where no GPU is.
        quirks: compute faults of the original programs, see :func:`deeplab_repro.load_caffe`.
        algorithm: how convolutions are computed, see :func:`deeplab_repro.load_caffe`.
        channels_last: keep the channels of a pixel together in memory, which convolutions are
            faster with; values differ by rounding.

    Attributes:
        settings: what the solver file says.
        net: the network in training, in the TRAIN phase.
        test_nets: the networks of the tests; from the first test on with the weights of ``net``.
        optimizer: makes the updates.
        iter: how many updates have been made.
        loss: the objective of the last iteration, before its update; NaN before the first.
        smoothed_loss: its mean over the last ``average_loss`` iterations.
        lr: the rate of the last update.
        outputs: output blob -> values in the last pass.
        load_report: what was copied from ``weights``, and what was not.
        last_snapshot: the solverstate that was written or read last.
        watchers: called with the solver after every iteration, before its snapshot.

    Raises:
        CaffeImportError: a file, network or setting that cannot be used.

    Example:
        >>> solver = Solver("solver.prototxt", weights="init.caffemodel")
        >>> solver.step(10)
        >>> solver.iter, solver.loss
    """

    def __init__(
        self,
        solver_prototxt: StrPath | SolverSettings,
        weights: StrPath | Sequence[StrPath] | None = None,
        snapshot: StrPath | None = None,
        *,
        placeholders: Mapping[str, str] | None = None,
        feeds: FeedMaker = Feeds,
        workers: int = 0,
        processes: Processes | None = None,
        log: Journal | None = None,
        device: torch.device | str | None = None,
        quirks: bool = True,
        algorithm: str = "auto",
        channels_last: bool = True,
    ) -> None:
        if not isinstance(solver_prototxt, SolverSettings):
            solver_prototxt = read_solver(solver_prototxt, placeholders=placeholders)
        settings = self.settings = solver_prototxt
        files = file_names(weights) or list(settings.weights)
        if snapshot is not None and file_names(weights):
            raise CaffeImportError(
                "weights and a snapshot are both given",
                file=settings.file,
                expected="one of them: a snapshot brings its own weights",
            )
        if settings.snapshot:
            self._check_folder()
        self.log = log
        self.watchers: list[Callable[[Solver], object]] = []
        self.iter = 0
        self.loss = self.smoothed_loss = float("nan")
        self.lr = settings.policy.rate(settings.base_lr, 0)
        self.outputs: Mapping[str, Tensor] = {}
        self.load_report: WeightMatch | None = None
        self.last_snapshot: Path | None = None
        team = self._team = Team(processes or Processes())
        seed = secrets.randbits(31) if settings.random_seed is None else settings.random_seed
        self._seed = team.agreed_seed(seed)
        self._policy = settings.policy
        self._losses: list[float] = []
        # What somebody asked this process for, perhaps a signal in the middle of an iteration, and
        # whether all processes have agreed to stop.
        self._wants_snapshot = self._wants_stop = False
        self._stopping = False
        self._device = torch.device(device) if device is not None else _device(settings)
        self._channels_last = channels_last

        def build(source: NetSource, phase: Phase, **options: int) -> tuple[CaffeNet, Batches]:
            net = source.model.net(phase, level=source.level, stages=source.stages)
            batches = Batches(net, feeds, seed=self._seed, **options)
            with self._random(0):
                made = load_caffe(batches.shaped(net), quirks=quirks, algorithm=algorithm)
            made.to(self._device)
            if channels_last:
                made.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
            return made, batches

        share = {"rank": team.rank, "count": team.count, "iter_size": settings.iter_size}
        self.net, self._batches = build(settings.train_net, "TRAIN", workers=workers, **share)
        # Processes that have whole passes to themselves divide by what is in these.
        self._splits_batches = self._batches.passes(settings.iter_size) == settings.iter_size
        if self._splits_batches:
            team.join_losses(self.net)
        tests = [build(source, "TEST") for source in settings.test_nets]
        self.test_nets = [net for net, _ in tests]
        self._test_batches = [batches for _, batches in tests]
        self._writers = _writers([self.net, *self.test_nets]) if team.first else []
        self._params = self.net.learnable_params
        self.optimizer = self._make_optimizer()
        if snapshot is not None:
            self.restore(snapshot)
        elif files:
            try:
                self.load_report = self.net.load_weights(merged_weights(files))
            except CaffeImportError as error:
                raise error.with_file(", ".join(str(file) for file in files)) from None

    @property
    def pictures_per_iteration(self) -> int:
        """How many items this process's part of an iteration has."""
        return self._batches.items * self._batches.passes(self.settings.iter_size)

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
        for param in self._params:
            if param.value.requires_grad:
                param.value.grad = None
        total = torch.zeros((), device=self._device)
        with self._random(1 + self.iter, self._team.rank):
            for _ in range(self._batches.passes(settings.iter_size)):
                outputs = self._forward(self.net, self._batches)
                loss = self.net.loss(outputs)
                if loss.requires_grad:
                    loss.backward()
                total += loss.detach()
                # Detached, they do not keep the pass's graph while the next one runs.
                self.outputs = {name: value.detach() for name, value in outputs.items()}
        self._team.add_up([total])
        self.loss = float(total) / settings.iter_size
        self._smooth()
        self.lr = self._policy.rate(settings.base_lr, self.iter)
        if self.log is not None and settings.display and self.iter % settings.display == 0:
            values = {name: told(blob) for name, blob in self._whole_outputs().items()}
            self.log.train(self.iter, self.lr, self.smoothed_loss, values)
        self._update()
        self.iter += 1

    def _forward(self, net: CaffeNet, batches: Batches) -> dict[str, Tensor]:
        """The outputs for the next batch; a label that no class has is traced to its file."""
        batch = batches.next(self._device, self._channels_last)
        try:
            return net(**batch)
        except UnexpectedLabel as error:
            raise batches.blame(error) from None

    def _update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = _float32(self.lr * group["lr_mult"])
        for param in self._params:
            # A parameter that the objective does not reach has a gradient of zeros in Caffe, so
            # that weight decay and momentum change it all the same.
            if param.value.grad is None:
                param.value.grad = torch.zeros_like(param.value, requires_grad=False)
        self._team.add_up(
            param.value.grad
            for param in self._params
            if param.value.requires_grad and param.value.grad is not None
        )
        self.optimizer.step()

    def _whole_outputs(self) -> dict[str, Tensor]:
        """The outputs of the last pass, small ones only, of all processes together.

        A loss that was divided by what all have is added up; anything else is averaged.
        """
        whole = {name: value.clone() for name, value in small(self.outputs).items()}
        self._team.add_up(whole.values())
        losses = {
            top
            for layer in self.net.net.layers
            for top, weight in zip(layer.tops, layer.loss_weights, strict=True)
            if weight and self._splits_batches
        }
        for name in whole.keys() - losses:
            whole[name] = whole[name] / self._team.count
        return whole

    def _smooth(self) -> None:
        """The mean over the last ``average_loss`` iterations since :meth:`step` was called."""
        self._losses.append(self.loss)
        del self._losses[: -self.settings.average_loss]
        self.smoothed_loss = sum(self._losses) / len(self._losses)

    def _make_optimizer(self) -> CaffeOptimizer:
        settings = self.settings
        options = dict(settings.options)
        decay = options.pop("weight_decay")
        groups: dict[tuple[float, float], dict[str, Any]] = {}
        for param in self._params:
            multipliers = param.lr_mult, param.decay_mult
            group = groups.setdefault(
                multipliers,
                {
                    "params": [],
                    "lr": _float32(self.lr * param.lr_mult),
                    "weight_decay": _float32(decay * param.decay_mult),
                    "lr_mult": param.lr_mult,
                    "decay_mult": param.decay_mult,
                },
            )
            group["params"].append(param.value)
        if not groups:
            raise CaffeImportError("the network has no parameters to learn", file=settings.file)
        return SOLVERS[settings.type](list(groups.values()), lr=settings.base_lr, **options)

    # ---------------------------------------------------------------- testing

    def test(self) -> list[dict[str, float | list[float]]]:
        """Run every test net with the present weights (solver.cpp, TestAll).

        Returns:
            for each test net, its output blobs' means over ``test_iter`` batches, and the mean
            objective as ``"loss (objective)"`` where ``test_compute_loss`` asks for it.
        """
        results = []
        for i, (net, batches) in enumerate(zip(self.test_nets, self._test_batches, strict=True)):
            net.share_weights(self.net)
            with torch.no_grad(), self._random(0):
                results.append(self._test(net, batches, self.settings.test_iter[i]))
            if self._stopping:
                return results[:-1]
            if self.log is not None:
                self.log.test(self.iter, i, results[-1])
        return results

    def _test(self, net: CaffeNet, batches: Batches, count: int) -> dict[str, float | list[float]]:
        sums: dict[str, Tensor] = {}
        objective = 0.0
        for _ in range(count):
            # Of several processes each waits for the end of the test, where all can agree.
            if self._wants_stop and self._team.count == 1:
                self._stopping, self._wants_stop = True, False
                break
            outputs = self._forward(net, batches)
            for name, value in small(outputs).items():
                sums[name] = sums[name] + value if name in sums else value.clone()
            if self.settings.test_compute_loss:
                objective += float(net.loss(outputs))
        means = {name: told(total / count) for name, total in sums.items()}
        if self.settings.test_compute_loss:
            means["loss (objective)"] = objective / count
        return means

    # ---------------------------------------------------------------- snapshots

    def snapshot(self) -> Path:
        """Write the weights and the solverstate of this moment, as files that Caffe reads.

        Of several processes the first writes them.

        Returns:
            the solverstate.

        Raises:
            CaffeImportError: a file cannot be written; the error names the last whole snapshot.
        """
        settings = self.settings
        source = settings.train_net
        assert source.model.raw is not None  # a network was made of it
        state = settings.snapshot_path(self.iter, ".solverstate")
        if not self._team.first:
            return state
        try:
            write_snapshot(
                settings.snapshot_path(self.iter, ".caffemodel"),
                state,
                self.net,
                self.optimizer,
                raw=filter_net(
                    source.model.raw, phase="TRAIN", level=source.level, stages=source.stages
                ),
                iteration=self.iter,
                current_step=self._policy.steps(self.iter),
            )
        except CaffeImportError as error:
            last = "there is none before it" if self.last_snapshot is None else self.last_snapshot
            error.message += f" (snapshot of iteration {self.iter}; the last whole one: {last})"
            raise
        self.last_snapshot = state
        return state

    def restore(self, path: StrPath) -> None:
        """Go on from a solverstate: weights, history, iteration, and the place in the data.

        Caffe's data layers start over at their first item; here they go on where the training was,
        so that a training that was interrupted ends as one that was not.

        Args:
            path: a ``.solverstate`` or ``.solverstate.h5``; the weights that it names are read too.

        Raises:
            CaffeImportError: no solverstate, its weights are missing, or one of another network.
        """
        settings = self.settings
        state = read_state(path)
        weights = learned_net(path, state)
        restore_history(self.optimizer, self._params, state.history, path)
        if weights is not None:
            try:
                self.load_report = self.net.load_weights(read_weights(weights))
            except CaffeImportError as error:
                raise error.with_file(weights) from None
        self.iter = state.iter
        self._policy = settings.policy.resumed(state.iter, state.current_step)
        if isinstance(self.optimizer, CaffeAdam):
            self.optimizer.set_iteration(state.iter)
        self._batches.seek(state.iter * settings.iter_size)
        for batches, count in zip(self._test_batches, settings.test_iter, strict=True):
            batches.seek(self._tests_before(state.iter) * count)
        self.last_snapshot = Path(path)

    def _tests_before(self, iteration: int) -> int:
        """How many tests a training from the beginning has made before that iteration's."""
        interval = self.settings.test_interval
        if not interval or not iteration:
            return 0
        return -(-iteration // interval) - (not self.settings.test_initialization)

    def _check_folder(self) -> None:
        """Refuse a snapshot_prefix that cannot be written to, before hours of training."""
        folder = self.settings.snapshot_path(0, "").parent
        if not folder.is_dir() or not os.access(folder, os.W_OK):
            raise CaffeImportError(
                "snapshot_prefix", file=self.settings.file, expected="a folder that can be written",
                got=str(folder),
            )  # fmt: skip

    # ---------------------------------------------------------------- the rest

    def close(self) -> None:
        """Give back the processes and files of the feeds, and end what the networks write."""
        for batches in (self._batches, *self._test_batches):
            batches.close()
        for writer in self._writers:
            writer.close()

    @contextmanager
    def _random(self, *numbers: int) -> Iterator[None]:
        """Random numbers (dropout, fillers) that follow from the seed and ``numbers`` alone.

        A resumed training so draws what it would have drawn.  The caller's generators stay as they
        are.
        """
        (seed,) = np.random.SeedSequence((self._seed, *numbers)).generate_state(1, np.uint64)
        is_cuda = self._device.type == "cuda"
        with torch.random.fork_rng([self._device] if is_cuda else []):
            torch.default_generator.manual_seed(int(seed))
            if is_cuda:
                with torch.cuda.device(self._device):
                    torch.cuda.manual_seed(int(seed))
            yield


def _writers(nets: Sequence[CaffeNet]) -> list[Sinks]:
    """What lets MatWrite and HDF5Output layers write, for networks that have any."""
    writing = [net for net in nets if any(layer.role == "writer" for layer in net.net.layers)]
    return [Sinks(net) for net in writing]


def _device(settings: SolverSettings) -> torch.device:
    if settings.on_cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", settings.device_id)


def _float32(value: float) -> float:
    return float(np.float32(value))
