"""``deeplab-repro inspect``"""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.caffe.analysis import LayerCost, Memory, analyse, memory
from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    model_options,
    read,
    shown,
    write_json,
)
from prototxt_import import CaffeImportError, Dialect, Model, Net, Phase, Shape, infer_net
from prototxt_import.files import replacing
from prototxt_import.matching import match_weights

if TYPE_CHECKING:
    from deeplab_repro.parity.differences import Differences, LayerDifference

#: Lines of each kind of difference that are shown; all of them are in the JSON.
_MOST_LINES = 40


@click.command("inspect")
@model_options
@click.argument("other", type=click.Path(), required=False)
@click.option("--phase", type=click.Choice(["TEST", "TRAIN"]), default="TEST", show_default=True)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="BLOB=NxCxHxW",
    help="Size of an input, in place of the declared one; may be repeated.",
)
@click.option("--svg", type=click.Path(), help="Write the network's graph here as a picture.")
@json_option
def command(
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
    """
    source = read(model, prototxt, dialect, settings)
    inputs = dict(parse_shape(text) for text in input_shapes)
    if other is not None:
        if svg is not None:
            raise CaffeImportError("--svg draws one network", expected="no second model", got=other)
        _inspect_two(
            source, _read_other(other, source, dialect, settings), phase, inputs, json_file
        )
        return
    if source.raw is None:
        if svg is not None:
            source.net(phase)  # which says that there is none
        _show_weights(source.weights, model)
        write_json(json_file, {n: [list(b.shape) for b in bs] for n, bs in source.weights.items()})
        return
    net = source.net(phase)
    try:
        match_weights(infer_net(net, inputs), source.weights)
    except CaffeImportError as error:  # those of the network name its file already
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
    model = read(other, None, dialect, settings)
    if model.raw is None and source.raw is not None:
        model.raw, model.filtered, model.net_file = source.raw, source.filtered, source.net_file
    return model


def parse_shape(text: str) -> tuple[str, Shape]:
    """``BLOB=NxCxHxW`` of the command line."""
    name, _, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not name or not shape or min(shape) < 1:
        raise CaffeImportError("--input-shape", expected="BLOB=NxCxHxW", got=text)
    return name, shape


def _show(net: Net, rows: list[LayerCost], kept: Memory) -> None:
    console.print(
        f"[bold]{shown(net.name or 'network')}[/]  phase {net.phase}, dialect {net.raw.report}"
    )
    for line in net.raw.report.evidence:
        console.print(f"  {shown(line)}", highlight=False, soft_wrap=True, style="dim")
    for name, declared in net.inputs.items():
        console.print(f"  input {shown(name)}: {_shape(declared.shape)}", highlight=False)
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
            ", ".join(map(_shape, row.tops.values())),
            _pair(row.kernel),
            _pair(row.stride),
            _pair(row.rate),
            _number(row.parameters) + (" shared" if row.shared and not row.parameters else ""),
            _short(row.multiply_adds),
            _share(row.useful_multiply_adds, row.multiply_adds),
            _pair(field.size) if field else "",
            _pair(field.stride) if field else "",
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
        f"memory: weights {_megabytes(kept.weights)}, blobs at most {_megabytes(kept.peak)} at one"
        f" time{where} ({_megabytes(kept.all_blobs)} if every blob is kept)",
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
        shapes = ", ".join(_shape(blob.shape) for blob in blobs)
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


def _megabytes(count: int | None) -> str:
    return "unknown" if count is None else f"{count / 1e6:,.1f} MB"


def _shape(shape: Shape) -> str:
    return "x".join("?" if size is None else str(size) for size in shape) or "scalar"


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


def _pair(values: tuple[int | Fraction, ...] | None) -> str:
    if values is None:
        return ""
    texts = [f"{float(value):g}" for value in values]
    return texts[0] if len(set(texts)) == 1 else "x".join(texts)


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


def _inspect_two(
    first: Model, second: Model, phase: Phase, inputs: dict[str, Shape], json_file: str | None
) -> None:
    from deeplab_repro.parity.differences import differences

    a, b = (model.net(phase) if model.raw is not None else None for model in (first, second))
    known = {name for net in (a, b) if net is not None for name in net.inputs}
    for name in inputs:
        if name not in known:
            raise CaffeImportError(f"no input '{name}'", expected=f"one of {sorted(known)}")
    found = differences(a, b, first.weights, second.weights, inputs)
    for letter, model, net in zip("AB", (first, second), (a, b), strict=True):
        file = shown(model.weights_file or model.net_file)
        what = "weights without a network" if net is None else f"{len(net.layers)} layers"
        what += f", dialect {net.raw.report}" if net is not None else ""
        console.print(f"[bold]{letter}[/]  {file}: {what}", highlight=False, soft_wrap=True)
    _show_differences(found, bool(first.weights and second.weights))
    write_json(json_file, _differences_as_json(found))


def _show_differences(found: Differences, both_have_weights: bool) -> None:
    for letter, names in (("A", found.only_first), ("B", found.only_second)):
        if names:
            _heading(f"only in {letter}: {len(names)} layers")
            _line(", ".join(map(shown, names)))
    if found.fields:
        _heading(f"parameters: {len(found.fields)} differ")
        _show_grouped(found.fields)
    if found.shapes:
        _heading(f"shapes: {len(found.shapes)} differ")
        _show_grouped(found.shapes)
    if found.weights:
        _heading(f"weights: {len(found.weights)} blobs differ, {found.equal_blobs} are equal")
        for name, i, near in found.weights[:_MOST_LINES]:
            _line(f"{shown(name)} blob {i}: {near}")
        if len(found.weights) > _MOST_LINES:
            _line(f"... and {len(found.weights) - _MOST_LINES} more")
    elif both_have_weights:
        _heading(f"weights: all {found.equal_blobs} blobs that both have are equal")
    console.print(
        f"{'different' if found else 'no difference'}; {found.in_both} layers are in both",
        style="bold",
    )


def _show_grouped(entries: list[LayerDifference]) -> None:
    """One line for all layers that differ in the same way."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for entry in entries:
        key = entry.what, entry.first, entry.second
        groups.setdefault(key, []).append(shown(entry.layer))
    for (what, first, second), layers in list(groups.items())[:_MOST_LINES]:
        names = ", ".join(layers[:6]) + (f", ... ({len(layers)} layers)" if layers[6:] else "")
        where = f"{names}: " if names else ""
        _line(f"{where}{shown(what)}: {shown(first)} -> {shown(second)}")
    if len(groups) > _MOST_LINES:
        _line(f"... and {len(groups) - _MOST_LINES} more kinds")


def _heading(text: str) -> None:
    console.print(text, style="bold", highlight=False)


def _line(text: str) -> None:
    console.print(f"  {text}", highlight=False, soft_wrap=True)


def _differences_as_json(found: Differences) -> dict[str, Any]:
    def entries(items: list[LayerDifference]) -> list[dict[str, str]]:
        return [
            {"layer": e.layer, "what": e.what, "first": e.first, "second": e.second} for e in items
        ]

    def finite(value: float) -> float | None:
        return value if abs(value) < float("inf") else None

    return {
        "different": bool(found),
        "layers_in_both": found.in_both,
        "only_first": found.only_first,
        "only_second": found.only_second,
        "parameters": entries(found.fields),
        "shapes": entries(found.shapes),
        "weights": [
            {
                "layer": name,
                "blob": i,
                "rel": finite(near.rel),
                "max": finite(near.max),
                "note": near.note,
            }
            for name, i, near in found.weights
        ],
        "equal_blobs": found.equal_blobs,
    }
