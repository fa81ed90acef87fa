"""``deeplab-repro activations``"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from deeplab_repro.cli.checkpoints import (
    checkpoint_of,
    load_checkpoint,
    network_options,
    refuse_given,
)
from deeplab_repro.cli.common import (
    accuracy_option,
    algorithm_option,
    check_pad_to,
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
from deeplab_repro.errors import InputError
from prototxt_import import Dialect

if TYPE_CHECKING:
    from torch import Tensor

    from deeplab_repro.models.v3.options import ModelOptions

#: What means nothing for a checkpoint: parameter -> option.
_OF_CAFFE = {
    "prototxt": "--prototxt",
    "dialect": "--dialect",
    "mean": "--mean",
    "scale": "--scale",
    "resize": "--resize",
}


@click.command("activations")
@model_options
@network_options
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
@click.pass_context
def command(
    context: click.Context,
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    options_file: str | None,
    network: str | None,
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
    """Run MODEL in the TEST phase and write every blob to OUT.h5, as /blobs/NAME.

    Of a TensorFlow checkpoint these are the end points, under the original's names, as (N, C, H,
    W).  Its pictures go in as they are, red, green, blue from 0 to 255; --pad-to N, or the crop
    among its options, pads them right and below with its variant's colour.
    """
    checkpoint = checkpoint_of(model, options_file, network)
    if checkpoint is not None:
        refuse_given(context, model, _OF_CAFFE)
        check_pad_to(pad_to)
        how = {"algorithm": algorithm, "accuracy": accuracy}
        with progress("loading", "running", "writing") as advance:
            from deeplab_repro.parity.comparison import write_activations
            from deeplab_repro.parity.endpoints import endpoints_of

            plain = load_checkpoint(
                checkpoint, options_file, network, settings, quirks=quirks, **how
            )
            pictures = _pictures(input_file, pad_to, plain.options)
            advance()
            blobs = endpoints_of(plain, pictures)
            advance()
            write_activations(output, blobs)
            advance()
        _say(len(blobs), output)
        return
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
    _say(len(blobs), output)


def _pictures(file: str, pad_to: int | None, options: ModelOptions) -> Tensor:
    """(N, 3, H, W), red, green, blue, 0..255, from a picture, an .npy or an .h5.

    A picture is padded to --pad-to, or to the crop that the network is for.
    """
    from deeplab_repro.parity.endpoints import INPUT, pictures_of
    from deeplab_repro.parity.recordings import Recording
    from deeplab_repro.pictures.reading import load_npy, read_picture
    from deeplab_repro.tensorflow import preprocess

    ending = Path(file).suffix.lower()
    if ending in (".h5", ".hdf5", ".npy"):
        recording = Recording("", Path(file), Path(file), None)
        array = load_npy(file) if ending == ".npy" else recording.whole(INPUT)
        if pad_to is not None:
            raise InputError("does not go with --pad-to", file=file, expected="a picture")
        try:
            return pictures_of(array)[0]
        except InputError as error:
            raise error.with_file(file) from None
    picture = read_picture(file)[:, :, ::-1]
    own = options.crop_size or (picture.shape[0], picture.shape[1])
    crop = own if pad_to is None else (pad_to, pad_to)
    return preprocess(picture, crop_size=crop, model_variant=options.model_variant).image[None]


def _say(count: int, output: str) -> None:
    console.print(f"{count} blobs written to {shown(output)}", highlight=False, soft_wrap=True)
