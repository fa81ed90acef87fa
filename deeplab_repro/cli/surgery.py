"""``deeplab-repro surgery``"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.common import (
    channel_options,
    check_placeholders,
    console,
    json_option,
    make_table,
    placeholders_of,
    shown,
    writable,
    write_json,
)
from deeplab_repro.cli.convert import check_ending, write_model
from deeplab_repro.errors import InputError
from prototxt_import import CaffeImportError, Model, read_model
from prototxt_import.files import kind_of
from prototxt_import.text import parse_text
from prototxt_import.words import megabytes

if TYPE_CHECKING:
    from deeplab_repro.train.surgery import Grafted, Pick
    from deeplab_repro.train.torchvision import Imported


@click.command("surgery")
@click.argument("source", type=click.Path())
@click.option("--network", metavar="NAME", help="The network to make, of `networks list`.")
@click.option("--prototxt", type=click.Path(), help="The network to make, in place of --network.")
@click.option(
    "-o",
    "--output",
    type=click.Path(),
    callback=writable,
    required=True,
    help="OUT.caffemodel|.caffemodel.h5|.safetensors|.pt",
)
@channel_options
@click.option(
    "--set",
    "settings",
    multiple=True,
    metavar="NAME=VALUE",
    help="Fill the placeholder ${NAME} of the prototxt, or EXP of --network; may be repeated.",
)
@click.option(
    "--pick",
    type=click.Choice(["random", "every"]),
    default="random",
    show_default=True,
    help="Where there are fewer channels than in the source: a random subset, or every n-th.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, 2**63 - 1),
    default=0,
    show_default=True,
    help="Of the subset and the new layers.",
)
@click.option(
    "--mean",
    metavar="R,G,B",
    help="What torchvision's pictures were normalized with, in 0..1; by default as in torchvision.",
)
@click.option("--std", metavar="R,G,B", help="Likewise.")
@json_option
def command(
    source: str,
    network: str | None,
    prototxt: str | None,
    output: str,
    num_labels: int,
    width: int,
    settings: tuple[str, ...],
    pick: Pick,
    seed: int,
    mean: str | None,
    std: str | None,
    json_file: str | None,
) -> None:
    """Make the weights that a DeepLab network starts its training from.

    SOURCE holds an ImageNet network: a caffemodel of VGG-16 or ResNet-101 (or .caffemodel.h5,
    .safetensors), or a PyTorch state dict of torchvision's vgg16, vgg16_bn or resnet101; or the
    weights of a DeepLab network, to start another one from.  Layers are found by their names.
    Fully connected layers become convolutions, kernels and channels are cut to those of the
    network, and classifiers start anew; OUT holds the network, too.
    """
    from deeplab_repro.train.surgery import graft

    target = Path(output)
    check_ending(target)
    if target.exists() and Path(source).exists() and target.samefile(source):
        raise InputError("would replace the source itself", file=target, expected="another -o")
    placeholders = placeholders_of(settings)
    if (network is None) == (prototxt is None):
        raise InputError("the network to make", expected="--network or --prototxt, one of them")
    if prototxt is not None:
        made = read_model(prototxt, placeholders=placeholders, want_weights=False)
        check_placeholders(settings, made.placeholders, prototxt)
    else:
        made = _of_catalogue(str(network), num_labels, width, placeholders)
    given = _source(source, _three("--mean", mean), _three("--std", std))
    try:
        grafted = graft(made.net("TEST"), given.weights, pick=pick, seed=seed)
    except (InputError, CaffeImportError) as error:
        raise error.with_file(source) from None
    made.weights = grafted.weights
    write_model(target, made)
    report = {
        "source": source,
        "source_network": given.network,
        "network": network or prototxt,
        "output": str(target),
        "bytes": target.stat().st_size,
        "pick": pick,
        "seed": seed,
        **{key: value for key, value in asdict(grafted).items() if key != "weights"},
        "pixels": given.first,
        "notes": list(given.notes),
    }
    _show(report, grafted)
    write_json(json_file, report)


def _three(option: str, text: str | None) -> list[float] | None:
    if text is None:
        return None
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InputError(option, expected="three numbers R,G,B", got=text) from None


def _of_catalogue(
    network: str, num_labels: int, width: int, placeholders: Mapping[str, str]
) -> Model:
    from deeplab_repro.models import write_network

    if unknown := placeholders.keys() - {"EXP"}:
        raise InputError("--set of a --network", expected="EXP=VALUE", got=", ".join(unknown))
    exp = placeholders.get("EXP", "voc12")
    return Model(parse_text(write_network(network, num_labels=num_labels, width=width, exp=exp)))


def _source(path: str, mean: Sequence[float] | None, std: Sequence[float] | None) -> Imported:
    """Weights under Caffe's names."""
    from deeplab_repro.train.torchvision import MEAN, STD, Imported, read_torchvision

    if kind_of(path) != "torch":
        if mean is not None or std is not None:
            raise InputError(
                "does not go with --mean and --std", file=path, expected="torchvision's weights"
            )
        return Imported("Caffe's layers", read_model(path).weights)
    from deeplab_repro.models.loading import read_state_dict, read_torch_file

    try:
        imported = read_torchvision(read_state_dict(path), mean or MEAN, std or STD)
    except InputError as error:
        raise error.with_file(path) from None
    if imported is not None:
        return imported
    model, ported = read_torch_file(path)
    return Imported("Caffe's layers" if ported is None else ported.origin, model.weights)


def _show(report: Mapping[str, Any], grafted: Grafted) -> None:
    table = make_table("", layer="left", weights="left")
    table.add_row("source", shown(report["source_network"]))
    table.add_row(f"{len(grafted.same)} layers", "as they are")
    for layer, how in grafted.changed.items():
        table.add_row(shown(layer), shown(how))
    for layer, filler in grafted.new.items():
        table.add_row(shown(layer), f"new: {shown(filler)}")
    if grafted.unused:
        table.add_row("not used", shown(", ".join(grafted.unused)))
    if report["pixels"]:
        table.add_row(
            shown(report["pixels"]), "reads blue, green, red in 0..255 minus the mean now"
        )
    for note in report["notes"]:
        table.add_row("not exact", note)
    table.add_row("written", f"{shown(report['output'])} ({megabytes(report['bytes'])})")
    console.print(table)
