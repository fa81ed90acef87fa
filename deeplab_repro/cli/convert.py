"""``deeplab-repro convert``"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.checkpoints import checkpoint_of, load_checkpoint
from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    model_options,
    progress,
    read,
    shown,
    writable,
    write_json,
)
from deeplab_repro.cli.variables import (
    check_keeps_options,
    convert_variables,
    is_tensorflow,
    refuse_options,
)
from deeplab_repro.errors import BadInput, InputError
from prototxt_import import Dialect, Model, infer_net, write_weights
from prototxt_import.files import kind_of, replacing_file
from prototxt_import.matching import WeightMatch, match_weights, shared_parameters
from prototxt_import.words import megabytes

if TYPE_CHECKING:
    from deeplab_repro.models.ports import Ported

_ENDINGS = (".safetensors", ".pt", ".caffemodel", ".h5")


@click.command("convert")
@model_options
@click.option(
    "--network",
    metavar="NAME",
    help="Of a PyTorch state dict, where its keys do not say it, or of a TensorFlow checkpoint;"
    " see `networks list`.",
)
@click.option(
    "--options",
    "options_file",
    type=click.Path(),
    help="Of a TensorFlow checkpoint: JSON with the options of its network, or the flag file that"
    " it was trained by.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    callback=writable,
    help="OUT.safetensors|.pt|.caffemodel|.caffemodel.h5, or of TensorFlow's variables"
    " OUT.safetensors|.npz|.pt|.ckpt|.index",
)
@json_option
def command(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    network: str | None,
    options_file: str | None,
    output: str | None,
    json_file: str | None,
) -> None:
    """Convert MODEL, weights bit for bit.

    Without -o it writes MODEL.safetensors, which carries the network in its metadata and stands
    for MODEL everywhere.

    MODEL may also be a PyTorch state dict (.pth, .pt): of this package's own models, or of the
    ports kazuto1011/deeplab-pytorch, isht7/pytorch-deeplab-resnet, speedinghzl/Pytorch-Deeplab and
    wangleihitcs/DeepLab-V1-PyTorch, which are told by their keys.  It becomes a file with the
    network in it that stands for a caffemodel.

    Or it is a TensorFlow checkpoint (its prefix, one of its files, or a folder with the file
    `checkpoint`) or a frozen graph (.pb), whose variables are written under their names, in
    TensorFlow's layout, with values and types unchanged; and a .safetensors or .npz of such
    variables, which -o OUT.ckpt or OUT.index makes a checkpoint again.  A .safetensors keeps the
    options of the network that --options, --network and --set give, and then stands for MODEL
    everywhere without them.
    """
    checkpoint = model if is_tensorflow(model, output) else checkpoint_of(model, options_file)
    if checkpoint is not None:
        refuse_options(model, {"--prototxt": prototxt, "--dialect": dialect})
        options = None
        if options_file is not None or network is not None or settings:
            check_keeps_options(output)
            # Options of another network than the variables' would make a file that nothing loads.
            net = load_checkpoint(checkpoint, options_file, network, settings)
            options = asdict(net.options)
        convert_variables(checkpoint, output, json_file, options)
        return
    if output is None:
        target = _with_ending(model, ".safetensors")
    else:
        target = Path(output)
        check_ending(target)
    # MODEL may be the name of a released model.
    if target.exists() and Path(model).exists() and target.samefile(model):
        raise InputError("would replace the model itself", file=target, expected="another -o")
    with progress("reading", "checking", "writing") as advance:
        source, ported = _read(model, prototxt, dialect, settings, network)
        if not source.weights:
            raise InputError("holds no weights", file=model, expected="a caffemodel")
        advance()
        match = _check(source)
        advance()
        write_model(target, source)
        advance()
    report = {**_report(source, match, model, target), **_origin(ported)}
    _show(report)
    write_json(json_file, report)


def _read(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    network: str | None,
) -> tuple[Model, Ported | None]:
    """The model, and where the weights of a port came from."""
    # MODEL may be the name of a released model.
    is_state_dict = Path(model).exists() and kind_of(model) == "torch"
    given = {"--prototxt": prototxt, "--dialect": dialect, "--set": settings}
    for option, value in given.items() if is_state_dict else [("--network", network)]:
        if value:
            expected = "a Caffe model" if is_state_dict else "a PyTorch state dict"
            raise InputError(f"does not go with {option}", file=model, expected=expected)
    if not is_state_dict:
        return read(model, prototxt, dialect, settings), None
    from deeplab_repro.models.loading import read_torch_file

    return read_torch_file(model, network)


def _with_ending(model: str, ending: str) -> Path:
    name = model.removesuffix(".h5")
    for suffix in (".caffemodel", ".pth", ".pt"):
        name = name.removesuffix(suffix)
    return Path(name + ending)


def _check(source: Model) -> WeightMatch | None:
    """Hold weights and network against each other, where there is a network."""
    if source.raw is None:
        return None
    shapes = infer_net(source.net("TEST"))
    try:
        return match_weights(shapes, source.weights)
    except BadInput as error:
        error.file = source.weights_file
        raise


def check_ending(target: Path) -> None:
    """Raise InputError unless :func:`write_model` knows the kind of file."""
    if target.suffix not in _ENDINGS:
        raise InputError(
            "unknown kind of output", file=target, expected=" or ".join(_ENDINGS), got=target.suffix
        )


def write_model(target: Path, source: Model) -> None:
    """Write a model in the kind of file that its name ends in."""
    if target.suffix == ".pt":
        _write_pt(target, source)
    else:
        write_weights(target, source.weights, source.raw, filtered=source.filtered)


def _write_pt(target: Path, source: Model) -> None:
    """``{"state_dict": {LAYER.i: tensor}, "prototxt": text, "dialect": name}``, by torch.save."""
    import torch

    state: dict[str, Any] = {
        f"{layer}.{i}": torch.from_numpy(blob)
        for layer, blobs in source.weights.items()
        for i, blob in enumerate(blobs)
    }
    if source.raw is not None:
        # One storage for shared copies: torch.save writes it once.
        for (layer, i), (owner, j) in shared_parameters(infer_net(source.net("TEST"))).items():
            copy, original = state.get(f"{layer}.{i}"), state.get(f"{owner}.{j}")
            if copy is not None and original is not None and torch.equal(copy, original):
                state[f"{layer}.{i}"] = original
    content = {
        "state_dict": state,
        "prototxt": source.raw.text() if source.raw else None,
        "dialect": source.raw.dialect if source.raw else None,
        "filtered": source.filtered,
    }
    with replacing_file(target) as out:
        torch.save(content, out)


def _report(source: Model, match: WeightMatch | None, model: str, target: Path) -> dict[str, Any]:
    blobs = [blob for blobs in source.weights.values() for blob in blobs]
    return {
        "model": model,
        "output": str(target),
        "dialect": source.raw.dialect if source.raw else None,
        "evidence": list(source.raw.report.evidence) if source.raw else [],
        "same_in": list(source.raw.report.alternatives) if source.raw else [],
        "layers_with_weights": len(source.weights),
        "blobs": len(blobs),
        "values": int(sum(blob.size for blob in blobs)),
        "bytes": target.stat().st_size,
        "unused": match.unused if match else [],
        "missing": match.missing if match else [],
        "conflicts": match.conflicts if match else [],
    }


def _origin(ported: Ported | None) -> dict[str, Any]:
    if ported is None:
        return {}
    return {
        "state_dict_of": ported.origin,
        "network": ported.network,
        "moved": ported.moved,
        "dropped": list(ported.dropped),
    }


def _show(report: dict[str, Any]) -> None:
    table = make_table("", what="left", value="left")
    table.show_header = False
    if "moved" in report:
        table.add_row("state dict of", report["state_dict_of"])
        table.add_row("network", report["network"])
        dropped = f", {len(report['dropped'])} have no counterpart" if report["dropped"] else ""
        table.add_row("keys", f"{len(report['moved'])} copied (--json lists them){dropped}")
    dialect = report["dialect"] or "not needed: the file holds names and blobs only"
    if report["same_in"]:
        dialect += f" (reads the same in {', '.join(report['same_in'])})"
    table.add_row("dialect", dialect)
    for line in report["evidence"]:
        table.add_row("", shown(line))
    table.add_row("layers with weights", f"{report['layers_with_weights']:,}")
    table.add_row("values", f"{report['values']:,} in {report['blobs']:,} blobs")
    for key, meaning in (
        ("unused", "not in the network"),
        ("missing", "without weights in the file"),
        ("conflicts", "shared copies that differ"),
    ):
        if report[key]:
            table.add_row(meaning, ", ".join(map(shown, report[key])))
    table.add_row("written", f"{shown(report['output'])} ({megabytes(report['bytes'])})")
    console.print(table)
