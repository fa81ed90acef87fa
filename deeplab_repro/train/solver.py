"""``caffe train``'s solver: what its files say, its updates, tests and snapshots (solver.cpp)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from deeplab_repro.caffe.net import CaffeNet, load_caffe
from deeplab_repro.models.deeplab import DeepLab
from deeplab_repro.processes import Processes
from deeplab_repro.train.batches import Batches, Feed, FeedMaker, Given, IteratedFeed, made_feed
from deeplab_repro.train.feeds import Feeds, Sinks
from deeplab_repro.train.journal import Journal
from deeplab_repro.train.model_net import ModelNet
from deeplab_repro.train.optim import CaffeAdam
from deeplab_repro.train.precision import Precision
from deeplab_repro.train.settings import SolverSettings, read_solver
from deeplab_repro.train.snapshots import (
    check_folder,
    learned_net,
    newest_snapshot,
    raw_net,
    read_state,
    restore_history,
    write_snapshot,
)
from deeplab_repro.train.testing import Means, Tests
from deeplab_repro.train.training import Training
from deeplab_repro.train.updates import float32, make_optimizer
from deeplab_repro.train.weights import StrPath, file_names, merged_weights
from prototxt_import import CaffeImportError, Net, read_weights
from prototxt_import.matching import WeightMatch

__all__ = ["Solver"]


class Solver(Training):
    """Trains a network as a solver file says.

    Args:
        solver_prototxt: the solver file, or what :func:`~deeplab_repro.train.settings.read_solver`
            made of one.
        weights: caffemodels to start from, in the order in which they are copied; a single text may
            name several with commas between.  Layers are found by name.
        snapshot: a ``.solverstate`` of Caffe's or of ours to go on from, instead of weights.
        resume: go on from the newest whole snapshot with the solver file's ``snapshot_prefix``;
            where there is none, begin with ``weights``.
        model: a plain model to train in place of the network in the solver file; its data layers
            give the batches.  Layers have the names of the released files, in weights, snapshots
            and test nets, so that both forms go on from each other's.
        batches: gives the batches in place of data layers: a
            :class:`~deeplab_repro.train.batches.Feed`, or anything that can be iterated over again
            and again, such as a DataLoader, for {"data": (N, 3, H, W), "label": (N, 1, H, W)}.  Of
            several processes each needs its own part.  With a model too, the solver file needs no
            network.
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
        algorithm, accuracy: how convolutions are computed, see :func:`deeplab_repro.load_caffe`;
            those of a plain model say so themselves.
        channels_last: keep the channels of a pixel together in memory; values differ by rounding.
            None does so where convolutions are faster then: not on a CPU without AVX-512.
        precision: ``"float32"``, or ``"bfloat16"`` or, on a GPU, ``"float16"`` for the maps and the
            products of the network in training, see
            :class:`~deeplab_repro.train.precision.MixedPrecision`.  Tests are float32.
        checkpointing: let the backward pass compute most maps again instead of remembering them:
            less memory for the time of another forward pass, and the same bits.

    Attributes:
        settings: what the solver file says.
        net: the network in training, in the TRAIN phase; a plain model is its ``net.model``.
        test_nets: the networks of the tests; from the first test on with the weights of ``net``.
        optimizer: makes the updates.
        load_report: what was copied from ``weights``, and what was not.

    :class:`~deeplab_repro.train.training.Training` lists what it tells of its course.

    Raises:
        CaffeImportError: a file, network or setting that cannot be used.

    Example:
        >>> solver = Solver("solver.prototxt", weights="init.caffemodel")
        >>> solver.step(10)
        >>> solver.iter, solver.loss

        >>> model = load("init.caffemodel", "largefov", strict=False)  # deeplab_repro.models
        >>> Solver("solver.prototxt", model=model, batches=loader).solve()
    """

    settings: SolverSettings

    def __init__(
        self,
        solver_prototxt: StrPath | SolverSettings,
        weights: StrPath | Sequence[StrPath] | None = None,
        snapshot: StrPath | None = None,
        *,
        resume: bool = False,
        model: DeepLab | None = None,
        batches: Given | None = None,
        placeholders: Mapping[str, str] | None = None,
        feeds: FeedMaker = Feeds,
        workers: int = 0,
        processes: Processes | None = None,
        log: Journal | None = None,
        device: torch.device | str | None = None,
        quirks: bool = True,
        algorithm: str = "auto",
        accuracy: str = "exact",
        channels_last: bool | None = None,
        precision: Precision = "float32",
        checkpointing: bool = False,
    ) -> None:
        if not isinstance(solver_prototxt, SolverSettings):
            solver_prototxt = read_solver(
                solver_prototxt,
                placeholders=placeholders,
                with_net=model is None or batches is None,
            )
        settings = solver_prototxt
        files = file_names(weights) or list(settings.weights)
        if snapshot is not None and file_names(weights):
            raise CaffeImportError(
                "weights and a snapshot are both given",
                file=settings.file,
                expected="one of them: a snapshot brings its own weights",
            )
        if settings.snapshot:
            check_folder(settings)
        super().__init__(
            settings,
            seed=settings.random_seed,
            processes=processes,
            log=log,
            device=torch.device(device) if device is not None else _device(settings),
            channels_last=channels_last,
            precision=precision,
        )
        self.load_report: WeightMatch | None = None
        self._policy = settings.policy
        self.lr = self._rate()
        team = self._team

        def build(net: Net, feed: Feed | None) -> tuple[CaffeNet, Batches]:
            batches = Batches(feed)
            with self._random(0):
                made = load_caffe(
                    batches.shaped(net), quirks=quirks, algorithm=algorithm, accuracy=accuracy
                )
            return self._placed(made), batches

        share = {"rank": team.rank, "count": team.count, "iter_size": settings.iter_size}
        feed = batches if isinstance(batches, Feed | None) else IteratedFeed(batches)
        net = None if settings.train_net is None else settings.train_net.net("TRAIN")
        if net is not None and feed is None:
            feed = made_feed(net, feeds, seed=self._seed, workers=workers, **share)
        self.net: CaffeNet | ModelNet
        if model is not None:
            self.net, self._batches = self._placed(ModelNet(model)), Batches(feed)
        else:
            assert net is not None  # read_solver was asked for it
            self.net, self._batches = build(net, feed)
        self.net.checkpointing = checkpointing
        self._precision.prepare(self.net)
        # Processes that have whole passes to themselves divide by what is in these.
        self._passes = self._batches.passes(settings.iter_size)
        self._splits_batches = self._passes == settings.iter_size
        if self._splits_batches:
            team.join_losses(self.net)
        nets = [source.net("TEST") for source in settings.test_nets]
        tests = [build(net, made_feed(net, feeds, seed=self._seed)) for net in nets]
        self.test_nets = [net for net, _ in tests]
        self._tests = Tests(self.test_nets, [b for _, b in tests], settings, team)
        self._writers = _writers([self.net, *self.test_nets]) if team.first else []
        self._params = self.net.learnable_params
        self.optimizer = make_optimizer(settings, self._params)
        if resume and snapshot is None:
            snapshot = team.agreed(newest_snapshot(settings) if team.first else None)
        if snapshot is not None:
            self.restore(snapshot)
        elif files:
            try:
                self.load_report = self.net.load_weights(merged_weights(files))
            except CaffeImportError as error:
                raise error.with_file(", ".join(str(file) for file in files)) from None

    # ---------------------------------------------------------------- training

    def _rate(self) -> float:
        return self._policy.rate(self.settings.base_lr, self.iter)

    def _update(self) -> None:
        for group in self.optimizer.param_groups:
            group["lr"] = float32(self.lr * group["lr_mult"])
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
        self._precision.step(self.optimizer)

    # ---------------------------------------------------------------- testing

    def test(self) -> list[Means]:
        """Run every test net with the present weights (solver.cpp, TestAll).

        Returns:
            for each test net, its output blobs' means over ``test_iter`` batches, and the mean
            objective as ``"loss (objective)"`` where ``test_compute_loss`` asks for it.
        """
        results: list[Means] = []
        with self._random(0):
            for i, means in enumerate(self._tests.run(self.net, self._forward, self._stops)):
                if means is None:
                    break
                results.append(means)
                if self.log is not None:
                    self.log.test(self.iter, i, means)
        return results

    # ---------------------------------------------------------------- snapshots

    def _check_folder(self) -> None:
        check_folder(self.settings)

    def snapshot(self) -> Path:
        """Write the weights and the solverstate of this moment, as files that Caffe reads.

        Of several processes the first writes them.

        Returns:
            the solverstate.

        Raises:
            CaffeImportError: a file cannot be written; the error names the last whole snapshot.
        """
        settings = self.settings
        state = settings.snapshot_path(self.iter, ".solverstate")
        if not self._team.first:
            return state
        try:
            write_snapshot(
                settings.snapshot_path(self.iter, ".caffemodel"),
                state,
                self.net,
                self.optimizer,
                params=self._params,
                raw=raw_net(self.net, settings),
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
        self._tests.seek(state.iter)
        self.last_snapshot = Path(path)

    # ---------------------------------------------------------------- the rest

    def close(self) -> None:
        """Give back the processes and files of the feeds, and end what the networks write."""
        for batches in (self._batches, *self._tests.batches):
            batches.close()
        for writer in self._writers:
            writer.close()


def _writers(nets: Sequence[CaffeNet | ModelNet]) -> list[Sinks]:
    """What lets MatWrite and HDF5Output layers write, for networks that have any."""
    return [
        Sinks(net)
        for net in nets
        if isinstance(net, CaffeNet) and any(layer.role == "writer" for layer in net.net.layers)
    ]


def _device(settings: SolverSettings) -> torch.device:
    if settings.on_cpu or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", settings.device_id)
