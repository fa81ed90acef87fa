"""An exported ONNX model held against the module that it was made from."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from deeplab_repro.caffe.export import first_line, require_package
from deeplab_repro.errors import InputError
from deeplab_repro.parity.agreement import Agreement, agreement

__all__ = ["Check", "check_onnx"]


@dataclass(frozen=True)
class Check:
    """How near an output of the ONNX model is to the module's, for one set of input shapes."""

    shapes: dict[str, tuple[int, ...]]
    output: str
    agreement: Agreement


def check_onnx(
    net: nn.Module,
    model: bytes | str | os.PathLike[str],
    shapes: Mapping[str, tuple[int, ...]],
) -> list[Check]:
    """Run an ONNX model with onnxruntime and hold its outputs against the module's.

    The inputs are normal random numbers of a picture's size (deviation 50), always the same ones.

    Args:
        net: what the model was made of.
        model: what :func:`~deeplab_repro.caffe.export.onnx_model` gave, or a file of it.
        shapes: of the inputs.

    Raises:
        CaffeImportError: onnxruntime is missing.
        InputError: it cannot run the file.
    """
    runtime = require_package("onnxruntime")
    random = torch.Generator().manual_seed(0)
    inputs = {name: torch.randn(shape, generator=random) * 50 for name, shape in shapes.items()}
    with torch.inference_mode():
        ours = net(**inputs)
    options = runtime.SessionOptions()
    options.log_severity_level = 4  # errors come as exceptions
    try:
        session = runtime.InferenceSession(
            model if isinstance(model, bytes) else os.fspath(model),
            options,
            providers=["CPUExecutionProvider"],
        )
        results = session.run(list(ours), {name: x.numpy() for name, x in inputs.items()})
    except Exception as error:  # onnxruntime's own exceptions have no common base
        raise InputError(
            f"onnxruntime cannot run it: {first_line(error)}",
            file=None if isinstance(model, bytes) else model,
        ) from error
    return [
        Check(dict(shapes), name, agreement(np.asarray(result), ours[name].numpy()))
        for name, result in zip(ours, results, strict=True)
    ]
