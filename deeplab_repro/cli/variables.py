"""What ``convert`` and ``inspect`` do with TensorFlow's checkpoints and frozen graphs."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping
from math import prod
from pathlib import Path
from typing import Any, Final

from deeplab_repro.cli.common import console, make_table, progress, shown, write_json
from deeplab_repro.errors import InputError
from prototxt_import.files import kind_of, replacing_file
from prototxt_import.words import megabytes, number, show
from tensorflow_import import (
    VariableInfo,
    graph_nodes,
    is_of_tensorflow,
    kind_of_output,
    list_variables,
    locate,
    other_dtypes,
    read_options,
    read_variables,
    write_variables,
)

__all__ = [
    "check_keeps_options",
    "convert_variables",
    "inspect_variables",
    "is_tensorflow",
    "refuse_options",
]

_STEP: Final = "global_step"
_OUTPUTS: Final = ".ckpt, .index, .safetensors, .npz or .pt"
_KINDS: Final = {
    "checkpoint": "TensorFlow checkpoint",
    "graph": "frozen TensorFlow graph",
    "safetensors": "TensorFlow variables (.safetensors)",
    "npz": "TensorFlow variables (.npz)",
}


def is_tensorflow(model: str, output: str | None = None) -> bool:
    """Whether MODEL holds variables of TensorFlow's rather than a Caffe model.

    Args:
        model: what the command was given.
        output: what it is to become; only variables can become a checkpoint, so that this decides
            for a ``.safetensors`` whose metadata do not say whose it is.
    """
    path = Path(model)
    if path.is_dir() or os.path.isfile(f"{model}.index"):
        return True
    if ".ckpt" in path.name and not (path.is_file() and kind_of(path) == "torch"):
        return True
    if path.suffix in (".pb", ".index", ".meta", ".npz") or ".data-" in path.suffix:
        return True
    if path.suffix != ".safetensors" or not path.is_file() or kind_of(path) != "safetensors":
        return False
    becomes_checkpoint = output is not None and kind_of_output(output) == "checkpoint"
    return becomes_checkpoint or is_of_tensorflow(path)


def refuse_options(model: str, options: Mapping[str, object]) -> None:
    """Raise InputError for an option that was given and means nothing for variables."""
    for option, value in options.items():
        if value:
            raise InputError(f"does not go with {option}", file=model, expected="a Caffe model")


def check_keeps_options(output: str | None) -> None:
    """Raise InputError for a kind of file that cannot keep the options of a network."""
    if output is not None and kind_of_output(output) != "safetensors":
        raise InputError(
            "has no place for --options, --network and --set",
            file=output,
            expected="-o OUT.safetensors",
        )


def convert_variables(
    model: str,
    output: str | None,
    json_file: str | None,
    options: Mapping[str, Any] | None = None,
) -> None:
    """Write the variables of MODEL in another kind of file: values, names and types unchanged.

    A .safetensors also keeps the options of the network, where they are known.
    """
    kind, found = locate(model)
    if output is None:
        if kind == "safetensors":
            raise InputError("is a .safetensors already", file=model, expected="-o")
        output = found.removesuffix(".pb").removesuffix(".npz") + ".safetensors"
    _check_output(kind, found, output)
    with progress("reading", "writing") as advance:
        infos = list_variables(model)
        names = [name for name, info in infos.items() if _fits(info, output)]
        variables = read_variables(model, names)
        if not variables:
            raise InputError("holds no variables", file=model)
        advance()
        dtypes = other_dtypes(variables, infos)
        if output.endswith(".pt"):
            _write_pt(output, variables, dtypes)
        else:
            if options is None and kind == "safetensors":
                options = read_options(found)
            write_variables(output, variables, dtypes=dtypes, options=options)
        advance()
    report = {
        "model": model,
        "output": output,
        "kind": _KINDS[kind],
        "variables": len(variables),
        "values": sum(array.size for array in variables.values()),
        "types": dict(Counter(infos[name].dtype for name in names)),
        "left_out": [name for name in infos if name not in variables],
        "bytes": _written_bytes(output),
    }
    _show_conversion(report)
    write_json(json_file, report)


def _check_output(kind: str, found: str, output: str) -> None:
    if not output.endswith(".pt") and kind_of_output(output) is None:
        raise InputError(
            "unknown kind of output for variables of TensorFlow's", file=output, expected=_OUTPUTS
        )
    source = f"{found}.index" if kind == "checkpoint" else found
    target = output
    if kind_of_output(output) == "checkpoint":
        target = f"{output.removesuffix('.index')}.index"
    if os.path.exists(source) and os.path.exists(target) and os.path.samefile(source, target):
        raise InputError("would replace the model itself", file=output, expected="another -o")


def _fits(info: VariableInfo, output: str) -> bool:
    """Neither of these two kinds of files has strings."""
    return info.dtype != "string" or not output.endswith((".npz", ".pt"))


def _write_pt(output: str, variables: Mapping[str, Any], dtypes: Mapping[str, str]) -> None:
    """``{"variables": {name: tensor}, "layout": "tensorflow"}``, by torch.save."""
    import torch

    tensors = {name: torch.from_numpy(array) for name, array in variables.items()}
    for name, dtype in dtypes.items():
        if dtype == "bfloat16":
            tensors[name] = tensors[name].to(torch.bfloat16)  # exact: it was read from there
    with replacing_file(output) as out:
        torch.save({"variables": tensors, "layout": "tensorflow"}, out)


def _written_bytes(output: str) -> int:
    if kind_of_output(output) != "checkpoint":
        return os.path.getsize(output)
    prefix = output.removesuffix(".index")
    return sum(os.path.getsize(prefix + end) for end in (".index", ".data-00000-of-00001"))


def _show_conversion(report: Mapping[str, Any]) -> None:
    table = make_table("", what="left", value="left")
    table.show_header = False
    table.add_row("kind", report["kind"])
    types = ", ".join(f"{count:,} {name}" for name, count in report["types"].items())
    table.add_row("variables", f"{report['variables']:,} ({types})")
    table.add_row("values", f"{report['values']:,}, in TensorFlow's layout")
    if report["left_out"]:
        table.add_row("left out", f"strings: {', '.join(map(shown, report['left_out']))}")
    table.add_row("written", f"{shown(report['output'])} ({megabytes(report['bytes'])})")
    console.print(table)


# ---------------------------------------------------------------- inspect


def inspect_variables(model: str, json_file: str | None) -> None:
    """Show the variables of MODEL, and of a frozen graph what it computes with them."""
    kind, found = locate(model)
    infos = list_variables(model)
    # An optimiser's slot is called as its variable, and a word more.
    slots = {name for name in infos if name.rpartition("/")[0] in infos}
    report: dict[str, Any] = {
        "kind": _KINDS[kind],
        "path": found,
        "step": _step(model, infos),
        "values": sum(prod(info.shape) for info in infos.values()),
        "parameters": sum(
            prod(info.shape)
            for name, info in infos.items()
            if name not in slots and "float" in info.dtype
        ),
        "slots": len(slots),
        "variables": {
            name: {"dtype": info.dtype, "shape": list(info.shape)} for name, info in infos.items()
        },
    }
    if kind == "graph":
        report["graph"] = _graph_report(found)
    _show_inspection(report, infos)
    write_json(json_file, report)


def _step(model: str, infos: Mapping[str, VariableInfo]) -> int | None:
    info = infos.get(_STEP)
    if info is None or info.shape or "int" not in info.dtype:
        return None
    return int(read_variables(model, [_STEP])[_STEP])


def _graph_report(path: str) -> dict[str, Any]:
    graph = graph_nodes(path)
    return {
        "nodes": len(graph.nodes),
        "constants": len(graph.constants),
        "ops": graph.ops,
        "inputs": {node.name: node.attribute("shape") for node in graph.inputs},
        "outputs": {node.name: node.op for node in graph.outputs},
    }


def _show_inspection(report: Mapping[str, Any], infos: Mapping[str, VariableInfo]) -> None:
    def line(text: str) -> None:
        console.print(text, highlight=False, soft_wrap=True)

    line(f"[bold]{shown(report['path'])}[/]  {report['kind']}")
    if report["step"] is not None:
        line(f"  step {report['step']:,}")
    table = make_table("", variable="left", type="left", shape="right", values="right")
    for name, info in infos.items():
        table.add_row(shown(name), info.dtype, show(info.shape), f"{prod(info.shape):,}")
    console.print(table)
    slots = f", {report['slots']:,} of them an optimiser's slots" if report["slots"] else ""
    line(
        f"[bold]{report['parameters']:,}[/] parameters and moving statistics;"
        f" {number(len(infos), 'variable')} with {report['values']:,} values in all{slots}"
    )
    if "graph" in report:
        graph = report["graph"]
        ops = ", ".join(f"{count:,} {shown(op)}" for op, count in graph["ops"].items())
        line(f"{number(graph['nodes'], 'node')}: {ops}")
        for name, shape in graph["inputs"].items():
            line(f"  input {shown(name)}: {_placeholder(shape)}")
        line(f"  outputs: {', '.join(map(shown, graph['outputs']))}")


def _placeholder(shape: Any) -> str:
    if not isinstance(shape, tuple):
        return "any shape"
    return show([None if size < 0 else size for size in shape])
