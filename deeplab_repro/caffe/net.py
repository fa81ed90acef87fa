"""A Caffe network as a PyTorch module that computes what Caffe computes."""

from __future__ import annotations

import os
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.caffe.graph import Blobs, GraphModule, LayerModules, Node
from deeplab_repro.caffe.layers import CaffeLayer, build
from deeplab_repro.caffe.quirks import Quirks
from prototxt_import import (
    CaffeImportError,
    Dialect,
    Layer,
    Model,
    Net,
    Phase,
    infer_net,
    read_model,
)
from prototxt_import.inference import check_parameter_bytes
from prototxt_import.matching import WeightMatch, match_weights, same_shape, shared_parameters
from prototxt_import.words import show

if TYPE_CHECKING:
    from deeplab_repro.caffe.fuse import FusedNet

__all__ = ["CaffeNet", "LearnableParam", "load_caffe"]


@dataclass(frozen=True)
class LearnableParam:
    """A parameter as Caffe's solvers see it.

    Attributes:
        layer: the layer that owns it: of those that share it, the first.
        number: of the blob within that layer.
        value: the parameter; a buffer where it holds statistics of BatchNorm.
        lr_mult: times the solver's rate.
        decay_mult: times the solver's weight decay.
    """

    layer: str
    number: int
    value: Tensor
    lr_mult: float
    decay_mult: float


