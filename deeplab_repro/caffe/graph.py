"""Runs the layers of a network one after the other on a table of named blobs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_repro.caffe.checkpointing import checkpointed, layer_parts
from deeplab_repro.caffe.layers.base import CaffeLayer, straight_through
from deeplab_repro.caffe.layers.conv import Convolution
from deeplab_repro.caffe.quirks import SHARED_MEMORY, Quirks
from deeplab_repro.ops import ALGORITHMS, set_accuracy
from prototxt_import import CaffeImportError, Layer, Net, Shape, infer_net
from prototxt_import.inference import check_blob_bytes
from prototxt_import.layers import Memory
from prototxt_import.schedule import Schedule, Value

__all__ = ["Blobs", "GraphModule", "LayerModules", "Node"]


@dataclass(frozen=True)
class Node:
    """A layer and its place in the graph.

    Attributes:
        layer: the layer; of several that became one, the first.
        module: what computes it.
        bottoms: blobs that it reads.
        tops: blobs that it writes.
        inplace: ``module(bottom, inplace=True)`` may be called, which overwrites the bottom.
        detached: numbers of the bottoms to which no gradient goes back.
    """

    layer: Layer
    module: nn.Module
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    inplace: bool = False
    detached: tuple[int, ...] = ()

    @property
    def memory(self) -> Memory:
        """Where its tops lie."""
        return self.layer.memory

    @property
    def shares_data(self) -> bool:
        """Whether in Caffe its tops are the memory of its bottom."""
        return self.layer.shares_data


@dataclass(frozen=True)
class _Step:
    """One node's turn in the forward pass."""

    node: Node
    overwrites: bool  # may overwrite its bottom when no gradient is asked for
    learns_inplace: bool  # and also when one is
    frees: tuple[str, ...]  # blobs that nobody needs after it
    aliases: tuple[str, ...]  # blobs that its top overwrites by the way, as in Caffe


class Blobs(dict[str, Tensor]):
    """Blob -> values, and the losses whose tops have no name of their own.

    Attributes:
        automatic: layer -> its top.
    """

    def __init__(self, values: Mapping[str, Tensor], automatic: Mapping[Layer, Tensor]) -> None:
        super().__init__(values)
        self.automatic = dict(automatic)


