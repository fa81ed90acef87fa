"""What is done with a spoilt file: every reader of the packages, and the command line."""

from __future__ import annotations

import contextlib
import io
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np

from prototxt_import import BadInput, infer_net, read_model, read_solverstate
from prototxt_import.matching import match_weights
from tests.fuzz.bundles import unpack

#: Files that stand for MODEL on the command line.
MODELS = ("prototxt", "caffemodel", "caffemodel_v1", "caffemodel_h5", "safetensors")
COMMANDS = ("convert", "inspect", "activations", "compare")
#: Files with variables of TensorFlow's, and the commands that take them.
VARIABLES = ("tf_checkpoint", "tf_graph", "tf_state", "tf_safetensors", "tf_npz")
VARIABLE_COMMANDS = ("convert", "inspect")


class Misbehaviour(Exception):
    """Neither a result nor one clear error."""


def _model(path: Path) -> None:
    model = read_model(path, placeholders={"X": "1"})
    if model.raw is None:
        return
    for phase in ("TEST", "TRAIN"):
        net = model.net(phase)
        shapes = infer_net(net)
        if model.weights:
            match_weights(shapes, model.weights)
    model.raw.text()


def _activations(path: Path) -> None:
    from deeplab_repro.parity.recordings import Recording

    recording = Recording("r", path, path, None)
    for name in recording.blobs():
        with contextlib.suppress(BadInput):
            recording.whole(name)
        recording.agreement(name, np.zeros((1, 5), np.float32))
    _inputs(path)


def _inputs(path: Path) -> None:
    from deeplab_repro.pictures.reading import load_inputs
    from prototxt_import import parse_net

    load_inputs(
        path, parse_net('input: "data" input_dim: 1 input_dim: 3 input_dim: 9 input_dim: 9')
    )


def _mean(path: Path) -> None:
    from deeplab_repro.pictures.reading import read_mean

    read_mean(path)


def _solverstate(path: Path) -> None:
    read_solverstate(path)


def _npy(path: Path) -> None:
    _inputs(path)
    _mean(path)


def _scores(path: Path) -> None:
    from deeplab_repro.pictures.scores import read_scores

    for key in (None, "data"):
        with contextlib.suppress(BadInput):
            read_scores(path, key)
    read_scores(path)


def _label(path: Path) -> None:
    from deeplab_repro.data import read_label

    read_label(path)


def _variables(path: Path) -> None:
    from tensorflow_import import list_variables, other_dtypes, read_variables

    infos = list_variables(path)
    other_dtypes(read_variables(path), infos)


def _checkpoint(path: Path) -> None:
    from tensorflow_import import list_variables, read_variables

    prefix = unpack(path)
    list_variables(prefix)
    with contextlib.suppress(BadInput):
        read_variables(prefix)
    read_variables(prefix, check=False)


def _graph(path: Path) -> None:
    from tensorflow_import import graph_nodes, read_constants

    graph = graph_nodes(path)
    for node in graph.nodes.values():
        for name in node.attributes:
            with contextlib.suppress(BadInput):
                node.attribute(name)
    assert set(graph.variables) <= set(graph.constants)
    assert len(graph.inputs) + len(graph.outputs) <= len(graph.nodes)
    with contextlib.suppress(BadInput):
        read_constants(path)
    _variables(path)


def _state(path: Path) -> None:
    from tensorflow_import import locate

    path.rename(path.with_name("checkpoint"))
    locate(path.parent)


READERS: dict[str, Callable[[Path], None]] = {
    "prototxt": _model,
    "caffemodel": _model,
    "caffemodel_v1": _model,
    "caffemodel_h5": _model,
    "safetensors": _model,
    "solverstate": _solverstate,
    "solverstate_h5": _solverstate,
    "activations_h5": _activations,
    "mean": _mean,
    "npy": _npy,
    "scores_mat": _scores,
    "scores_bin": _scores,
    "scores_npz": _scores,
    "scores_h5": _scores,
    "label_png": _label,
    "label_mat": _label,
    "label_bin": _label,
    "tf_checkpoint": _checkpoint,
    "tf_graph": _graph,
    "tf_state": _state,
    "tf_safetensors": _variables,
    "tf_npz": _variables,
}


def read(kind: str, path: Path) -> str:
    """``"result"`` or ``"refused"``.

    Raises:
        Misbehaviour: an error of more than one line; any exception but BadInput passes.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            READERS[kind](path)
        except BadInput as error:
            line = str(error)
            if not line.isprintable() or len(line) > 5000:
                raise Misbehaviour(f"not one printable line: {line[:200]!r}") from None
            return "refused"
    return "result"


def command_line(command: str, kind: str, path: Path, folder: Path) -> str:
    """The same of a command, in this process, on tiny inputs.

    Raises:
        Misbehaviour: another exit code than 0, 1 or 2, or 2 without exactly one line that says why.
    """
    from deeplab_repro.cli import main

    out = folder / "out.safetensors"
    if kind == "tf_checkpoint":
        path = unpack(path)
    elif kind == "tf_state":
        path.rename(path.with_name("checkpoint"))
        path = path.parent
    elif kind == "tf_safetensors":
        out = folder / "out.index"
    arguments = {
        "convert": ["convert", path, "-o", out],
        "inspect": ["inspect", path],
        "activations": ["activations", path, "--input", folder / "in.npy", "-o", folder / "o.h5"],
        "compare": ["compare", path, "--activations", folder / "recorded.h5"],
    }[command]
    if kind == "caffemodel_h5":
        arguments += ["--prototxt", folder / "sound.prototxt"]
    if kind == "activations_h5":
        sound = folder / "sound.prototxt"
        arguments = {
            "activations": ["activations", sound, "--input", path, "-o", folder / "o.h5"],
            "compare": ["compare", sound, "--activations", path],
        }[command]
    shown, errors = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(shown), contextlib.redirect_stderr(errors):
        try:
            main([str(argument) for argument in arguments])
        except SystemExit as stopped:
            code = stopped.code
        else:
            raise Misbehaviour("the command line did not exit")
    lines = [
        line for line in errors.getvalue().splitlines() if not line.startswith(WARNING)
    ]  # fmt: skip
    for name in (out, folder / "out.data-00000-of-00001", folder / "o.h5"):
        name.unlink(missing_ok=True)
    if code not in (0, 1, 2):
        raise Misbehaviour(f"exit code {code}")
    if len(lines) != (code == 2) or any(not line.isprintable() for line in lines):
        raise Misbehaviour(f"exit code {code} with {lines[:3]!r} on stderr")
    return "refused" if code == 2 else "result"


WARNING = "deeplab-repro: warning: "
