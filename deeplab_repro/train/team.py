"""One training in several processes, each with its part of every batch or of every iteration."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TypeVar

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.layers.losses import Loss
from deeplab_repro.processes import Processes
from deeplab_repro.train.model_net import ModelNet

__all__ = ["Team"]

_Value = TypeVar("_Value")


class Team:
    """The processes that train one network, seen by one of them.

    A loss divides by the number of pixels or items of the whole batch, whoever has them, and
    gradients are added up.  So the processes together compute what one alone computes on the whole
    batch, up to rounding; statistics of BatchNorm alone are those of each process's own part.

    Args:
        processes: as :func:`deeplab_repro.processes.processes` gives them.
    """

    def __init__(self, processes: Processes) -> None:
        self.rank = processes.rank
        self.count = processes.count
        self.first = processes.first
        self._processes = processes

    def join_losses(self, net: nn.Module) -> None:
        """Let the losses of a network divide by what all processes have together."""
        if self.count > 1:
            for module in net.modules():
                if isinstance(module, Loss | ModelNet):
                    module.total = self._total

    def add_up(self, tensors: Iterable[Tensor]) -> None:
        """Replace each tensor by its sum over all processes."""
        if self.count > 1:
            import torch.distributed as dist

            for tensor in tensors:
                dense = tensor.contiguous()  # gloo takes no other; the tensor itself if it is
                dist.all_reduce(dense)
                tensor.copy_(dense)

    def merged(self, sums: dict[str, Tensor]) -> dict[str, Tensor]:
        """The sum of each tensor over all processes, some of which may have none of it."""
        merged: dict[str, Tensor] = {}
        for part in self._processes.gather({name: sum.cpu() for name, sum in sums.items()}):
            for name, value in part.items():
                merged[name] = merged[name] + value if name in merged else value
        return merged

    def agreed(self, value: _Value) -> _Value:
        """The first process's value."""
        return self._processes.gather(value)[0]

    def any(self, *marks: bool) -> tuple[bool, ...]:
        """For each mark, whether any process has set it."""
        if self.count == 1:
            return marks
        counts = torch.tensor(marks, dtype=torch.int32)
        self.add_up([counts])
        return tuple((counts > 0).tolist())

    def _total(self, number: Tensor | int) -> Tensor | int:
        counted = torch.as_tensor(number).detach().double()
        self.add_up([counted])
        return counted.to(number.dtype) if isinstance(number, Tensor) else int(counted)
