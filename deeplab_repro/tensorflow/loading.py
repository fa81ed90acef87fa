"""A network from options and variables."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

import numpy as np

from deeplab_repro.models.v3.network import DeepLabV3, meta_network
from deeplab_repro.models.v3.options import ModelOptions
from deeplab_repro.models.v3.parts import BatchNorm
from deeplab_repro.models.v3.variables import load_variables
from tensorflow_import import read_variables

__all__ = ["load"]

Array = np.ndarray[Any, Any]


def load(
    options: ModelOptions | Mapping[str, Any],
    variables: Mapping[str, Array] | str | os.PathLike[str],
    *,
    quirks: bool = True,
    strict: bool = True,
) -> DeepLabV3:
    """A network of the original program, in evaluation mode.

    Args:
        options: the original's, see
            :meth:`~deeplab_repro.models.v3.options.ModelOptions.from_case`.
        variables: {name: array} in TensorFlow's layout, the prefix of a checkpoint, or a frozen
            graph (.pb).
        quirks: see :meth:`~deeplab_repro.models.v3.network.DeepLabV3.predict`.
        strict: every variable of the network must be there in its shape; False: the others keep
            their new values, as for training with other classes.

    Returns:
        The network; its `load_report` says what was loaded and what was left over.

    Raises:
        BadInput: options that cannot be, or of a network that is too large; a file that cannot be
            read; with `strict` variables that do not fit.
    """
    if not isinstance(options, ModelOptions):
        options = ModelOptions.from_case(options)
    file = None if isinstance(variables, Mapping) else variables
    given = variables if isinstance(variables, Mapping) else read_variables(variables)
    net = meta_network(options, file)  # which is refused before memory is taken
    net = _unfilled(net) if strict else DeepLabV3(options)
    net.quirks = quirks
    net.load_report = load_variables(net, given, strict=strict, file=file)
    return net.eval()


def _unfilled(net: DeepLabV3) -> DeepLabV3:
    """A network whose parameters are all about to be filled: to draw new ones takes seconds."""
    net.to_empty(device="cpu")
    for module in net.modules():
        if isinstance(module, BatchNorm):
            module.reset_parameters()  # its counter of batches is no variable of TensorFlow's
    return net
