"""Variables by name, whatever kind of file holds them."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from tensorflow_import import arrays
from tensorflow_import.arrays import VariableInfo
from tensorflow_import.bundle import read_bundle
from tensorflow_import.dtypes import Array, type_of
from tensorflow_import.errors import TensorFlowImportError
from tensorflow_import.graph import graph_nodes, read_constants
from tensorflow_import.paths import Kind, locate
from tensorflow_import.write import write_checkpoint

__all__ = ["kind_of_output", "list_variables", "other_dtypes", "read_variables", "write_variables"]


def read_variables(
    path: str | os.PathLike[str], names: Collection[str] | None = None, *, check: bool = True
) -> dict[str, Array]:
    """Name -> values, in TensorFlow's layout, bit for bit.

    bfloat16 comes as the float32 of the same value, strings as arrays of objects that are bytes,
    quantised types as the whole numbers that are stored.

    Args:
        path: a checkpoint: its prefix, one of its files, or a folder, of which the checkpoint is
            taken that its file ``checkpoint`` names as the latest; a frozen graph (``.pb``), of
            which those constants are variables that :attr:`Graph.variables` has; or a
            ``.safetensors`` or ``.npz`` that :func:`write_variables` wrote.
        names: the variables that are wanted; all if None.
        check: hold the values of a checkpoint against their checksums, which takes a second for
            400 MB.

    Raises:
        TensorFlowImportError: not there, damaged, beyond the limits, or without a variable of one
            of these names.

    Example:
        >>> variables = read_variables("deeplabv3_pascal_train_aug/model.ckpt")
        >>> variables["aspp0/weights"].shape
        (1, 1, 2048, 256)
    """
    kind, found = locate(path)
    if kind == "checkpoint":
        return read_bundle(found).read(names, check=check)
    if kind == "graph":
        return read_constants(found, names, variables_only=True)
    if kind == "safetensors":
        return arrays.read_safetensors(found, names)
    return arrays.read_npz(found, names)


def list_variables(path: str | os.PathLike[str]) -> dict[str, VariableInfo]:
    """Name -> (type, shape) of what :func:`read_variables` gives; the values stay in the file.

    Raises:
        TensorFlowImportError: not there, damaged, or beyond the limits.
    """
    kind, found = locate(path)
    if kind == "checkpoint":
        entries = read_bundle(found).variables.items()
        return {name: VariableInfo(entry.dtype.name, entry.shape) for name, entry in entries}
    if kind == "graph":
        tensors = graph_nodes(found).variables.items()
        return {name: VariableInfo(tensor.dtype.name, tensor.shape) for name, tensor in tensors}
    if kind == "safetensors":
        return arrays.list_safetensors(found)
    return arrays.list_npz(found)


def other_dtypes(
    variables: Mapping[str, Array], listed: Mapping[str, VariableInfo]
) -> dict[str, str]:
    """Name -> TensorFlow's type, of the variables whose arrays have another (bfloat16)."""
    return {
        name: listed[name].dtype
        for name, array in variables.items()
        if (own := type_of(array)) is None or own.name != listed[name].dtype
    }


def kind_of_output(path: str | os.PathLike[str]) -> Kind | None:
    """The kind of file that :func:`write_variables` writes under this name; None for no kind.

    A name's ending goes before ``.ckpt`` inside it: ``model.ckpt-2.pt`` is a file of torch's, which
    is none of them.
    """
    name = Path(path).name
    if name.endswith(".pt"):
        return None
    if name.endswith(".safetensors"):
        return "safetensors"
    if name.endswith(".npz"):
        return "npz"
    return "checkpoint" if name.endswith(".index") or ".ckpt" in name else None


def write_variables(
    path: str | os.PathLike[str],
    variables: Mapping[str, ArrayLike],
    *,
    dtypes: Mapping[str, str] | None = None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write variables in the kind of file that ``path`` asks for, values and names unchanged.

    Args:
        path: ``.safetensors``; ``.npz``; or a checkpoint: ``PREFIX.index``, or a prefix with
            ``.ckpt`` in it, as ``model.ckpt-30000``.
        variables: name -> values.
        dtypes: name -> TensorFlow's type, where the array has another (:func:`write_checkpoint`).
        options: what decides the network, which a ``.safetensors`` keeps (:func:`read_options`).

    Raises:
        TensorFlowImportError: another ending, what the kind of file cannot hold, or it cannot be
            written.
    """
    kind = kind_of_output(path)
    if kind == "checkpoint":
        write_checkpoint(path, variables, dtypes=dtypes)
        return
    plain = {name: np.asarray(values) for name, values in variables.items()}
    if kind == "safetensors":
        arrays.write_safetensors(path, plain, dtypes, options)
    elif kind == "npz":
        arrays.write_npz(path, plain)
    else:
        raise TensorFlowImportError(
            "unknown kind of output", file=path, expected=".ckpt, .index, .safetensors or .npz"
        )
