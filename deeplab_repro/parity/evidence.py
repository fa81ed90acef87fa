"""What a recording says about single layers: each is run again from what was recorded below it."""

from __future__ import annotations

import contextlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.func import functional_call

from deeplab_repro.caffe.layers import CaffeLayer
from deeplab_repro.errors import BadInput
from deeplab_repro.parity.agreement import Agreement, agreement
from deeplab_repro.parity.comparison import Comparison
from prototxt_import import Layer

__all__ = ["Chain", "Evidence", "Weights", "run_layer"]

Weights = Mapping[str, Sequence[np.ndarray[Any, Any]]]


def run_layer(
    module: CaffeLayer, bottoms: Sequence[Tensor], blobs: Sequence[Tensor] | None = None
) -> tuple[Tensor, ...]:
    """The tops of a layer, with ``blobs`` in place of its own."""
    if blobs is None:
        tops = module(*bottoms)
    else:
        own = {str(i): blob for i, blob in enumerate(blobs)}
        tops = functional_call(module, own, tuple(bottoms), tie_weights=False)
    return (tops,) if isinstance(tops, Tensor) else tuple(tops)


class Evidence:
    """A comparison, and each blob's way of coming about.

    Args:
        comparison: the network, what it computed, and the recording.
        weights: the file's blobs; the copies of a shared parameter may differ in it.
    """

    def __init__(self, comparison: Comparison, weights: Weights) -> None:
        self.comparison = comparison
        self.net = comparison.net
        self.weights = weights
        self.reports = {report.blob: report for report in comparison.reports}
        modules = [m for m in self.net.layers.children() if isinstance(m, CaffeLayer)]
        #: In running order.
        self.steps: list[tuple[Layer, CaffeLayer]] = list(
            zip(self.net.net.layers, modules, strict=True)
        )
        self.schedule = self.net.net.schedule

    def recorded(self, blob: str) -> Tensor | None:
        """The blob as it was recorded; None if it was not, or only in samples."""
        report = self.reports.get(blob)
        if blob not in self.net.net.inputs and (report is None or report.agreement is None):
            return None
        try:
            values = self.comparison.recording.whole(blob)
        except BadInput:
            return None
        except KeyError:  # an optional input that was left out
            return None
        return torch.from_numpy(np.asarray(values, np.float32))

    def recorded_shape(self, blob: str) -> tuple[int, ...] | None:
        """As :meth:`recorded`, the shape alone."""
        report = self.reports.get(blob)
        if report is not None and report.equal:
            return report.shape
        values = self.recorded(blob)
        return None if values is None else tuple(values.shape)

    def value(self, blob: str) -> Tensor | None:
        """As recorded; ours, where only samples were recorded and they are equal."""
        values = self.recorded(blob)
        if values is None and (report := self.reports.get(blob)) is not None:
            return self.comparison.ours.get(blob) if report.equal is not False else None
        return values

    def read_by(self, step: int, blob: str) -> Tensor | None:
        """What layer ``step`` read there: not the recorded value if it was overwritten later."""
        before = self.schedule.read_before(step, blob)
        if before == len(self.schedule.writers.get(blob, ())):
            return self.value(blob)
        if not before:
            return None
        chain = self.chain(blob, before)
        return None if chain is None else chain.run()

    def chain(self, blob: str, length: int | None = None) -> Chain | None:
        """The layers that write ``blob``, the first ``length`` of them; None if not recorded."""
        steps = self.schedule.writers.get(blob, [])[:length]
        inputs = []
        for step in steps:
            bottoms: list[Tensor | None] = []
            for bottom in self.steps[step][0].bottoms:
                if bottom == blob:
                    bottoms.append(None)
                    continue
                value = self.read_by(step, bottom)
                if value is None:
                    return None
                bottoms.append(value)
            inputs.append(bottoms)
        return Chain(self, blob, [self.steps[step] for step in steps], inputs) if steps else None

    def read_otherwise(self, blob: str) -> bool:
        """Whether what reads a blob is recorded as we compute it, so that only the blob differs."""
        tops = (top for i in self.schedule.readers_of(blob) for top in self.steps[i][0].tops)
        reports = (self.reports.get(top) for top in tops if top != blob)
        return any(report is not None and bool(report.equal) for report in reports)

    def follow(self, blob: str) -> list[bool]:
        """For each recorded top of the layers that read a blob: whether it follows from the blob.

        A mistake of the network goes on in what reads the blob.  Where none of it follows from
        what was recorded, and yet is what we compute, the blob was not saved as it was read.
        """
        found = []
        for step in self.schedule.readers_of(blob):
            for top in self.steps[step][0].tops:
                report = self.reports.get(top)
                if top == blob or report is None or report.agreement is None:
                    continue
                chain = self.chain(top)
                if chain is not None:
                    found.append(chain.follows())
        return found


@dataclass
class Chain:
    """A layer and those that overwrite its top in place.

    Attributes:
        evidence: where it belongs.
        blob: what they write.
        links: the layers.
        inputs: bottoms of each, as recorded; None stands for what the link before wrote.
    """

    evidence: Evidence
    blob: str
    links: list[tuple[Layer, CaffeLayer]]
    inputs: list[list[Tensor | None]]

    def __post_init__(self) -> None:
        self.target = self.evidence.recorded(self.blob)

    def bottoms(self, k: int, y: Tensor | None) -> list[Tensor]:
        """What link ``k`` reads if the one before it wrote ``y``."""
        found = [y if value is None else value for value in self.inputs[k]]
        return [value for value in found if value is not None]

    def step(self, k: int, y: Tensor | None) -> Tensor:
        """What link ``k`` writes to the blob if the one before it wrote ``y``."""
        layer, module = self.links[k]
        return run_layer(module, self.bottoms(k, y))[layer.tops.index(self.blob)]

    def run(self, start: int = 0, y: Tensor | None = None) -> Tensor:
        """The blob, when ``y`` is what the links before ``start`` wrote."""
        for k in range(start, len(self.links)):
            y = self.step(k, y)
        assert y is not None
        return y

    def agreement(self, y: Tensor) -> Agreement:
        """How near ``y`` is to what was recorded."""
        if self.target is None:
            return self.evidence.comparison.recording.agreement(self.blob, y.numpy())
        return agreement(y.numpy(), self.target.numpy())

    def reproduced(self, y: Tensor) -> bool:
        """Whether ``y`` is what was recorded, within the comparison's tolerance."""
        return self.agreement(y).within(self.evidence.comparison.tolerance)

    def follows(self) -> bool:
        """Whether the recorded blob follows from what was recorded below it."""
        with contextlib.suppress(ValueError, RuntimeError, IndexError):
            return self.reproduced(self.run())
        return False

    def part(self) -> tuple[int, int] | None:
        """(row, column) where the recorded maps lie in larger ones of ours; None if they do not."""
        recorded = self.target
        if recorded is None or recorded.dim() != 4:
            return None
        with contextlib.suppress(ValueError, RuntimeError, IndexError):
            ours = self.run()
            if ours.dim() != 4 or ours.shape == recorded.shape:
                return None
            height, width = recorded.shape[2:]
            rows, columns = (ours.shape[i] - recorded.shape[i] for i in (2, 3))
            if min(rows, columns) < 0 or not recorded.numel():
                return None
            for row in dict.fromkeys((0, rows, rows // 2)):
                for column in dict.fromkeys((0, columns, columns // 2)):
                    if self.reproduced(ours[:, :, row : row + height, column : column + width]):
                        return row, column
        return None
