"""Layers without bottoms, and layers without tops."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from deeplab_repro.caffe.layers.base import CaffeLayer, register
from deeplab_repro.caffe.quirks import Quirks
from prototxt_import import LayerShapes, Shape
from prototxt_import import layers as kinds

__all__ = ["DummyData", "FedFromOutside", "Parameter", "Sink"]


@register("DummyData")
class DummyData(CaffeLayer):
    """Filled blobs: constants once, random ones anew in every pass (dummy_data_layer.cpp)."""

    layer: kinds.DummyData

    def __init__(
        self, layer: kinds.DummyData, bottoms: Sequence[Shape], shapes: LayerShapes, quirks: Quirks
    ) -> None:
        super().__init__(layer, bottoms, shapes, quirks)
        self.data_fillers = layer.top_fillers()
        for i, shape in enumerate(shapes.tops):
            value = torch.empty([size for size in shape if size is not None])
            self.register_buffer(
                f"data{i}", self.fill(value, self.data_fillers[i]), persistent=False
            )

    def forward(self) -> Tensor | tuple[Tensor, ...]:
        """Shapes as the file says."""
        tops = []
        for i, filler in enumerate(self.data_fillers):
            value: Tensor = getattr(self, f"data{i}")
            constant = filler.type == "constant"
            # A copy, because layers further on may work in place.
            tops.append(value.clone() if constant else self.fill(torch.empty_like(value), filler))
        return tops[0] if len(tops) == 1 else tuple(tops)


@register("Parameter")
class Parameter(CaffeLayer):
    """A blob that is itself learned; zeros at first (parameter_layer.hpp)."""

    def forward(self) -> Tensor:
        """Shape as the file says."""
        return self.blob(0)


@register("Silence", "HDF5Output", "MatWrite")
class Sink(CaffeLayer):
    """Takes blobs and makes none (silence_layer.cpp).

    Files are written while :class:`deeplab_repro.train.feeds.Sinks` listens.
    """

    def forward(self, *bottoms: Tensor) -> tuple[Tensor, ...]:
        """Anything."""
        return ()


@register("HDF5Data", "ImageData", "ImageSegData", "Input", "MatRead", "MemoryData")
class FedFromOutside(CaffeLayer):
    """A source whose tops are inputs of the network."""

    def forward(self) -> Tensor:
        """Never: the caller gives its tops."""
        self.refuse("its tops are inputs, to be given to the network")
