"""``deeplab-repro inspect``"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

from deeplab_repro.caffe.analysis import LayerCost, Memory, analyse, memory
from deeplab_repro.cli.checkpoints import checkpoint_of, refuse_given
from deeplab_repro.cli.common import (
    check_placeholders,
    console,
    input_shape_option,
    json_option,
    make_table,
    model_options,
    parse_shapes,
    read,
    shown,
    writable,
    write_json,
)
from deeplab_repro.cli.variables import inspect_variables
from deeplab_repro.errors import BadInput, InputError
from prototxt_import import Dialect, Model, Net, Phase, infer_net
from prototxt_import.files import replacing
from prototxt_import.matching import match_weights
from prototxt_import.words import megabytes, pair, show

#: What means nothing for a checkpoint: parameter -> option.
_OF_CAFFE = {
    "prototxt": "--prototxt",
    "dialect": "--dialect",
    "settings": "--set",
    "phase": "--phase",
    "svg": "--svg",
    "other": "a second model",
    "input_shapes": "--input-shape",
}


@click.command("inspect")
@model_options
@click.argument("other", type=click.Path(), required=False)
@click.option("--phase", type=click.Choice(["TEST", "TRAIN"]), default="TEST", show_default=True)
@input_shape_option
@click.option(
    "--svg",
    type=click.Path(),
    callback=writable,
    help="Write the network's graph here as a picture.",
)
@json_option
@click.pass_context
def command(
    context: click.Context,
    model: str,
    other: str | None,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    phase: Phase,
    input_shapes: tuple[str, ...],
    svg: str | None,
    json_file: str | None,
) -> None:
    """Show layers, shapes, parameters, multiply-adds, receptive fields and rates of MODEL.

    With OTHER, a second model or prototxt, show how the two differ.

    Of a TensorFlow checkpoint (prefix, .index or folder), a frozen graph (.pb), or a .safetensors
    or .npz of their variables, show the variables with types and shapes, and the training step.
    """
    checkpoint = checkpoint_of(model)
    if checkpoint is not None:
        refuse_given(context, model, _OF_CAFFE)
        inspect_variables(checkpoint, json_file)
        return
    source = read(model, prototxt, dialect, settings, with_others=other is not None)
    inputs = parse_shapes(input_shapes)
    if other is not None:
        if svg is not None:
            raise InputError("--svg draws one network", expected="no second model", got=other)
        from deeplab_repro.cli.differences import show_differences

        second = _read_other(other, source, dialect, settings)
        show_differences(source, second, phase, inputs, json_file)
        return
    if source.raw is None:
        if svg is not None:
            source.net(phase)  # which says that there is none
        _show_weights(source.weights, model)
        write_json(json_file, {n: [list(b.shape) for b in bs] for n, bs in source.weights.items()})
        return
    net = source.net(phase)
    if not net.layers:
        raise InputError(f"has no layers in phase {phase}", file=source.net_file or model)
    try:
        match_weights(infer_net(net, inputs), source.weights)
    except BadInput as error:  # those of the network name its file already
        raise error.with_file(source.weights_file or source.net_file) from None
    rows = analyse(net, inputs, source.weights)
    kept = memory(net, inputs, source.weights)
    if svg is not None:
        from deeplab_repro.caffe.boxes import boxes_of
        from deeplab_repro.caffe.graph_svg import graph_svg

        text = graph_svg(boxes_of(net, inputs), net.name or Path(model).name)
        with replacing(svg) as temporary:
            Path(temporary).write_text(text, encoding="utf-8")
    _show(net, rows, kept)
    write_json(json_file, _as_json(net, rows, kept))
    if svg is not None:
        console.print(f"wrote {shown(svg)}", highlight=False, soft_wrap=True)


def _read_other(
    other: str, source: Model, dialect: Dialect | None, settings: tuple[str, ...]
) -> Model:
    """The second model; weights without a network belong to the first one's."""
    model = read(other, None, dialect, settings, with_others=True)
    names = (*source.placeholders, *model.placeholders)
    check_placeholders(settings, names, f"{source.net_file or source.weights_file}, {other}")
    if model.raw is None and source.raw is not None:
        model.raw, model.filtered, model.net_file = source.raw, source.filtered, source.net_file
    return model


