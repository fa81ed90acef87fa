"""``deeplab-repro export``"""

from __future__ import annotations

from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from deeplab_repro.cli.checkpoints import checkpoint_of, load_checkpoint, network_options
from deeplab_repro.cli.common import (
    console,
    input_shape_option,
    json_option,
    make_table,
    model_options,
    parse_shapes,
    progress,
    quirks_option,
    read,
    shown,
    writable,
    write_json,
)
from deeplab_repro.cli.variables import refuse_options
from deeplab_repro.errors import BadInput, InputError
from prototxt_import import Dialect
from prototxt_import.files import replacing
from prototxt_import.limits import MAX_BLOB_BYTES
from prototxt_import.words import finite_or_none, megabytes, show

if TYPE_CHECKING:
    from deeplab_repro.models.v3.network import DeepLabV3
    from deeplab_repro.parity.onnx import Check
    from deeplab_repro.parity.tolerances import Tolerance


@click.command("export")
@model_options
@network_options
@click.option(
    "-o", "--output", type=click.Path(), callback=writable, required=True, help="OUT.onnx"
)
@input_shape_option
@click.option("--blob", help="The output to cut the network at, such as its scores.")
@click.option("--fuse/--no-fuse", default=True, help="Fold normalisation into convolutions first.")
@quirks_option
@json_option
def command(
    model: str,
    prototxt: str | None,
    dialect: Dialect | None,
    settings: tuple[str, ...],
    options_file: str | None,
    network: str | None,
    output: str,
    input_shapes: tuple[str, ...],
    blob: str | None,
    fuse: bool,
    quirks: bool,
    json_file: str | None,
) -> None:
    """Export MODEL, in the TEST phase, to ONNX.

    Inputs and outputs of the file have the names of the blobs; batch size, height and width are
    free where the network leaves them free. A training network, which reads labels, is cut at its
    scores. Where onnxruntime is installed, the model is run at two sizes and held against the
    module; if they differ, nothing is written and the exit code is 1.

    A TensorFlow checkpoint becomes a network from `image`, red, green, blue from 0 to 255, to
    `logits` at full size, for one size: --input-shape image=1x3xHxW, or its crop, or 513x513.
    """
    if Path(output).suffix != ".onnx":
        raise InputError("unknown kind of output", file=output, expected=".onnx")
    checkpoint = checkpoint_of(model, options_file, network)
    if checkpoint is not None:
        refuse_options(model, {"--prototxt": prototxt, "--dialect": dialect, "--blob": blob})
        plain = load_checkpoint(checkpoint, options_file, network, settings, quirks=quirks)
        _export_checkpoint(plain.fuse() if fuse else plain, input_shapes, output, json_file)
        return
    with progress("loading", "exporting", "checking") as advance:
        from deeplab_repro.caffe.export import input_shapes as find_shapes
        from deeplab_repro.caffe.export import onnx_model, other_shapes, without_labels
        from deeplab_repro.caffe.net import CaffeNet
        from deeplab_repro.parity.onnx import check_onnx

        source = read(model, prototxt, dialect, settings)
        whole = source.net("TEST")
        part = without_labels(whole, blob)
        shapes = find_shapes(part, parse_shapes(input_shapes))
        try:
            net = CaffeNet(part, source.weights, quirks=quirks)
        except BadInput as error:
            raise error.with_file(source.weights_file or source.net_file) from None
        advance()
        content = onnx_model(net.fuse() if fuse else net, shapes)
        advance()
        checks: list[Check] = []
        if find_spec("onnxruntime") is not None:
            for case in (shapes, other_shapes(net, shapes)):
                checks += check_onnx(net, content, case) if case else []
        advance()
    if part is not whole:
        outputs = ", ".join(map(shown, part.outputs))
        console.print(f"cut at the scores: {outputs}", highlight=False, soft_wrap=True)
    _finish(output, content, checks, json_file)


def _export_checkpoint(
    net: DeepLabV3, input_shapes: Sequence[str], output: str, json_file: str | None
) -> None:
    from deeplab_repro.models.v3.export import INPUT, NamedScores, onnx_of
    from deeplab_repro.parity.onnx import check_onnx

    given = parse_shapes(input_shapes)
    shape: Any = given.pop(INPUT, (1, 3, *(net.options.crop_size or (513, 513))))
    if given or len(shape) != 4 or shape[1] != 3:
        raise InputError("--input-shape", expected=f"{INPUT}=1x3xHxW", got=", ".join(input_shapes))
    count, _, height, width = shape
    # The check runs one picture more; each is 3 maps of float32.
    MAX_BLOB_BYTES.check((count + 1) * 12 * height * width, "--input-shape: too many bytes")
    with progress("exporting", "checking") as advance:
        content = onnx_of(net, height, width)
        advance()
        checks: list[Check] = []
        if find_spec("onnxruntime") is not None:
            named = NamedScores(net)
            for pictures in (count, count + 1):
                checks += check_onnx(named, content, {INPUT: (pictures, 3, height, width)})
        advance()
    _finish(output, content, checks, json_file)


def _finish(output: str, content: bytes, checks: list[Check], json_file: str | None) -> None:
    """Show what the checks found, and write the file if they agree."""
    from deeplab_repro.parity.tolerances import AGREEMENT

    tolerance = AGREEMENT["fused"]
    equal = all(check.agreement.within(tolerance) for check in checks)
    _show(checks, tolerance)
    write_json(json_file, _report(output, len(content), checks, equal))
    if not equal:
        console.print(f"{shown(output)} not written", highlight=False, soft_wrap=True)
        raise click.exceptions.Exit(1)
    with replacing(output) as temporary:
        temporary.write_bytes(content)
    size = megabytes(len(content))
    console.print(f"{shown(output)} written ({size})", highlight=False, soft_wrap=True)


def _show(checks: list[Check], tolerance: Tolerance) -> None:
    if not checks:
        console.print("not checked: onnxruntime is not installed")
        return
    table = make_table("", input="left", output="left", rel="right", max="right", verdict="left")
    for check in checks:
        table.add_row(
            _text(check.shapes),
            shown(check.output),
            f"{check.agreement.rel:.1e}",
            f"{check.agreement.max:.1e}",
            "equal" if check.agreement.within(tolerance) else check.agreement.note or "differs",
        )
    console.print(table)
    if len({_text(check.shapes) for check in checks}) == 1:
        console.print("the network takes maps of this size only")


def _text(shapes: dict[str, tuple[int, ...]]) -> str:
    return " ".join(f"{name}={show(shape)}" for name, shape in shapes.items())


def _report(output: str, size: int, checks: list[Check], equal: bool) -> dict[str, Any]:
    return {
        "output": output,
        "bytes": size,
        "equal": equal if checks else None,
        "checks": [
            {
                "input_shapes": {name: list(shape) for name, shape in check.shapes.items()},
                "output": check.output,
                "rel": finite_or_none(check.agreement.rel),
                "max": finite_or_none(check.agreement.max),
            }
            for check in checks
        ],
    }
