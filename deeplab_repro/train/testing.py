"""The test nets of a solver (solver.cpp, TestAll)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from deeplab_repro.caffe.net import CaffeNet
from deeplab_repro.train.batches import Batches
from deeplab_repro.train.journal import small, told
from deeplab_repro.train.log import OBJECTIVE
from deeplab_repro.train.model_net import ModelNet
from deeplab_repro.train.settings import SolverSettings
from deeplab_repro.train.team import Team

__all__ = ["Means", "Tests"]

#: Output blob -> its mean, or its means where it has several values.
Means = dict[str, float | list[float]]


class Tests:
    """The test nets of a training, and what they read.

    Of several processes each runs its part of a test's batches, unless the net writes files.

    Args:
        nets: in the TEST phase.
        batches: of each of them.
        settings: of the solver.
        team: the processes that train together.
    """

    def __init__(
        self,
        nets: Sequence[CaffeNet],
        batches: Sequence[Batches],
        settings: SolverSettings,
        team: Team,
    ) -> None:
        self.nets = list(nets)
        self.batches = list(batches)
        self._settings = settings
        self._team = team

    def run(
        self,
        trained: CaffeNet | ModelNet,
        forward: Callable[[CaffeNet, Batches], dict[str, Tensor]],
        stops: Callable[[], bool],
    ) -> Iterator[Means | None]:
        """The means of one test net after the other; None, and no more, where it was stopped.

        Args:
            trained: the network in training, whose weights the test nets get.
            forward: a test net's outputs for the next batch.
            stops: whether to stop; asked before every batch.
        """
        for i, (net, batches) in enumerate(zip(self.nets, self.batches, strict=True)):
            if isinstance(trained, CaffeNet):
                net.share_weights(trained)
            else:
                net.load_weights(trained.weights())
            with torch.no_grad():
                means = self._means(net, batches, self._settings.test_iter[i], forward, stops)
            yield means
            if means is None:
                return

    def _means(
        self,
        net: CaffeNet,
        batches: Batches,
        count: int,
        forward: Callable[[CaffeNet, Batches], dict[str, Tensor]],
        stops: Callable[[], bool],
    ) -> Means | None:
        # The first process writes the files of all batches.
        writes = any(layer.role == "writer" for layer in net.net.layers)
        rank, processes = (0, 1) if writes else (self._team.rank, self._team.count)
        sums: dict[str, Tensor] = {}
        taken = 0
        for number in range(rank, count, processes):
            if stops():
                return None
            batches.skip(number - taken)
            outputs = forward(net, batches)
            taken = number + 1
            values = small(outputs)
            if self._settings.test_compute_loss:
                values[OBJECTIVE] = net.loss(outputs).double()
            for name, value in values.items():
                sums[name] = sums[name] + value if name in sums else value.clone()
        batches.skip(count - taken)
        if processes > 1:
            sums = self._team.merged(sums)
        return {name: told(total / count) for name, total in sums.items()}

    def seek(self, iteration: int) -> None:
        """Go on where a training from the beginning is before that iteration."""
        interval, tests = self._settings.test_interval, 0
        if interval and iteration:
            tests = -(-iteration // interval) - (not self._settings.test_initialization)
        for batches, count in zip(self.batches, self._settings.test_iter, strict=True):
            batches.seek(tests * count)