def _show(net: Net, rows: list[LayerCost], kept: Memory) -> None:
    console.print(
        f"[bold]{shown(net.name or 'network')}[/]  phase {net.phase}, dialect {net.raw.report}"
    )
    for line in net.raw.report.evidence:
        console.print(f"  {shown(line)}", highlight=False, soft_wrap=True, style="dim")
    for name, declared in net.inputs.items():
        console.print(f"  input {shown(name)}: {show(declared.shape)}", highlight=False)
    table = make_table(
        "",
        layer="left",
        type="left",
        output="right",
        kernel="right",
        stride="right",
        rate="right",
        parameters="right",
        mult_adds="right",
        useful="right",
        field="right",
        step="right",
    )
    for row in rows:
        field = row.field if row.kernel or row.type in ("Interp", "Eltwise") else None
        table.add_row(
            shown(row.name),
            row.type,
            ", ".join(map(show, row.tops.values())),
            pair(row.kernel or ()),
            pair(row.stride or ()),
            pair(row.rate or ()),
            _number(row.parameters) + (" shared" if row.shared and not row.parameters else ""),
            _short(row.multiply_adds),
            _share(row.useful_multiply_adds, row.multiply_adds),
            pair(field.size) if field else "",
            pair(field.stride) if field else "",
        )
    console.print(table)
    total = _totals(rows)
    console.print(
        f"[bold]{total['parameters']:,}[/] parameters in {len(rows)} layers"
        f" ({total['shared']:,} more are shared copies), {_giga(total['multiply_adds'])}"
        f"{_without_padding(total)}"
    )
    where = f" at layer '{shown(kept.peak_layer)}'" if kept.peak_layer else ""
    console.print(
        f"memory: weights {megabytes(kept.weights)}, blobs at most {megabytes(kept.peak)} at one"
        f" time{where} ({megabytes(kept.all_blobs)} if every blob is kept)",
        highlight=False,
    )
    console.print(f"outputs: {', '.join(map(shown, net.outputs))}", highlight=False)
    console.print(
        "useful: share of the multiply-adds that do not multiply padding; field: receptive field"
        " in pixels; step: pixels between neighbours",
        style="dim",
    )


def _show_weights(weights: dict[str, Any], model: str) -> None:
    console.print(f"{shown(model)}: weights without a network", highlight=False, soft_wrap=True)
    table = make_table("", layer="left", blobs="left", values="right")
    for name, blobs in weights.items():
        shapes = ", ".join(show(blob.shape) for blob in blobs)
        table.add_row(shown(name), shapes, f"{sum(blob.size for blob in blobs):,}")
    console.print(table)


def _totals(rows: list[LayerCost]) -> dict[str, Any]:
    adds = [row.multiply_adds for row in rows]
    useful = [row.useful_multiply_adds for row in rows]
    return {
        "parameters": sum(row.parameters or 0 for row in rows),
        "shared": sum(row.shared for row in rows),
        "multiply_adds": None if None in adds else sum(add or 0 for add in adds),
        "useful_multiply_adds": None if None in useful else sum(add or 0 for add in useful),
    }


def _giga(multiply_adds: int | None) -> str:
    if multiply_adds is None:
        return "multiply-adds unknown (--input-shape tells the size)"
    return f"{multiply_adds / 1e9:,.2f} billion multiply-adds"


def _without_padding(total: dict[str, Any]) -> str:
    useful, adds = total["useful_multiply_adds"], total["multiply_adds"]
    if not useful or not adds:
        return ""
    return f", {useful / 1e9:,.2f} billion ({useful / adds:.1%}) without those of padding"


def _share(part: int | None, whole: int | None) -> str:
    return f"{part / whole:.0%}" if part is not None and whole else ""


def _number(value: int | None) -> str:
    return "?" if value is None else f"{value:,}" if value else ""


def _short(value: int | None) -> str:
    """With three digits: 12.5M."""
    if not value:
        return "?" if value is None else ""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if value >= size:
            return f"{value / size:.3g}{unit}"
    return str(value)


def _as_json(net: Net, rows: list[LayerCost], kept: Memory) -> dict[str, Any]:
    return {
        "name": net.name,
        "phase": net.phase,
        "dialect": net.dialect,
        "evidence": list(net.raw.report.evidence),
        "inputs": {name: declared.shape for name, declared in net.inputs.items()},
        "outputs": net.outputs,
        **_totals(rows),
        "memory": {
            "weights": kept.weights,
            "peak_blobs": kept.peak,
            "peak_layer": kept.peak_layer,
            "all_blobs": kept.all_blobs,
        },
        "layers": [
            {
                "name": row.name,
                "type": row.type,
                "tops": row.tops,
                "parameters": row.parameters,
                "shared": row.shared,
                "multiply_adds": row.multiply_adds,
                "useful_multiply_adds": row.useful_multiply_adds,
                "kernel": row.kernel,
                "stride": row.stride,
                "rate": row.rate,
                "receptive_field": row.field and [float(size) for size in row.field.size],
                "effective_stride": row.field and [float(step) for step in row.field.stride],
            }
            for row in rows
        ],
    }
