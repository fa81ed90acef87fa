"""TensorFlow's variables: names, layout, and what loading them brought.

TensorFlow keeps filters as (height, width, in, out) and depthwise ones as (height, width, channels,
1); ours are (out, in, height, width) and (channels, 1, height, width).  All else is alike.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.parts import ConvUnit

__all__ = [
    "VariableMatch",
    "copy_variables",
    "from_tensorflow",
    "load_variables",
    "match_variables",
    "shape_in_tensorflow",
    "to_tensorflow",
    "variables_of",
]

Array = np.ndarray[Any, Any]

#: What the original's saver adds to a variable's name for the average of its values.
_AVERAGE = "/ExponentialMovingAverage"


@dataclass
class VariableMatch:
    """What loading variables into a network brought.

    Attributes:
        loaded: names that the network has and that were given.
        averages: those among them for which only their moving average was given, and taken.
        slots: names of what an optimizer remembered, where a training took it as well.
        missing: names that the network has and that were not given.
        unfit: one line for each that has another shape.
        left_over: names that were given and that the network does not have: an optimizer's slots,
            the step, a classifier of other classes.
    """

    loaded: list[str] = field(default_factory=list)
    averages: list[str] = field(default_factory=list)
    slots: list[str] = field(default_factory=list)
    missing: list[str] = field(default_factory=list)
    unfit: list[str] = field(default_factory=list)
    left_over: list[str] = field(default_factory=list)

    def __str__(self) -> str:
        """One line: how many, and the first few names of those that stand out."""
        parts = [f"{len(self.loaded)} variables loaded"]
        for what in ("averages", "slots", "missing", "unfit", "left_over"):
            names: list[str] = getattr(self, what)
            if names:
                first = ", ".join(names[:3]) + (", ..." if names[3:] else "")
                parts.append(f"{len(names)} {what.replace('_', ' ')} ({first})")
        return ", ".join(parts)


def variables_of(net: nn.Module) -> dict[str, nn.Parameter | Tensor]:
    """TensorFlow's names -> the parameters and buffers of all units, in our layout."""
    found: dict[str, nn.Parameter | Tensor] = {}
    for module in net.modules():
        if isinstance(module, ConvUnit):
            found.update(module.variables())
    return found


def shape_in_tensorflow(name: str, shape: Sequence[int]) -> tuple[int, ...]:
    """Sizes of a variable's axes in TensorFlow's layout, from those in ours."""
    if len(shape) != 4:
        return tuple(shape)
    out, read, height, width = shape
    if name.endswith("/depthwise_weights"):
        return height, width, out, read
    return height, width, read, out


def to_tensorflow(name: str, tensor: Tensor) -> Array:
    """A variable, or its gradient, in TensorFlow's layout."""
    array: Array = tensor.detach().cpu().numpy()
    if name.endswith("/depthwise_weights"):
        return np.ascontiguousarray(array.transpose(2, 3, 0, 1))
    if name.endswith("/weights"):
        return np.ascontiguousarray(array.transpose(2, 3, 1, 0))
    return array


def from_tensorflow(name: str, array: Array) -> Array:
    """A variable in our layout; arrays of another number of axes stay as they are."""
    if array.ndim == 4 and name.endswith("/depthwise_weights"):
        return array.transpose(2, 3, 0, 1)
    if array.ndim == 4 and name.endswith("/weights"):
        return array.transpose(3, 2, 0, 1)
    return array


def load_variables(
    net: nn.Module, given: Mapping[str, Any], *, strict: bool = True, file: object = None
) -> VariableMatch:
    """Copy variables into a network by name: :func:`match_variables`, :func:`copy_variables`.

    Args:
        net, given, strict, file: as of :func:`match_variables`.

    Raises:
        InputError: with `strict`, some are missing or do not fit; nothing is copied then.
    """
    match, arrays = match_variables(net, given, strict=strict, file=file)
    copy_variables(net, arrays)
    return match


def match_variables(
    net: nn.Module, given: Mapping[str, Any], *, strict: bool = True, file: object = None
) -> tuple[VariableMatch, dict[str, Array]]:
    """Which variables a network takes; nothing is copied yet.

    Args:
        net: its units take them.
        given: name -> array in TensorFlow's layout.
        strict: every variable of the network must be given, in its shape; False: those that are
            not keep their values.
        file: where they come from, for messages.

    Returns:
        what there is and what is not, and name -> values in our layout of what fits.

    Raises:
        InputError: with `strict`, some are missing or do not fit.
    """
    match = VariableMatch()
    own = variables_of(net)
    arrays: dict[str, Array] = {}
    used = set()
    for name, tensor in own.items():
        source = name if name in given else name + _AVERAGE
        if source not in given:
            match.missing.append(name)
            continue
        used.add(source)
        array = from_tensorflow(name, np.asarray(given[source]))
        if array.shape != tuple(tensor.shape):
            shape = np.asarray(given[source]).shape
            expected = shape_in_tensorflow(name, tensor.shape)
            match.unfit.append(f"variable {name}: expected the shape {expected}, got {shape}")
            continue
        if array.dtype.kind != "f":
            match.unfit.append(f"variable {name}: expected floating point, got {array.dtype}")
            continue
        arrays[name] = array
        match.loaded.append(name)
        if source != name:
            match.averages.append(name)
    match.left_over = [name for name in given if name not in used]
    if strict and match.unfit:
        more = f" (and {len(match.unfit) - 1} more)" if match.unfit[1:] else ""
        raise InputError(match.unfit[0] + more, file=file)
    if strict and match.missing:
        missing = ", ".join(match.missing[:3]) + (", ..." if match.missing[3:] else "")
        raise InputError(
            f"{len(match.missing)} of the network's {len(own)} variables are missing: {missing}",
            file=file,
        )
    return match, arrays


@torch.no_grad()
def copy_variables(net: nn.Module, arrays: Mapping[str, Array]) -> None:
    """Copy what :func:`match_variables` found into the network."""
    own = variables_of(net)
    for name, array in arrays.items():
        own[name].copy_(torch.from_numpy(np.array(array, copy=True)))
