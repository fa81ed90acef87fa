"""``deeplab-repro networks``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.common import console, json_option, make_table, parse_size, shown, write_json
from deeplab_repro.errors import InputError
from prototxt_import.files import replacing

if TYPE_CHECKING:
    from deeplab_repro.models import Network

#: What the released prototxts leave open, and the word of write_network for it.
_PLACEHOLDERS = ("EXP", "DATA_ROOT", "TRAIN_SET", "TEST_SET", "FEATURE_DIR")


@click.group("networks")
def command() -> None:
    """List the DeepLab networks, or write one as prototxt."""


@command.command("list")
@json_option
def list_(json_file: str | None) -> None:
    """Show every network by name.

    PARAMETERS are those at 21 labels, shared ones once.  SIZES are the side of the square input in
    training and in testing.  SCORE is the published mean IoU on VOC 2012 val in percent, before
    and after the CRF, unless it says otherwise.
    """
    from deeplab_repro.models import NETWORKS, PHASES

    table = make_table(
        "",
        name="left",
        paper_name="left",
        formats="left",
        sizes="right",
        parameters="right",
        score="left",
    )
    for name, network in NETWORKS.items():
        table.add_row(
            name,
            network.title,
            ", ".join(network.formats),
            f"{network.train_size} / {network.test_size}",
            f"{network.parameters:,}",
            network.paper,
        )
    console.print(table)
    console.print(
        f"each as {', '.join(PHASES)}: deeplab-repro networks write NAME --phase PHASE",
        highlight=False,
        style="dim",
    )
    write_json(json_file, {name: _as_json(network) for name, network in NETWORKS.items()})


def _as_json(network: Network) -> dict[str, Any]:
    from deeplab_repro.models import PHASES

    return {
        "paper_name": network.title,
        "full_name": network.full_name,
        "released": network.released,
        "published": network.paper,
        "phases": PHASES,
        "formats": network.formats,
        "parameters": network.parameters,
        "train_size": network.train_size,
        "test_size": network.test_size,
        "train_scores": network.train_scores,
        "test_scores": network.test_scores,
        "output": network.output,
        "batch": network.batch,
    }


@command.command("write")
@click.argument("name")
@click.option(
    "--phase",
    type=click.Choice(["TRAIN", "TEST", "DEPLOY"]),
    default="DEPLOY",
    show_default=True,
    help="TRAIN and TEST read pictures by an ImageSegData layer; DEPLOY is the test network"
    " behind an input blob.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["v1", "v2"]),
    default="v2",
    show_default=True,
    help="v1: layers {} as the DeepLab v1 fork reads it; v2: layer {} of the v2 fork.",
)
@click.option("--num-labels", default=21, show_default=True, help="Channels of the scores.")
@click.option(
    "--width",
    default=1,
    show_default=True,
    help="Divides the published channel counts: a small network of the same shape.",
)
@click.option(
    "--input-size", metavar="N|HxW", help="Side, or height and width; by default as published."
)
@click.option(
    "--batch", type=int, help="Pictures a pass; by default as published in TRAIN, 1 otherwise."
)
@click.option(
    "--output-stride",
    type=int,
    help="Pixels of the input for a row or column of scores, with the rates that keep the field of"
    " view; by default 8 as published.",
)
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help=f"What the released files call {', '.join(_PLACEHOLDERS)}; may be repeated.",
)
@click.option("-o", "--output", type=click.Path(), help="FILE; by default the terminal.")
def write(
    name: str,
    phase: str,
    format_: str,
    num_labels: int,
    width: int,
    input_size: str | None,
    batch: int | None,
    output_stride: int | None,
    settings: tuple[str, ...],
    output: str | None,
) -> None:
    """Write the network NAME of `networks list` as prototxt.

    NAME may also be its full name, such as deeplab_v2_resnet101_msc: --json of the list has them.
    """
    from deeplab_repro.models import write_network

    text = write_network(
        name,
        phase,
        format_,
        num_labels,
        width,
        None if input_size is None else parse_size("--input-size", input_size, square=True),
        batch,
        output_stride,
        **dict(_setting(setting) for setting in settings),
    )
    if output is None:
        click.echo(text, nl=False)
        return
    with replacing(output) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    console.print(f"written: {shown(output)}", highlight=False, soft_wrap=True)


def _setting(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not equals or name not in _PLACEHOLDERS:
        raise InputError(
            "--set", expected=f"NAME=VALUE with NAME one of {', '.join(_PLACEHOLDERS)}", got=text
        )
    return name.lower(), value
