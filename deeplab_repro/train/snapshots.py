"""Where a training stands, as two files that Caffe reads: the weights and the solverstate."""

from __future__ import annotations

import glob
import os
import warnings
from collections.abc import Callable, Iterable
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from deeplab_repro.caffe.net import CaffeNet, LearnableParam
from deeplab_repro.errors import BadInput
from deeplab_repro.train.model_net import ModelNet
from deeplab_repro.train.optim import CaffeOptimizer
from deeplab_repro.train.settings import SolverSettings
from prototxt_import import (
    CaffeImportError,
    SolverState,
    Weights,
    read_solverstate,
    read_weights,
    write_solverstate,
    write_weights,
)
from prototxt_import.caffemodel import Array
from prototxt_import.dialect import RawNet
from prototxt_import.matching import same_shape
from prototxt_import.net import filter_net
from prototxt_import.words import show

__all__ = [
    "check_folder",
    "first_whole",
    "learned_net",
    "newest_snapshot",
    "raw_net",
    "read_state",
    "restore_history",
    "write_snapshot",
]


def check_folder(settings: SolverSettings) -> None:
    """Refuse a snapshot_prefix that cannot be written to, before hours of training.

    Raises:
        CaffeImportError: there is no such folder, or it cannot be written to.
    """
    folder = settings.snapshot_path(0, "").parent
    if not folder.is_dir() or not os.access(folder, os.W_OK):
        raise CaffeImportError(
            "snapshot_prefix",
            file=settings.file,
            expected="a folder that can be written",
            got=str(folder),
        )


def raw_net(net: CaffeNet | ModelNet, settings: SolverSettings) -> RawNet | None:
    """The layers to write beside the weights of a network in training, where any describe it."""
    if isinstance(net, ModelNet):
        return net.raw
    source = settings.train_net
    if source is None or source.model.raw is None:
        return None
    return filter_net(source.model.raw, phase="TRAIN", level=source.level, stages=source.stages)


def write_snapshot(
    model_file: Path,
    state_file: Path,
    net: CaffeNet | ModelNet,
    optimizer: CaffeOptimizer,
    *,
    params: list[LearnableParam],
    raw: RawNet | None,
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
        optimizer: what trains it.
        params: ``net.learnable_params``.
        raw: the layers to write beside their blobs, if any.
        iteration: updates done.
        current_step: how many steps of a step or multistep policy have been taken.

    Raises:
        CaffeImportError: a file cannot be written, as on a full disk.
    """
    is_hdf5 = model_file.suffix == ".h5"
    weights = _weights(net)
    if is_hdf5:
        weights = _once(weights, net, {param.layer for param in params})
    write_weights(model_file, weights, None if is_hdf5 else raw)
    history = [
        _array(optimizer.memory(param.value, slot)) for slot in optimizer.slots for param in params
    ]
    state = SolverState(iteration, os.fspath(model_file), current_step, history)
    is_legacy = isinstance(net, CaffeNet) and net.net.dialect == "dl1"
    write_solverstate(state_file, state, legacy=is_legacy)


def _weights(net: CaffeNet | ModelNet) -> Weights:
    """The blobs of every layer, a shared one under each (net.cpp, ToProto)."""
    return {layer: [_array(blob) for blob in blobs] for layer, blobs in net.params.items()}


def _once(weights: Weights, net: CaffeNet | ModelNet, owners: set[str]) -> Weights:
    """Every layer, with blobs or without, and shared blobs once (net.cpp, ToHDF5)."""
    names = list(weights)
    if isinstance(net, CaffeNet):
        names = [layer.name for layer in (*net.net.data_layers, *net.net.layers)]
    return {name: weights[name] if name in owners and name in weights else [] for name in names}


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


def newest_snapshot(settings: SolverSettings) -> Path | None:
    """The whole snapshot of the most iterations with a solver's ``snapshot_prefix``; None of none.

    Of a snapshot that cannot be read, or whose weights are gone, a warning tells, and the one
    before it is taken.

    Args:
        settings: of the solver.
    """
    start = Path(f"{settings.snapshot_prefix}_iter_")
    found = [
        (int(number), path)
        for path in start.parent.glob(f"{glob.escape(start.name)}*.solverstate*")
        if (number := path.name[len(start.name) :].partition(".")[0]).isdecimal()
        and path.name.endswith((".solverstate", ".solverstate.h5"))
    ]
    return first_whole((path for _, path in sorted(found, reverse=True)), _check)


def first_whole(paths: Iterable[Path], check: Callable[[Path], object]) -> Path | None:
    """The first snapshot that can be read; None of none.  A warning tells of each before it.

    Args:
        paths: of the snapshots.
        check: reads one, and raises BadInput where it is not whole.
    """
    for path in paths:
        try:
            check(path)
        except BadInput as error:
            warnings.warn(f"{error}: this snapshot is left out", stacklevel=2)
        else:
            return path
    return None


def _check(path: Path) -> None:
    weights = learned_net(path, read_state(path))
    if weights is not None:
        read_weights(weights)
