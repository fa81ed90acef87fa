"""``.solverstate`` in both forms: where a solver stood (sgd_solver.cpp, SnapshotSolverState)."""

from __future__ import annotations

import os
from dataclasses import dataclass, field

import h5py
import numpy as np

from prototxt_import import wire
from prototxt_import.caffemodel import Array, blob_head, opened, read_blob, write_blob
from prototxt_import.errors import CaffeImportError
from prototxt_import.files import kind_of, replacing, replacing_file
from prototxt_import.hdf5 import (
    dataset_at,
    group_at,
    numbered_arrays,
    open_hdf5,
    read_dataset,
)
from prototxt_import.limits import INT_MAX, MAX_LAYERS, MAX_NET_BYTES

__all__ = ["SolverState", "read_solverstate", "write_solverstate"]

_ITER, _LEARNED_NET, _HISTORY, _CURRENT_STEP = 1, 2, 3, 4


@dataclass
class SolverState:
    """A training in progress.

    Attributes:
        iter: iterations done.
        learned_net: file name of the weights of that moment, as the solver wrote it.
        current_step: how many steps of a step or multistep policy have been taken.
        history: the solver's memory, one or two arrays a learnable parameter: momentum for SGD,
            first all means then all squares for Adam.
    """

    iter: int
    learned_net: str = ""
    current_step: int = 0
    history: list[Array] = field(default_factory=list)


def read_solverstate(path: str | os.PathLike[str]) -> SolverState:
    """Read a ``.solverstate`` or ``.solverstate.h5``.

    Raises:
        CaffeImportError: neither of the two, or damaged.
    """
    if kind_of(path) == "hdf5":
        return _read_hdf5(path)
    state = SolverState(0)
    try:
        with opened(path) as (file, data):
            budget = wire.FieldBudget()
            for item in wire.walk(data, 0, len(data), budget):
                if item.number in (_ITER, _CURRENT_STEP) and item.wire_type == wire.VARINT:
                    if item.value > INT_MAX:
                        raise wire.WireError(f"number of iterations or steps {item.value}")
                    if item.number == _ITER:
                        state.iter = item.value
                    else:
                        state.current_step = item.value
                elif item.number == _LEARNED_NET and item.wire_type == wire.LENGTH:
                    length = item.end - item.start
                    MAX_NET_BYTES.check(length, "too long a file name in learned_net", file=path)
                    state.learned_net = bytes(data[item.start : item.end]).decode("utf-8")
                elif item.number == _HISTORY and item.wire_type == wire.LENGTH:
                    where = f"history {len(state.history)}"
                    blob = wire.scan_blob(data, item, budget)
                    state.history.append(read_blob(file, blob, where=where, path=path))
                    MAX_LAYERS.check(len(state.history), "too many arrays of history", file=path)
                else:
                    raise wire.WireError(f"it has no field {item.number}")
    except (wire.WireError, UnicodeDecodeError) as error:
        raise CaffeImportError(f"is no solverstate ({error})", file=path) from None
    except CaffeImportError as error:
        raise error.with_file(path) from None
    return state


def _read_hdf5(path: str | os.PathLike[str]) -> SolverState:
    with open_hdf5(path) as file:
        for name in ("iter", "learned_net", "current_step", "history"):
            if name not in file:
                raise CaffeImportError(
                    "is no .solverstate.h5", file=path, expected=f"/{name}", got=list(file)[:10]
                )
        return SolverState(
            iter=_whole_number(file, "iter", path),
            learned_net=_text(file, "learned_net", path),
            current_step=_whole_number(file, "current_step", path),
            history=numbered_arrays(group_at(file, "history", path), path),
        )


def _whole_number(file: h5py.File, name: str, path: object) -> int:
    values = read_dataset(dataset_at(file, name, path), path, kinds="iu").ravel()
    number = int(values[0]) if values.size else -1
    if not 0 <= number <= INT_MAX:
        raise CaffeImportError(f"/{name} is no number of iterations or steps", file=path)
    return number


def _text(file: h5py.File, name: str, path: object) -> str:
    # hdf5.cpp writes fixed lengths; other writers' strings are of variable length (kind O).
    values = read_dataset(dataset_at(file, name, path), path, kinds="SO").ravel()
    value = values[0] if values.size == 1 else None
    if not isinstance(value, bytes):
        raise CaffeImportError(f"/{name} is no text", file=path)
    return value.decode("utf-8", "replace")


def write_solverstate(
    path: str | os.PathLike[str], state: SolverState, *, legacy: bool = False
) -> None:
    """Write a solverstate; as HDF5 if ``path`` ends in ``.h5``.

    Args:
        path: the file to write.
        state: what to write.
        legacy: give blobs the old four sizes, as the v1 fork needs.
    """
    if os.fspath(path).endswith(".h5"):
        _write_hdf5(path, state)
        return
    name = state.learned_net.encode()
    with replacing(path) as temporary, temporary.open("wb") as out:
        out.write(_number(_ITER, state.iter) + _message(_LEARNED_NET, len(name)) + name)
        for blob in state.history:
            head = blob_head(blob, legacy=legacy)
            out.write(_message(_HISTORY, len(head) + blob.nbytes))
            write_blob(out, head, blob)
        out.write(_number(_CURRENT_STEP, state.current_step))


def _number(field_number: int, value: int) -> bytes:
    return wire.encode_varint(field_number << 3 | wire.VARINT) + wire.encode_varint(value)


def _message(field_number: int, length: int) -> bytes:
    return wire.encode_varint(field_number << 3 | wire.LENGTH) + wire.encode_varint(length)


def _write_hdf5(path: str | os.PathLike[str], state: SolverState) -> None:
    with replacing_file(path) as out, h5py.File(out, "w") as file:
        file["iter"] = np.array([state.iter], np.int32)
        # hdf5.cpp writes strings with a fixed length, and reads them up to the zero at their end.
        name = state.learned_net.encode()
        file["learned_net"] = np.array(name, f"S{len(name) + 1}")
        file["current_step"] = np.array([state.current_step], np.int32)
        history = file.create_group("history")
        for i, blob in enumerate(state.history):
            history.create_dataset(str(i), data=blob)