class GraphModule(nn.Module):
    """Inputs, outputs and the forward pass, whatever the steps are.

    Attributes:
        net: the typed graph.
        inputs: names of the blobs to give; those of a data layer beyond the first (labels, sizes)
            may be left out, and then whatever depends on them is left out too.
        outputs: names of the blobs that :meth:`forward` returns.
        checkpointing: let the backward pass of :meth:`forward` compute most blobs again instead of
            remembering them: less memory for the time of another forward pass, and the same bits.
    """

    checkpointing = False

    def __init__(self, net: Net, quirks: Quirks) -> None:
        super().__init__()
        self.net = net
        self.quirks = quirks
        self.inputs = list(net.inputs)
        self.outputs = list(net.outputs)
        self._steps: list[_Step] = []
        #: Which of them are computed again together, for the shapes that were checked last.
        self._parts: list[list[_Step]] = []
        #: Of every layer of ``net``, the shapes that its blobs have.
        self._blob_shapes: list[list[Shape]] = []
        self._checked_shapes: tuple[bool, tuple[tuple[str, Shape], ...]] | None = None

    def forward(
        self, *only: Tensor | np.ndarray[Any, Any], **inputs: Tensor | np.ndarray[Any, Any]
    ) -> dict[str, Tensor]:
        """Run the network.

        Args:
            only: the values of the input, for a network that needs one alone.
            inputs: blob name -> values; float32, (N, C, H, W) for pictures, BGR minus the mean.
                Numpy arrays of any number type are converted.

        Returns:
            output blob -> values.  A blob is freed after its last reader.

        Raises:
            CaffeImportError: inputs missing or unknown, or shapes that a layer can't take.
        """
        return self._run(self._by_name(only, inputs), keep=False)

    def blobs(
        self, *only: Tensor | np.ndarray[Any, Any], **inputs: Tensor | np.ndarray[Any, Any]
    ) -> dict[str, Tensor]:
        """Run the network and return every blob, inputs too, under its Caffe name.

        A blob that in-place layers overwrite holds the last value written, as in Caffe after a
        forward pass.  Gradients flow as in :meth:`forward`.
        """
        return self._run(self._by_name(only, inputs), keep=True)

    def _by_name(self, only: tuple[Any, ...], inputs: Mapping[str, Any]) -> Mapping[str, Any]:
        """The inputs by name, whether they were given so or as the only one."""
        if not only:
            return inputs
        required = [name for name, declared in self.net.inputs.items() if declared.required]
        if len(only) > 1 or len(required) != 1 or required[0] in inputs:
            names = ", ".join(f"{name}=..." for name in required)
            raise CaffeImportError(
                "inputs are given by name", file=self.net.file, expected=f"net({names})",
                got=f"{len(only)} without a name",
            )  # fmt: skip
        return {required[0]: only[0], **inputs}

    def _plan(self, nodes: Sequence[Node]) -> None:
        """Decide when each blob can be freed, and which nodes may overwrite their bottom."""
        schedule = Schedule(nodes, self.inputs, self.outputs)
        steps = []
        writers: dict[Value, Node] = {}
        for i, (node, turn) in enumerate(zip(nodes, schedule.turns, strict=True)):
            writers.update(dict.fromkeys(turn.writes, node))
            aliases = turn.aliases
            if aliases:
                seen = any(
                    schedule.last_touch[name] > i or name in self.outputs for name in aliases
                )
                if not self.quirks.computes(node.layer, SHARED_MEMORY, tell=seen):
                    aliases = ()
            overwrites = node.inplace and schedule.may_overwrite(i)
            learns_inplace = overwrites and _may_learn_inplace(node, writers[turn.reads[0]])
            steps.append(_Step(node, overwrites, learns_inplace, turn.frees, aliases))
        self._steps = steps

    def set_algorithm(self, algorithm: str) -> None:
        """Compute all convolutions of two spatial axes by one algorithm; they differ by rounding.

        Args:
            algorithm: ``"direct"``, ``"im2col"`` (Caffe's form), ``"interlace"``, ``"library"``,
                ``"winograd"``, or ``"auto"``, which chooses for each; see
                :func:`~deeplab_repro.ops.atrous_conv2d`.
        """
        if algorithm not in ("auto", *ALGORITHMS):
            raise ValueError(
                f"algorithm: expected one of auto, {', '.join(ALGORITHMS)}; got {algorithm!r}"
            )
        for module in self.modules():
            if isinstance(module, Convolution):
                module.algorithm = algorithm

    def set_accuracy(self, accuracy: str) -> None:
        """Say which forms of the algorithms the convolutions may use.

        Args:
            accuracy: ``"exact"``, or ``"fast"`` for forms that round more; see
                :func:`~deeplab_repro.ops.atrous_conv2d`.
        """
        set_accuracy(self, accuracy)

    def _run(self, given: Mapping[str, Any], *, keep: bool) -> dict[str, Tensor]:
        if torch.compiler.is_compiling():
            return self._take_steps(given, keep=keep)
        try:
            return self._take_steps(given, keep=keep)
        except (RuntimeError, TypeError) as error:
            self._blame_type(given, error)
            raise

    def _take_steps(self, given: Mapping[str, Any], *, keep: bool) -> dict[str, Tensor]:
        values = self._checked_inputs(given, keep)
        automatic: dict[Layer, Tensor] = {}
        if self.checkpointing and not keep and torch.is_grad_enabled():
            for part in self._parts:
                self._take_checkpointed(part, values, automatic)
        else:
            self._take(self._steps, values, automatic, keep)
        if not keep:
            values = {name: values[name] for name in self.outputs if name in values}
        return Blobs(values, automatic) if automatic else values

    def _take(
        self,
        steps: Sequence[_Step],
        values: dict[str, Tensor],
        automatic: dict[Layer, Tensor],
        keep: bool,
        remembered: Collection[str] = (),
    ) -> None:
        """Take some steps: to ``values`` and ``automatic`` comes what they write.

        Blobs in ``remembered`` are needed again as they came, and so are not overwritten.
        """
        learning = torch.is_grad_enabled()
        remembered = set(remembered)
        for step in steps:
            node = step.node
            if not all(bottom in values for bottom in node.bottoms):
                continue  # it depends on an optional input that was not given
            bottoms = [values[bottom] for bottom in node.bottoms]
            for i in node.detached:
                bottoms[i] = bottoms[i].detach()
            overwrites = step.learns_inplace if learning else step.overwrites
            # A blob that is kept may only be overwritten by one of its own name.
            overwrites = overwrites and (not keep or node.tops[0] in node.bottoms)
            if overwrites and node.bottoms[0] not in remembered:
                tops = node.module(*bottoms, inplace=True)
            else:
                tops = node.module(*bottoms)
            tops = (tops,) if isinstance(tops, Tensor) else tops
            values.update(zip(node.tops, tops, strict=True))
            remembered.difference_update(node.tops)
            if node.layer.has_automatic_top:
                automatic[node.layer] = tops[0]
            for name in step.aliases:
                if name in values:
                    shape = values[name].shape
                    values[name] = straight_through(values[name], tops[0].reshape(shape))
            del bottoms, tops
            if not keep:
                for name in step.frees:
                    values.pop(name, None)

    def _take_checkpointed(
        self, steps: Sequence[_Step], values: dict[str, Tensor], automatic: dict[Layer, Tensor]
    ) -> None:
        """Take some steps of which the backward pass is to remember no more than the bottoms."""

        def run(part: dict[str, Tensor]) -> tuple[dict[str, Tensor], dict[Layer, Tensor]]:
            tops: dict[Layer, Tensor] = {}
            self._take(steps, part, tops, keep=False, remembered=part)
            return part, tops

        touched = {n for s in steps for n in (*s.node.bottoms, *s.node.tops, *s.aliases)}
        part = {name: values.pop(name) for name in touched & values.keys()}
        written, tops = checkpointed(run, part, [step.node.module for step in steps])
        values.update(written)
        automatic.update(tops)

    def _checked_inputs(self, given: Mapping[str, Any], keep: bool) -> dict[str, Tensor]:
        unknown = given.keys() - self.net.inputs.keys()
        missing = [name for name, i in self.net.inputs.items() if i.required and name not in given]
        if unknown or missing:
            raise CaffeImportError(
                f"unknown input '{min(unknown)}'"
                if unknown
                else f"input '{missing[0]}' is missing",
                file=self.net.file,
                expected=f"inputs {self.inputs}",
                got=sorted(given),
            )
        values = {name: self._as_blob(given[name]) for name in self.inputs if name in given}
        if not torch.compiler.is_compiling():
            shapes = tuple((name, tuple(value.shape)) for name, value in values.items())
            if (keep, shapes) != self._checked_shapes:
                self.check_sizes(dict(shapes), keep)
                self._checked_shapes = keep, shapes
                self._parts = []
            if self.checkpointing and not self._parts:
                self._divide(dict(shapes))
        return values

    def _as_blob(self, value: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """A tensor as it is; an array in the network's type and on its device."""
        if isinstance(value, Tensor):
            return value
        like = next(chain(self.parameters(), self.buffers()), torch.empty(0))
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    def check_sizes(self, inputs: Mapping[str, Shape], keep: bool = False) -> None:
        """Tell which layer the inputs do not fit, or the memory, before anything is computed.

        Args:
            inputs: input blob -> shape; optional ones that are left out are not given.
            keep: whether all blobs are to be there at once, as in :meth:`blobs`.

        Raises:
            CaffeImportError: they do not fit; the layer is named.
        """
        try:
            self._check_sizes(inputs, keep)
        except CaffeImportError as error:
            self._blame_missing_axis(inputs, error)
            raise

    def _divide(self, inputs: Mapping[str, Shape]) -> None:
        """Divide the steps into parts for :attr:`checkpointing`."""
        shapes = infer_net(self.net, inputs, without=self.net.inputs.keys() - inputs.keys())
        taken = {id(item.layer) for item in shapes.layers}
        steps = [step for step in self._steps if id(step.node.layer) in taken]
        self._parts = [[steps[i] for i in part] for part in layer_parts(self.net, shapes)]

    def _check_sizes(self, inputs: Mapping[str, Shape], keep: bool) -> None:
        absent = self.net.inputs.keys() - inputs.keys()
        blob_shapes = dict(zip(map(id, self.net.layers), self._blob_shapes, strict=True))
        shapes = infer_net(self.net, inputs, without=absent)
        check_blob_bytes(shapes, self.net, keep=keep)
        for item in shapes.layers:
            pairs = zip(item.shapes.params, blob_shapes[id(item.layer)], strict=True)
            for i, (needed, there) in enumerate(pairs):
                if None not in needed and tuple(needed) != tuple(there):
                    raise CaffeImportError(
                        f"its bottom has shape {item.bottoms[0]}, and blob {i} does not fit that",
                        file=self.net.file,
                        layer=item.layer.name,
                        expected=f"a blob of shape {tuple(needed)}",
                        got=tuple(there),
                    )

    def _blame_type(self, given: Mapping[str, Any], error: Exception) -> None:
        """Numbers of another type than the weights make some later layer fail: say so."""
        weight = next(chain(self.parameters(), self.buffers()), None)
        for name, value in given.items():
            if not isinstance(value, Tensor) or weight is None:
                continue
            if value.is_floating_point() and value.dtype != weight.dtype:
                raise CaffeImportError(
                    f"input '{name}' holds numbers of another type than the weights",
                    file=self.net.file,
                    expected=weight.dtype,
                    got=value.dtype,
                ) from error

    def _blame_missing_axis(self, inputs: Mapping[str, Shape], error: CaffeImportError) -> None:
        """A picture without the axis that counts pictures makes some later layer fail: say so."""
        for name, shape in inputs.items():
            declared = self.net.inputs[name].shape
            if declared and len(shape) == len(declared) - 1:
                raise CaffeImportError(
                    f"input '{name}' lacks an axis, perhaps the first, which counts the items",
                    file=self.net.file,
                    expected=f"{len(declared)} axes, as in {declared}",
                    got=shape,
                ) from error

    def extra_repr(self) -> str:
        """Name, phase and dialect."""
        return f"{self.net.name!r}, phase={self.net.phase}, dialect={self.net.dialect}"


def _may_learn_inplace(node: Node, writer: Node) -> bool:
    """Whether gradients stay right if ``node`` overwrites what ``writer`` wrote."""
    module, before = node.module, writer.module
    return (
        isinstance(module, CaffeLayer)
        and isinstance(before, CaffeLayer)
        and module.learns_inplace
        and before.forgets_top
    )


class LayerModules(nn.Module):
    """The layers' modules under their Caffe names.

    Unlike ``nn.ModuleDict`` it takes any name ("type", "data", ""), twice if need be.
    """

    def __init__(self) -> None:
        super().__init__()
        self._times: Counter[str] = Counter()

    def append(self, name: str, module: nn.Module) -> None:
        """Add one at the end."""
        plain = name.replace(".", ":")  # a dot would separate modules in a state dict's keys
        key = plain or "_"
        # Counted on, so that the last of thousands of one name does not try all the others' keys.
        self._times[plain] = max(1, self._times[plain])
        while key in self._modules:
            self._times[plain] += 1
            key = f"{plain}#{self._times[plain]}"
        self._modules[key] = module
