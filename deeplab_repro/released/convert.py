"""From published weights to safetensors with the network inside, checked on the way."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from deeplab_repro.errors import InputError
from deeplab_repro.models import write_network
from deeplab_repro.released.checkpoints import is_checkpoint, read_checkpoint, write_variables_of
from deeplab_repro.released.models import CaffeModel, ReleasedModel, TensorFlowModel, WeightsFile
from deeplab_repro.released.structure import compare_structure, is_stated
from prototxt_import import Weights, parse_net, read_weights, write_weights
from prototxt_import.files import kind_of, open_file

__all__ = ["checked_weights", "not_finite", "read_any_weights", "write_converted"]


def read_any_weights(path: Path) -> Weights:
    """The weights in a caffemodel, a .caffemodel.h5 or safetensors, by its content.

    Also those in a checkpoint of TensorFlow's or a frozen graph, by its name.

    Raises:
        InputError: It is a web page, as servers send in place of a file that they do not have.
        CaffeImportError, TensorFlowImportError: It is none of these, or damaged.
    """
    if is_checkpoint(path):
        return read_checkpoint(path)
    with open_file(path) as file:
        start = file.read(512).lstrip().lower()
    if start.startswith((b"<!doctype html", b"<html")):
        raise InputError("is a web page", file=path, expected="weights or an archive")
    if kind_of(path) == "prototxt":
        raise InputError("is a text", file=path, expected="weights or an archive")
    return read_weights(path)


def checked_weights(path: Path, model: ReleasedModel, file: WeightsFile) -> Weights:
    """The weights in a file, if they are what the manifest says.

    Raises:
        InputError: Layers or shapes are not those of the model, or values are not finite.
        CaffeImportError: The file cannot be read.
    """
    weights = read_any_weights(path)
    structure = compare_structure(model, weights)
    if is_stated(model) and not structure.fits_for(file.use):
        raise InputError(
            f"does not hold {model.name}/{file.name}: {structure.difference(file.use)}", file=path
        )
    for layer in not_finite(weights):
        raise InputError("holds values that are not finite", file=path, layer=layer)
    return weights


def not_finite(weights: Mapping[str, Sequence[np.ndarray[Any, Any]]]) -> list[str]:
    """The layers that hold NaN or infinities."""
    return [
        layer
        for layer, blobs in weights.items()
        if not all(np.isfinite(blob).all() for blob in blobs)
    ]


def write_converted(
    target: Path, weights: Weights, model: ReleasedModel, file: WeightsFile
) -> None:
    """Write weights as safetensors with the test network inside, bit for bit, in one step.

    Those of a checkpoint have the options of the network inside.  Weights to start training from
    carry no network: their classifier fits none.

    Raises:
        CaffeImportError, TensorFlowImportError: The file cannot be written.
    """
    if isinstance(model, TensorFlowModel):
        write_variables_of(target, weights, model, file)
        return
    assert isinstance(model, CaffeModel)  # there are two kinds
    network = None
    if file.use != "init":
        text = write_network(
            model.network, num_labels=model.num_classes, width=model.width, exp=model.exp
        )
        network = parse_net(text)
    write_weights(target, weights, network)
