"""What ``deeplab-repro inspect A B`` prints: how two models differ."""

from __future__ import annotations

from typing import Any, Final

from deeplab_repro.cli.common import console, shown, write_json
from deeplab_repro.errors import InputError
from deeplab_repro.parity.differences import Differences, LayerDifference, differences
from prototxt_import import Model, Phase, Shape
from prototxt_import.words import finite_or_none

__all__ = ["show_differences"]

#: Lines of each kind of difference that are shown; all of them are in the JSON.
_MOST_LINES: Final = 40


def show_differences(
    first: Model, second: Model, phase: Phase, inputs: dict[str, Shape], json_file: str | None
) -> None:
    """Print how two models differ, and write the report if a file was asked for.

    Args:
        first: called A in what is printed.
        second: called B.
        phase: of both networks.
        inputs: input blob -> shape, in place of the declared one.
        json_file: the report's file, or None.

    Raises:
        InputError: ``inputs`` names a blob that neither network takes.
    """
    a, b = (model.net(phase) if model.raw is not None else None for model in (first, second))
    known = {name for net in (a, b) if net is not None for name in net.inputs}
    for name in inputs:
        if name not in known:
            raise InputError(f"no input '{name}'", expected=f"one of {sorted(known)}")
    found = differences(a, b, first.weights, second.weights, inputs)
    for letter, model, net in zip("AB", (first, second), (a, b), strict=True):
        file = shown(model.weights_file or model.net_file)
        what = "weights without a network" if net is None else f"{len(net.layers)} layers"
        what += f", dialect {net.raw.report}" if net is not None else ""
        console.print(f"[bold]{letter}[/]  {file}: {what}", highlight=False, soft_wrap=True)
    _print(found, bool(first.weights and second.weights))
    write_json(json_file, _as_json(found))


def _print(found: Differences, both_have_weights: bool) -> None:
    for letter, names in (("A", found.only_first), ("B", found.only_second)):
        if names:
            _heading(f"only in {letter}: {len(names)} layers")
            _line(", ".join(map(shown, names)))
    if found.fields:
        _heading(f"parameters: {len(found.fields)} differ")
        _print_grouped(found.fields)
    if found.shapes:
        _heading(f"shapes: {len(found.shapes)} differ")
        _print_grouped(found.shapes)
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


def _print_grouped(entries: list[LayerDifference]) -> None:
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


def _as_json(found: Differences) -> dict[str, Any]:
    def entries(items: list[LayerDifference]) -> list[dict[str, str]]:
        return [
            {"layer": e.layer, "what": e.what, "first": e.first, "second": e.second} for e in items
        ]

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
                "rel": finite_or_none(near.rel),
                "max": finite_or_none(near.max),
                "note": near.note,
            }
            for name, i, near in found.weights
        ],
        "equal_blobs": found.equal_blobs,
    }
