"""Networks of DeepLab v3 and v3+ as ONNX files, for one size of pictures and any number of them.

The original's frozen graphs are for one size, too: paddings and window sizes follow from it.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor, nn

from deeplab_repro.caffe.export import first_line, onnx_bytes, quiet, require_package
from deeplab_repro.errors import InputError
from deeplab_repro.models.v3.network import DeepLabV3
from prototxt_import.limits import MAX_PIXELS

__all__ = ["INPUT", "OUTPUT", "NamedScores", "onnx_of"]

INPUT: Final = "image"
OUTPUT: Final = "logits"


class NamedScores(nn.Module):
    """A network with one named input and one named output."""

    def __init__(self, net: DeepLabV3) -> None:
        super().__init__()
        self.net = net

    def forward(self, image: Tensor) -> dict[str, Tensor]:
        """(N, 3, H, W) red, green, blue, 0..255 -> logits (N, num_classes, H, W)."""
        return {OUTPUT: self.net(image)}


def onnx_of(net: DeepLabV3, height: int, width: int) -> bytes:
    """The network as an ONNX file with its weights inside: `image` to `logits`, at full size.

    Args:
        net: in eval mode; a fused one makes the smaller file.
        height, width: of the pictures; their number is free.

    Raises:
        CaffeImportError: packages are missing, or more pixels than `MAX_PIXELS`.
        InputError: the network does not take this size, or cannot be exported.
    """
    from torch.export import Dim, export

    MAX_PIXELS.check(height * width, "pictures of too many pixels")
    for package in ("onnx", "onnxscript"):
        require_package(package)
    example = torch.zeros(2, 3, height, width)  # one picture would make a program for one
    try:
        with torch.no_grad(), quiet():
            program = export(
                NamedScores(net).eval(),
                (example,),
                dynamic_shapes=({0: Dim.DYNAMIC},),
                prefer_deferred_runtime_asserts_over_guards=True,
            )
        return onnx_bytes(program, [INPUT], [OUTPUT])
    except Exception as error:  # torch.export and onnxscript raise whatever their stages raise
        raise InputError(f"cannot be written as ONNX: {first_line(error)}") from error
