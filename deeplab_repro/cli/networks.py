"""``deeplab-repro networks``"""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.common import (
    channel_options,
    console,
    json_option,
    make_table,
    parse_size,
    shown,
    write_json,
)
from deeplab_repro.errors import InputError
from prototxt_import.files import replacing

if TYPE_CHECKING:
    from deeplab_repro.models import Network

#: What the released prototxts leave open, and the word of write_network for it.
_PLACEHOLDERS = ("EXP", "DATA_ROOT", "TRAIN_SET", "TEST_SET", "FEATURE_DIR")


#: What a released solver leaves open, in the words of write_solver.
_OF_SOLVER = ("exp", "net_id", "train_set")


@click.group("networks")
def command() -> None:
    """List the DeepLab networks, or write one as prototxt."""


@command.command("list")
@json_option
def list_(json_file: str | None) -> None:
    """Show every network by name.

    PARAMETERS are those at 21 labels, shared ones once.  SIZES are the side of the square input in
    training and in testing.  SCORE is the published mean IoU on VOC 2012 val in percent, before
    and after the CRF, unless it says otherwise.  Networks of DeepLab v3 and v3+ have no form of
    Caffe's; Python's create_model makes them.
    """
    from deeplab_repro.models import NETWORKS, NETWORKS_V3, PHASES

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
    for name, later in NETWORKS_V3.items():
        table.add_row(name, later.title, "TensorFlow", "", "", later.paper)
    console.print(table)
    console.print(
        f"those of v1 and v2 each as {', '.join(PHASES)}: "
        "deeplab-repro networks write NAME --phase PHASE",
        highlight=False,
        style="dim",
    )
    described = {name: _as_json(network) for name, network in NETWORKS.items()}
    for name, later in NETWORKS_V3.items():
        described[name] = {
            "paper_name": later.title,
            "full_name": name,
            "published": later.paper,
            "formats": ["tensorflow"],
            "output_stride": later.output_stride,
            "options": asdict(later.options()),
        }
    write_json(json_file, described)


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
        "schedules": [asdict(schedule) for schedule in network.schedules],
    }


@command.command("write")
@click.argument("name")
@click.option(
    "--phase",
    type=click.Choice(["TRAIN", "TEST", "DEPLOY"]),
    help="TRAIN and TEST read pictures by an ImageSegData layer; DEPLOY, the default, is the test"
    " network behind an input blob.",
)
@click.option("--train", is_flag=True, help="The same as --phase TRAIN.")
@click.option(
    "--solver",
    is_flag=True,
    help="The solver prototxt that the network was trained by; with --train both, into the folder"
    " of -o, as train.prototxt and solver.prototxt that names it.",
)
@click.option(
    "--stage",
    type=click.IntRange(1, 2),
    default=1,
    show_default=True,
    help="Of training: 1 on train_aug, 2 goes on from there on trainval_aug.",
)
@click.option(
    "--format",
    "format_",
    type=click.Choice(["v1", "v2"]),
    default="v2",
    show_default=True,
    help="v1: layers {} as the DeepLab v1 fork reads it; v2: layer {} of the v2 fork.",
)
@channel_options
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
    help=f"What the released files call {', '.join(_PLACEHOLDERS)}, or in a solver NET_ID; may be"
    " repeated.",
)
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    help="FILE, or the FOLDER for --train --solver; by default the terminal.",
)
def write(
    name: str,
    phase: str | None,
    train: bool,
    solver: bool,
    stage: int,
    format_: str,
    num_labels: int,
    width: int,
    input_size: str | None,
    batch: int | None,
    output_stride: int | None,
    settings: tuple[str, ...],
    output: str | None,
) -> None:
    """Write the network NAME of `networks list` as prototxt, or how it was trained.

    NAME may also be its full name, such as deeplab_v2_resnet101_msc: --json of the list has them.
    Networks of DeepLab v3 and v3+ have no prototxt.
    """
    from deeplab_repro.models import write_network, write_solver
    from deeplab_repro.models.write import TRAIN_SETS

    written = _phase(phase, train=train, solver=solver)
    if stage == 2 and not solver and written != "TRAIN":
        raise InputError("--stage 2", expected="--train or --solver beside it")
    placeholders = dict(_setting(setting, solver=solver) for setting in settings)
    end = "2" if stage == 2 else ""
    texts = []
    is_folder = solver and written is not None
    if is_folder and output is None:
        raise InputError("--train --solver writes two files", expected="-o FOLDER")
    if written is not None:
        filled = {name: text for name, text in placeholders.items() if name != "net_id"}
        if written == "TRAIN":
            filled.setdefault("train_set", TRAIN_SETS[stage - 1])
        text = write_network(
            name,
            written,
            format_,
            num_labels,
            width,
            None if input_size is None else parse_size("--input-size", input_size, square=True),
            batch,
            output_stride,
            **filled,
        )
        texts.append((f"{output}/train{end}.prototxt" if is_folder else output, text))
    if solver:
        filled = {name: text for name, text in placeholders.items() if name in _OF_SOLVER}
        if is_folder:
            filled["train_net"] = f"{output}/train{end}.prototxt"
            filled["snapshot_prefix"] = f"{output}/train{end}"
        text = write_solver(name, stage, **filled)
        texts.append((f"{output}/solver{end}.prototxt" if is_folder else output, text))
    if is_folder:
        Path(str(output)).mkdir(parents=True, exist_ok=True)
    for path, text in texts:
        _put(path, text)


def _phase(phase: str | None, *, train: bool, solver: bool) -> str | None:
    """The phase to write, or None where a solver is wanted alone."""
    if train and phase not in (None, "TRAIN"):
        raise InputError("--train", expected="no --phase beside it, or TRAIN", got=phase)
    if solver and phase not in (None, "TRAIN"):
        raise InputError("--solver", expected="no --phase beside it, or TRAIN", got=phase)
    if train:
        return "TRAIN"
    return phase if solver else phase or "DEPLOY"


def _put(path: str | None, text: str) -> None:
    """Write a file, or to the terminal."""
    if path is None:
        click.echo(text, nl=False)
        return
    with replacing(path) as temporary:
        Path(temporary).write_text(text, encoding="utf-8")
    console.print(f"written: {shown(path)}", highlight=False, soft_wrap=True)


def _setting(text: str, *, solver: bool) -> tuple[str, str]:
    """The name in small letters, and the value, of one --set."""
    known = (*_PLACEHOLDERS, "NET_ID") if solver else _PLACEHOLDERS
    name, equals, value = text.partition("=")
    if not equals or name not in known:
        raise InputError(
            "--set", expected=f"NAME=VALUE with NAME one of {', '.join(known)}", got=text
        )
    return name.lower(), value
