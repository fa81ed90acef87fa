"""Which files a path stands for: a checkpoint has several, and is called by what they share."""

from __future__ import annotations

import os
import re
from pathlib import Path
from typing import Any, Final, Literal, NamedTuple, cast

from google.protobuf import text_format

from prototxt_import.files import open_file
from tensorflow_import.errors import Damaged, TensorFlowImportError, naming
from tensorflow_import.limits import MAX_STATE_BYTES
from tensorflow_import.schema import message_class
from tensorflow_import.table import MAGIC

__all__ = ["Kind", "Located", "locate"]

Kind = Literal["checkpoint", "graph", "safetensors", "npz"]
_PARTS: Final = re.compile(r"\.(index|meta|data-\d{5}-of-\d{5})$")
_STATE: Final = "checkpoint"
_EXPECTED: Final = "a checkpoint (prefix, .index or folder), a .pb, .safetensors or .npz"


class Located(NamedTuple):
    """What there is to read, and its path; that of a checkpoint is its prefix."""

    kind: Kind
    path: str


def locate(path: str | os.PathLike[str]) -> Located:
    """Find what ``path`` stands for; only names are looked at, and the state file of a folder.

    Args:
        path: a checkpoint by its prefix, by one of its files, or by the folder whose file
            ``checkpoint`` names it; or a ``.pb``, ``.safetensors`` or ``.npz`` file.

    Raises:
        TensorFlowImportError: there is no such thing.
    """
    name = os.fspath(path)
    with naming(name, "checkpoint"):
        if os.path.isdir(name):
            return Located("checkpoint", _latest(name))
        prefix = _PARTS.sub("", name)
        if prefix != name or _is_file(f"{name}.index"):
            return Located("checkpoint", prefix)
        for ending, kind in _ENDINGS.items():
            if name.endswith(ending):
                return Located(kind, name)
        if not os.path.exists(name):
            raise TensorFlowImportError("no such file, and no checkpoint of this name")
        if _is_table(name):
            raise TensorFlowImportError(
                "is a checkpoint of TensorFlow's first format, a single file",
                expected="the second format, whose files are PREFIX.index and PREFIX.data-...",
            )
        raise TensorFlowImportError("is no file of TensorFlow's", expected=_EXPECTED)


_ENDINGS: Final[dict[str, Kind]] = {
    ".pb": "graph",
    ".safetensors": "safetensors",
    ".npz": "npz",
}


def _is_file(name: str) -> bool:
    try:
        return os.path.isfile(name)
    except ValueError:  # a NUL in it
        return False


def _is_table(name: str) -> bool:
    with open_file(name) as file:
        size = os.fstat(file.fileno()).st_size
        file.seek(max(0, size - len(MAGIC)))
        return file.read(len(MAGIC)) == MAGIC


def _latest(folder: str) -> str:
    """The prefix of the latest checkpoint in a folder, from its text file ``checkpoint``."""
    state_file = os.path.join(folder, _STATE)
    if not _is_file(state_file):
        raise TensorFlowImportError("is a folder without the file 'checkpoint' that names one")
    with naming(state_file, "list of checkpoints"), open_file(state_file) as file:
        size = os.fstat(file.fileno()).st_size
        MAX_STATE_BYTES.check(size, "too large a list of checkpoints, in bytes")
        state = cast(Any, message_class("CheckpointState"))()
        try:
            text_format.Parse(file.read(size).decode("utf-8"), state)
        except (text_format.ParseError, UnicodeDecodeError, RecursionError) as error:
            raise Damaged(str(error)) from None
        prefix = state.model_checkpoint_path
        if not prefix:
            raise Damaged("it names no checkpoint")
        found = os.path.join(folder, prefix)
        # An absolute path is that of the machine on which the network was trained.
        beside = os.path.join(folder, Path(prefix).name)
        if not _is_file(f"{found}.index") and _is_file(f"{beside}.index"):
            return beside
        return found