class CaffeNet(GraphModule):
    """The graph of a :class:`prototxt_import.Net` as an ``nn.Module``.

    Blobs are called by their Caffe names.  Shapes other than the declared ones are fine: all sizes
    follow from the inputs, as in Caffe's ``Net::Reshape``.

    The top of a loss is the loss before its weight; see :meth:`loss`.

    Args:
        net: the typed graph.
        weights: what to load, see :meth:`load_weights`; None leaves the fillers' values.
        quirks: compute faults of the original programs, see :mod:`deeplab_repro.caffe.quirks`.

    Attributes:
        net, inputs, outputs: see :class:`~deeplab_repro.caffe.graph.GraphModule`.
        load_report: what :meth:`load_weights` did last; None before.
    """

    def __init__(
        self,
        net: Net,
        weights: Mapping[str, Sequence[np.ndarray[Any, Any]]] | None = None,
        *,
        quirks: bool = True,
    ) -> None:
        super().__init__(net, Quirks(net.raw.report, quirks))
        self.load_report: WeightMatch | None = None
        self.layers = LayerModules()
        self._shapes = infer_net(net)
        check_parameter_bytes(self._shapes, net.file)
        self._modules_by_name: dict[str, CaffeLayer] = {}
        nodes = []
        try:
            self._shared = shared_parameters(self._shapes)
            frozen, cut = self._without_gradients()
            for item in self._shapes.layers:
                name = item.layer.name
                blobs = [(name, i) for i in range(len(item.shapes.params))]
                module = build(item, self.quirks)
                module.freeze(i for i in range(len(blobs)) if (name, i) in frozen)
                module.cut_blobs = frozenset(i for i in range(len(blobs)) if (name, i) in cut)
                # Random values that something else is about to replace are not worth their time.
                if name not in (weights or {}) and not self._shared.keys() >= {*blobs}:
                    module.initialise()
                nodes.append(_node(net, item.layer, module))
                self._blob_shapes.append(module.blob_shapes)
                self.layers.append(name, module)
                self._modules_by_name.setdefault(name, module)
        except CaffeImportError as error:
            raise (error.with_file(net.file) if net.file else error) from None
        self._tie_shared_parameters()
        self._plan(nodes)
        self.train(net.phase == "TRAIN")
        if weights:
            self.load_weights(weights)

    # ---------------------------------------------------------------- running

    def fuse(self, *, accuracy: str | None = None) -> FusedNet:
        """A network for inference that computes the same with fewer passes over the blobs.

        BatchNorm with fixed statistics, Scale and Bias are folded into the convolution or matrix
        before them; a sum with a shortcut and a ReLU are computed where the convolution writes its
        values; Dropout is left out.  See :class:`~deeplab_repro.caffe.fuse.FusedNet` for what is
        left.
        The values differ from this network's by rounding (about 1e-6 of a blob's norm), so hold
        this one, not the fused one, against Caffe.

        Args:
            accuracy: of its convolutions, ``"exact"`` or ``"fast"``; None: as here.

        Returns:
            a new module with weights of its own; this one stays as it is.

        Raises:
            CaffeImportError: this network is in train mode.
            ValueError: another accuracy.
        """
        from deeplab_repro.caffe.fuse import FusedNet

        fused = FusedNet(self)
        if accuracy is not None:
            fused.set_accuracy(accuracy)
        return fused

    def loss(self, blobs: Mapping[str, Tensor]) -> Tensor:
        """The objective: the sum of ``loss_weight`` times top over all losses.

        Args:
            blobs: what :meth:`forward` or :meth:`blobs` returned.

        Raises:
            CaffeImportError: the network has no loss, or its top is not in ``blobs``.
        """
        total: Tensor | None = None
        automatic = blobs.automatic if isinstance(blobs, Blobs) else {}
        for layer in self.net.layers:
            for top, weight in zip(layer.tops, layer.loss_weights, strict=True):
                if not weight:
                    continue
                value = automatic.get(layer) if layer.has_automatic_top else blobs.get(top)
                if value is None:
                    raise CaffeImportError(
                        f"its top '{top}' is not among the blobs",
                        layer=layer.name,
                        expected="what the network returned" if layer.has_automatic_top else None,
                    )
                term = value.sum() * weight
                total = term if total is None else total + term
        if total is None:
            raise CaffeImportError("the network has no loss", file=self.net.file)
        return total

    # ---------------------------------------------------------------- parameters

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Layer -> its parameters and buffers, in Caffe's blob order and shapes.

        Where layers share a parameter by name, it is one tensor, listed under each; where their
        shapes differ (PERMISSIVE), each lists a view in its own shape, and gradients land on the
        tensor of the first.  Blobs with ``lr_mult: 0`` ask for no gradient, as in Caffe, unless
        the net has ``force_backward``; ``requires_grad_()`` thaws them.
        """
        blobs = ((name, module.blobs) for name, module in self._modules_by_name.items())
        return {name: own for name, own in blobs if own}

    @property
    def name(self) -> str:
        """As the prototxt names it."""
        return self.net.name

    @property
    def loss_weights(self) -> dict[str, float]:
        """Top -> its weight in the objective, of every top that has one."""
        return {
            top: weight
            for layer in self.net.layers
            for top, weight in zip(layer.tops, layer.loss_weights, strict=True)
            if weight
        }

    @property
    def learnable_params(self) -> list[LearnableParam]:
        """Every parameter once, in the order of Caffe's ``learnable_params`` (net.cpp).

        The statistics of BatchNorm are among them, as in Caffe, with the multiplier 0 that
        batch_norm_layer.cpp of BVLC Caffe gives them and that the released files state.

        Raises:
            CaffeImportError: layers that share a parameter state different multipliers for it.
        """
        sharers: dict[tuple[str, int], list[tuple[float, float]]] = {}
        statistics = set()
        for item in self._shapes.layers:
            for i, blob in enumerate(item.layer.blobs):
                key = item.layer.name, i
                owner = self._shared.get(key, key)
                sharers.setdefault(owner, []).append((blob.lr_mult, blob.decay_mult))
                if self._modules_by_name[item.layer.name].blobs_are_buffers:
                    statistics.add(owner)
        params = []
        for (layer, i), stated in sharers.items():
            lr_mult = self._agreed(layer, "lr_mult", [lr for lr, _ in stated])
            decay_mult = self._agreed(layer, "decay_mult", [decay for _, decay in stated])
            if (layer, i) in statistics:
                lr_mult = 0.0
            value = self._modules_by_name[layer].registered(i)
            params.append(LearnableParam(layer, i, value, lr_mult, decay_mult))
        return params

    def _agreed(self, layer: str, what: str, values: Sequence[float]) -> float:
        """The multiplier that layers sharing a parameter state; 1 may be what a layer left out."""
        stated = {value for value in values if value != 1}
        if len(stated) > 1:
            raise CaffeImportError(
                f"layers that share a parameter with it state another {what}",
                file=self.net.file,
                layer=layer,
                got=" and ".join(f"{value:g}" for value in sorted(stated)),
            )
        return stated.pop() if stated else 1.0

    def share_weights(self, other: CaffeNet) -> None:
        """Make the parameters of ``other`` this network's own (net.cpp, ShareTrainedLayersWith).

        From then on both compute with the same tensors.  Layers that ``other`` does not have keep
        theirs.

        Args:
            other: the network whose weights are to be used, such as the one in training.

        Raises:
            CaffeImportError: the blobs of a layer differ in number or shape.
        """
        for name, module in self._modules_by_name.items():
            source = other._modules_by_name.get(name)
            if source is None or not (module.blob_shapes or source.blob_shapes):
                continue
            theirs = [tuple(blob.shape) for blob in source.blobs]
            fits = len(theirs) == len(module.blob_shapes) and all(
                same_shape(*pair) for pair in zip(theirs, module.blob_shapes, strict=True)
            )
            if not fits:
                raise CaffeImportError(
                    "cannot share the weights of the network in training",
                    file=self.net.file,
                    layer=name,
                    expected=", ".join(map(show, module.blob_shapes)) or "no blobs",
                    got=", ".join(map(show, theirs)) or "no blobs",
                )
            for i in range(len(theirs)):
                module.share_blob(i, source.registered(i))

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> CaffeNet:
        """Whatever moves or converts all tensors: a shared buffer would become several."""
        super()._apply(fn, recurse)
        self._tie_shared_parameters()
        return self

    def _without_gradients(self) -> tuple[set[tuple[str, int]], set[tuple[str, int]]]:
        """Blobs for which Caffe computes no gradient (net.cpp, set_param_propagate_down).

        Returns:
            those that get none at all, and those that get one from another layer that shares them.
        """
        if self.net.force_backward:
            return set(), set()
        unasked = {
            (item.layer.name, i)
            for item in self._shapes.layers
            for i, blob in enumerate(item.layer.blobs)
            # The program of 2014 asks for more than 0, later ones for anything but 0.
            if (blob.lr_mult <= 0 if item.layer.is_legacy else blob.lr_mult == 0)
        }
        every = {
            (item.layer.name, i)
            for item in self._shapes.layers
            for i in range(len(item.shapes.params))
        }
        asked = {self._shared.get(key, key) for key in every - unasked}
        frozen = {key for key in unasked if self._shared.get(key, key) not in asked}
        return frozen, unasked - frozen

    def _tie_shared_parameters(self) -> None:
        """Make parameters of one name one tensor; those whose shape is unknown yet come later."""
        for (name, i), (owner, j) in self._shared.items():
            if self._modules_by_name[owner].has_blob(j):
                shared = self._modules_by_name[owner].registered(j)
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
            count = len(match.missing)
            which = "layer, which keeps its" if count == 1 else "layers, which keep their"
            warnings.warn(
                f"no weights for {count} {which} initial values: {names}",
                stacklevel=3,
            )
        self.load_report = match
        return match


def load_caffe(
    prototxt: str | os.PathLike[str] | Net | Model,
    weights: str | os.PathLike[str] | None = None,
    phase: Phase = "TEST",
    *,
    level: int = 0,
    stages: Iterable[str] = (),
    dialect: Dialect | None = None,
    placeholders: Mapping[str, str] | None = None,
    algorithm: str = "auto",
    accuracy: str = "exact",
    quirks: bool = True,
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
        algorithm: how convolutions are computed, see :meth:`GraphModule.set_algorithm`.
        accuracy: ``"exact"``, or ``"fast"`` for forms that round more, see
            :meth:`GraphModule.set_accuracy`.
        quirks: faults of the original programs are computed as they were, each with one warning;
            False computes what was meant.

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
        module = CaffeNet(net, model.weights if model else None, quirks=quirks)
    except CaffeImportError as error:  # those of the network name its file already
        file = model.weights_file if model else net.file
        raise (error.with_file(file) if file else error) from None
    module.set_algorithm(algorithm)
    module.set_accuracy(accuracy)
    return module


def _node(net: Net, layer: Layer, module: CaffeLayer) -> Node:
    in_place = module.can_run_inplace and len(layer.tops) == 1 and layer.is_in_place(0)
    return Node(
        layer,
        module,
        tuple(layer.bottoms),
        tuple(layer.tops),
        in_place,
        _detached(net, layer),
    )


def _detached(net: Net, layer: Layer) -> tuple[int, ...]:
    """Bottoms with ``propagate_down: false``, unless the net forces them (net.cpp, Init)."""
    if net.force_backward:
        return ()
    return tuple(i for i, want in enumerate(layer.propagate_down) if not want)
