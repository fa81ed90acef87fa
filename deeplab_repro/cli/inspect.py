"""``deeplab-repro inspect``"""

from __future__ import annotations

from fractions import Fraction
from typing import Any

import click

from deeplab_repro.analysis import LayerCost, analyse
from deeplab_repro.cli.common import (
    console,
    json_option,
    make_table,
    model_options,
    read,
    write_json,
)
from prototxt_import import CaffeImportError, Dialect, Net, Phase, Shape


@click.command("inspect")
@model_options
@click.option("--phase", type=click.Choice(["TEST", "TRAIN"]), default="TEST", show_default=True)
@click.option(
    "--input-shape",
    "input_shapes",
    multiple=True,
    metavar="BLOB=NxCxHxW",
    help="Size of an input, in place of the declared one; may be repeated.",
)
@json_option
def command(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    phase: Phase,
    input_shapes: tuple[str, ...],
    json_file: str | None,
) -> None:
    """Show layers, shapes, parameters, multiply-adds, receptive fields and rates of MODEL."""
    source = read(model, prototxt, dialect, settings)
    if source.raw is None:
        _show_weights(source.weights, model)
        write_json(json_file, {n: [list(b.shape) for b in bs] for n, bs in source.weights.items()})
        return
    net = source.net(phase)
    rows = analyse(net, dict(_parse_shape(text) for text in input_shapes))
    _show(net, rows)
    write_json(json_file, _as_json(net, rows))


def _parse_shape(text: str) -> tuple[str, Shape]:
    name, _, sizes = text.partition("=")
    try:
        shape = tuple(int(size) for size in sizes.replace(",", "x").split("x"))
    except ValueError:
        shape = ()
    if not shape or min(shape) < 0:
        raise CaffeImportError("--input-shape", expected="BLOB=NxCxHxW", got=text)
    return name, shape


def _show(net: Net, rows: list[LayerCost]) -> None:
    console.print(f"[bold]{net.name or 'network'}[/]  phase {net.phase}, dialect {net.raw.report}")
    for line in net.raw.report.evidence:
        console.print(f"  {line}", highlight=False, soft_wrap=True, style="dim")
    for name, declared in net.inputs.items():
        console.print(f"  input {name}: {_shape(declared.shape)}", highlight=False)
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
        field="right",
        step="right",
    )
    for row in rows:
        field = row.field if row.kernel or row.type in ("Interp", "Eltwise") else None
        table.add_row(
            row.name,
            row.type,
            ", ".join(map(_shape, row.tops.values())),
            _pair(row.kernel),
            _pair(row.stride),
            _pair(row.rate),
            _number(row.parameters) + (" shared" if row.shared and not row.parameters else ""),
            _short(row.multiply_adds),
            _pair(field.size) if field else "",
            _pair(field.stride) if field else "",
        )
    console.print(table)
    total = _totals(rows)
    console.print(
        f"[bold]{total['parameters']:,}[/] parameters in {len(rows)} layers"
        f" ({total['shared']:,} more are shared copies), {_giga(total['multiply_adds'])}"
    )
    console.print(f"outputs: {', '.join(net.outputs)}", highlight=False)
    console.print("field: receptive field in pixels; step: pixels between neighbours", style="dim")


def _show_weights(weights: dict[str, Any], model: str) -> None:
    console.print(f"{model}: weights without a network", highlight=False, soft_wrap=True)
    table = make_table("", layer="left", blobs="left", values="right")
    for name, blobs in weights.items():
        shapes = ", ".join(_shape(blob.shape) for blob in blobs)
        table.add_row(name, shapes, f"{sum(blob.size for blob in blobs):,}")
    console.print(table)


def _totals(rows: list[LayerCost]) -> dict[str, Any]:
    adds = [row.multiply_adds for row in rows]
    return {
        "parameters": sum(row.parameters or 0 for row in rows),
        "shared": sum(row.shared for row in rows),
        "multiply_adds": None if None in adds else sum(add or 0 for add in adds),
    }


def _giga(multiply_adds: int | None) -> str:
    if multiply_adds is None:
        return "multiply-adds unknown (--input-shape tells the size)"
    return f"{multiply_adds / 1e9:,.2f} billion multiply-adds"


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


def _as_json(net: Net, rows: list[LayerCost]) -> dict[str, Any]:
    return {
        "name": net.name,
        "phase": net.phase,
        "dialect": net.dialect,
        "evidence": list(net.raw.report.evidence),
        "inputs": {name: declared.shape for name, declared in net.inputs.items()},
        "outputs": net.outputs,
        **_totals(rows),
        "layers": [
            {
                "name": row.name,
                "type": row.type,
                "tops": row.tops,
                "parameters": row.parameters,
                "shared": row.shared,
                "multiply_adds": row.multiply_adds,
                "kernel": row.kernel,
                "stride": row.stride,
                "rate": row.rate,
                "receptive_field": row.field and [float(size) for size in row.field.size],
                "effective_stride": row.field and [float(step) for step in row.field.stride],
            }
            for row in rows
        ],
    }
