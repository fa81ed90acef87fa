"""``deeplab-repro activations``"""

from __future__ import annotations

import click

from deeplab_repro.cli.common import (
    accuracy_option,
    algorithm_option,
    console,
    load_net,
    model_options,
    picture_options,
    preparation_of,
    progress,
    quirks_option,
    shown,
    writable,
)
from prototxt_import import Dialect


@click.command("activations")
@model_options
@click.option(
    "--input",
    "input_file",
    type=click.Path(),
    required=True,
    help="A picture, an .npy, or an .h5 with /blobs/INPUT.",
)
@click.option("-o", "--output", type=click.Path(), callback=writable, required=True, help="OUT.h5")
@picture_options
@algorithm_option
@accuracy_option
@quirks_option
def command(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    input_file: str,
    output: str,
    mean: str,
    scale: float,
    pad_to: int | None,
    resize: str | None,
    algorithm: str,
    accuracy: str,
    quirks: bool,
) -> None:
    """Run MODEL in the TEST phase and write every blob to OUT.h5, as /blobs/NAME."""
    preparation = preparation_of(mean, scale, pad_to, resize)
    with progress("loading", "running", "writing") as advance:
        import torch

        from deeplab_repro.parity.comparison import write_activations
        from deeplab_repro.pictures.reading import load_inputs

        net = load_net(model, prototxt, dialect, settings, algorithm, quirks, accuracy)
        inputs = load_inputs(input_file, net.net, preparation)
        advance()
        with torch.inference_mode():
            blobs = net.blobs(**inputs)
        advance()
        write_activations(output, blobs)
        advance()
    console.print(f"{len(blobs)} blobs written to {shown(output)}", highlight=False, soft_wrap=True)
