"""``deeplab-repro autotune``"""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from deeplab_repro.cli.checkpoints import checkpoint_of, load_checkpoint, network_options
from deeplab_repro.cli.common import (
    accuracy_option,
    console,
    json_option,
    load_net,
    model_options,
    parse_size,
    quirks_option,
    write_json,
)
from deeplab_repro.cli.variables import refuse_options
from prototxt_import import Dialect

if TYPE_CHECKING:
    from deeplab_repro.caffe.net import CaffeNet
    from deeplab_repro.models.v3.network import DeepLabV3


#: What the released networks of both kinds were tested with.
_VOC_CROP = (513, 513)


@click.command("autotune")
@model_options
@network_options
@click.option(
    "--size",
    metavar="N|HxW",
    help="Side, or height and width, of the pictures with their padding. By default 513, or the"
    " crop of a checkpoint's options.",
)
@click.option(
    "--batch", type=click.IntRange(min=1), default=1, show_default=True, help="Pictures a pass."
)
@click.option(
    "--fuse/--no-fuse",
    default=None,
    help="Of the fused network, as net.fuse() makes it. Default: as `segment` runs MODEL, which"
    " fuses a checkpoint's network.",
)
@click.option(
    "--cache/--no-cache",
    default=True,
    show_default=True,
    help="Read what was measured before, and keep what is measured.",
)
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
    size: str | None,
    batch: int,
    fuse: bool | None,
    cache: bool,
    accuracy: str,
    quirks: bool,
    json_file: str | None,
) -> None:
    """Measure which algorithm is the fastest for each convolution of MODEL, on this machine.

    What is measured is kept in the user's cache, for `segment --autotune` and for
    deeplab_repro.autotune, on as many threads.
    """
    wanted = None if size is None else parse_size("--size", size, square=True)
    checkpoint = checkpoint_of(model, options_file, network)
    net: CaffeNet | DeepLabV3
    if checkpoint is not None:
        refuse_options(model, {"--prototxt": prototxt, "--dialect": dialect})
        net = load_checkpoint(checkpoint, options_file, network, settings, accuracy=accuracy)
        wanted = wanted or net.options.crop_size
    else:
        net = load_net(model, prototxt, dialect, settings, quirks=quirks, accuracy=accuracy)
    if fuse is None:
        fuse = checkpoint is not None

    from deeplab_repro.autotuning import autotune

    shape = (batch, 3, *(wanted or _VOC_CROP))
    found = autotune(net.fuse() if fuse else net, shape, cache=cache)
    console.print(found)
    write_json(json_file, found.to_dict())
