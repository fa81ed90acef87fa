"""The plain models of ``deeplab_repro.models`` in training, seen as Caffe sees a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_repro.caffe.net import LearnableParam
from deeplab_repro.errors import InputError
from deeplab_repro.models import caffe_blobs
from deeplab_repro.models.deeplab import Backbone, DeepLab
from deeplab_repro.models.learning import parameter_groups
from deeplab_repro.models.losses import Total, whole
from prototxt_import import CaffeImportError, parse_net
from prototxt_import.dialect import RawNet
from prototxt_import.matching import WeightMatch, match_blobs

__all__ = ["ModelNet"]


class ModelNet(nn.Module):
    """A plain model with Caffe's layers, losses and multipliers, as a solver wants them.

    Its layers have the names, the blobs and the order of the released train net.  What takes the
    place of a part of the model is one layer for each of its modules, under the module's path.

    Args:
        model: is put into train mode.

    Attributes:
        model: the model.
        name: its name.
        total: sums a number over the processes that share a batch.
    """

    total: Total

    def __init__(self, model: DeepLab) -> None:
        super().__init__()
        self.model = model.train()
        self.name = model.name or type(model).__name__
        self.total = whole
        self._factors: dict[str, Tensor] = {}

    def forward(self, *, data: Tensor, label: Tensor, **others: Tensor) -> dict[str, Tensor]:
        """Every loss by its name in the released files.

        Args:
            data: (N, 3, H, W), as for :meth:`DeepLab.forward`.
            label: (N, H, W) or (N, 1, H, W), see :meth:`DeepLab.losses`.
            others: further tops of a data layer, such as sizes, which are not read.
        """
        return self.model.losses(self.model(data), label, total=self.total)

    def loss(self, outputs: Mapping[str, Tensor]) -> Tensor:
        """The objective: the sum of all losses."""
        first, *rest = outputs.values()
        return sum(rest, start=first)

    @property
    def checkpointing(self) -> bool:
        """Whether the backward pass computes maps again, see :class:`Backbone`."""
        return getattr(self.model.backbone, "checkpointing", False)

    @checkpointing.setter
    def checkpointing(self, value: bool) -> None:
        if isinstance(self.model.backbone, Backbone):
            self.model.backbone.checkpointing = value
        elif value:
            raise InputError(
                "checkpointing", expected="the backbone that the model was made with",
                got=type(self.model.backbone).__name__,
            )  # fmt: skip

    @property
    def loss_weights(self) -> dict[str, float]:
        """Loss -> its weight in the objective, 1."""
        return {rule.name: 1.0 for rule in self.model.rules}

    @property
    def params(self) -> dict[str, list[Tensor]]:
        """Layer -> its parameters and statistics; copies for other scales have the same ones."""
        own = self._own()
        layers = caffe_blobs.owners(self.model.expansion(training=True))
        copies = {layer: own[owner] for layer, owner in layers.items() if owner in own}
        return {**copies, **own}

    @property
    def learnable_params(self) -> list[LearnableParam]:
        """Every parameter once, in the order of Caffe's ``learnable_params`` (net.cpp).

        The multipliers are those of :func:`deeplab_repro.models.parameter_groups`.  What does not
        learn has the multipliers 0.
        """
        multipliers = {
            id(parameter): (group["lr_mult"], group["decay_mult"])
            for group in parameter_groups(self.model, lr=1.0)
            for parameter in group["params"]
        }
        return [
            LearnableParam(layer, i, value, *multipliers.get(id(value), (0.0, 0.0)))
            for layer, values in self._own().items()
            for i, value in enumerate(values)
        ]

    @property
    def raw(self) -> RawNet | None:
        """The deploy net, for the weights to be written with; None where no prototxt describes it.

        That is so for a model of a table of one's own, and where a part was replaced.
        """
        described = set(caffe_blobs.owners(self.model.expansion()).values())
        if self.model.name is None or self._own().keys() != described:
            return None
        return parse_net(self.model.prototxt()).raw

    def load_weights(self, weights: Mapping[str, Sequence[np.ndarray[Any, Any]]]) -> WeightMatch:
        """Copy weights by layer name, as :meth:`CaffeNet.load_weights` does.

        Args:
            weights: layer -> blobs.

        Raises:
            CaffeImportError: the blobs of a layer do not fit it.
        """
        replacing = self._replacing()
        match = caffe_blobs.load_blobs(
            self.model, {n: w for n, w in weights.items() if n not in replacing}, strict=False
        )
        if match.unfit:
            raise CaffeImportError(match.unfit[0])
        shapes = {name: [tuple(value.shape) for value in own] for name, own in replacing.items()}
        found = {name: weights[name] for name in replacing if name in weights}
        other = match_blobs(shapes, found, shared={})
        with torch.no_grad():
            for name in other.copied:
                for value, blob in zip(replacing[name], weights[name], strict=True):
                    value.copy_(torch.from_numpy(blob))
        match.copied += other.copied
        match.missing += other.missing
        return match

    def weights(self) -> dict[str, list[np.ndarray[Any, Any]]]:
        """Layer -> blobs, float32 copies, of all layers."""
        return {
            layer: [blob.detach().float().cpu().numpy().copy() for blob in blobs]
            for layer, blobs in self.params.items()
        }

    def _own(self) -> dict[str, list[Tensor]]:
        """Layer -> its tensors, each once, in Caffe's order; then what takes the place of parts."""
        return {**self._caffe_layers(), **self._replacing()}

    def _caffe_layers(self) -> dict[str, list[Tensor]]:
        layers = caffe_blobs.layer_tensors(self.model, strict=False)
        for name, blobs in layers.items():
            if isinstance(blobs, caffe_blobs.Statistics):  # whose last one is made for each call
                blobs[-1] = self._factors.setdefault(name, blobs[-1])
        return layers

    def _replacing(self) -> dict[str, list[Tensor]]:
        known = {id(blob) for blobs in self._caffe_layers().values() for blob in blobs}
        found: dict[str, list[Tensor]] = {}
        for path, module in self.model.named_modules():
            own = (*module.parameters(recurse=False), *module.buffers(recurse=False))
            blobs = [b for b in own if id(b) not in known and b.is_floating_point()]
            if blobs:
                known.update(map(id, blobs))
                found[path] = blobs
        return found
