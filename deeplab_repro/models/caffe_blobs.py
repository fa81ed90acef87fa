"""Weights to and from Caffe: a network's tensors as the blobs of the layers of its prototxt.

A caffemodel is a list of layers with their blobs.  Which tensor a blob is follows from the steps of
the network (`deeplab_repro.models.steps`) and the names of its modules::

    Convolution   weights (K, C / groups, R, S), and biases (K,) where it has any
    BatchNorm     sums of means (C,) and of variances (C,), and the weight (1,) that went into both:
                  the statistics are blob / weight, and 0 where the weight is 0
    Scale         scale (C,), shift (C,)

A network that looks at three sizes of its input has three copies of every layer in the file, which
share their parameters by name.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, TypeAlias, cast

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.models.architectures import Expansion
from deeplab_repro.models.steps import Conv, Norm
from prototxt_import import CaffeImportError
from prototxt_import.matching import WeightMatch, match_blobs

if TYPE_CHECKING:
    from deeplab_repro.models.deeplab import DeepLab

__all__ = [
    "Statistics",
    "layer_tensors",
    "load_blobs",
    "owners",
    "read_blobs",
    "wanted",
    "with_copies",
]

Array: TypeAlias = "np.ndarray[Any, Any]"


def read_blobs(model: DeepLab) -> dict[str, list[Array]]:
    """Layer -> blobs, float32, in the order of the prototxt; copies of a layer are one array.

    Raises:
        CaffeImportError: a part was replaced by one that does not have the layers any more.
    """
    own = {name: [_array(blob) for blob in blobs] for name, blobs in layer_tensors(model).items()}
    return with_copies(model.expansion(), own)


def with_copies(expansion: Expansion, own: Mapping[str, Sequence[Array]]) -> dict[str, list[Array]]:
    """Layer -> blobs in the order of the prototxt; a copy of a layer has the same arrays.

    Args:
        expansion: the network.
        own: layer -> blobs, without the copies for other scales.
    """
    return {layer: list(own[owner]) for layer, owner in owners(expansion).items() if owner in own}


def wanted(
    expansion: Expansion,
) -> tuple[dict[str, list[tuple[int, ...]]], dict[tuple[str, int], tuple[str, int]]]:
    """What a network wants of a weights file, for :func:`prototxt_import.matching.match_blobs`.

    Returns:
        layer -> shapes of its blobs, and the blobs that share the memory of another layer's.
    """
    shapes: dict[str, list[tuple[int, ...]]] = {}
    for step in expansion.steps:
        match step:
            case Conv():
                kernel = step.in_channels // step.groups, step.kernel, step.kernel
                shapes[step.name] = [(step.out_channels, *kernel)]
                shapes[step.name] += [(step.out_channels,)] * step.bias
            case Norm():
                channels = (step.channels,)
                shapes[step.name] = [channels, channels, (1,)]
                shapes[step.scale] = [channels, channels]
    shared = {
        (layer, i): (owner, i)
        for layer, owner in owners(expansion).items()
        if layer != owner
        for i in range(len(shapes[owner]))
    }
    return shapes, shared


def owners(expansion: Expansion) -> dict[str, str]:
    """Layer with blobs -> the layer whose parameters it shares, in the order of the prototxt."""
    pairs = {}
    for step in expansion.steps:
        if isinstance(step, Conv | Norm):
            pairs[step.name] = step.owner
        if isinstance(step, Norm):
            pairs[step.scale] = step.scale_owner
    return pairs


def load_blobs(
    model: DeepLab, weights: Mapping[str, Sequence[Array]], *, strict: bool = True
) -> WeightMatch:
    """Copy blobs into a network by the names of their layers (net.cpp, CopyTrainedLayersFrom).

    Of several copies of one parameter the last one in the file stays; if they differ, a warning
    says so.  Blobs of old files with four axes, such as biases of 1x1x1xN, fit as in Caffe.

    Args:
        model: the network.
        weights: layer -> blobs, as :func:`prototxt_import.read_weights` returns them.
        strict: everything must find its place.  False leaves layers as they are that are missing or
            do not fit, ignores what has no place, and takes blobs of another shape with the right
            number of values (VGG-16's fully connected layers as convolutions).

    Returns:
        what went where.

    Raises:
        CaffeImportError: something does not find its place; nothing has been copied then.
    """
    tensors = layer_tensors(model, strict=strict)
    expansion = model.expansion()
    owner_of = {layer: owner for layer, owner in owners(expansion).items() if owner in tensors}
    shapes, shared = wanted(expansion)
    match = match_blobs(
        {layer: shapes[layer] for layer in owner_of},
        weights,
        shared=shared,
        by_count=() if strict else tensors.keys(),
        strict=strict,
    )
    # A file lists layers that have no blobs, too.
    unused = [name for name in match.unused if weights[name]]
    if strict and (match.missing or unused):
        raise CaffeImportError(
            "the weights are not those of this network",
            expected=_listed(match.missing, "weights of") or "no more layers",
            got=_listed(unused, "layers that it does not have:") or "none of them",
        )
    with torch.no_grad():
        for name in match.copied:
            values = [torch.from_numpy(np.ascontiguousarray(blob)) for blob in weights[name]]
            _fill(tensors[owner_of[name]], values)
    for conflict in match.conflicts:
        warnings.warn(conflict, stacklevel=3)
    return match


class Statistics(list[Tensor]):
    """Mean, variance and a weight of 1: the blobs of BatchNorm, of which the last is no tensor."""


def _fill(tensors: list[Tensor], values: list[Tensor]) -> None:
    if isinstance(tensors, Statistics):
        *sums, weight = (value.double() for value in values)
        factor = torch.where(weight == 0, 0, 1 / weight)
        values = [total.reshape(-1) * factor.reshape(()) for total in sums]
        tensors = tensors[:2]
    for tensor, value in zip(tensors, values, strict=True):
        tensor.copy_(value.reshape(tensor.shape))


def _array(tensor: Tensor) -> Array:
    """A copy: what a file gets must not change with the network."""
    return cast(Array, tensor.detach().to("cpu", torch.float32, copy=True).contiguous().numpy())


def layer_tensors(model: DeepLab, *, strict: bool = True) -> dict[str, list[Tensor]]:
    """Layer -> its tensors in the order of its blobs; copies for other scales left out.

    Args:
        model: the network.
        strict: False leaves out layers that the network does not have any more.

    Raises:
        CaffeImportError: a part was replaced by one that does not have the layers any more.
    """
    modules = {key.rpartition(".")[2]: module for key, module in model.named_modules()}
    found: dict[str, list[Tensor]] = {}
    for step in model.expansion().steps:
        if step.name != step.owner or not isinstance(step, Conv | Norm):
            continue
        module = modules.get(step.name)
        names = ["weight"]
        if isinstance(step, Norm):
            names += ["bias", "running_mean", "running_var"]
        elif step.bias:
            names += ["bias"]
        tensors = [tensor for name in names if (tensor := getattr(module, name, None)) is not None]
        if len(tensors) < len(names):
            if not strict:
                continue
            raise CaffeImportError(
                "the network has no such layer any more",
                layer=step.name,
                expected=f"a module of this name with {', '.join(names)}",
                got="none" if module is None else type(module).__name__,
            )
        if isinstance(step, Norm):
            found[step.name] = Statistics((*tensors[2:], torch.ones(1)))
            found[step.scale] = tensors[:2]
        else:
            found[step.name] = tensors
    return found


def _listed(names: Sequence[str], what: str) -> str:
    """The first few names, for a message."""
    if not names:
        return ""
    return f"{what} {', '.join(names[:5])}" + (f" and {len(names) - 5} more" if names[5:] else "")
