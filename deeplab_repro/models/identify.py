"""Which network of the catalogue a file of weights belongs to."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn, TypeAlias

import numpy as np

from deeplab_repro.errors import InputError
from deeplab_repro.models.architectures import Architecture, Expansion, expand, output_strides
from deeplab_repro.models.blocks import ConvUnit, Head
from deeplab_repro.models.caffe_blobs import wanted
from deeplab_repro.models.catalogue import NETWORKS, Network, find
from deeplab_repro.models.steps import Conv, Pool
from prototxt_import import CaffeImportError, Model
from prototxt_import import layers as kinds
from prototxt_import.matching import match_blobs

__all__ = ["Identity", "identify"]

Weights: TypeAlias = "Mapping[str, Sequence[np.ndarray[Any, Any]]]"


@dataclass(frozen=True)
class Identity:
    """A network of the catalogue, with the numbers that the weights have.

    Attributes:
        name: full name in `deeplab_repro.models.NETWORKS`.
        num_classes: channels of its scores.
        width: divides the published channel counts.
        exp: what the released files call ${EXP} in the names of layers.
        output_stride: that of the network in the file; None where the file holds no network, or
            one whose windows are those of no output stride.
    """

    name: str
    num_classes: int
    width: int
    exp: str
    output_stride: int | None = None

    def options(self) -> dict[str, Any]:
        """For `expand`, and for `create_model` behind the name."""
        return {
            "num_classes": self.num_classes,
            "width": self.width,
            "exp": self.exp,
            "output_stride": self.output_stride,
        }


def identify(source: Model, name: str | None = None) -> Identity:
    """The network that weights belong to.

    Names and shapes of the layers decide, then the network that the file embeds: the kernels,
    strides, rates and paddings of its layers, from which the output stride follows, too.

    Args:
        source: the weights, with or without a network.
        name: the network, where it is known; the numbers alone are then looked up.

    Raises:
        InputError: the weights fit none of the networks, or more than one.
        ValueError: there is no network of this name.
    """
    weights = {layer: blobs for layer, blobs in source.weights.items() if blobs}
    if name is not None:
        network = find(name)
        identity = _numbers(network, weights)
        if identity is not None:
            return _with_stride(source, identity)
        if (width := _width(network, weights)) is not None:
            # Initial weights often lack the classifier.  The network with them is the one that they
            # were trained in, for classification, whose strides are not DeepLab's.
            identity = Identity(network.full_name, 21, width, "voc12")
        return identity or _refuse(source, f"weights of {name}")
    candidates: dict[int, Identity] = {}  # networks that differ in their training data are one
    for network in NETWORKS.values():
        identity = _numbers(network, weights)
        key = id(network.architecture)
        if identity is not None and key not in candidates and _fits(network, identity, weights):
            candidates[key] = identity
    found = list(candidates.values())
    if not found:
        _refuse(source, "weights of one of the DeepLab networks")
    names = ", ".join(identity.name for identity in found)
    if len(found) > 1 and source.raw is not None:
        found = [one for one in found if _with_stride(source, one).output_stride is not None]
    if len(found) == 1:
        return _with_stride(source, found[0])
    raise InputError(
        "the weights fit several networks, and no network in the file says which",
        file=source.weights_file,
        expected="the name of one of them",
        got=names,
    )


def _refuse(source: Model, expected: str) -> NoReturn:
    layers = [layer for layer, blobs in source.weights.items() if blobs]
    raise InputError(
        "holds other layers",
        file=source.weights_file,
        expected=expected,
        got=f"{len(layers)} layers with weights"
        + (f", {layers[0]} to {layers[-1]}" if layers else ""),
    )


def _numbers(network: Network, weights: Weights) -> Identity | None:
    """What the shapes of the first layer and of a classifier say, if the network has these."""
    template, width = _classifier(network.architecture), _width(network, weights)
    pattern = re.escape(template).replace(r"\{exp\}", "(.+?)").replace(r"\{copy\}", "")
    found = [match for layer in weights if (match := re.fullmatch(pattern, layer))]
    if not found or width is None:
        return None
    exp = found[0][1] if found[0].groups() else "voc12"
    classes = weights[found[0][0]][0].shape[0]
    return Identity(network.full_name, int(classes), width, exp)


def _width(network: Network, weights: Weights) -> int | None:
    """What the published channel counts were divided by, if the first layer is the network's."""
    first = network.architecture.backbone[0][0]
    assert isinstance(first, ConvUnit)
    blobs = weights.get(first.name)
    if not blobs or blobs[0].ndim != 4 or first.channels is None:
        return None
    width, rest = divmod(first.channels, max(1, blobs[0].shape[0]))
    return width if width and not rest else None


def _classifier(architecture: Architecture) -> str:
    """Name of the head's first classifier, as the table has it."""
    head = architecture.head
    assert isinstance(head, Head)
    unit = head.branches[0][-1]
    assert isinstance(unit, ConvUnit)
    return unit.name


def _fits(network: Network, identity: Identity, weights: Weights) -> bool:
    """Whether the layers are just the network's, the copies for other scales included."""
    shapes, shared = wanted(expand(network.architecture, **identity.options()))
    if shapes.keys() != weights.keys():
        return False
    try:
        match_blobs(shapes, weights, shared=shared)
    except CaffeImportError:
        return False
    return True


def _with_stride(source: Model, identity: Identity) -> Identity:
    """With the output stride at which the windows of the network in the file come out, if any.

    The network in a file may be the train net or the test net.
    """
    if source.raw is None:
        return identity
    theirs = _windows_of(source)
    architecture = find(identity.name).architecture
    published = architecture.output_stride
    # As published first, since nearly all files are so.
    for stride in sorted(output_strides(architecture), key=lambda stride: stride != published):
        candidate = replace(identity, output_stride=stride)
        for training in (False, True):
            ours = _windows(expand(architecture, training=training, **candidate.options()))
            if all(theirs.get(layer, window) == window for layer, window in ours.items()):
                return candidate
    return identity


def _windows(expansion: Expansion) -> dict[str, tuple[int, ...]]:
    """Layer -> kernel, stride, rate and padding."""
    return {
        step.name: (step.kernel, step.stride, step.rate if isinstance(step, Conv) else 1, step.pad)
        for step in expansion.steps
        if isinstance(step, Conv | Pool)
    }


def _windows_of(source: Model) -> dict[str, tuple[int, ...]]:
    windows: dict[str, tuple[int, ...]] = {}
    for layer in source.net("TEST").layers:
        if isinstance(layer, kinds.Convolution):
            window = layer.window_over(2)
            windows[layer.name] = (
                window.kernel[0],
                window.stride[0],
                window.dilation[0],
                window.pad[0],
            )
        elif isinstance(layer, kinds.Pooling) and layer.pool.kernel is not None:
            pool = layer.pool
            windows[layer.name] = layer.pool.kernel[0], pool.stride[0], 1, pool.pad[0]
    return windows
