"""``deeplab-repro compare``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.checkpoints import checkpoint_of, load_checkpoint, network_options
from deeplab_repro.cli.common import (
    accuracy_option,
    algorithm_option,
    console,
    json_option,
    make_table,
    model_options,
    progress,
    quirks_option,
    read,
    shown,
    writable,
    write_json,
)
from deeplab_repro.cli.variables import refuse_options
from prototxt_import import Dialect
from prototxt_import.words import finite_or_none, show

if TYPE_CHECKING:
    from deeplab_repro.parity.causes import Cause
    from deeplab_repro.parity.comparison import Compared


@click.command("compare")
@model_options
@network_options
@click.option(
    "--activations",
    "recorded",
    type=click.Path(),
    required=True,
    help="What Caffe computed: /blobs/NAME for every blob, inputs included. Or what TensorFlow"
    " computed: /blobs/input, pictures of 0..255, and /blobs/KEY for end points.",
)
@click.option(
    "--html",
    "page",
    type=click.Path(),
    callback=writable,
    help="Write the report here as a page.",
)
@algorithm_option
@accuracy_option
@quirks_option
@json_option
def command(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    options_file: str | None,
    network: str | None,
    recorded: str,
    page: str | None,
    algorithm: str,
    accuracy: str,
    quirks: bool,
    json_file: str | None,
) -> None:
    """Run MODEL on the recorded input and compare every blob with the recorded one.

    Equal means ||ours - Caffe's|| <= 1e-5 ||Caffe's|| and max|ours - Caffe's| <= 1e-4 max|Caffe's|
    on every blob.  Where they differ, the likely cause among the known mistakes is named.  Exit
    code 0: equal, 1: not equal.

    Of a TensorFlow checkpoint every end point is compared, by the keys that `activations` writes,
    with maps as (N, H, W, C) or (N, C, H, W); equal means 2e-4 in both measures.
    """
    checkpoint = checkpoint_of(model, options_file, network)
    if checkpoint is not None:
        refuse_options(model, {"--prototxt": prototxt, "--dialect": dialect})
    with progress(
        "loading", "running and comparing", "looking for the cause", "writing"
    ) as advance:
        from deeplab_repro.caffe.net import load_caffe
        from deeplab_repro.parity.causes import likely_causes
        from deeplab_repro.parity.comparison import compare_blobs
        from deeplab_repro.parity.recordings import Recording
        from deeplab_repro.parity.tolerances import AGREEMENT

        comparison: Compared
        causes: list[Cause] = []
        if checkpoint is not None:
            from deeplab_repro.parity.endpoints import compare_endpoints

            how = {"algorithm": algorithm, "accuracy": accuracy}
            plain = load_checkpoint(
                checkpoint, options_file, network, settings, quirks=quirks, **how
            )
            advance()
            recording = Recording(Path(model).name, Path(recorded), Path(model), None)
            comparison = compare_endpoints(plain, recording, AGREEMENT["tensorflow"])
            advance()
        else:
            source = read(model, prototxt, dialect, settings)
            net = load_caffe(source, algorithm=algorithm, accuracy=accuracy, quirks=quirks)
            advance()
            recording = Recording(net.net.name, Path(recorded), Path(model), None)
            comparison = of_caffe = compare_blobs(net, recording, AGREEMENT["caffe"])
            advance()
            causes = likely_causes(of_caffe, source.weights)
        advance()
        if page is not None:
            from deeplab_repro.parity.html import write_page

            write_page(page, comparison, causes, model)
        advance()
    first = comparison.first
    _show(comparison)
    _show_causes(causes)
    write_json(json_file, _as_json(comparison, causes))
    if page is not None:
        console.print(f"wrote {page}", highlight=False, markup=False, soft_wrap=True)
    raise click.exceptions.Exit(1 if first else 0)


def _show(comparison: Compared) -> None:
    reports, tolerance, first = comparison.reports, comparison.tolerance, comparison.first
    table = make_table(
        "",
        blob="left",
        layer="left",
        type="left",
        shape="right",
        rel="right",
        max="right",
        verdict="left",
    )
    for report in reports:
        rel = maximum = "-"
        verdict = "[dim]not recorded[/]"
        if report.agreement is not None:
            rel, maximum = f"{report.agreement.rel:.1e}", f"{report.agreement.max:.1e}"
            reason = f" ({report.agreement.note})" if report.agreement.note else ""
            verdict = "[green]equal[/]" if report.equal else f"[red]DIFFERS{reason}[/]"
        shape = show(report.shape) if report.shape or report.layer else ""
        table.add_row(
            shown(report.blob), shown(report.layer), report.type, shape, rel, maximum, verdict
        )
    console.print(table)
    console.print(f"{comparison.compared} of {len(comparison.ours)} blobs compared")
    compared = [report for report in reports if report.agreement is not None]
    bounds = f"rel <= {tolerance.rel:.0e}, max <= {tolerance.max:.0e}"
    if first is None:
        worst = max((r.agreement.rel for r in compared if r.agreement), default=0.0)
        console.print(f"[green]equal[/]: {len(compared)} blobs ({bounds}; worst rel {worst:.1e})")
    else:
        differing = sum(report.equal is False for report in reports)
        where = (
            f"layer '{first.layer}', blob '{first.blob}'" if first.layer else f"blob '{first.blob}'"
        )
        console.print(
            f"[red]not equal[/]: {differing} of {len(compared)} blobs differ ({bounds});"
            f" the first is {shown(where)}: {first.agreement}"
        )


def _show_causes(causes: list[Cause]) -> None:
    sure = {"proved": "cause", "likely": "likely cause", "unknown": "cause unknown"}
    for cause in causes:
        where = f" at layer '{shown(cause.layer)}'" if cause.layer else ""
        lines = [f"[bold]{sure[cause.sure]}[/]: {shown(cause.trap.title)}{where}"]
        lines += [f"  {shown(text)}" for text in cause.evidence]
        if cause.also:
            names = ", ".join(map(shown, cause.also[:8])) + (", ..." if len(cause.also) > 8 else "")
            lines.append(f"  the same holds for {len(cause.also)} more: {names}")
        lines.append(f"  -> {shown(cause.trap.advice)}")
        for line in lines:
            console.print(line, highlight=False, soft_wrap=True)


def _as_json(comparison: Compared, causes: list[Cause]) -> dict[str, Any]:
    first, tolerance = comparison.first, comparison.tolerance
    return {
        "equal": first is None,
        "blobs_of_network": len(comparison.ours),
        "blobs_compared": comparison.compared,
        "first_difference": first and {"layer": first.layer, "blob": first.blob},
        "causes": [cause.as_json() for cause in causes],
        "tolerance": {"rel": tolerance.rel, "max": tolerance.max},
        "blobs": [
            {
                "blob": r.blob,
                "layer": r.layer,
                "type": r.type,
                "shape": r.shape,
                # JSON has no NaN or infinity: those are told by the note.
                "rel": finite_or_none(r.agreement.rel) if r.agreement else None,
                "max": finite_or_none(r.agreement.max) if r.agreement else None,
                "note": r.agreement.note if r.agreement else "not recorded",
                "equal": r.equal,
            }
            for r in comparison.reports
        ],
    }
