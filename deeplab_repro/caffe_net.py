"""A Caffe network as a PyTorch module that computes what Caffe computes."""

from __future__ import annotations

import os
import warnings
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_repro.layers import CaffeLayer, build
from prototxt_import import (
    CaffeImportError,
    Dialect,
    Layer,
    Model,
    Net,
    Phase,
    Shape,
    infer_net,
    read_model,
)
from prototxt_import.matching import WeightMatch, match_weights, shared_parameters

__all__ = ["CaffeNet", "load_caffe"]

#: Layers whose output is memory of its own, so that a following in-place layer may overwrite it.
_FRESH_OUTPUT: Final = frozenset(
    ["Convolution", "Deconvolution", "Eltwise", "InnerProduct", "Pooling", "BatchNorm", "Scale"]
)


@dataclass(frozen=True)
class _Step:
    """One layer's turn in the forward pass."""

    layer: Layer
    module: CaffeLayer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    overwrites: bool  # may write into its bottom's memory when no gradient is asked for
    last_reads: tuple[str, ...]  # blobs that nobody needs after this step


class CaffeNet(nn.Module):
    """The graph of a :class:`prototxt_import.Net` as an ``nn.Module``.

    Blobs are called by their Caffe names.  Shapes other than the declared ones are fine: all sizes
    follow from the inputs, as in Caffe's ``Net::Reshape``.

    Args:
        net: the typed graph.
        weights: what to load, see :meth:`load_weights`; None leaves the fillers' values.

    Attributes:
        net: the typed graph.
        inputs: names of the blobs to give; those of a data layer beyond the first (labels, sizes)
            may be left out, and then whatever depends on them is left out too.
        outputs: names of the blobs that :meth:`forward` returns.
        load_report: what :meth:`load_weights` did last; None before.
    """

    def __init__(
        self, net: Net, weights: Mapping[str, Sequence[np.ndarray[Any, Any]]] | None = None
    ) -> None:
        super().__init__()
        self.net = net
        self.inputs = list(net.inputs)
        self.outputs = list(net.outputs)
        self.load_report: WeightMatch | None = None
        self.layers = _Layers()
        self._shapes = infer_net(net)
        self._modules_by_name: dict[str, CaffeLayer] = {}
        modules = []
        try:
            self._shared = shared_parameters(self._shapes)
            for item in self._shapes.layers:
                blobs = [(item.layer.name, i) for i in range(len(item.shapes.params))]
                # Random values that something else is about to replace are not worth their time.
                is_filled_later = item.layer.name in (weights or {}) or self._shared.keys() >= {
                    *blobs
                }
                module = build(item.layer, item.bottoms, initialise=not is_filled_later)
                modules.append(module)
                self.layers.append(item.layer.name, module)
                self._modules_by_name.setdefault(item.layer.name, module)
        except CaffeImportError as error:
            raise (error.with_file(net.file) if net.file else error) from None
        self._tie_shared_parameters()
        self._steps = _plan(net, modules)
        self._checked_shapes: tuple[tuple[str, Shape], ...] | None = None
        self.train(net.phase == "TRAIN")
        if weights:
            self.load_weights(weights)

    # ---------------------------------------------------------------- running

    def forward(self, **inputs: Tensor | np.ndarray[Any, Any]) -> dict[str, Tensor]:
        """Run the network.

        Args:
            inputs: blob name -> values; float32, (N, C, H, W) for pictures, BGR minus the mean.
                Numpy arrays of any number type are converted.

        Returns:
            output blob -> values.  A blob is freed after its last reader.  The top of a loss is
            the loss before its weight; see :meth:`loss`.

        Raises:
            CaffeImportError: inputs missing or unknown, or shapes that a layer can't take.
        """
        return self._run(inputs, keep=False)

    def blobs(self, **inputs: Tensor | np.ndarray[Any, Any]) -> dict[str, Tensor]:
        """Run the network and return every blob, inputs too, under its Caffe name.

        A blob that in-place layers overwrite holds the last value written, as in Caffe after a
        forward pass.  Gradients flow as in :meth:`forward`.
        """
        return self._run(inputs, keep=True)

    def loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """The objective: the sum of ``loss_weight`` times top over all losses.

        Args:
            blobs: what :meth:`forward` or :meth:`blobs` returned.

        Raises:
            CaffeImportError: the network has no loss, or its top is not in ``blobs``.
        """
        total: Tensor | None = None
        for layer in self.net.layers:
            for top, weight in zip(layer.tops, _loss_weights(layer), strict=True):
                if not weight:
                    continue
                if top not in blobs:
                    raise CaffeImportError(
                        f"its top '{top}' is not among the blobs", layer=layer.name
                    )
                term = blobs[top].sum() * weight
                total = term if total is None else total + term
        if total is None:
            raise CaffeImportError("the network has no loss", file=self.net.file)
        return total

    def _run(self, given: Mapping[str, Any], *, keep: bool) -> dict[str, Tensor]:
        values = self._checked_inputs(given)
        in_place_allowed = not torch.is_grad_enabled()
        for step in self._steps:
            if not all(bottom in values for bottom in step.bottoms):
                continue  # it depends on an optional input that was not given
            bottoms = [values[bottom] for bottom in step.bottoms]
            if step.overwrites and in_place_allowed:
                tops = step.module(*bottoms, inplace=True)
            else:
                tops = step.module(*bottoms)
            values.update(
                zip(step.tops, (tops,) if isinstance(tops, Tensor) else tops, strict=True)
            )
            del bottoms, tops
            if not keep:
                for name in step.last_reads:
                    values.pop(name, None)
        if keep:
            return values
        return {name: values[name] for name in self.outputs if name in values}

    def _checked_inputs(self, given: Mapping[str, Any]) -> dict[str, Tensor]:
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
            if shapes != self._checked_shapes:
                self._check_sizes(dict(shapes))
                self._checked_shapes = shapes
        return values

    def _as_blob(self, value: Tensor | np.ndarray[Any, Any]) -> Tensor:
        """A tensor as it is; an array in the network's type and on its device."""
        if isinstance(value, Tensor):
            return value
        like = next(iter(self.state_dict().values()), torch.empty(0))
        return torch.as_tensor(value, dtype=like.dtype, device=like.device)

    def _check_sizes(self, inputs: dict[str, Shape]) -> None:
        """Tell which layer the inputs do not fit before anything is computed."""
        absent = self.net.inputs.keys() - inputs.keys()
        modules = {id(step.layer): step.module for step in self._steps}
        for item in infer_net(self.net, inputs, without=absent).layers:
            pairs = zip(item.shapes.params, modules[id(item.layer)].blob_shapes, strict=True)
            for i, (needed, there) in enumerate(pairs):
                if None not in needed and tuple(needed) != tuple(there):
                    raise CaffeImportError(
                        f"its bottom has shape {item.bottoms[0]}, and blob {i} does not fit that",
                        file=self.net.file,
                        layer=item.layer.name,
                        expected=f"a blob of shape {tuple(needed)}",
                        got=tuple(there),
                    )

    # ---------------------------------------------------------------- parameters

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Layer -> its parameters and buffers, in Caffe's blob order and shapes.

        Where layers share a parameter by name, it is one tensor, listed under each.
        """
        found: dict[str, list[Tensor]] = {}
        for step in self._steps:
            blobs = step.module.blobs
            if blobs:
                found.setdefault(step.layer.name, blobs)
        return found

    def _tie_shared_parameters(self) -> None:
        """Make parameters of one name one tensor; those whose shape is unknown yet come later."""
        for (name, i), (owner, j) in self._shared.items():
            if self._modules_by_name[owner].has_blob(j):
                shared = self._modules_by_name[owner].blob(j)
                self._modules_by_name[name].share_blob(i, shared)

    def load_weights(self, weights: Mapping[str, Sequence[np.ndarray[Any, Any]]]) -> WeightMatch:
        """Copy weights by layer name, in the order given (net.cpp, CopyTrainedLayersFrom).

        Where several layers share a parameter, the copy that comes last in the file stays; if the
        copies differ, a warning says so.  Layers without weights keep their values, and a warning
        names them.

        Args:
            weights: layer -> blobs, as :func:`prototxt_import.read_weights` returns them.

        Raises:
            CaffeImportError: the blobs of a layer do not match it in number or shape.
        """
        match = match_weights(self._shapes, weights)
        for name in match.copied:
            for i, blob in enumerate(weights[name]):
                owner, j = self._shared.get((name, i), (name, i))
                module = self._modules_by_name[owner]
                value = torch.from_numpy(blob)
                # match_weights has seen that the blob fits, if need be by its count alone.
                module.set_blob(
                    j, value.reshape(module.blob(j).shape) if module.has_blob(j) else value
                )
        self._tie_shared_parameters()
        for conflict in match.conflicts:
            warnings.warn(conflict, stacklevel=3)
        if match.missing:
            names = ", ".join(match.missing[:5]) + (", ..." if len(match.missing) > 5 else "")
            warnings.warn(
                f"no weights for {len(match.missing)} layers, which keep their initial values:"
                f" {names}",
                stacklevel=3,
            )
        self.load_report = match
        return match

    def extra_repr(self) -> str:
        """Name, phase and dialect."""
        return f"{self.net.name!r}, phase={self.net.phase}, dialect={self.net.dialect}"


def load_caffe(
    prototxt: str | os.PathLike[str] | Net | Model,
    weights: str | os.PathLike[str] | None = None,
    phase: Phase = "TEST",
    *,
    level: int = 0,
    stages: Iterable[str] = (),
    dialect: Dialect | None = None,
    placeholders: Mapping[str, str] | None = None,
) -> CaffeNet:
    """Make a PyTorch module of a Caffe network.

    Args:
        prototxt: the network's prototxt; or, with ``weights=None``, a caffemodel or safetensors
            file that embeds its network; or a network or model that has been read already.
        weights: ``.caffemodel``, ``.caffemodel.h5`` or ``.safetensors``.  None keeps the fillers'
            values, or takes those of the file that ``prototxt`` names.
        phase: ``"TEST"`` (eval mode, no dropout noise) or ``"TRAIN"`` (train mode).
        level: for ``min_level`` and ``max_level`` rules.
        stages: for ``stage`` and ``not_stage`` rules.
        dialect: ``"bvlc"``, ``"dl2"`` or ``"dl1"`` if the files' own evidence is to be overruled.
        placeholders: values of ``${NAME}`` in the prototxt.

    Returns:
        the module; float32, on the CPU.

    Raises:
        CaffeImportError: a file, layer or shape that cannot be used, in one clear line.

    Example:
        >>> net = load_caffe("deploy.prototxt", "train_iter_20000.caffemodel")
        >>> with torch.inference_mode():
        ...     scores = net(data=picture)["fc8_interp"]
    """
    model: Model | None = None
    if isinstance(prototxt, Net):
        net = prototxt
        if weights is not None:
            model = read_model(weights, dialect=dialect)
    else:
        if isinstance(prototxt, Model):
            model = prototxt
        elif weights is None:
            model = read_model(prototxt, dialect=dialect, placeholders=placeholders)
        else:
            model = read_model(weights, prototxt, dialect=dialect, placeholders=placeholders)
        net = model.net(phase, level=level, stages=stages)
    try:
        return CaffeNet(net, model.weights if model else None)
    except CaffeImportError as error:  # those of the network name its file already
        raise error.with_file(model.weights_file if model else net.file) from None


class _Layers(nn.Module):
    """The layers' modules under their Caffe names.

    Unlike ``nn.ModuleDict`` it takes any name ("type", "data", ""), twice if need be.
    """

    def append(self, name: str, module: CaffeLayer) -> None:
        key = name.replace(".", ":") or "_"  # a dot would separate modules in a state dict's keys
        count = 1
        while key in self._modules:
            count += 1
            key = f"{name.replace('.', ':')}#{count}"
        self._modules[key] = module


def _plan(net: Net, modules: Sequence[CaffeLayer]) -> list[_Step]:
    """Decide when each blob can be freed, and which layers may overwrite their bottom."""
    last_reader: dict[str, int] = {}
    readers: Counter[tuple[str, int]] = Counter()
    version: dict[str, int] = {}
    for i, layer in enumerate(net.layers):
        for bottom in layer.bottoms:
            last_reader[bottom] = i
            readers[bottom, version.get(bottom, 0)] += 1
        for top in layer.tops:
            version[top] = version.get(top, 0) + 1
            last_reader[top] = i  # unless somebody reads it later
    version.clear()
    fresh: set[str] = set()  # blobs whose present value is memory that nothing else looks at
    steps = []
    for i, (layer, module) in enumerate(zip(net.layers, modules, strict=True)):
        in_place = len(layer.tops) == 1 and layer.is_in_place(0)
        overwrites = (
            in_place
            and module.can_run_inplace
            and layer.bottoms[0] in fresh
            and readers[layer.bottoms[0], version[layer.bottoms[0]]] == 1
        )
        for top in layer.tops:
            version[top] = version.get(top, 0) + 1
            if layer.type in _FRESH_OUTPUT or overwrites:
                fresh.add(top)
            else:
                fresh.discard(top)
        mentioned = dict.fromkeys([*layer.bottoms, *layer.tops])
        steps.append(
            _Step(
                layer,
                module,
                tuple(layer.bottoms),
                tuple(layer.tops),
                overwrites,
                tuple(b for b in mentioned if last_reader[b] == i and b not in net.outputs),
            )
        )
    return steps


def _loss_weights(layer: Layer) -> list[float]:
    """layer.hpp, SetLossWeights, and loss_layer.cpp: a loss's first top counts 1 unless told."""
    given = list(layer.spec.loss_weight)
    if given:
        if len(given) != len(layer.tops):
            raise CaffeImportError(
                "has another number of loss weights than tops",
                layer=layer.name,
                expected=len(layer.tops),
                got=len(given),
            )
        return given
    weights = [0.0] * len(layer.tops)
    if weights and layer.type.endswith("Loss"):
        weights[0] = 1.0
    return weights
