"""Interp and Padding, the DeepLab forks' layers that change the size of a map."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import torch.nn.functional as F
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from prototxt_import.shapes import interp

if TYPE_CHECKING:
    from prototxt_import.net import Layer, Shape
    from prototxt_import.shapes import LayerShapes

__all__ = ["Interp", "Padding"]


@register("Interp")
class Interp(CaffeLayer):
    """Bilinear resampling with the corners held in place (interp_layer.cpp, util/interp.cpp).

    Pads are <= 0 and crop first; then output pixel i lies at i * (in - 1) / (out - 1).
    """

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        self.form = interp(layer)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        form = self.form
        x = x.reshape(x.shape + (1,) * (4 - x.dim()))
        height, width = form.output(x.shape[2], form.height), form.output(x.shape[3], form.width)
        if form.pad_beg or form.pad_end:
            x = F.pad(x, (form.pad_beg, form.pad_end) * 2)
        return F.interpolate(
            x, size=cast(list[int], [height, width]), mode="bilinear", align_corners=True
        )


@register("Padding")
class Padding(CaffeLayer):
    """Zeros around a map, or a crop where the pads are negative (padding_layer.cpp, v1 fork)."""

    def __init__(self, layer: Layer, bottoms: Sequence[Shape], shapes: LayerShapes) -> None:
        super().__init__(layer, bottoms, shapes)
        spec = layer.spec.padding_param
        self.pads = (spec.pad_beg, spec.pad_end) * 2

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H', W')."""
        return F.pad(x, self.pads)
