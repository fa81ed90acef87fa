"""Where a training stands, as two files that Caffe reads: the weights and the solverstate."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.caffe.net import CaffeNet, LearnableParam
from deeplab_repro.train.optim import CaffeOptimizer
from prototxt_import import (
    CaffeImportError,
    SolverState,
    Weights,
    read_solverstate,
    write_solverstate,
    write_weights,
)
from prototxt_import.caffemodel import Array
from prototxt_import.dialect import RawNet
from prototxt_import.matching import same_shape
from prototxt_import.words import show

__all__ = ["learned_net", "read_state", "restore_history", "write_snapshot"]


def write_snapshot(
    model_file: Path,
    state_file: Path,
    net: CaffeNet,
    optimizer: CaffeOptimizer,
    *,
    raw: RawNet,
    iteration: int,
    current_step: int,
) -> None:
    """Write the weights, then the solverstate that names them (solver.cpp, Snapshot).

    Each file takes the place of an older one in one step when all of it is written, and the
    solverstate comes last: where there is one, it and its weights are whole.

    Args:
        model_file: for the weights; an ending ``.h5`` gives the HDF5 form.
        state_file: for the rest, likewise.
        net: the network in training.
        optimizer: what trains it, with the values of ``net.learnable_params``.
        raw: the layers to write beside their blobs.
        iteration: updates done.
        current_step: how many steps of a step or multistep policy have been taken.

    Raises:
        CaffeImportError: a file cannot be written, as on a full disk.
    """
    is_hdf5 = model_file.suffix == ".h5"
    weights = _hdf5_weights(net) if is_hdf5 else _weights(net)
    write_weights(model_file, weights, None if is_hdf5 else raw)
    history = [
        _array(optimizer.memory(param.value, slot))
        for slot in optimizer.slots
        for param in net.learnable_params
    ]
    state = SolverState(iteration, os.fspath(model_file), current_step, history)
    write_solverstate(state_file, state, legacy=net.net.dialect == "dl1")


def _weights(net: CaffeNet) -> Weights:
    """The blobs of every layer, a shared one under each (net.cpp, ToProto)."""
    return {layer: [_array(blob) for blob in blobs] for layer, blobs in net.params.items()}


def _hdf5_weights(net: CaffeNet) -> Weights:
    """Every layer, with blobs or without, and shared blobs once (net.cpp, ToHDF5)."""
    weights = _weights(net)
    owners = {param.layer for param in net.learnable_params}
    names = [layer.name for layer in (*net.net.data_layers, *net.net.layers)]
    return {name: weights.get(name, []) if name in owners else [] for name in names}


def _array(value: Tensor) -> Array:
    return np.ascontiguousarray(value.detach().cpu().float().numpy())


def read_state(path: str | os.PathLike[str]) -> SolverState:
    """Read a solverstate of Caffe's or of ours.

    Raises:
        CaffeImportError: it is none, or damaged; weights are told from a solverstate.
    """
    try:
        return read_solverstate(path)
    except CaffeImportError as error:
        if ".caffemodel" in Path(path).name:
            raise CaffeImportError(
                "holds weights", file=path, expected="a .solverstate (--weights takes weights)"
            ) from error
        raise


def learned_net(path: str | os.PathLike[str], state: SolverState) -> Path | None:
    """The weights that belong to a solverstate; None where it names none.

    The name in it is relative to the working directory of the training.  Where there is no such
    file, it is looked for beside the solverstate, for snapshots that were moved together.

    Raises:
        CaffeImportError: there is no such file.
    """
    if not state.learned_net:
        return None
    named = Path(state.learned_net)
    for file in (named, Path(path).parent / named.name):
        if file.is_file():
            return file
    raise CaffeImportError("names weights that are not there", file=path, got=state.learned_net)


def restore_history(
    optimizer: CaffeOptimizer,
    params: list[LearnableParam],
    history: list[Array],
    path: str | os.PathLike[str],
) -> None:
    """Give an optimizer the memory out of a solverstate (sgd_solver.cpp, RestoreSolverState...).

    Args:
        optimizer: with the values of ``params``.
        params: in Caffe's order.
        history: one array for each of the optimizer's slots and parameters.
        path: the solverstate, for messages.

    Raises:
        CaffeImportError: another number of arrays, or shapes that do not fit the parameters.
    """
    wanted = [(slot, param) for slot in optimizer.slots for param in params]
    if len(history) != len(wanted):
        raise CaffeImportError(
            "holds the history of another network or solver",
            file=path,
            expected=f"{len(wanted)} arrays",
            got=len(history),
        )
    for i, ((_, param), array) in enumerate(zip(wanted, history, strict=True)):
        if not same_shape(array.shape, tuple(param.value.shape)):
            raise CaffeImportError(
                f"history {i} does not fit blob {param.number}",
                file=path,
                layer=param.layer,
                expected=show(tuple(param.value.shape)),
                got=show(array.shape),
            )
    with torch.no_grad():
        for (slot, param), array in zip(wanted, history, strict=True):
            memory = optimizer.memory(param.value, slot)
            memory.copy_(torch.from_numpy(array).reshape(memory.shape))
